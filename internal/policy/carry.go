// Carry-over: the rows that stay the sandbox's own across a restore, by the rules keep and merge
// of packs. All such rules of one database are done together, in one transaction of the copy and
// from one snapshot of the running sandbox, after every other rule: what refers to what is then
// judged once, for the whole. carryread.go reads, carrywrite.go and conflicts.go give, carryagain.go is 8c.

package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/pack"
)

// Codes of carry-over.
const (
	// CodeCarryConflict is a row of the sandbox that the copy can't hold, where the rule says stop.
	CodeCarryConflict sandglass.Code = "carry.conflict"
	// CodeCarryChanged is a sandbox that was changed in the last moments before its cutover.
	CodeCarryChanged sandglass.Code = "carry.changed"
	// CodeCarryDrift is a table that differs between the sandbox and the copy.
	CodeCarryDrift sandglass.Code = "carry.drift"
)

// ruleCarry stands for all rules keep and merge of one database.
const ruleCarry = "carry-over"

// carryRule is one of them.
type carryRule struct {
	pack pack.Pack
	rule pack.Rule
}

func (c carryRule) name() string { return c.pack.Name + "/" + c.rule.Name }

// carryRules are those of one database of the sandbox.
func (in Input) carryRules(database string) (all []carryRule) {
	for _, p := range in.Packs {
		for _, r := range p.Rules {
			if r.Carries() && in.Environment.Databases[r.Database] == database {
				all = append(all, carryRule{p, r})
			}
		}
	}
	return all
}

// carrier is the carry-over of one database, once.
type carrier struct {
	*job
	database string
	rules    []carryRule
	outs     map[string]*outcome // by rule
	tx       pgx.Tx              // in the copy
	units    []*unit
	restore  []string // statements that switch triggers on again
}

// carryOver does the rules keep and merge of one database, unless the copy has what the sandbox
// has now.
func (j *job) carryOver(ctx context.Context, conn *pgx.Conn, database string, r rule) error {
	_, _, done, err := doneBefore(ctx, conn, r.name)
	if err != nil {
		return err
	}
	return j.in.fromTarget(ctx, database, func(own pgx.Tx) error {
		c := &carrier{job: j, database: database, rules: r.carries, outs: map[string]*outcome{}}
		if done {
			if same, err := c.same(ctx, conn, own); err != nil {
				return err
			} else if same {
				return c.reportBefore(ctx, conn)
			}
			j.log.Info("rows of the sandbox have changed since and are carried again", "database", database)
		}
		began := time.Now()
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			c.tx = tx
			return c.carry(ctx, own, began)
		})
		if err != nil {
			return err
		}
		for _, r := range c.rules {
			c.add(c.reportOf(r), *c.outs[r.name()], time.Since(began).Seconds())
			j.log.Info("rule done", "rule", r.name(), "database", database, "rows", c.outs[r.name()].rows)
		}
		return nil
	})
}

func (c *carrier) reportOf(r carryRule) RuleReport {
	return RuleReport{Rule: r.name(), Why: r.rule.Why, Database: c.database, Carried: true}
}

// reportBefore takes the results from the records of an earlier attempt.
func (c *carrier) reportBefore(ctx context.Context, q querier) error {
	for _, r := range c.rules {
		o, seconds, _, err := doneBefore(ctx, q, r.name())
		if err != nil {
			return err
		}
		report := c.reportOf(r)
		report.Skipped = true
		c.add(report, o, seconds)
	}
	return nil
}

