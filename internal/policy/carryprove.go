// The proof of carry-over: the rows that are the sandbox's own are those it had, as far as the copy can hold them. A table
// with keep holds exactly these; of rows that a merge took, the carried columns count.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// CodeKeptRows is the finding on rows that are to be the sandbox's own.
const CodeKeptRows sandglass.Code = "proof.kept_rows"

// kept compares what rules keep and merge are about with what was carried.
func (p *prover) kept(ctx context.Context, conn *pgx.Conn, database string) error {
	rules := p.in.carryRules(database)
	if len(rules) == 0 {
		return nil
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var recorded bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('sandglass.carried') IS NOT NULL`).Scan(&recorded); err != nil || !recorded {
		return err // proof.rules_done says so
	}
	all, err := structs[carried](ctx, tx, `SELECT rule, table_name, columns, key, result FROM sandglass.carried WHERE operation = $1 AND result <> '' ORDER BY 1, 2`, p.in.Run)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, snapshotSettings); err != nil {
		return err
	}
	for _, r := range all {
		i := slices.IndexFunc(rules, func(c carryRule) bool { return c.name() == r.Rule })
		if i < 0 {
			continue
		}
		same, err := r.same(ctx, tx, rules[i], p.in.Run)
		if err != nil {
			return err
		}
		if !same {
			p.strange = append(p.strange, fmt.Sprintf("%s: %s (%s)", database, r.Table, r.Rule))
		}
	}
	return nil
}

// carried is a row of sandglass.carried.
type carried struct {
	Rule, Table  string
	Columns, Key []string
	Result       string
}

// same says whether the table, if it and its columns are still there, holds what was carried.
func (r carried) same(ctx context.Context, tx pgx.Tx, c carryRule, run string) (bool, error) {
	u := &unit{carryRule: c, columns: r.Columns, key: r.Key}
	found, err := structs[relation](ctx, tx, `SELECT c.oid, relkind::text, $1 FROM pg_class c WHERE oid = to_regclass($1)
		AND NOT EXISTS (SELECT FROM unnest($2::text[]) name WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = name AND NOT attisdropped))`, r.Table, r.Columns)
	if err != nil || len(found) == 0 {
		return false, err
	}
	u.table = found[0]
	d, err := u.result(ctx, tx, run)
	return d.String() == r.Result, err
}

func (p *prover) keptFinding() sandglass.Finding {
	return p.finding(assertion{code: CodeKeptRows, waivable: true, says: "The rows that stay the sandbox's own are as they were carried.", fails: "Rows are not the sandbox's own in"}, p.strange)
}

// proveCarried repeats, after carrying again, the proof of the tables that one database's rules are about.
func proveCarried(ctx context.Context, conn *pgx.Conn, in Input, r rule) error {
	p := &prover{in: in}
	tables := []uint32{}
	for _, c := range r.carries {
		t, err := findTable(ctx, conn, c.rule.Table)
		if err != nil {
			return err
		}
		if t.OID != 0 {
			tables = append(tables, t.OID)
		}
	}
	if err := p.keysOf(ctx, conn, r.database, tables); err != nil {
		return err
	}
	if err := p.kept(ctx, conn, r.database); err != nil {
		return err
	}
	if err := p.assert(ctx, conn, r.database, func(q pack.Question) bool {
		return slices.ContainsFunc(r.carries, func(c carryRule) bool { return q.Table == c.rule.Table || strings.Contains(q.Query, c.alias()) })
	}); err != nil {
		return err
	}
	for _, f := range p.packFindings() {
		if f.Level == sandglass.Stop {
			return &sandglass.Error{Code: CodeCarryChanged, Op: "carry over", Message: "Rows that stay the sandbox's own were changed while it was about to be swapped, and the proof does not hold with them. " + f.Message,
				Remedy: "The sandbox is as it was. Start the restore again."}
		}
	}
	return nil
}
