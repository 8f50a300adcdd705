package erp_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

// connect gives the databases of an ERP that are called name_business and name_reporting.
func connect(c *pgtest.Cluster, name string) erp.Connect {
	return func(ctx context.Context, database string) (*pgx.Conn, error) {
		return c.Connect(ctx, name+"_"+database)
	}
}

func fill(t *testing.T, c *pgtest.Cluster, name string, o erp.Options) {
	t.Helper()
	for _, database := range []string{erp.Business, erp.Reporting} {
		c.Exec(t, "postgres", "CREATE DATABASE "+name+"_"+database)
	}
	if err := erp.Fill(t.Context(), connect(c, name), o); err != nil {
		t.Fatal(err)
	}
}

// digest sums up every row of a database, table by table.
func digest(t *testing.T, c *pgtest.Cluster, database string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for table := range strings.FieldsSeq(c.Query(t, database, "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")) {
		sums[table] = c.Query(t, database, fmt.Sprintf(`SELECT count(*) || ' ' || md5(coalesce(string_agg(r::text, chr(10) ORDER BY r::text), '')) FROM %q r`, table))
	}
	return sums
}

func TestFill(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	small := erp.Options{Seed: 7, Scale: 0.03}
	fill(t, c, "a", small)
	fill(t, c, "b", small)
	fill(t, c, "other", erp.Options{Seed: 8, Scale: 0.03, Name: "uat"})
	for _, database := range []string{erp.Business, erp.Reporting} {
		a, b, other := digest(t, c, "a_"+database), digest(t, c, "b_"+database), digest(t, c, "other_"+database)
		if len(a) < 6 || len(a) != len(b) {
			t.Fatalf("%d and %d tables", len(a), len(b))
		}
		differ := 0
		for table, sum := range a {
			if strings.HasPrefix(sum, "0 ") {
				t.Errorf("%s is empty", table)
			}
			if b[table] != sum {
				t.Errorf("%s differs between two fillings with the same seed", table)
			}
			if other[table] != sum {
				differ++
			}
		}
		if differ == 0 {
			t.Error("another seed gives the same rows")
		}
	}
	for _, q := range []struct{ what, sql, want string }{
		{"vendors whose account is not their own", "SELECT count(*) FROM vendtable v JOIN dirpartytable p ON p.recid = v.party WHERE p.name = ''", "0"},
		{"debit and credit of a posting differ", "SELECT count(*) FROM (SELECT FROM generaljournalaccountentry GROUP BY generaljournalentry HAVING sum(accountingcurrencyamount) <> 0) d", "0"},
		{"a new vendor was paid", "SELECT count(*) FROM vendtrans t JOIN vendtable v USING (partition, dataareaid, accountnum) WHERE vendgroup = '30' AND (transtype <> 3 OR closed > '1900-01-01')", "0"},
		{"states of batch jobs", "SELECT string_agg(DISTINCT status::text, ' ' ORDER BY status::text) FROM batchjob", "0 1 2 3 4 5 6 7 8"},
		{"recurring jobs that execute", "SELECT count(*) FROM integrationactivityruntimetable r JOIN batchjob b ON b.recid = r.batchjobid WHERE b.status = 2", "0"},
		{"new rows are numbered on", "INSERT INTO dirpartytable (name, partynumber) VALUES ('x', 'x') RETURNING recid > (SELECT max(recid) FROM dirpartytable)", "t"},
		{"references", "SELECT count(*) > 20 FROM pg_constraint WHERE contype = 'f' AND convalidated", "t"},
	} {
		if got := c.Query(t, "a_business", q.sql); got != q.want && got != map[string]string{"t": "true"}[q.want] {
			t.Errorf("%s: %s, want %s", q.what, got, q.want)
		}
	}
}
