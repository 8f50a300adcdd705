// A set or a clear of a big table goes by ranges of blocks: each commits together with how far the
// rule has come, so that a kill costs one range, and people see it move.

package policy

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// DefaultRange is how much of a table one transaction of a rule goes through, bytes.
const DefaultRange sandglass.Bytes = 64 << 20

// span is the range of blocks of a table, partitions and children included, that a transaction
// goes through: from, up to but not including to. The rule ends at end, as many blocks as the
// largest part of the table had when the rule began: what lies beyond was put there by the rule.
type span struct{ from, to, end int64 }

// movedTable has the rows that a rule has changed and that PostgreSQL put into blocks the rule
// is still to come to: those are not to be changed twice.
const movedTable = "sandglass.moved"

// progressOf names the row of rule_done that says how far a rule has come: its notes are the next block and the end.
func progressOf(rule string) string { return rule + " so far" }

// inRanges applies the rule range by range, if it can be: then o says what it did, and that it did.
func (j *job) inRanges(ctx context.Context, conn *pgx.Conn, p pack.Pack, r pack.Rule, o *outcome) error {
	if r.Action() != "set" && r.Action() != "clear" {
		return nil
	}
	name, began := p.Name+"/"+r.Name, time.Now()
	size := int64(cmp.Or(j.in.Range, DefaultRange)) / 8192
	sofar, _, found, err := doneBefore(ctx, conn, progressOf(name))
	if err != nil {
		return err
	}
	var next, end int64
	if found {
		if _, err := fmt.Sscan(strings.Join(sofar.notes, " "), &next, &end); err != nil {
			return fmt.Errorf("read how far %s has come: %w", name, err)
		}
		o.rows, o.seen = sofar.rows, sofar.seen
	} else if end, err = blocks(ctx, conn, r); err != nil || end <= 2*size {
		return err
	} else if ok, err := splits(ctx, conn, r); err != nil || !ok {
		return err
	}
	o.ranged = true
	for start := next; next < end; {
		s := span{next, min(next+size, end), end}
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			part := outcome{}
			a := &act{job: j, tx: tx, pack: p, rule: r, out: &part, span: &s}
			if err := a.do(ctx); err != nil {
				return err
			}
			o.rows, o.seen, o.notes = o.rows+part.rows, o.seen+part.seen, part.notes
			if _, err := tx.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = $1`, progressOf(name)); err != nil {
				return err
			}
			return record(ctx, tx, progressOf(name), outcome{rows: o.rows, seen: o.seen, notes: []string{strconv.FormatInt(s.to, 10), strconv.FormatInt(end, 10)}}, time.Since(began))
		})
		if err != nil {
			return err
		}
		next = s.to
		left := time.Since(began) / time.Duration(next-start) * time.Duration(end-next)
		j.progress(fmt.Sprintf("%s: %d %% of %s, about %s left for it.", name, 100*next/end, r.Table, left.Round(time.Second)))
	}
	return nil
}

// forgetRanges belongs into the transaction that records the rule as done.
func forgetRanges(ctx context.Context, tx pgx.Tx, name string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = $1`, progressOf(name)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+movedTable)
	return err
}

// blocks is how many the largest part of the rule's table has; 0 where there is none, or parts
// are kept by another access method than heap.
func blocks(ctx context.Context, q querier, r pack.Rule) (n int64, err error) {
	t, err := findTable(ctx, q, r.Table)
	if err != nil || t.OID == 0 {
		return 0, err
	}
	err = q.QueryRow(ctx, below+`SELECT CASE WHEN bool_and(relkind = 'p' OR relkind = 'r' AND amname = 'heap') THEN coalesce(max(pg_relation_size(c.oid)) / current_setting('block_size')::int, 0) ELSE 0 END
		FROM tree JOIN pg_class c USING (oid) LEFT JOIN pg_am am ON am.oid = relam`, []uint32{t.OID}).Scan(&n)
	return n, err
}

var (
	queries = regexp.MustCompile(`(?i)\b(select|table)\b|table_to_xml|query_to_xml|/\*`)               // a comment could hide a call
	calls   = regexp.MustCompile(`\.\s*("(?:[^"]|"")*"|[\w$\x{80}-\x{10FFFF}]+)\s*(--[^\n]*\n\s*)*\(`) // of a function that is not pg_catalog's: it may look at the table
)

// splits says whether the rule does the same in parts as in one statement: it looks at nothing
// but its row, and changes nothing that must be unique or that decides on the row's partition.
func splits(ctx context.Context, q querier, r pack.Rule) (bool, error) {
	texts := []string{r.Where}
	for _, column := range sortedKeys(r.Set) {
		texts = append(texts, r.Set[column])
	}
	if slices.ContainsFunc(texts, func(s string) bool { return queries.MatchString(s) || calls.MatchString(s) }) {
		return false, nil
	}
	t, err := findTable(ctx, q, r.Table)
	if err != nil {
		return false, err
	}
	changed, err := t.withGenerated(ctx, q, r.Columns())
	if err != nil {
		return false, err
	}
	var tied bool
	err = q.QueryRow(ctx, below+`, columns AS (SELECT attrelid, attnum FROM tree JOIN pg_attribute ON attrelid = oid WHERE attname = ANY ($2)),
		ties AS (SELECT indrelid AS relation, unnest(indkey::int2[]) AS number FROM pg_index WHERE indisunique OR indisexclusion
			UNION ALL SELECT refobjid, refobjsubid FROM pg_index JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = indexrelid AND refobjid = indrelid WHERE indisunique OR indisexclusion
			UNION ALL SELECT partrelid, unnest(partattrs::int2[]) FROM pg_partitioned_table)
		SELECT EXISTS (SELECT FROM columns JOIN ties ON relation = attrelid AND number = attnum) OR EXISTS (SELECT FROM tree JOIN pg_partitioned_table ON partrelid = oid WHERE 0 = ANY (partattrs::int2[]))`,
		[]uint32{t.OID}, changed).Scan(&tied)
	return !tied, err
}

// updateSpan changes the rows of one range, but those the rule has changed already.
func (a *act) updateSpan(ctx context.Context, sets []string, where string) error {
	place := func(block int64) string { return fmt.Sprintf("'(%d,0)'::tid", block) }
	t := a.table.Name
	here := fmt.Sprintf("%s.ctid >= %s AND %[1]s.ctid < %[3]s AND NOT EXISTS (SELECT FROM %[4]s m WHERE m.relation = %[1]s.tableoid AND m.place = %[1]s.ctid)", t, place(a.span.from), place(a.span.to), movedTable)
	if _, err := a.tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+movedTable+` (relation oid, place tid)`); err != nil {
		return err
	}
	if err := a.tx.QueryRow(ctx, "SELECT count(*) FROM "+t+" WHERE "+here).Scan(&a.out.seen); err != nil {
		return err
	}
	if where != "" {
		here += " AND" + strings.TrimPrefix(where, " WHERE")
	}
	sql := fmt.Sprintf("WITH changed AS (UPDATE %s SET %s WHERE %s RETURNING %[1]s.tableoid AS relation, %[1]s.ctid AS place), moved AS (INSERT INTO %[4]s SELECT * FROM changed WHERE place >= %[5]s AND place < %[6]s)\nSELECT count(*) FROM changed",
		t, strings.Join(sets, ", "), here, movedTable, place(a.span.to), place(a.span.end))
	return a.tx.QueryRow(ctx, sql).Scan(&a.out.rows)
}
