// Which databases of the copy stay and under which name, and the two first rules: prepared
// transactions and databases. They run before the home database is certain to exist, hence
// look at the cluster itself to see what is left to do.

package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// Codes of this package.
const (
	CodeRuleFailed       sandglass.Code = "policy.rule_failed"
	CodeDatabaseMissing  sandglass.Code = "preflight.database_missing"
	CodeDatabaseConflict sandglass.Code = "preflight.database_conflict"
)

// MapDatabases says which of the source's databases stay, under which name, and which are
// dropped. names are the source's databases, templates left out or not. A dropped "postgres" is
// replaced by an empty one, because clients expect it.
//
// Where the sandbox names no databases, all stay and server.rename names them. Else each role
// takes the database the source gives it (or, where the source names none, the one that has the
// role's name after server.rename).
func MapDatabases(source, target sandglass.Environment, names []string) (keep map[string]string, drop []string, err error) {
	var rename map[string]string
	if target.Server != nil {
		rename = target.Server.Rename
	}
	renamed := func(name string) string {
		if to, ok := rename[name]; ok {
			return to
		}
		return name
	}
	ordinary := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "template0" || n == "template1" })
	slices.Sort(ordinary)
	keep = map[string]string{}
	if len(target.Databases) == 0 {
		for _, n := range ordinary {
			keep[n] = renamed(n)
		}
	}
	for _, role := range slices.Sorted(maps.Keys(target.Databases)) {
		final := target.Databases[role]
		from, ok := source.Databases[role]
		if len(source.Databases) == 0 {
			i := slices.IndexFunc(ordinary, func(n string) bool { return renamed(n) == final })
			if ok = i >= 0; ok {
				from = ordinary[i]
			}
		}
		if !ok {
			return nil, nil, missing(fmt.Sprintf("%s has no database of the role %q, which %s names (%s).", source.Name, role, target.Name, final))
		}
		if !slices.Contains(ordinary, from) {
			return nil, nil, missing(fmt.Sprintf("The database %q (role %s) of %s does not exist at this moment.", from, role, source.Name))
		}
		if other, twice := keep[from]; twice && other != final {
			return nil, nil, conflict(fmt.Sprintf("The database %q of %s would have two names in %s: %s and %s.", from, source.Name, target.Name, other, final))
		}
		keep[from] = final
	}
	taken := map[string]string{"template0": "template0", "template1": "template1"}
	for _, from := range slices.Sorted(maps.Keys(keep)) {
		if other, twice := taken[keep[from]]; twice {
			return nil, nil, conflict(fmt.Sprintf("The databases %q and %q of %s would both be called %q in %s.", other, from, source.Name, keep[from], target.Name))
		}
		taken[keep[from]] = from
	}
	for _, n := range ordinary {
		if _, stays := keep[n]; !stays {
			drop = append(drop, n)
		}
	}
	return keep, drop, nil
}

func missing(message string) error {
	return &sandglass.Error{Code: CodeDatabaseMissing, Op: "map databases", Message: message,
		Remedy: "Correct `databases` or `server.rename` of the environments, or choose another moment."}
}

func conflict(message string) error {
	return &sandglass.Error{Code: CodeDatabaseConflict, Op: "map databases", Message: message,
		Remedy: "Correct `databases` or `server.rename` of the sandbox."}
}

// firstOutcomes are the results of the rules before home.
type firstOutcomes struct {
	prepared, databases         outcome
	preparedTook, databasesTook time.Duration
}

// beforeHome runs the first two rules; nil when an earlier attempt has done so.
func (j *job) beforeHome(ctx context.Context) (*firstOutcomes, error) {
	done, err := j.databasesDone(ctx)
	if err != nil || done {
		return nil, err
	}
	var first firstOutcomes
	all := rules()
	for i, step := range []struct {
		out  *outcome
		took *time.Duration
		do   func(context.Context, *outcome) error
	}{{&first.prepared, &first.preparedTook, j.rollBackPrepared}, {&first.databases, &first.databasesTook, j.arrangeDatabases}} {
		j.progress(all[i].what)
		began := time.Now()
		if err := step.do(ctx, step.out); err != nil {
			return nil, ruleError(all[i], "", err)
		}
		*step.took = time.Since(began)
		j.done++
	}
	return &first, nil
}

// databasesDone looks into the home database, if there is one, for the record of this run.
func (j *job) databasesDone(ctx context.Context) (done bool, err error) {
	err = j.st.in(ctx, home, func(conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, `SELECT coalesce(obj_description(to_regclass('sandglass.rule_done'), 'pg_class') = $1, false)`, j.in.Run).Scan(&done)
		if err != nil || !done {
			return err
		}
		_, _, done, err = doneBefore(ctx, conn, ruleDatabases)
		return err
	})
	const noDatabase, closed = "3D000", "55000" // of InitPostgres: it is not there; it takes no connections, or its drop was interrupted
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && (pgErr.Code == noDatabase || pgErr.Code == closed) {
		return false, nil
	}
	return done, err
}

