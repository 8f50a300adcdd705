package policy_test

import (
	"context"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

// A table that somebody has locked is waited for a moment, and says nothing against the rule.
func TestCheckLocked(t *testing.T) {
	p, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte("pack: shop\nversion: 1\ndatabases: {business: {what: the shop}}\nrules:\n" +
		"  - {name: mails, why: w, database: business, table: customer, set: {mail: \"'x'\"}}\n")}}, "shop")
	if err != nil {
		t.Fatal(err)
	}
	c := cluster(t, nil)
	c.Exec(t, "postgres", `CREATE TABLE customer (id int, mail text)`)
	var conns []*pgx.Conn
	for range 2 {
		conn, err := pgx.Connect(t.Context(), c.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		conns = append(conns, conn)
	}
	if _, err := conns[0].Exec(t.Context(), "BEGIN; LOCK TABLE customer"); err != nil {
		t.Fatal(err)
	}
	found, err := policy.Check(t.Context(), conns[1], p, "business")
	if err != nil {
		t.Fatal(err)
	}
	want := []sandglass.RuleCheck{{Rule: "shop/mails", Kind: "rule", Database: "business", Table: "customer", At: "shop/pack.yaml:5", Level: sandglass.OK,
		Code: policy.CodeNotCounted, Message: "The rows of public.customer were not counted: somebody holds a lock on it.", Rows: -1}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}
