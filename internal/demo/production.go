package demo

// This file is the demo's production: an ERP with two databases, and the accident that befalls it.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

const (
	productionApp         = "erp_app" // the application's role in production
	productionAppPassword = "only-production-knows-this"
	recorderPassword      = "only-the-recorder-knows-this"
	scratch               = "scratch" // a database that no sandbox has a use for
)

// scale is how much of an ERP the demo's production is: some hundred thousand rows.
const scale = 0.5

// newProduction starts the cluster and fills it, at a scale of erp.Options.
func newProduction(ctx context.Context, dir string, scale float64) (*pgtest.Cluster, error) {
	c, err := pgtest.Start(ctx, pgtest.Options{Dir: filepath.Join(dir, "production"), Durable: true, Detached: true,
		Settings: map[string]string{"max_wal_size": "2GB", "shared_buffers": "128MB"}})
	if err != nil {
		return nil, err
	}
	if err := c.Do(ctx, "postgres", "CREATE ROLE "+productionApp+" LOGIN PASSWORD '"+productionAppPassword+"'",
		"CREATE DATABASE "+erp.Business+" OWNER "+productionApp, "CREATE DATABASE "+erp.Reporting+" OWNER "+productionApp, "CREATE DATABASE "+scratch); err != nil {
		return nil, err
	}
	err = erp.Fill(ctx, func(ctx context.Context, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, c.URL(productionApp, productionAppPassword, database))
	}, erp.Options{Seed: 1, Scale: scale, Name: "prod"})
	if err != nil {
		return nil, err
	}
	return c, c.Do(ctx, scratch, `CREATE TABLE notes AS SELECT i, 'nobody needs this in a sandbox' AS note FROM generate_series(1, 1000) i`)
}

// countRows counts the tables of a database, and the rows in them.
func countRows(ctx context.Context, c *pgtest.Cluster, database string) (tables, rows int64, err error) {
	conn, err := c.Connect(ctx, database)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	found, err := conn.Query(ctx, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
	if err != nil {
		return 0, 0, err
	}
	names, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		var n int64
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM "+name).Scan(&n); err != nil {
			return 0, 0, err
		}
		rows += n
	}
	return int64(len(names)), rows, nil
}

// loss is what the accident took, as production itself said in the very transaction.
type loss struct {
	xid                   uint64
	vendors, transactions int64
	digest                string // of all lost rows: the md5 of the vendors, then that of the transactions
}

func (l loss) rows() int64 { return l.vendors + l.transactions }

// sums are the beginnings of both tables' checksums, to be compared by eye.
func (l loss) sums() string {
	half := len(l.digest) / 2
	return fmt.Sprintf("md5 %.8s and %.8s", l.digest[:half], l.digest[half:])
}

// The vendors of a group in the test company were meant: AND dataareaid = 'test' is what was forgotten.
const accidentCondition = "vendgroup = '" + erp.NewVendors + "'"

// The accident: first the open transactions, then the vendors, as the keys between them ask for.
var accidentStatements = []string{
	"DELETE FROM vendtrans t USING vendtable v WHERE " + accidentCondition + "\n  AND t.dataareaid = v.dataareaid AND t.accountnum = v.accountnum\n  AND t.closed = '1900-01-01'",
	"DELETE FROM vendtable WHERE " + accidentCondition,
}

// lostTable is a table that lost rows, and how they are read where they still are.
type lostTable struct{ name, query string }

// lostTables are in the order in which they refer to one another.
var lostTables = []lostTable{
	{"vendtable", "SELECT * FROM vendtable\n      WHERE " + accidentCondition},
	{"vendtrans", "SELECT t.* FROM vendtrans t JOIN vendtable v\n      USING (dataareaid, accountnum) WHERE " + accidentCondition},
}

// readLost counts and sums up the rows of the accident's condition, in a form that is the same wherever it is asked.
func readLost(ctx context.Context, q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) (l loss, err error) {
	sum := func(t lostTable) string {
		return fmt.Sprintf("(SELECT count(*) FROM (%s) r), (SELECT coalesce(md5(string_agg(r::text, chr(10) ORDER BY recid)), '') FROM (%[1]s) r)", t.query)
	}
	var vendors, transactions string
	err = q.QueryRow(ctx, "SELECT "+sum(lostTables[0])+", "+sum(lostTables[1])).Scan(&l.vendors, &vendors, &l.transactions, &transactions)
	if err != nil {
		return l, fmt.Errorf("read the lost rows: %w", err)
	}
	l.digest = vendors + transactions
	return l, nil
}

// accident deletes, commits, and says what it took.
func accident(ctx context.Context, c *pgtest.Cluster) (l loss, err error) {
	conn, err := c.Connect(ctx, erp.Business)
	if err != nil {
		return l, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if l, err = readLost(ctx, tx); err != nil {
			return err
		}
		var deleted int64
		for _, s := range accidentStatements {
			tag, err := tx.Exec(ctx, s)
			if err != nil {
				return err
			}
			deleted += tag.RowsAffected()
		}
		if deleted != l.rows() {
			return fmt.Errorf("%d rows are deleted, but %d were read", deleted, l.rows())
		}
		return tx.QueryRow(ctx, "SELECT pg_current_xact_id()::text::bigint").Scan(&l.xid)
	})
	return l, err
}

// writeFile writes a file of the demo that only its owner may read.
func writeFile(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
