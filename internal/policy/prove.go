// The assertions: that nothing of what Neutralize takes out is left, and nothing but the
// sandbox's own is there. They look at the copy, not at what the rules say they did.

package policy

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// assertion is a question whose right answer is an empty list of names.
type assertion struct {
	code sandglass.Code
	// says is the sentence when it holds; fails that when not, followed by the names.
	says, fails   string
	everyDatabase bool
	// migrations may do on purpose what fails this one; then it can be accepted.
	waivable bool
	sql      string
	ask      func(context.Context, *prover, querier) ([]string, error) // where sql is not enough
}

type prover struct {
	in       Input
	findings []sandglass.Finding
	asked    []sandglass.Finding // of packs
	broken   []string            // foreign keys
	strange  []string            // tables with rows that are not the sandbox's own
}

func assertions() []assertion {
	return []assertion{
		{code: "proof.rules_done", says: "Every rule has been applied.", fails: "Rules have not been applied", everyDatabase: true, ask: rulesMissing},
		{code: "proof.databases", says: "Only databases that the sandbox names are there.", fails: "Databases that no role of the sandbox names, or that are missing", waivable: true, ask: wrongDatabases},
		{code: "proof.prepared_transactions", says: "No prepared transaction is left.", fails: "Prepared transactions are left",
			sql: `SELECT gid FROM pg_prepared_xacts ORDER BY 1`},
		{code: "proof.subscriptions", says: "No subscription is left.", fails: "Subscriptions are left", waivable: true,
			sql: `SELECT subname::text FROM pg_subscription ORDER BY 1`},
		{code: "proof.replication_slots", says: "No replication slot is left.", fails: "Replication slots are left", waivable: true,
			sql: `SELECT slot_name::text FROM pg_replication_slots WHERE NOT temporary ORDER BY 1`},
		{code: "proof.replication_origins", says: "No replication origin is left.", fails: "Replication origins are left", waivable: true,
			sql: `SELECT roname FROM pg_replication_origin ORDER BY 1`},
		{code: "proof.publications", says: "No publication is left.", fails: "Publications are left", everyDatabase: true, waivable: true,
			sql: `SELECT pubname::text FROM pg_publication ORDER BY 1`},
		{code: "proof.event_triggers", says: "No event trigger is enabled.", fails: "Event triggers are enabled", everyDatabase: true, waivable: true,
			sql: `SELECT evtname::text FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1`},
		{code: "proof.user_mappings", says: "No user mapping is left.", fails: "User mappings are left on the servers", everyDatabase: true, waivable: true,
			sql: `SELECT DISTINCT srvname::text FROM pg_user_mappings ORDER BY 1`},
		{code: "proof.foreign_servers", says: "No foreign server leads anywhere.", fails: "Foreign servers or tables lead outside", everyDatabase: true, waivable: true, ask: openServers},
		{code: "proof.scheduled_jobs", says: "No scheduled job is active, and none leads to another server.", fails: "Scheduled jobs are active or lead to another server", everyDatabase: true, waivable: true, ask: activeJobs},
		{code: "proof.login_roles", says: "Only the sandbox's own roles can log in.", fails: "Roles that are not the sandbox's can log in", waivable: true, ask: strangers(`rolcanlogin`, func(r Role) bool { return r.Login })},
		{code: "proof.passwords", says: "Only the sandbox's own passwords are there.", fails: "Roles have passwords that are not the sandbox's", waivable: true, ask: strangePasswords},
		{code: "proof.password_remains", says: "No other password hash is left in the files of pg_authid or in statistics.", fails: "Password hashes of production are left in the files", everyDatabase: true, waivable: true, ask: hashRemains},
		{code: "proof.superusers", says: "Only the sandbox's own roles are superusers.", fails: "Roles that are not the sandbox's are superusers", waivable: true, ask: strangers(`rolsuper AND oid <> 10`, func(r Role) bool { return r.Superuser })},
		{code: "proof.attributes", says: "Only the sandbox's own roles may replicate, make roles or databases, or bypass row security.", fails: "Roles have attributes that are not the sandbox's", waivable: true,
			ask: strangers(`(rolreplication OR rolcreaterole OR rolcreatedb OR rolbypassrls) AND oid <> 10`, func(r Role) bool { return r.Replication || r.CreateRole || r.CreateDB || r.BypassRLS })},
		{code: "proof.memberships", says: "Memberships are the sandbox's own.", fails: "Memberships are not the sandbox's", waivable: true, ask: strangeMemberships},
		{code: "proof.settings", says: "Settings of roles and databases are the sandbox's own.", fails: "Settings are not the sandbox's", waivable: true, ask: strangeSettings},
		{code: "proof.alter_system", says: "Nothing is set by ALTER SYSTEM.", fails: "ALTER SYSTEM has set", waivable: true,
			sql: `SELECT DISTINCT name FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf' AND name IS NOT NULL ORDER BY 1`},
	}
}

