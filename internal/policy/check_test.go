package policy_test

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

const checkedPack = `pack: shop
version: 1
databases:
  business: {what: the shop}
  reporting: {what: figures}
rules:
  - {name: mails, why: w, database: business, table: customer, clear: [mail]}
  - {name: some, why: w, database: business, table: customer, delete: true, where: customer.id > 7}
  - {name: all, why: w, database: business, table: app.jobs, empty: true}
  - {name: missing, why: w, database: business, table: nothing, empty: true}
  - {name: optional, why: w, database: business, table: nothing, required: false, empty: true}
  - {name: column, why: w, database: business, table: customer, clear: [fax]}
  - name: mismatch
    why: w
    database: business
    table: customer
    set:
      mail: "'x'"
      id: "'seven'"
  - name: condition
    why: w
    database: business
    table: customer
    where: ids = 1
    clear: [mail]
  - {name: division, why: w, database: business, table: customer, clear: [mail], where: 1 / (id - 1) > 0}
  - {name: own, why: w, database: business, table: customer, keep: target, where: id < 3}
  - {name: rows, why: w, database: business, table: app.jobs, insert: [{id: "1"}, {id: "now()"}]}
  - name: condition-of-insert
    why: w
    database: business
    table: app.jobs
    where: id = 1
    insert:
      - {id: "1"}
  - {name: elsewhere, why: w, database: reporting, table: figures, empty: true}
assertions:
  - {name: none, why: w, database: business, query: SELECT count(*) FROM public.customer, expect: "0"}
  - {name: wrong, why: w, database: business, query: SELECT nothing(), expect: "0"}
  - {name: records, why: w, database: business, query: WITH c AS (SELECT sum(rows) AS n FROM sandglass.carried) SELECT n FROM c WHERE NOT EXISTS (SELECT FROM sandglass.merged_rows m WHERE m.key = '') -- all, expect: "0"}
  - {name: no-record, why: w, database: business, query: SELECT nothing FROM sandglass.carried, expect: "0"}
quiesce:
  - {name: quiet, why: w, database: business, table: nothing, required: false, query: SELECT 1, expect: "1"}
`

// What each rule meets in a live database, with the line of what is wrong. Nothing is changed, and a session that may
// read nothing is told so.
func TestCheck(t *testing.T) {
	p, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte(checkedPack)}}, "shop")
	if err != nil {
		t.Fatal(err)
	}
	c := cluster(t, nil)
	c.Exec(t, "postgres", `CREATE TABLE customer (id int, mail text); INSERT INTO customer SELECT i, CASE WHEN i < 4 THEN 'x' END FROM generate_series(1, 10) i`,
		`CREATE SCHEMA app; CREATE TABLE app.jobs (id int); INSERT INTO app.jobs VALUES (1), (2)`, `CREATE ROLE blind LOGIN PASSWORD 'blind'`)
	type row struct {
		At    string
		Level sandglass.Level
		Code  sandglass.Code
		Rows  int64
	}
	check := func(url string) map[string]row {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		found, err := policy.Check(t.Context(), conn, p, "business")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]row{}
		for _, f := range found {
			got[f.Kind+" "+f.Rule] = row{f.At, f.Level, f.Code, f.Rows}
			if (f.Message == "") != (f.Code == "") {
				t.Errorf("%s: %q [%s]", f.Rule, f.Message, f.Code)
			}
		}
		return got
	}
	want := map[string]row{
		"rule shop/mails":               {"shop/pack.yaml:7", sandglass.OK, "", 3},
		"rule shop/some":                {"shop/pack.yaml:8", sandglass.OK, "", 3},
		"rule shop/all":                 {"shop/pack.yaml:9", sandglass.OK, "", 2},
		"rule shop/missing":             {"shop/pack.yaml:10", sandglass.Stop, policy.CodeTableMissing, -1},
		"rule shop/optional":            {"shop/pack.yaml:11", sandglass.Warning, policy.CodeTableMissing, -1},
		"rule shop/column":              {"shop/pack.yaml:12", sandglass.Stop, policy.CodeColumnMissing, -1},
		"rule shop/mismatch":            {"shop/pack.yaml:19", sandglass.Stop, policy.CodeExpression, -1},
		"rule shop/condition":           {"shop/pack.yaml:24", sandglass.Stop, policy.CodeExpression, -1},
		"rule shop/division":            {"shop/pack.yaml:26", sandglass.Stop, policy.CodeExpression, -1},
		"rule shop/own":                 {"shop/pack.yaml:27", sandglass.OK, "", 2},
		"rule shop/rows":                {"shop/pack.yaml:28", sandglass.Stop, policy.CodeExpression, -1},
		"rule shop/condition-of-insert": {"shop/pack.yaml:33", sandglass.Stop, policy.CodeExpression, -1},
		"assertion shop/none":           {"shop/pack.yaml:38", sandglass.OK, "", -1}, "assertion shop/wrong": {"shop/pack.yaml:39", sandglass.Stop, policy.CodeExpression, -1},
		"assertion shop/records": {"shop/pack.yaml:40", sandglass.OK, "", -1}, "assertion shop/no-record": {"shop/pack.yaml:41", sandglass.Stop, policy.CodeExpression, -1},
		"quiesce shop/quiet": {"shop/pack.yaml:43", sandglass.Warning, policy.CodeTableMissing, -1},
	}
	if diff := cmp.Diff(want, check(c.ConnString("postgres"))); diff != "" {
		t.Error(diff)
	}
	blind := check(c.URL("blind", "blind", "postgres"))
	for name, code := range map[string]sandglass.Code{"rule shop/mails": policy.CodeNotCounted, "rule shop/mismatch": policy.CodeExpression} {
		if got := blind[name]; got.Code != code || got.Rows != -1 {
			t.Errorf("without rights, %s: %+v, want %s", name, got, code)
		}
	}
	if got := c.Query(t, "postgres", "SELECT count(*) || ' ' || count(mail) FROM public.customer"); got != "10 3" {
		t.Errorf("the rows are now %s", got)
	}
}
