// Rewriting what the rules of packs were about: VACUUM FULL alone leaves old values in the
// statistics (field/postgres.md 8), and materialized views hold copies of them.

package policy

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

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
	all, err := structs[relation](ctx, conn, aboveBelow+`SELECT c.oid, relkind::text, format('%I.%I', nspname, relname) FROM (SELECT oid FROM up UNION SELECT oid FROM tree) t JOIN pg_class c USING (oid)
		JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p') ORDER BY relkind DESC, c.oid`, tables)
	if err != nil {
		return err
	}
	for _, t := range all {
		name := "rewrite " + t.Name
		if _, _, found, err := doneBefore(ctx, conn, name); err != nil {
			return err
		} else if found {
			o.rows++
			continue
		}
		j.progress("Table " + t.Name + " is rewritten.")
		began := time.Now()
		if err := rewriteTable(ctx, conn, t); err != nil {
			return fmt.Errorf("rewrite %s: %w", t.Name, err)
		}
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return record(ctx, tx, name, outcome{}, time.Since(began)) }); err != nil {
			return err
		}
		o.rows++
	}
	_, err = conn.Exec(ctx, "VACUUM (FULL) pg_statistic_ext_data")
	return err
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

// rewriteTable removes what statistics know of the table and its indexes, writes its rows into
// new files (of a partitioned table there are none) and looks at them anew.
func rewriteTable(ctx context.Context, conn *pgx.Conn, t relation) error {
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM pg_statistic WHERE starelid = $1 OR starelid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1)`, t.OID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM pg_statistic_ext_data WHERE stxoid IN (SELECT oid FROM pg_statistic_ext WHERE stxrelid = $1)`, t.OID)
		return err
	}); err != nil {
		return err
	}
	if t.Kind == "r" {
		if _, err := conn.Exec(ctx, "VACUUM (FULL) "+t.Name); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, "ANALYZE "+t.Name)
	return err
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
		if _, err := conn.Exec(ctx, `DELETE FROM pg_statistic WHERE starelid = $1 OR starelid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1)`, v.OID); err != nil {
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