// recordFirst records the first two rules in home, or reports what is recorded.
func (j *job) recordFirst(ctx context.Context, conn *pgx.Conn, first *firstOutcomes) error {
	if first != nil {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := j.beginIn(ctx, tx); err != nil {
				return err
			}
			if err := record(ctx, tx, rulePrepared, first.prepared, first.preparedTook); err != nil {
				return err
			}
			return record(ctx, tx, ruleDatabases, first.databases, first.databasesTook)
		})
		if err != nil {
			return err
		}
	}
	for _, r := range rules()[:2] {
		o, seconds, _, err := doneBefore(ctx, conn, r.name)
		if err != nil {
			return err
		}
		j.add(RuleReport{Rule: r.name, Why: r.why, Skipped: first == nil}, o, seconds)
	}
	return nil
}

// maintenance runs do in a database that is neither dropped nor renamed: template1, or, while
// that is being replaced, home.
func (j *job) maintenance(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := j.st.Connect.open(ctx, "template1")
	if err != nil {
		var err2 error
		if conn, err2 = j.st.Connect.open(ctx, home); err2 != nil {
			return err
		}
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return do(conn)
}

// rollBackPrepared ends the prepared transactions, each from the database it belongs to.
func (j *job) rollBackPrepared(ctx context.Context, o *outcome) error {
	type prepared struct{ Database, GID string }
	var all []prepared
	err := j.maintenance(ctx, func(conn *pgx.Conn) (err error) {
		all, err = structs[prepared](ctx, conn, `SELECT database::text, gid FROM pg_prepared_xacts ORDER BY 1, 2`)
		return err
	})
	if err != nil {
		return err
	}
	for len(all) > 0 {
		database := all[0].Database
		n := slices.IndexFunc(all, func(p prepared) bool { return p.Database != database })
		if n < 0 {
			n = len(all)
		}
		err := j.st.in(ctx, database, func(conn *pgx.Conn) error {
			for _, p := range all[:n] {
				if _, err := conn.Exec(ctx, "ROLLBACK PREPARED "+literal(p.GID)); err != nil {
					return err
				}
				o.rows++
				o.notes = append(o.notes, p.Database+": "+p.GID)
			}
			return nil
		})
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// place is one database with production's name of it, once noted.
type place struct {
	Name     string
	Origin   string // "": made here, or not noted yet
	Template bool
	Invalid  bool // an interrupted DROP DATABASE (datconnlimit -2)
}

func places(ctx context.Context, q querier) ([]place, error) {
	return structs[place](ctx, q, `SELECT datname::text, coalesce((SELECT substr(c, strpos(c, '=') + 1) FROM unnest(setconfig) c WHERE starts_with(c, '`+markOrigin+`=')), ''),
		datistemplate, datconnlimit = -2 FROM pg_database d LEFT JOIN pg_db_role_setting ON setdatabase = d.oid AND setrole = 0
		WHERE datname NOT IN ('template0', 'template1') ORDER BY datname`)
}

// arrangeDatabases drops, renames and replaces databases. Production's name is noted on each
// of them first, in one transaction, so that after a kill the same databases are meant.
func (j *job) arrangeDatabases(ctx context.Context, o *outcome) error {
	arrange := func(conn *pgx.Conn) error {
		if err := noteOrigins(ctx, conn); err != nil {
			return err
		}
		all, err := places(ctx, conn)
		if err != nil {
			return err
		}
		var names []string
		for _, p := range all {
			if p.Origin != "" {
				names = append(names, p.Origin)
			}
		}
		// A database already dropped by an interrupted attempt was one to drop.
		keep, _, err := MapDatabases(j.in.Source, j.in.Environment, names)
		if err != nil {
			return err
		}
		for _, p := range all {
			if _, stays := keep[p.Origin]; p.Invalid || p.Origin != "" && !stays {
				if err := j.dropDatabase(ctx, conn, p); err != nil {
					return fmt.Errorf("drop database %q: %w", p.Name, err)
				}
				o.rows++
				o.notes = append(o.notes, "dropped: "+p.Name)
			}
		}
		if err := renameDatabases(ctx, conn, all, keep, o); err != nil {
			return fmt.Errorf("rename databases: %w", err)
		}
		return j.makeDatabase(ctx, conn, home, "")
	}
	err := j.maintenance(ctx, func(conn *pgx.Conn) error {
		if conn.Config().Database == "template1" {
			return arrange(conn)
		}
		if err := j.makeDatabase(ctx, conn, "template1", " IS_TEMPLATE true"); err != nil {
			return err
		}
		return j.st.in(ctx, "template1", arrange)
	})
	if err != nil {
		return err
	}
	return j.cleanTemplate(ctx, o)
}

// noteOrigins notes production's name on each database, unless that was done before. Databases
// whose drop was interrupted can't be noted, and go anyway.
func noteOrigins(ctx context.Context, conn *pgx.Conn) error {
	all, err := places(ctx, conn)
	if err != nil || slices.ContainsFunc(all, func(p place) bool { return p.Origin != "" }) {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, p := range all {
			if p.Invalid {
				continue
			}
			if _, err := tx.Exec(ctx, "ALTER DATABASE "+ident(p.Name)+" SET "+markOrigin+" = "+literal(p.Name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropDatabase drops a database with what would hinder that: its subscriptions, which must not
// reach their publishers. Nothing can be taken out of one that lets nobody in; then the drop
// itself says what is wrong.
func (j *job) dropDatabase(ctx context.Context, conn *pgx.Conn, p place) error {
	if !p.Invalid {
		if inside, err := j.st.Connect.open(ctx, p.Name); err == nil {
			err = pgx.BeginFunc(ctx, inside, func(tx pgx.Tx) error {
				var ignored outcome
				if err := disableEventTriggers(ctx, j, tx, &ignored); err != nil {
					return err
				}
				return dropSubscriptions(ctx, j, tx, &ignored)
			})
			_ = inside.Close(context.WithoutCancel(ctx))
			if err != nil {
				return err
			}
		} else if ctx.Err() != nil {
			return err
		}
	}
	if p.Template {
		if _, err := conn.Exec(ctx, "ALTER DATABASE "+ident(p.Name)+" IS_TEMPLATE false"); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, "DROP DATABASE "+ident(p.Name)+" WITH (FORCE)")
	return err
}

// renameDatabases gives the kept databases their names, all in one transaction, by way of
// names nobody uses because two may swap theirs.
func renameDatabases(ctx context.Context, conn *pgx.Conn, all []place, keep map[string]string, o *outcome) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, to := range []func(i int, final string) (string, string){
			func(i int, final string) (string, string) { return all[i].Name, fmt.Sprintf("sandglass_rename_%d", i) },
			func(i int, final string) (string, string) { return fmt.Sprintf("sandglass_rename_%d", i), final },
		} {
			for i, p := range all {
				final, stays := keep[p.Origin]
				if !stays || p.Invalid || final == p.Name {
					continue
				}
				from, to := to(i, final)
				if _, err := tx.Exec(ctx, "ALTER DATABASE "+ident(from)+" RENAME TO "+ident(to)); err != nil {
					return err
				}
				if to == final {
					o.rows++
					o.notes = append(o.notes, "renamed: "+p.Name+" to "+final)
				}
			}
		}
		return nil
	})
}

// makeDatabase makes an empty database of the bootstrap superuser, unless it exists.
func (j *job) makeDatabase(ctx context.Context, conn *pgx.Conn, name, options string) error {
	var exists bool
	var owner string
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1), (SELECT rolname::text FROM pg_authid WHERE oid = 10)`, name).Scan(&exists, &owner); err != nil || exists {
		return err
	}
	_, err := conn.Exec(ctx, "CREATE DATABASE "+ident(name)+" OWNER "+ident(owner)+" TEMPLATE template0"+options)
	if err != nil {
		return fmt.Errorf("create database %q: %w", name, err)
	}
	return nil
}

// cleanTemplate replaces template1 by an empty one where it holds relations of its own and the
// sandbox names its databases: template1 is a database that no role names.
func (j *job) cleanTemplate(ctx context.Context, o *outcome) error {
	if len(j.in.Environment.Databases) == 0 {
		return nil
	}
	var used bool
	if err := j.st.in(ctx, "template1", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'm', 'f')
			AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'sandglass')) OR EXISTS (SELECT FROM pg_largeobject_metadata)`).Scan(&used)
	}); err != nil || !used {
		return err
	}
	return j.st.in(ctx, home, func(conn *pgx.Conn) error {
		if err := j.dropDatabase(ctx, conn, place{Name: "template1", Template: true}); err != nil {
			return fmt.Errorf("drop template1: %w", err)
		}
		o.rows++
		o.notes = append(o.notes, "emptied: template1")
		return j.makeDatabase(ctx, conn, "template1", " IS_TEMPLATE true")
	})
}