// Prove asks every assertion and returns a finding for each: ok, or stop with what is wrong.
// After the sandbox's own migrations (Input.Synchronized) a stop whose code the environment
// accepts is a warning. An error means that the copy could not be asked.
func Prove(ctx context.Context, st Staging, in Input) ([]sandglass.Finding, error) {
	st, release := st.keeping(ctx)
	defer release()
	p := &prover{in: in}
	var names []string
	err := st.in(ctx, home, func(conn *pgx.Conn) (err error) {
		names, err = column(ctx, conn, `SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1`)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prove the copy: %w", err)
	}
	wrong := map[sandglass.Code][]string{}
	for _, name := range names {
		err := st.in(ctx, name, func(conn *pgx.Conn) error {
			for _, a := range assertions() {
				if !a.everyDatabase && name != home {
					continue
				}
				found, err := a.find(ctx, p, conn)
				if err != nil {
					return fmt.Errorf("%s: %w", a.code, err)
				}
				for _, f := range found {
					if a.everyDatabase {
						f = name + ": " + f
					}
					wrong[a.code] = append(wrong[a.code], f)
				}
			}
			if err := p.keys(ctx, conn, name); err != nil {
				return err
			}
			if err := p.kept(ctx, conn, name); err != nil {
				return err
			}
			return p.assert(ctx, conn, name, func(pack.Question) bool { return true })
		})
		if err != nil {
			return nil, fmt.Errorf("prove database %q: %w", name, err)
		}
	}
	for _, name := range in.packDatabases() {
		if !slices.Contains(names, name) {
			wrong["proof.databases"] = append(wrong["proof.databases"], name+" lets nobody in, so that it could not be asked")
		}
	}
	for _, a := range assertions() {
		p.findings = append(p.findings, p.finding(a, wrong[a.code]))
	}
	return append(p.findings, p.packFindings()...), nil
}

func (a assertion) find(ctx context.Context, p *prover, q querier) ([]string, error) {
	if a.ask != nil {
		return a.ask(ctx, p, q)
	}
	return column(ctx, q, a.sql)
}

func (p *prover) finding(a assertion, wrong []string) sandglass.Finding {
	if len(wrong) == 0 {
		return sandglass.Finding{Code: a.code, Level: sandglass.OK, Message: a.says}
	}
	f := sandglass.Finding{Code: a.code, Level: sandglass.Stop, Message: a.fails + ": " + some(wrong) + ".",
		Remedy: "The copy is discarded. Please report this: a rule should have seen to it."}
	if p.in.Synchronized {
		f.Remedy = "The sandbox's migrations brought this. Change them, or accept the code in the sandbox's declaration (accept: [" + string(a.code) + "])."
		if a.waivable && slices.Contains(p.in.Environment.Accept, a.code) {
			f.Level, f.Accepted = sandglass.Warning, true
		}
	}
	return f
}

func rulesMissing(ctx context.Context, p *prover, q querier) ([]string, error) {
	var run *string
	var here string
	if err := q.QueryRow(ctx, `SELECT obj_description(to_regclass('sandglass.rule_done'), 'pg_class'), current_database()::text`).Scan(&run, &here); err != nil {
		return nil, err
	}
	if p.in.Synchronized && run == nil {
		return nil, nil // a database that a migration made; proof.databases sees it
	}
	var expected []string
	for _, r := range p.in.rules() {
		if r.everyDatabase || r.database == here || r.database == "" && here == home {
			expected = append(expected, r.name)
			for _, c := range r.carries {
				expected = append(expected, c.name())
			}
		}
	}
	if run == nil || *run != p.in.Run {
		return expected, nil
	}
	return column(ctx, q, `SELECT name FROM unnest($1::text[]) name EXCEPT SELECT rule FROM sandglass.rule_done ORDER BY 1`, expected)
}

func wrongDatabases(ctx context.Context, p *prover, q querier) ([]string, error) {
	named := p.in.Environment.Databases
	if len(named) == 0 {
		return nil, nil
	}
	allowed := []string{home, "template0", "template1"}
	for _, role := range sortedKeys(named) {
		allowed = append(allowed, named[role])
	}
	return column(ctx, q, `SELECT coalesce(name, datname::text || ' (not named)') FROM (SELECT datname FROM pg_database) d FULL JOIN unnest($1::text[]) name ON datname = name
		WHERE name IS NULL OR datname IS NULL AND name <> 'template0' ORDER BY 1`, allowed)
}

// openServers lists servers with any option left that could be an address, libpq servers that
// do not lead nowhere, wrappers we don't know with a handler, and tables that start a program.
func openServers(ctx context.Context, _ *prover, q querier) ([]string, error) {
	return column(ctx, q, `SELECT 'server ' || srvname FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw LEFT JOIN pg_proc v ON v.oid = fdwvalidator
		WHERE EXISTS (SELECT FROM unnest(srvoptions) x WHERE split_part(x, '=', 1) <> ALL ($1) AND x <> ALL (ARRAY['host=`+Nowhere+`', 'port=1', 'dbname=none']) AND split_part(x, '=', 2) <> $2)
		OR v.proname = ANY ($3) AND NOT 'host=`+Nowhere+`' = ANY (coalesce(srvoptions, '{}'))
		UNION ALL SELECT 'wrapper ' || fdwname FROM pg_foreign_data_wrapper w JOIN pg_proc h ON h.oid = fdwhandler WHERE h.proname NOT IN ('postgres_fdw_handler', 'file_fdw_handler')
		UNION ALL SELECT 'table ' || ftrelid::regclass FROM pg_foreign_table WHERE EXISTS (SELECT FROM unnest(ftoptions) x WHERE starts_with(x, 'program='))`,
		harmlessOptions, nowhereName, libpqValidators)
}

// strangers lists roles with a property that the sandbox's own role of that name lacks.
func strangers(property string, own func(Role) bool) func(context.Context, *prover, querier) ([]string, error) {
	return func(ctx context.Context, p *prover, q querier) ([]string, error) {
		names, err := column(ctx, q, `SELECT rolname::text FROM pg_authid WHERE `+property+` AND rolname <> $1 ORDER BY 1`, OurRole)
		return slices.DeleteFunc(names, func(n string) bool {
			r, ok := p.in.Target.role(n)
			return ok && own(r)
		}), err
	}
}

func strangePasswords(ctx context.Context, p *prover, q querier) ([]string, error) {
	type row struct{ Name, Password string }
	rows, err := structs[row](ctx, q, `SELECT rolname::text, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL ORDER BY 1`)
	var wrong []string
	for _, r := range rows {
		if own, ok := p.in.Target.role(r.Name); !ok || own.Password == nil || *own.Password != r.Password {
			wrong = append(wrong, r.Name)
		}
	}
	return wrong, err
}

// hash matches a password hash as pg_authid holds it (libpq/crypt.c, get_password_type).
var hash = regexp.MustCompile(`SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+|md5[0-9a-f]{32}`)

// hashRemains reads the file of pg_authid, dead rows and free space included, and the
// statistics of it in this database.
func hashRemains(ctx context.Context, p *prover, q querier) ([]string, error) {
	var own []string
	if p.in.Target != nil {
		for _, r := range p.in.Target.Roles {
			if r.Password != nil {
				own = append(own, *r.Password)
			}
		}
	}
	strange := func(text string) (n int) {
		for _, h := range hash.FindAllString(text, -1) {
			if !slices.Contains(own, h) {
				n++
			}
		}
		return n
	}
	var here, statistics string
	if err := q.QueryRow(ctx, `SELECT current_database()::text, coalesce(string_agg(concat_ws(' ', stavalues1::text, stavalues2::text, stavalues3::text, stavalues4::text, stavalues5::text), ' '), '')
		FROM pg_statistic WHERE starelid = 'pg_authid'::regclass`).Scan(&here, &statistics); err != nil {
		return nil, err
	}
	var wrong []string
	if n := strange(statistics); n > 0 {
		wrong = append(wrong, fmt.Sprintf("%d in the statistics of pg_authid", n))
	}
	if here != home {
		return wrong, nil
	}
	if _, err := q.Exec(ctx, `CHECKPOINT`); err != nil {
		return nil, err
	}
	var file []byte
	if err := q.QueryRow(ctx, `SELECT pg_read_binary_file(pg_relation_filepath('pg_authid'))`).Scan(&file); err != nil {
		return nil, err
	}
	if n := strange(string(file)); n > 0 {
		wrong = append(wrong, fmt.Sprintf("%d in the file of pg_authid", n))
	}
	return wrong, nil
}

func strangeMemberships(ctx context.Context, p *prover, q querier) ([]string, error) {
	type row struct{ Role, Member string }
	rows, err := structs[row](ctx, q, `SELECT DISTINCT r.rolname::text, m.rolname::text FROM pg_auth_members am JOIN pg_authid r ON r.oid = roleid JOIN pg_authid m ON m.oid = member
		WHERE NOT (starts_with(r.rolname, 'pg_') AND starts_with(m.rolname, 'pg_')) ORDER BY 1, 2`)
	var wrong []string
	for _, r := range rows {
		own := p.in.Target != nil && slices.ContainsFunc(p.in.Target.Memberships, func(m Membership) bool { return m.Role == r.Role && m.Member == r.Member })
		mapped := p.in.Environment.Server != nil && slices.Contains(p.in.Environment.Server.RolesMap[r.Member], r.Role)
		if !own && !mapped {
			wrong = append(wrong, r.Member+" in "+r.Role)
		}
	}
	return wrong, err
}

func strangeSettings(ctx context.Context, p *prover, q querier) ([]string, error) {
	settings, err := structs[Setting](ctx, q, `SELECT coalesce(rolname::text, ''), coalesce(datname::text, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
		FROM pg_db_role_setting CROSS JOIN unnest(setconfig) c LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase
		WHERE c <> '`+markClosed+`=on' ORDER BY 1, 2, 3`)
	var wrong []string
	for _, s := range settings {
		if p.in.Target == nil || !slices.ContainsFunc(p.in.Target.Settings, func(own Setting) bool {
			return own.Role == s.Role && own.Database == s.Database && strings.EqualFold(own.Name, s.Name) && own.sameValue(s)
		}) {
			wrong = append(wrong, strings.TrimSpace(s.Role+" "+s.Database)+" "+s.Name)
		}
	}
	return wrong, err
}
