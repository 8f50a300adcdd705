// Values that can't be found by reading files byte by byte: those that PostgreSQL keeps compressed, in the row or beside it, or in
// several pieces, and addresses, whose bytes are four or sixteen of any kind. They are read by SQL, while the copy is still up.

package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// Stored are the hidden values of the copy, to be looked through.
type Stored struct {
	// Look is called with each value and where it is: "the large values of public.notes.note of erp". Two workers call it;
	// the value is only theirs until it returns.
	Look func(where string, value []byte)
	// Unread is called with a column whose values the server can't give, and why: the library of its type may be missing, or a
	// large value damaged in production.
	Unread func(where, why string)
	// Progress says how many of the tables' bytes have been read; it may be nil.
	Progress func(done, total int64)
}

// storedColumn is a column that may have hidden values.
type storedColumn struct {
	Table, Name string // the table's is quoted already
	Bytes       int64
	// Kind says how the value is read: "address", "jsonb", "text" (of a type without a binary form, or with one that mixes in numbers) or "".
	Kind string
}

type storedTable struct {
	database, name string
	bytes          int64
	columns        []storedColumn
}

// storedColumns are all columns of varying length whose type may be compressed, whatever the column's own storage is: ALTER
// TABLE ... SET STORAGE leaves the values of before. Catalogs are tables as well. An index needs no look of its own: what it
// keeps compressed, the table has plain, or compressed as well.
const storedColumns = `SELECT c.oid::regclass::text, a.attname::text, pg_relation_size(c.oid),
	CASE WHEN b.typ IN ('inet'::regtype, 'cidr'::regtype, 'inet[]'::regtype, 'cidr[]'::regtype) THEN 'address'
		WHEN b.typ = 'jsonb'::regtype THEN 'jsonb'
		WHEN t.typsend = 0 OR t.typtype = 'p' OR e.typsend = 0 OR b.typ = 'tsvector'::regtype THEN 'text' ELSE '' END
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
	JOIN pg_type t ON t.oid = a.atttypid AND (a.attlen = -1 AND t.typstorage <> 'p' OR t.oid = 'name'::regtype AND $1 <> '') LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typelem <> 0
	CROSS JOIN LATERAL (WITH RECURSIVE base(typ, kind, under) AS (SELECT t.oid, t.typtype, t.typbasetype
		UNION ALL SELECT n.oid, n.typtype, n.typbasetype FROM base JOIN pg_type n ON n.oid = base.under WHERE base.kind = 'd')
		SELECT typ FROM base WHERE kind <> 'd') b
	WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated AND pg_relation_size(c.oid) > 0 AND $1 IN ('', c.oid::text)
	ORDER BY 3 DESC, c.oid, a.attnum`

