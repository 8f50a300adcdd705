// Rewriting what the rules of packs were about, two tables at a time: VACUUM FULL alone leaves old values in the
// statistics (field/postgres.md 8), and materialized views hold copies of them.

package policy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"sandglass"
)

// rewriters is how many tables are rewritten at a time.
const rewriters = 2

// rewriteTables gives every table that a rule names, or has changed on the way, new files and
// new statistics. Each table is recorded on its own; one that was cut off is done again.
func rewriteTables(ctx context.Context, j *job, conn *pgx.Conn, o *outcome) error {
	tables, err := touched(ctx, conn, j.in)
	if err != nil || len(tables) == 0 {
		return err
	}
	if err := refreshViews(ctx, conn, tables, o); err != nil {
		return err
	}
	type table struct {
		relation
		Done  bool
		Bytes int64
		Far   bool // a foreign table is among its partitions or children: looking at it would reach outside
		Bare  bool // no row, and no index of more than its first page: there is nothing old in its files
	}
	all, err := structs[table](ctx, conn, aboveBelow+`, far (oid) AS (SELECT inhparent FROM pg_inherits JOIN pg_class f ON f.oid = inhrelid WHERE f.relkind = 'f' UNION SELECT inhparent FROM pg_inherits JOIN far ON inhrelid = far.oid)
		SELECT c.oid, relkind::text, format('%I.%I', nspname, relname), EXISTS (SELECT FROM sandglass.rule_done WHERE rule = format('rewrite %I.%I', nspname, relname)), pg_total_relation_size(c.oid), c.oid IN (SELECT oid FROM far),
		pg_relation_size(c.oid) = 0 AND pg_total_relation_size(c.oid) <= 8192 * (1 + (SELECT count(*) FROM pg_index WHERE indrelid = c.oid))
		FROM (SELECT oid FROM up UNION SELECT oid FROM tree) t JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p') ORDER BY relkind DESC, 5 DESC, c.oid`, tables)
	if err != nil {
		return err
	}
	o.rows = int64(len(all))
	all = slices.DeleteFunc(all, func(t table) bool { return t.Done })
	// What statistics know of the tables and their indexes goes at once; pg_statistic itself is rewritten by the last rule.
	ids := []uint32{}
	for _, t := range all {
		ids = append(ids, t.OID)
	}
	if err := forgetStatistics(ctx, conn, ids); err != nil {
		return err
	}
	whole := map[string][]func(context.Context, *pgx.Conn) error{}
	for _, t := range all {
		whole[t.Kind] = append(whole[t.Kind], func(ctx context.Context, conn *pgx.Conn) error {
			if t.Bytes > int64(DefaultRange) {
				j.progress(fmt.Sprintf("Table %s is rewritten, %s.", t.Name, sandglass.Bytes(t.Bytes)))
			}
			if err := rewriteTable(ctx, conn, t.relation, t.Kind == "r" && !t.Bare, !t.Far); err != nil {
				return fmt.Errorf("rewrite %s: %w", t.Name, err)
			}
			return nil
		})
	}
	// A partitioned table's statistics are of its partitions, hence come after them.
	for _, kind := range []string{"r", "p"} {
		if err := j.inSessions(ctx, conn, whole[kind]); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "VACUUM (FULL) pg_statistic_ext_data")
	return err
}

// inSessions does the work in this session and others of the same database.
func (j *job) inSessions(ctx context.Context, conn *pgx.Conn, work []func(context.Context, *pgx.Conn) error) error {
	var database string
	if err := conn.QueryRow(ctx, `SELECT current_database()::text`).Scan(&database); err != nil {
		return err
	}
	next := make(chan func(context.Context, *pgx.Conn) error, len(work))
	for _, do := range work {
		next <- do
	}
	close(next)
	g, ctx := errgroup.WithContext(ctx)
	session := func(conn *pgx.Conn) error {
		// The sessions may wait for each other, and nobody else is here. Indexes are sorted in memory.
		if _, err := conn.Exec(ctx, `SET lock_timeout = 0; SET maintenance_work_mem = '256MB'; `+asynchronous); err != nil {
			return err
		}
		for do := range next {
			if err := do(ctx, conn); err != nil {
				return err
			}
		}
		return nil
	}
	g.Go(func() error { return session(conn) })
	for range min(rewriters, len(work)) - 1 {
		g.Go(func() error { return j.st.in(ctx, database, session) })
	}
	return g.Wait()
}

