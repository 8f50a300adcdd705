package erp

// This file makes the tables and streams the rows into them.

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// Options say what an ERP is filled with. The same options give the same rows.
type Options struct {
	Seed  uint64
	Scale float64 // 1 is about 400,000 rows in 210 MB, indexes included; what the environment sets itself does not grow with it
	Name  string  // of the environment, in its own hosts, printers, users and secrets; "prod" by default
}

// Connect opens a session in one of the databases, by its role: Business or Reporting. Both exist and are empty.
type Connect func(ctx context.Context, database string) (*pgx.Conn, error)

// sessions load at a time.
const sessions = 2

// Fill makes the schema of both databases and fills it, holding no table in memory. What failed half-way is left as it is.
func Fill(ctx context.Context, connect Connect, o Options) error {
	for _, database := range []string{Business, Reporting} {
		if err := FillDatabase(ctx, connect, database, o); err != nil {
			return fmt.Errorf("fill %s: %w", database, err)
		}
	}
	return nil
}

// FillDatabase is Fill for one of the databases.
func FillDatabase(ctx context.Context, connect Connect, database string, o Options) error {
	if o.Name == "" {
		o.Name = "prod"
	}
	w := newWorld(o)
	tables, keys := Schema(database)
	fillers := w.fillers()
	if database == Reporting {
		fillers = w.reporting()
	}
	// References come last: they need the keys they point to.
	references := slices.IndexFunc(keys, func(k string) bool { return strings.Contains(k, "FOREIGN KEY") })
	for _, phase := range [][]func(context.Context, *pgx.Conn) error{
		{execute(tables...)},
		fillWith(w, fillers),
		inGroups(keys[:references]),
		{execute(keys[references:]...)},
		{settle(database)},
	} {
		if err := inParallel(ctx, connect, database, phase); err != nil {
			return err
		}
	}
	return nil
}

// inParallel does the work on a few sessions; the first error ends it.
func inParallel(ctx context.Context, connect Connect, database string, work []func(context.Context, *pgx.Conn) error) error {
	next := make(chan func(context.Context, *pgx.Conn) error, len(work))
	for _, one := range work {
		next <- one
	}
	close(next)
	g, ctx := errgroup.WithContext(ctx)
	for range min(sessions, len(work)) {
		g.Go(func() error {
			conn, err := connect(ctx, database)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for one := range next {
				if err := one(ctx, conn); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// execute runs statements in one transaction.
func execute(statements ...string) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for _, s := range statements {
				if _, err := tx.Exec(ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
					return fmt.Errorf("%.80s: %w", s, err)
				}
			}
			return nil
		})
	}
}

// inGroups executes what is for the same table together: a commit for each statement takes its time.
func inGroups(statements []string) (work []func(context.Context, *pgx.Conn) error) {
	for len(statements) > 0 {
		n := 1
		for n < len(statements) && !strings.Contains(statements[n], "ADD PRIMARY KEY") {
			n++
		}
		work, statements = append(work, execute(statements[:n]...)), statements[n:]
	}
	return work
}

// settle sets the sequences behind what was copied in. Statistics are left to autovacuum: of so many columns they cost more than all of this.
func settle(database string) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		var statements []string
		if database == Business {
			for _, t := range Tables() {
				statements = append(statements, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence('%s', 'recid'), coalesce(max(recid), %d)) FROM %[1]q`, t.Name, FirstRecID))
			}
		}
		return execute(statements...)(ctx, conn)
	}
}

// filler is the rows of one table: their number, and each by its number.
type filler struct {
	table   string
	columns string // in the order in which row writes them; the common ones are written for it
	rows    int
	row     func(r *row, i int)
}

func fillWith(w *world, fillers []filler) (work []func(context.Context, *pgx.Conn) error) {
	known := map[string]Table{}
	for _, t := range Tables() {
		known[t.Name] = t
	}
	// The largest first, so that the sessions end together.
	slices.SortStableFunc(fillers, func(a, b filler) int { return b.rows - a.rows })
	for _, f := range fillers {
		work = append(work, func(ctx context.Context, conn *pgx.Conn) error {
			t, numbered := known[f.table]
			columns := strings.Fields(f.columns)
			if numbered {
				columns = append([]string{"recid"}, columns...)
			}
			if t.tracked() {
				columns = append(columns, "createddatetime", "modifieddatetime", "createdby", "modifiedby")
			}
			s := w.stream(f, numbered, t.tracked())
			if _, err := conn.PgConn().CopyFrom(ctx, s, fmt.Sprintf("COPY %q (%s) FROM STDIN", f.table, quoted(strings.Join(columns, ",")))); err != nil {
				return fmt.Errorf("copy into %s: %w", f.table, err)
			}
			return nil
		})
	}
	return work
}
