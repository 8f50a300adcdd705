package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

const carryRowsPack = `pack: own
version: 1
databases:
  business:
    what: printers and settings
rules:
  - name: printers
    why: production's printers are far away
    database: business
    table: printer
    keep: target
  - name: own-url
    why: the sandbox has an address of its own
    database: business
    table: setting
    where: name = 'url'
    merge: target
    columns: [value]
assertions:
  - name: printers
    why: production's printers are far away
    database: business
    table: printer
    query: SELECT count(*) FROM public.printer WHERE name LIKE 'secret-%'
    expect: 0
`

// A sandbox keeps rows of its own, and people work on while it is restored: whatever they were told
// is committed, up to the moment the sandbox closes, is in the new one. Where that takes longer than
// the budget, the restore goes back and nothing of it is lost either.
func TestRowsChangedDuringARestore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const tables = "CREATE TABLE printer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE); CREATE TABLE setting (name text PRIMARY KEY, value text, comment text); "
	c := &crashSite{prod: production(t, nil), fromProd: "production", slot: sandglass.SlotName("prod")}
	c.prod.Exec(t, "postgres", "CREATE DATABASE shop", "CREATE TABLE identity AS SELECT 'production' AS who")
	c.prod.Exec(t, "shop", tables+"INSERT INTO printer (name) SELECT 'secret-' || i FROM generate_series(1, 40) i; INSERT INTO setting VALUES ('url', 'secret-url', 'of production'), ('size', '10', 'of production')")
	c.System = newSystem(t)
	folder := filepath.Join(c.State(), "packs", "own")
	must(t, os.MkdirAll(folder, 0o755))
	must(t, os.WriteFile(filepath.Join(folder, "pack.yaml"), []byte(carryRowsPack), 0o644))
	must(t, c.Record(ctx, "prod", c.prod, func(e *sandglass.Environment) { e.Databases = map[string]string{"business": "shop"} }))
	port, err := c.Sandbox(ctx, "uat", "prod", func(e *sandglass.Environment) {
		e.Databases, e.Packs = map[string]string{"business": "shop_uat"}, []string{"own"}
	})
	must(t, err)
	op, err := c.Operate(ctx, sandglass.Request{Kind: sandglass.KindStart, Environment: "uat", New: true})
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("start of uat: %s %v", op.State, op.Error)
	}
	c.watch(t)
	for _, one := range [][2]string{{"postgres", "CREATE ROLE tester LOGIN PASSWORD 'tester'"}, {"postgres", "CREATE DATABASE shop_uat"},
		{"shop_uat", tables + "INSERT INTO printer (name) VALUES ('own'); INSERT INTO setting VALUES ('url', 'own-url', 'of uat'); GRANT ALL ON printer TO tester"}} {
		conn, err := c.Connect(ctx, "uat", one[0])
		must(t, err)
		_, err = conn.Exec(ctx, one[1])
		must(t, err)
		must(t, conn.Close(ctx))
	}
	way := fmt.Sprintf("postgres://tester:tester@127.0.0.1:%d/shop_uat?sslmode=disable", port)

	committed := 1
	for _, row := range []struct {
		budget time.Duration
		state  sandglass.State
		code   sandglass.Code
	}{
		{10 * time.Second, sandglass.Succeeded, ""},
		{time.Microsecond, sandglass.Failed, "carry.changed"},
	} {
		redeclare(t, c.System, "uat", func(e *sandglass.Environment) {
			e.Server.CarryBudget = sandglass.Duration(row.budget)
		})
		people, stop := context.WithCancel(ctx)
		told := make(chan int, 1)
		client, err := pgx.Connect(ctx, way)
		must(t, err)
		go func() { told <- work(people, client) }()
		must(t, c.settle(ctx))
		op, err = c.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
		must(t, err)
		op, err = c.Finish(ctx, op.ID)
		must(t, err)
		stop()
		n := <-told
		committed += n
		if op.State != row.state || row.code != "" && (op.Error == nil || op.Error.Code != row.code) {
			t.Fatalf("budget %s: the restore is %s (%v), want %s %s", row.budget, op.State, op.Error, row.state, row.code)
		}
		c.nothingLeft(t)
		for _, q := range []struct{ sql, want string }{
			{"SELECT count(*)::text FROM printer", fmt.Sprint(committed)},
			{"SELECT count(*)::text FROM printer WHERE name LIKE 'secret-%'", "0"},
			{"SELECT string_agg(concat_ws(' ', name, value, comment), ', ' ORDER BY name) FROM setting", "size 10 of production, url own-url of production"},
			{"SELECT (nextval('printer_id_seq') > max(id))::text FROM printer", "true"},
		} {
			if got, err := c.Query(ctx, "uat", "shop_uat", q.sql); err != nil || got != q.want {
				t.Errorf("budget %s, %d rows committed meanwhile: %s is %s, want %s (%v)", row.budget, n, q.sql, got, q.want, err)
			}
		}
		if row.state != sandglass.Succeeded {
			continue
		}
		var result sandglass.Result
		must(t, json.Unmarshal(op.Result, &result))
		said := ""
		for _, l := range result.Carried {
			said += fmt.Sprintf("%s %d, ", l.What, l.Rows)
		}
		if want := fmt.Sprintf("printers %d, own url 1, ", committed); said != want {
			t.Errorf("the result says %q stayed the sandbox's own, want %q", said, want)
		}
		if found := filesWith(t, filepath.Join(c.State(), "volumes", result.Volume), "secret-"); found != nil {
			t.Errorf("production's values are in %v", found)
		}
		planned := false
		for _, l := range op.Plan.Lines {
			planned = planned || strings.HasPrefix(l.What, "printer: the sandbox's own rows stay") && l.Rows > 0
		}
		if !planned {
			t.Errorf("the plan does not say how many printers stay: %+v", op.Plan.Lines)
		}
	}
}

// work commits rows until the server ends the session, and gives how many were.
func work(ctx context.Context, conn *pgx.Conn) (n int) {
	defer conn.Close(context.WithoutCancel(ctx))
	for ctx.Err() == nil {
		if _, err := conn.Exec(ctx, "INSERT INTO public.printer (name) VALUES ('made ' || clock_timestamp())"); err != nil {
			return n
		}
		n++
		if _, err := conn.Exec(ctx, "SELECT pg_sleep(0.005)"); err != nil {
			return n
		}
	}
	return n
}