// Read reads them from all databases that take connections.
func (s Stored) Read(ctx context.Context, st Staging) error {
	st, release := st.keeping(ctx)
	defer release()
	var names []string
	err := st.in(ctx, home, func(conn *pgx.Conn) (err error) {
		names, err = column(ctx, conn, `SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1`)
		return err
	})
	var tables []storedTable
	var total, done, next atomic.Int64
	for _, name := range names {
		if err == nil {
			err = st.in(ctx, name, func(conn *pgx.Conn) error {
				columns, err := structs[storedColumn](ctx, conn, storedColumns, "")
				for _, c := range columns {
					if n := len(tables); n == 0 || tables[n-1].database != name || tables[n-1].name != c.Table {
						tables = append(tables, storedTable{database: name, name: c.Table, bytes: c.Bytes})
						total.Add(c.Bytes)
					}
					last := &tables[len(tables)-1]
					last.columns = append(last.columns, c)
				}
				return err
			})
		}
	}
	if err != nil {
		return fmt.Errorf("list the columns to search: %w", err)
	}
	workers, ctx := errgroup.WithContext(ctx)
	for range 2 {
		workers.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(tables)); {
				database := tables[i].database
				err := st.in(ctx, database, func(conn *pgx.Conn) error {
					for ; i < int64(len(tables)) && tables[i].database == database; i = next.Add(1) - 1 {
						if err := s.readable(ctx, conn, tables[i], false); err != nil {
							return fmt.Errorf("search %s of %s: %w", tables[i].name, database, err)
						}
						if read := done.Add(tables[i].bytes); s.Progress != nil {
							s.Progress(read, total.Load())
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return workers.Wait()
}

// ReadTable reads all texts of one table, by its OID, and what else is of no fixed length.
func (s Stored) ReadTable(ctx context.Context, st Staging, database, oid string) error {
	return st.in(ctx, database, func(conn *pgx.Conn) error {
		columns, err := structs[storedColumn](ctx, conn, storedColumns, oid)
		if err != nil || len(columns) == 0 {
			return err
		}
		if err := s.readable(ctx, conn, storedTable{database, columns[0].Table, columns[0].Bytes, columns}, true); err != nil {
			return fmt.Errorf("search %s of %s: %w", columns[0].Table, database, err)
		}
		return nil
	})
}

// readable reads a table, or, where the server refuses that, each of its columns that it can.
func (s Stored) readable(ctx context.Context, conn *pgx.Conn, t storedTable, all bool) error {
	err := s.table(ctx, conn, t, all)
	if _, refused := errors.AsType[*pgconn.PgError](err); !refused || conn.IsClosed() || ctx.Err() != nil {
		return err
	}
	columns := t.columns
	for i := range columns {
		t.columns = columns[i : i+1]
		err := s.table(ctx, conn, t, all)
		said, refused := errors.AsType[*pgconn.PgError](err)
		if refused && !conn.IsClosed() {
			s.Unread(t.name+"."+columns[i].Name+" of "+t.database, said.Message)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// chunk is how much of a value lies in one piece in the files (TOAST_MAX_CHUNK_SIZE in access/heaptoast.h, of the usual pages).
const chunk = 1996

// table reads the hidden values of one table, or all, a row at a time. They are asked for in binary: text and bytea are then as they
// are, also in arrays, where COPY's text would escape them.
func (s Stored) table(ctx context.Context, conn *pgx.Conn, t storedTable, all bool) error {
	var values, any, where []string
	for _, c := range t.columns {
		name := ident(c.Name)
		value, hidden, is := name, fmt.Sprintf("(pg_column_compression(%s) IS NOT NULL OR pg_column_size(%[1]s) > %d)", name, chunk), "the large values of "
		switch c.Kind {
		case "address":
			value, hidden, is = name+"::text", name+" IS NOT NULL", "the addresses of "
		case "text":
			value = name + "::text"
		case "jsonb":
			// As text it has its numbers and keys; a string with a sign that JSON escapes is given as it is, too.
			value = fmt.Sprintf(`%s::text || CASE WHEN position('\' IN %[1]s::text) > 0 THEN coalesce((SELECT E'\n' || string_agg(v #>> '{}', E'\n')
				FROM jsonb_path_query(%[1]s, 'strict $.** ? (@.type() == "string")') v), '') ELSE '' END`, name)
		}
		if all {
			hidden, is = name+" IS NOT NULL", "the values of "
		}
		values = append(values, "CASE WHEN "+hidden+" THEN "+value+" END")
		any, where = append(any, hidden), append(where, is+t.name+"."+c.Name+" of "+t.database)
	}
	sql := "SELECT " + strings.Join(values, ", ") + " FROM ONLY " + t.name + " WHERE " + strings.Join(any, " OR ")
	// The statement is read in our encoding, the values are sent in the database's own, as the secrets were read.
	pg := conn.PgConn()
	if _, err := pg.Exec(ctx, `SET client_encoding = 'UTF8'`).ReadAll(); err != nil {
		return err
	}
	if err := pg.Deallocate(ctx, "stored"); err != nil { // of a table before
		return err
	}
	if _, err := pg.Prepare(ctx, "stored", sql, nil); err != nil {
		return err
	}
	if _, err := pg.Exec(ctx, `SELECT set_config('client_encoding', getdatabaseencoding(), false)`).ReadAll(); err != nil {
		return err
	}
	rows := pg.ExecPrepared(ctx, "stored", nil, nil, []int16{1})
	for rows.NextRow() {
		for i, v := range rows.Values() {
			if v != nil {
				s.Look(where[i], v)
			}
		}
	}
	if _, err := rows.Close(); err != nil {
		return err
	}
	_, err := pg.Exec(ctx, `SET client_encoding = 'UTF8'`).ReadAll()
	return err
}
