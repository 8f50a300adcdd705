// The engine: runs the built-in rules, records each in the database it worked in, and goes on
// from there after a kill.

package policy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// home is the database where rules on the whole cluster are recorded. It always exists in a
// neutralized cluster.
const home = "postgres"

// job is one call of Neutralize.
type job struct {
	st     Staging
	in     Input
	log    *slog.Logger
	report Report
	done   int64 // rules done, over all databases
	total  int64
	// names are the databases rules work in, known once the databases rule is done.
	names []string
	// unproven is what stayed behind before, where rows are carried again; see noteUnproven.
	unproven *outcome
	// says is held while progress is told: two sessions may want to at once.
	says sync.Mutex
}

// Neutralize takes out of the copy what must not come along and gives it what is the
// sandbox's own. It may be repeated with the same Input.Run, after any interruption, and then
// does only what is left. When Input.Target has changed since (somebody gave a role another
// password while the restore ran), the rules on the sandbox's own roles and rights are applied
// again. The report tells the whole, earlier attempts included.
func Neutralize(ctx context.Context, st Staging, in Input) (Report, error) {
	began := time.Now()
	if in.Run == "" {
		return Report{}, errors.New("neutralize: Input.Run is empty")
	}
	j := newJob(st, in)
	if err := in.rolesMissing(); err != nil {
		return Report{}, err
	}
	first, err := j.beforeHome(ctx)
	if err != nil {
		return j.report, err
	}
	var release func()
	j.st, release = st.keeping(ctx) // from here on no database comes or goes
	defer release()
	if j.names, err = j.openDatabases(ctx); err != nil {
		return j.report, err
	}
	if !slices.Contains(j.names, home) {
		return j.report, fmt.Errorf("neutralize: database %q does not accept connections", home)
	}
	if err := j.st.in(ctx, home, func(conn *pgx.Conn) error { return j.recordFirst(ctx, conn, first) }); err != nil {
		return j.report, fmt.Errorf("record first rules: %w", err)
	}
	if err := j.forgetOldTarget(ctx); err != nil {
		return j.report, fmt.Errorf("compare with the sandbox of before: %w", err)
	}
	rest := in.rules()[2:]
	j.total = 2
	for _, r := range rest {
		j.total += int64(len(j.databasesOf(r)))
	}
	j.done = 2
	// Rules of the same reach are run together, so that a database is visited once for all of them.
	for len(rest) > 0 {
		n := 1
		for n < len(rest) && rest[n].everyDatabase == rest[0].everyDatabase && rest[n].database == rest[0].database {
			n++
		}
		for _, database := range j.databasesOf(rest[0]) {
			if err := j.st.in(ctx, database, func(conn *pgx.Conn) error { return j.runIn(ctx, conn, database, rest[:n]) }); err != nil {
				return j.report, err
			}
		}
		rest = rest[n:]
	}
	if err := j.st.in(ctx, home, func(conn *pgx.Conn) error { return j.recordApplied(ctx, conn) }); err != nil {
		return j.report, fmt.Errorf("record what was done: %w", err)
	}
	j.progress("")
	j.report.Seconds = time.Since(began).Seconds()
	return j.report, nil
}

// asynchronous spares a session the wait for the disk at each commit: an act and its record are
// still lost or kept together, in order, and recordApplied waits once, for all.
const asynchronous = `SET synchronous_commit = off`