// carry is the whole of it, in the transaction that records it. The sandbox's snapshot is let
// go of as soon as its rows are here.
func (c *carrier) carry(ctx context.Context, own pgx.Tx, began time.Time) error {
	if err := makeRecords(ctx, c.tx, c.in); err != nil {
		return err
	}
	// An earlier carrying counts no more.
	if _, err := c.tx.Exec(ctx, `DELETE FROM sandglass.changed_columns WHERE operation = $1 AND policy || '/' || rule = ANY ($2) AND action IN ('keep', 'merge')`, c.in.Run, c.ruleNames()); err != nil {
		return fmt.Errorf("begin to carry: %w", err)
	}
	if _, err := c.tx.Exec(ctx, snapshotSettings); err != nil {
		return err
	}
	if err := c.plan(ctx, c.tx, own); err != nil {
		return err
	}
	for _, u := range c.units {
		if err := u.read(ctx, c.tx, own); err != nil {
			return err
		}
	}
	if own != nil {
		if err := own.Rollback(ctx); err != nil {
			return fmt.Errorf("let the sandbox's snapshot go: %w", err)
		}
	}
	if err := c.give(ctx); err != nil {
		return err
	}
	names := []string{ruleCarry}
	for _, r := range c.rules {
		names = append(names, r.name())
	}
	if _, err := c.tx.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = ANY ($1)`, names); err != nil {
		return err
	}
	c.outs[ruleCarry] = &outcome{}
	for _, name := range names {
		if err := record(ctx, c.tx, name, *c.outs[name], time.Since(began)); err != nil {
			return err
		}
	}
	if err := c.noteUnproven(ctx, c.tx); err != nil {
		return err
	}
	return c.recordUnits(ctx)
}

// makeCarryRecords makes what later readings are compared with, and what tells a pack's
// assertions which rows are the sandbox's own.
func makeCarryRecords(ctx context.Context, tx pgx.Tx, run string) error {
	_, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS sandglass.carried (operation text, rule text, table_name text, columns text[] NOT NULL, key text[] NOT NULL, rows bigint NOT NULL, digest text NOT NULL, result text NOT NULL,
			PRIMARY KEY (operation, rule, table_name));
		CREATE TABLE IF NOT EXISTS sandglass.merged_rows (operation text, rule text, table_name text, key text, in_both boolean NOT NULL, PRIMARY KEY (operation, rule, table_name, key));
		COMMENT ON TABLE sandglass.carried IS 'Rows that are the sandbox''s own: digests of what was read from it, and of what the copy got';
		COMMENT ON TABLE sandglass.merged_rows IS 'Rows that rules of kind merge took from the sandbox, by their key as ROW(...)::text';
		DELETE FROM sandglass.carried WHERE operation <> `+literal(run)+`; DELETE FROM sandglass.merged_rows WHERE operation <> `+literal(run))
	if err != nil {
		return fmt.Errorf("make records of carry-over: %w", err)
	}
	return nil
}

// recordUnits notes what was read and what the copy has now.
func (c *carrier) recordUnits(ctx context.Context) error {
	if _, err := c.tx.Exec(ctx, `DELETE FROM sandglass.carried WHERE operation = $1 AND rule = ANY ($2)`, c.in.Run, c.ruleNames()); err != nil {
		return err
	}
	for _, u := range c.units {
		result := ""
		if u.rule.Keep != "" || u.own.OID != 0 {
			result = u.kept.String()
		}
		if _, err := c.tx.Exec(ctx, `INSERT INTO sandglass.carried (operation, rule, table_name, columns, key, rows, digest, result) VALUES ($1, $2, $3, coalesce($4::text[], '{}'), coalesce($5::text[], '{}'), $6, $7, $8)`, // no columns: there is no sandbox yet
			c.in.Run, u.name(), u.table.Name, u.columns, u.key, u.given, u.digest(), result); err != nil {
			return fmt.Errorf("record what was carried: %w", err)
		}
	}
	return nil
}

func (c *carrier) ruleNames() (names []string) {
	for _, r := range c.rules {
		names = append(names, r.name())
	}
	return names
}

// same says whether the sandbox's rows are what the copy was given. Where the sandbox is not to
// be had any more, what was carried stays.
func (c *carrier) same(ctx context.Context, conn *pgx.Conn, own pgx.Tx) (bool, error) {
	if own == nil {
		return true, nil
	}
	if err := c.plan(ctx, conn, own); err != nil {
		return false, err
	}
	type row struct {
		Rule, Table string
		Columns     []string
		Digest      string
	}
	before, err := structs[row](ctx, conn, `SELECT rule, table_name, columns, digest FROM sandglass.carried WHERE operation = $1 AND rule = ANY ($2)`, c.in.Run, c.ruleNames())
	if err != nil || len(before) != len(c.units) {
		return false, err
	}
	for _, u := range c.units {
		i := slices.IndexFunc(before, func(r row) bool { return r.Rule == u.name() && r.Table == u.table.Name })
		if i < 0 || !slices.Equal(before[i].Columns, u.columns) {
			return false, nil
		}
		if err := u.look(ctx, own); err != nil {
			return false, err
		}
		if u.digest() != before[i].Digest {
			return false, nil
		}
	}
	return true, nil
}

