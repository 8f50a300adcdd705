package erp_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

// The same seed gives the same rows; another one, and another environment, others.
func TestSeed(t *testing.T) {
	t.Parallel()
	digests := func(o erp.Options) map[string][32]byte {
		sums, err := erp.Digests(o)
		if err != nil {
			t.Fatal(err)
		}
		return sums
	}
	a := digests(erp.Options{Seed: 7, Scale: 0.1, Name: "prod"})
	if diff := cmp.Diff(a, digests(erp.Options{Seed: 7, Scale: 0.1, Name: "prod"})); diff != "" {
		t.Errorf("the same options give other rows: %s", diff)
	}
	seed, place := digests(erp.Options{Seed: 8, Scale: 0.1, Name: "prod"}), digests(erp.Options{Seed: 7, Scale: 0.1, Name: "uat"})
	for _, table := range []string{"vendtable", "vendtrans", "logisticselectronicaddress", "sysemailsmtppassword", "fact_balance"} {
		if a[table] == seed[table] {
			t.Errorf("%s is the same with another seed", table)
		}
	}
	for _, table := range []string{"syscorpnetprinters", "sysserverconfig", "sysemailparameters", "retailscaleunit"} {
		if a[table] == place[table] {
			t.Errorf("%s is the same in another environment", table)
		}
	}
	if a["vendtable"] != place["vendtable"] {
		t.Error("vendors depend on the environment's name")
	}
}

func TestFill(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	for _, database := range []string{erp.Business, erp.Reporting} {
		c.Exec(t, "postgres", "CREATE DATABASE "+database)
	}
	connect := func(ctx context.Context, database string) (*pgx.Conn, error) { return c.Connect(ctx, database) }
	if err := erp.Fill(t.Context(), connect, erp.Options{Seed: 7, Scale: 0.03}); err != nil {
		t.Fatal(err)
	}
	var empty []string
	for _, table := range erp.Tables() {
		empty = append(empty, "SELECT '"+table.Name+"' WHERE NOT EXISTS (SELECT FROM "+pgx.Identifier{table.Name}.Sanitize()+")")
	}
	for _, q := range []struct{ what, sql, want string }{
		{"empty tables", "SELECT coalesce(string_agg(t, ' '), '') FROM (" + strings.Join(empty, " UNION ALL ") + ") e (t)", ""},
		{"debit and credit of a posting differ", "SELECT count(*)::text FROM (SELECT FROM generaljournalaccountentry GROUP BY generaljournalentry HAVING sum(accountingcurrencyamount) <> 0) d", "0"},
		{"a new vendor was paid", "SELECT count(*)::text FROM vendtrans t JOIN vendtable v USING (partition, dataareaid, accountnum) WHERE vendgroup = '30' AND (transtype <> 3 OR closed > '1900-01-01')", "0"},
		{"states of batch jobs", "SELECT string_agg(DISTINCT status::text, ' ' ORDER BY status::text) FROM batchjob", "0 1 2 3 4 5 6 7 8"},
		{"recurring jobs that execute", "SELECT count(*)::text FROM integrationactivityruntimetable r JOIN batchjob b ON b.recid = r.batchjobid WHERE b.status = 2", "0"},
		{"the first record", "SELECT min(recid)::text FROM vendtable", "5637144576"},
		{"new rows are numbered on", "INSERT INTO dirpartytable (name, partynumber) VALUES ('x', 'x') RETURNING (recid > (SELECT max(recid) FROM dirpartytable))::text", "true"},
		{"many references", "SELECT (count(*) > 20)::text FROM pg_constraint WHERE contype = 'f' AND convalidated", "true"},
	} {
		if got := c.Query(t, erp.Business, q.sql); got != q.want {
			t.Errorf("%s: %s, want %s", q.what, got, q.want)
		}
	}
	if got := c.Query(t, erp.Reporting, "SELECT (count(*) > 0)::text FROM fact_balance"); got != "true" {
		t.Error("Financial Reporting is empty")
	}
}