// recordApplied notes that all rules are applied for the Target. Its commit makes durable what other sessions have committed before.
func (j *job) recordApplied(ctx context.Context, conn *pgx.Conn) error {
	now, err := j.in.Target.fingerprint()
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = $1`, appliedRecord); err != nil {
			return err
		}
		return record(ctx, tx, appliedRecord, outcome{notes: []string{now}}, 0)
	})
}

func newJob(st Staging, in Input) *job {
	j := &job{st: st, in: in, log: st.Log, total: int64(len(in.rules()))}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	return j
}

func (j *job) databasesOf(r rule) []string {
	switch {
	case r.everyDatabase:
		return j.names
	case r.database != "":
		return []string{r.database}
	}
	return []string{home}
}

func (j *job) progress(note string) {
	if j.in.Progress != nil {
		j.says.Lock()
		defer j.says.Unlock()
		j.in.Progress(sandglass.Progress{Done: j.done, Total: j.total, Unit: "rules", Note: note, ETA: -1})
	}
}

// openDatabases are all databases that accept connections; FirstContact saw to it that only
// template0 does not.
func (j *job) openDatabases(ctx context.Context) (names []string, err error) {
	err = j.st.in(ctx, home, func(conn *pgx.Conn) error {
		names, err = column(ctx, conn, `SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname`)
		return err
	})
	return names, err
}

// beginIn makes the schema sandglass with an empty list of rules done, unless this run has made
// it already. A copy of a sandbox brings the list of the restore that made that sandbox.
func (j *job) beginIn(ctx context.Context, tx pgx.Tx) error {
	var ours bool
	if err := tx.QueryRow(ctx, `SELECT coalesce(obj_description(to_regclass('sandglass.rule_done'), 'pg_class') = $1, false)`, j.in.Run).Scan(&ours); err != nil || ours {
		return err
	}
	if err := calmEventTriggers(ctx, tx); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS sandglass AUTHORIZATION `+OurRole+`;
		DROP TABLE IF EXISTS sandglass.rule_done;
		CREATE TABLE sandglass.rule_done (rule text PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), rows bigint NOT NULL, seen bigint NOT NULL,
			seconds double precision NOT NULL, notes text[] NOT NULL, missed text[] NOT NULL);
		COMMENT ON TABLE sandglass.rule_done IS `+literal(j.in.Run))
	return err
}

// Rows of rule_done in home that hold the fingerprint of a Target: of the one that the rules are being applied for, and, once they
// all are, of that one again.
const (
	targetRecord  = "target"
	appliedRecord = "target applied"
)

func (t *Target) fingerprint() (string, error) {
	b, err := json.Marshal(t)
	return fmt.Sprintf("%x", sha256.Sum256(b)), err
}

// recordedTarget is the fingerprint in such a row.
func recordedTarget(ctx context.Context, st Staging, row string) (fingerprint string, found bool, err error) {
	err = st.in(ctx, home, func(conn *pgx.Conn) error {
		var o outcome
		o, _, found, err = doneBefore(ctx, conn, row)
		if len(o.notes) == 1 {
			fingerprint = o.notes[0]
		}
		return err
	})
	return fingerprint, found, err
}

// Applied says whether a neutralized copy has what the sandbox has of roles and rights now, which is Input.Target: its people may have
// changed them since, or an earlier attempt to give them was interrupted. If not, Neutralize again does that.
func Applied(ctx context.Context, st Staging, in Input) (bool, error) {
	now, err := in.Target.fingerprint()
	if err != nil {
		return false, err
	}
	before, _, err := recordedTarget(ctx, st, appliedRecord)
	return before == now, err
}