// snapshotSettings make a snapshot's texts the same in every server, and keep it from standing
// in anybody's way for long.
const snapshotSettings = `SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL TimeZone = 'UTC'; SET LOCAL xmloption = 'content'; SET LOCAL lc_monetary = 'C'`

// fromTarget opens one snapshot of a database of the running sandbox: read-only, and giving up
// rather than waiting for a lock. It is nil where there is no sandbox, or no such database in it.
func (in Input) fromTarget(ctx context.Context, database string, do func(own pgx.Tx) error) error {
	if in.FromTarget == nil {
		return do(nil)
	}
	conn, err := in.FromTarget.open(ctx, database)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "3D000" { // invalid_catalog_name
		return do(nil)
	}
	if err != nil {
		return fmt.Errorf("connect to the sandbox: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err == nil {
		_, err = tx.Exec(ctx, snapshotSettings+`; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30min'; SET LOCAL idle_in_transaction_session_timeout = '30min'`)
	}
	if err != nil {
		return fmt.Errorf("take a snapshot of the sandbox: %w", err)
	}
	return do(tx)
}

// lookAtOwn finds how the tables of the rules keep and merge differ between the sandbox and the
// untouched copy, whose database is not yet called as it will be.
func (in Input) lookAtOwn(ctx context.Context, conn *pgx.Conn, database string) (all []sandglass.Finding, err error) {
	rules := in.carryRules(database)
	if len(rules) == 0 || in.FromTarget == nil {
		return nil, nil
	}
	err = in.fromTarget(ctx, database, func(own pgx.Tx) error {
		c := &carrier{job: newJob(Staging{}, in), database: database, rules: rules, outs: map[string]*outcome{}}
		err := c.plan(ctx, conn, own)
		if e, ok := errors.AsType[*sandglass.Error](err); ok {
			all = append(all, sandglass.Finding{Code: e.Code, Level: sandglass.Stop, Message: e.Message, Remedy: e.Remedy})
			return nil
		}
		for _, r := range rules {
			if out := c.outs[r.name()]; out != nil {
				for _, missed := range out.missed {
					all = append(all, sandglass.Finding{Code: CodeCarryDrift, Level: sandglass.Warning, Message: missed, Remedy: fmt.Sprintf("The rule %s carries what it can. Bring the tables in line if that is not enough.", r.name())})
				}
			}
		}
		return err
	})
	return all, err
}

// CountCarried counts, in the running sandbox, the rows that each rule would carry, by the
// rule's name (PACK/RULE). What can't be counted is left out.
func CountCarried(ctx context.Context, in Input) map[string]int64 {
	counts := map[string]int64{}
	for _, database := range in.packDatabases() {
		rules := in.carryRules(database)
		if len(rules) == 0 {
			continue
		}
		_ = in.fromTarget(ctx, database, func(own pgx.Tx) error {
			if own == nil {
				return nil
			}
			for _, r := range rules {
				t, err := findTable(ctx, own, r.rule.Table)
				if err != nil || t.Kind != "r" && t.Kind != "p" {
					continue
				}
				var n int64
				sub, err := own.Begin(ctx)
				if err != nil {
					return err
				}
				if err := sub.QueryRow(ctx, "SELECT count(*) FROM "+t.Name+" AS "+ident(r.alias())+r.where("")).Scan(&n); err == nil {
					counts[r.name()] = n
				}
				if err := sub.Rollback(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return counts
}

// alias is what the rule's condition may call its table.
func (c carryRule) alias() string { return bareName(c.rule.Table) }

// where is the rule's condition with another.
func (c carryRule) where(more string) string { return conditions(c.rule.Where, more) }