// touched are the tables of this database that rules of packs name or have changed.
func touched(ctx context.Context, q querier, in Input) ([]uint32, error) {
	var here string
	if err := q.QueryRow(ctx, `SELECT current_database()::text`).Scan(&here); err != nil {
		return nil, err
	}
	tables := []uint32{}
	for _, p := range in.Packs {
		for _, r := range p.Rules {
			if in.Environment.Databases[r.Database] != here {
				continue
			}
			t, err := findTable(ctx, q, r.Table)
			if err != nil {
				return nil, err
			}
			if t.Kind == "r" || t.Kind == "p" {
				tables = append(tables, t.OID)
			}
		}
	}
	var recorded bool
	if err := q.QueryRow(ctx, `SELECT to_regclass('sandglass.changed_columns') IS NOT NULL`).Scan(&recorded); err != nil || !recorded {
		return tables, err
	}
	rows, err := q.Query(ctx, `SELECT DISTINCT to_regclass(table_name)::oid FROM sandglass.changed_columns WHERE operation = $1 AND to_regclass(table_name) IS NOT NULL`, in.Run)
	if err != nil {
		return nil, err
	}
	more, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	return append(tables, more...), err
}

// forgetStatistics removes what the statistics know of the tables and their indexes.
func forgetStatistics(ctx context.Context, conn *pgx.Conn, tables []uint32) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM pg_statistic WHERE starelid = ANY ($1) OR starelid IN (SELECT indexrelid FROM pg_index WHERE indrelid = ANY ($1))`, tables); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM pg_statistic_ext_data WHERE stxoid IN (SELECT oid FROM pg_statistic_ext WHERE stxrelid = ANY ($1))`, tables)
		return err
	})
}

// rewriteTable writes the table's rows into new files, unless it has none of its own (a
// partitioned table) or none to write, and looks at them anew, if it may.
func rewriteTable(ctx context.Context, conn *pgx.Conn, t relation, full, look bool) error {
	began := time.Now()
	if full {
		if _, err := conn.Exec(ctx, "VACUUM (FULL) "+t.Name); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if look {
			if _, err := tx.Exec(ctx, "ANALYZE "+t.Name); err != nil {
				return err
			}
		}
		return record(ctx, tx, "rewrite "+t.Name, outcome{}, time.Since(began))
	})
}

// refreshViews makes the materialized views anew that read the tables, the ones they read first.
// One whose query fails is left empty and said so.
func refreshViews(ctx context.Context, conn *pgx.Conn, tables []uint32, o *outcome) error {
	views, err := structs[relation](ctx, conn, aboveBelow+`, reads (oid, depth) AS (SELECT oid, 0 FROM (SELECT oid FROM up UNION SELECT oid FROM tree) t UNION
		SELECT ev_class, depth + 1 FROM reads JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = reads.oid AND classid = 'pg_rewrite'::regclass
		JOIN pg_rewrite w ON w.oid = objid WHERE ev_class <> reads.oid AND depth < 64)
		SELECT c.oid, relkind::text, format('%I.%I', nspname, relname) FROM (SELECT oid, max(depth) depth FROM reads GROUP BY oid) r JOIN pg_class c USING (oid)
		JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'm' AND relispopulated ORDER BY depth, c.oid`, tables)
	if err != nil {
		return err
	}
	for _, v := range views {
		if err := forgetStatistics(ctx, conn, []uint32{v.OID}); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "REFRESH MATERIALIZED VIEW "+v.Name); err != nil {
			if ctx.Err() != nil {
				return err
			}
			if _, err := conn.Exec(ctx, "REFRESH MATERIALIZED VIEW "+v.Name+" WITH NO DATA"); err != nil {
				return fmt.Errorf("empty %s: %w", v.Name, err)
			}
			o.notes = append(o.notes, "materialized view "+v.Name+" can't be made anew and is empty")
			continue
		}
		o.notes = append(o.notes, "materialized view "+v.Name+" made anew")
		if _, err := conn.Exec(ctx, "ANALYZE "+v.Name); err != nil {
			return err
		}
	}
	return nil
}
