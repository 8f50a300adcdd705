//go:build long || crashpoints

// The process that neutralizes is killed by SIGKILL before and after every commit that records
// something as done: every rule, every range of one, every table that is rewritten. Each time
// another takes over.

package policy_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

// killedEnv tells the child where the copy and the running sandbox are, and on which side of its first commit it is to die.
const killedEnv = "SANDGLASS_TEST_KILLED"

// deadly kills the process around the first commit that records something as done.
type deadly struct {
	after bool
	mu    sync.Mutex
	done  map[*pgx.Conn]bool // whose open transaction records something
}

type committing struct{}

func (d *deadly) TraceQueryStart(ctx context.Context, conn *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case strings.HasPrefix(q.SQL, "INSERT INTO sandglass.rule_done"):
		d.done[conn] = true
	case strings.EqualFold(q.SQL, "rollback"):
		d.done[conn] = false
	case strings.EqualFold(q.SQL, "commit") && d.done[conn]:
		if d.after {
			return context.WithValue(ctx, committing{}, true)
		}
		die()
	}
	return ctx
}

func (d *deadly) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(committing{}) != nil {
		die()
	}
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// killedTables are in the copy and in the running sandbox.
const killedTables = `CREATE TABLE printer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text); CREATE TABLE param (name text PRIMARY KEY, value text);`

// killedSandbox is a running sandbox with rows of its own.
func killedSandbox(t testing.TB) *pgtest.Cluster {
	t.Helper()
	own := cluster(t, nil)
	own.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE shop`, `CREATE ROLE uat_app LOGIN PASSWORD 'uat'`)
	own.Exec(t, "shop", killedTables+`INSERT INTO printer (id, name) OVERRIDING SYSTEM VALUE VALUES (7, 'own'), (8, 'own too'); INSERT INTO param VALUES ('url', 'own'), ('new', 'own')`)
	return own
}

// killedInput are the rules on the big tables, and two that take rows from the running sandbox.
func killedInput(t testing.TB, own *pgtest.Cluster) policy.Input {
	t.Helper()
	in := bigInput(t)
	in.Packs = []pack.Pack{ownPack(t, bigRules()+ownRule("printers", "printer", "keep: target")+ownRule("params", "param", "merge: target"))}
	in.Target, in.FromTarget = readTarget(t, own), staging(own).Connect
	return in
}

// TestKilledChild is the process that is killed, not a test.
func TestKilledChild(t *testing.T) {
	where := strings.Split(os.Getenv(killedEnv), "\n")
	if len(where) != 5 {
		t.Skip("this is the child of TestKilled")
	}
	c, own := &pgtest.Cluster{Dir: where[0]}, &pgtest.Cluster{Dir: where[2]}
	c.Port, _ = strconv.Atoi(where[1])
	own.Port, _ = strconv.Atoi(where[3])
	deadly := &deadly{after: where[4] == "after", done: map[*pgx.Conn]bool{}}
	st := staging(c)
	st.Connect = func(ctx context.Context, database string) (*pgx.Conn, error) {
		cfg, err := config(c, database)
		if err != nil {
			return nil, err
		}
		cfg.Tracer = deadly
		return pgx.ConnectConfig(ctx, cfg)
	}
	if _, err := policy.Neutralize(t.Context(), st, killedInput(t, own)); err != nil {
		t.Fatal(err)
	}
}

func TestKilled(t *testing.T) {
	const production = killedTables + `INSERT INTO printer (name) VALUES ('secret'), ('secret'); INSERT INTO param VALUES ('url', 'secret'), ('size', '10')`
	own := killedSandbox(t)
	calm, _ := makeBig(t, production)
	rough, _ := makeBig(t, production)
	in := killedInput(t, own)
	if _, err := policy.Neutralize(t.Context(), staging(calm), in); err != nil {
		t.Fatal(err)
	}
	deaths := 0
	for alive := false; !alive; {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestKilledChild$", "-test.count=1")
		cmd.Env = append(os.Environ(), killedEnv+"="+fmt.Sprintf("%s\n%d\n%s\n%d\n%s", rough.Dir, rough.Port, own.Dir, own.Port, []string{"before", "after"}[deaths%2]))
		out, err := cmd.CombinedOutput()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		switch {
		case err == nil:
			alive = true
			continue
		case !status.Signaled() || status.Signal() != syscall.SIGKILL:
			t.Fatalf("child %d: %v\n%s", deaths, err, out)
		case deaths > 1000:
			t.Fatal("no end")
		case deaths%50 == 49: // the server too
			if err := rough.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := rough.Start(t.Context()); err != nil {
				t.Fatal(err, rough.Log())
			}
		}
		deaths++
	}
	t.Logf("%d deaths", deaths)
	if deaths < 100 {
		t.Errorf("%d deaths only", deaths)
	}
	checkBig(t, rough)
	for sql, want := range map[string]string{
		`SELECT concat_ws(' ', id, name) FROM public.printer ORDER BY id`:    "7 own, 8 own too",
		`SELECT concat_ws(' ', name, value) FROM public.param ORDER BY name`: "new own, size 10, url own",
	} {
		if got := ask(t, rough, "shop", sql); got != want {
			t.Errorf("%s\n got %s\nwant %s", sql, got, want)
		}
	}
	if diff := cmp.Diff(digest(t, calm, "shop"), digest(t, rough, "shop")); diff != "" {
		t.Error("the rows differ", diff)
	}
	if diff := cmp.Diff(state(t, calm), state(t, rough)); diff != "" {
		t.Error("the end state differs", diff)
	}
	if stops := prove(t, staging(rough), in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
}

// digest has a digest of the rows of every table of a database; of what was done, all but the times.
func digest(t testing.TB, c *pgtest.Cluster, database string) map[string]string {
	t.Helper()
	all := map[string]string{"changed columns": ask(t, c, database, `SELECT concat_ws(' ', policy, rule, table_name, column_name, action, rows) FROM sandglass.changed_columns ORDER BY 1`),
		"done": ask(t, c, database, `SELECT concat_ws(' ', rule, rows, seen, notes, missed) FROM sandglass.rule_done ORDER BY 1`)}
	for _, table := range strings.Split(ask(t, c, database, `SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
		WHERE relkind IN ('r', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema', 'sandglass') ORDER BY 1`), ", ") {
		all[table] = ask(t, c, database, `SELECT count(*) || ' ' || coalesce(md5(string_agg(row, '|' ORDER BY row COLLATE "C")), '') FROM (SELECT t::text AS row FROM `+table+` t) r`)
	}
	return all
}