// forgetOldTarget removes the records of the rules that depend on the Target when it is not the
// one they were applied for. Home, with the fingerprint, comes last: a kill before that only
// makes it happen again.
func (j *job) forgetOldTarget(ctx context.Context) error {
	now, err := j.in.Target.fingerprint()
	if err != nil {
		return err
	}
	before, found, err := recordedTarget(ctx, j.st, targetRecord)
	if err != nil || before == now {
		return err
	}
	var names []string
	for _, r := range rules() {
		if r.ofTarget {
			names = append(names, r.name)
		}
	}
	databases := append(slices.DeleteFunc(slices.Clone(j.names), func(n string) bool { return n == home }), home)
	for _, database := range databases {
		if !found && database != home {
			continue // the first attempt: nothing to forget
		}
		err := j.st.in(ctx, database, func(conn *pgx.Conn) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if err := j.beginIn(ctx, tx); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = ANY ($1)`, append(names, targetRecord, appliedRecord)); err != nil || database != home {
					return err
				}
				return record(ctx, tx, targetRecord, outcome{notes: []string{now}}, 0)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// runIn runs the rules in one database.
func (j *job) runIn(ctx context.Context, conn *pgx.Conn, database string, rules []rule) error {
	if _, err := conn.Exec(ctx, asynchronous); err != nil {
		return err
	}
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return j.beginIn(ctx, tx) }); err != nil {
		return fmt.Errorf("make schema sandglass in database %q: %w", database, err)
	}
	for _, r := range rules {
		j.progress(r.what)
		if err := j.run(ctx, conn, database, r); err != nil {
			if r.of != nil {
				err = failedIn{r.name, blame(ctx, conn, *r.of, err), err}
			}
			return ruleError(r, database, err)
		}
		j.done++
	}
	return nil
}

// run runs one rule once, or takes its result from the record of an earlier attempt.
func (j *job) run(ctx context.Context, conn *pgx.Conn, database string, r rule) error {
	if r.carries != nil {
		return j.carryOver(ctx, conn, database, r)
	}
	report := RuleReport{Rule: r.name, Why: r.why}
	if r.everyDatabase || r.database != "" {
		report.Database = database
	}
	if o, seconds, found, err := doneBefore(ctx, conn, r.name); err != nil {
		return err
	} else if found {
		report.Skipped = true
		j.add(report, o, seconds)
		return nil
	}
	began := time.Now()
	var o outcome
	switch {
	case r.needsTarget && j.in.Target == nil:
	case r.plain != nil:
		if err := r.plain(ctx, j, conn, &o); err != nil {
			return err
		}
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if r.tx != nil && !(r.needsTarget && j.in.Target == nil) {
			if err := r.tx(ctx, j, tx, &o); err != nil {
				return err
			}
		}
		return record(ctx, tx, r.name, o, time.Since(began))
	})
	if err != nil {
		return err
	}
	j.log.Info("rule done", "rule", r.name, "database", database, "rows", o.rows, "seconds", time.Since(began).Seconds())
	j.add(report, o, time.Since(began).Seconds())
	return nil
}

func (j *job) add(report RuleReport, o outcome, seconds float64) {
	report.Rows, report.Seen, report.Seconds, report.Notes = o.rows, o.seen, seconds, o.notes
	j.report.Rules = append(j.report.Rules, report)
	for _, missed := range o.missed {
		if report.Database != "" {
			missed = report.Database + ": " + missed
		}
		j.report.NotReapplied = append(j.report.NotReapplied, missed)
	}
}

func doneBefore(ctx context.Context, q querier, rule string) (o outcome, seconds float64, found bool, err error) {
	err = q.QueryRow(ctx, `SELECT rows, seen, seconds, notes, missed FROM sandglass.rule_done WHERE rule = $1`, rule).Scan(&o.rows, &o.seen, &seconds, &o.notes, &o.missed)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, 0, false, nil
	}
	return o, seconds, err == nil, err
}

func record(ctx context.Context, tx pgx.Tx, rule string, o outcome, took time.Duration) error {
	_, err := tx.Exec(ctx, `INSERT INTO sandglass.rule_done (rule, rows, seen, seconds, notes, missed) VALUES ($1, $2, $3, $4, coalesce($5::text[], '{}'), coalesce($6::text[], '{}'))`,
		rule, o.rows, o.seen, took.Seconds(), o.notes, o.missed)
	if err != nil {
		return fmt.Errorf("record rule: %w", err)
	}
	return nil
}

// ruleError is a rule's failure as people see it. PostgreSQL's own message is for the log: it
// may quote data.
func ruleError(r rule, database string, err error) error {
	if _, ok := errors.AsType[*sandglass.Error](err); ok || errors.Is(err, context.Canceled) {
		return fmt.Errorf("rule %s in database %q: %w", r.name, database, err)
	}
	said, in := "", failedIn{rule: r.name}
	if f, ok := errors.AsType[failedIn](err); ok {
		in = f
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		said = " (SQLSTATE " + pgErr.Code + ")"
		if r.database != "" {
			said = ": " + refusal(pgErr) + in.at.Quoted()
		}
	}
	return &sandglass.Error{Code: CodeRuleFailed, Op: "neutralize",
		Message: fmt.Sprintf("Rule %s failed in database %q%s.", in.rule, database, said),
		Remedy:  "The copy is discarded and the sandbox is as it was. PostgreSQL's own message is in the operation's log (`sandglass ops logs`).", Err: err}
}
