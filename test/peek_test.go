package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// Lost rows are read from a sealed, read-only copy that only its owner reaches, and nothing is left of it afterwards.
func TestPeek(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE ROLE app LOGIN SUPERUSER PASSWORD 'of production'", "CREATE DATABASE shop")
	prod.Exec(t, "shop", "CREATE TABLE orders AS SELECT i AS id, 'order ' || i AS note FROM generate_series(1, 100) i",
		"CREATE FUNCTION wipe() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM orders'")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	xid := prod.Query(t, "shop", "WITH gone AS (DELETE FROM orders WHERE id > 40 RETURNING id) SELECT pg_current_xact_id() FROM gone LIMIT 1")
	prod.Exec(t, "shop", "INSERT INTO orders VALUES (1000, 'later')")
	streaming(t, s, "prod")

	r := s.Run(ctx, "peek", "prod", "--xid", xid, "--before")
	if r.Exit != sandglass.ExitUsage || !strings.Contains(r.Stderr, "--reason") {
		t.Errorf("a peek without a reason: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
	}
	_, err := s.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindPeek, Environment: "prod", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	if sandglass.CodeOf(err) != sandglass.CodeUsage {
		t.Errorf("a peek without a reason, of the API: %v", err)
	}

	out := ran(t, s, "peek", "prod", "--xid", xid, "--before", "--reason", "orders deleted by mistake", "--no-wait")
	peeks, err := s.Client.Peeks(ctx)
	must(t, err)
	if len(peeks) != 1 {
		t.Fatalf("there are %d peeks, want 1", len(peeks))
	}
	p := peeks[0]
	if line := strings.Join(p.Connection.PSQL, " "); !strings.Contains(out.Stdout, line) {
		t.Errorf("the psql line %q is not printed:\n%s", line, out.Stdout)
	}
	if p.Reason != "orders deleted by mistake" || p.AskedBy == "" {
		t.Errorf("the peek's record: %+v", p)
	}

	t.Run("it shows the lost rows to its owner", func(t *testing.T) { readsLostRows(t, prod, p) })
	t.Run("it can't be written to", func(t *testing.T) { readOnly(t, p) })
	t.Run("it opens to nobody else", func(t *testing.T) { opensToNobodyElse(t, s, prod, p) })
	t.Run("it outlives serve", func(t *testing.T) {
		before := pgtest.Postmasters(filepath.Dir(p.Connection.Host))
		must(t, s.Stop())
		readsLostRows(t, prod, p)
		must(t, s.Serve(ctx))
		must(t, s.Kill())
		must(t, s.Serve(ctx))
		readsLostRows(t, prod, p)
		again, err := s.Client.Peek(ctx, p.ID)
		must(t, err)
		if after := pgtest.Postmasters(filepath.Dir(p.Connection.Host)); len(after) != 1 || len(before) != 1 || after[0] != before[0] || again.Connection.Host != p.Connection.Host {
			t.Errorf("the server was %v and is %v", before, after)
		}
	})
	t.Run("its end leaves nothing", func(t *testing.T) {
		ran(t, s, "peek", "end", p.ID)
		nothingOf(t, s, p)
	})
	t.Run("whoever holds one sees that another has ended it", func(t *testing.T) {
		held := make(chan systest.Result, 1)
		go func() { held <- s.Run(ctx, "peek", "prod", "--latest", "--reason", "for a look") }()
		var p sandglass.Peek
		must(t, s.Await(ctx, time.Minute, "a peek to be open", func() (bool, error) {
			peeks, err := s.Client.Peeks(ctx)
			if len(peeks) == 1 {
				p = peeks[0]
			}
			return len(peeks) == 1 && p.Connection.Host != "", err
		}))
		ran(t, s, "peek", "end", p.ID)
		if r := <-held; r.Exit != 0 || !strings.Contains(r.Stdout+r.Stderr, "nothing is left of it") {
			t.Errorf("whoever held it: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
		}
		nothingOf(t, s, p)
	})
	t.Run("the end of its time leaves nothing", func(t *testing.T) {
		op := succeeds(t, s, sandglass.Request{Kind: sandglass.KindPeek, Environment: "prod", Moment: &sandglass.Moment{Kind: sandglass.AtLatest},
			Reason: "for a moment only", TTL: sandglass.Duration(2 * time.Second)})
		p, err := s.Client.Peek(ctx, op.ID)
		must(t, err)
		must(t, s.Await(ctx, 30*time.Second, "the peek's time to be over", func() (bool, error) {
			peeks, err := s.Client.Peeks(ctx)
			return err == nil && len(peeks) == 0, err
		}))
		nothingOf(t, s, p)
	})
	t.Run("it stays on record", func(t *testing.T) {
		if got := metadata(t, s, "SELECT count(*) FROM sandglass.audit WHERE operation = '"+p.ID+"' OR what = 'peek.end'"); got == "0" || got == "1" {
			t.Errorf("the audit has %s rows of the peek, want its start and its end", got)
		}
		recorded, err := openRepository(t, s).Operations(ctx)
		must(t, err)
		found := false
		for _, o := range recorded {
			found = found || o.ID == p.ID && o.Kind == sandglass.KindPeek && o.Reason == p.Reason && o.AskedBy == p.AskedBy
		}
		if !found {
			t.Errorf("the repository's history has no record of the peek: %+v", recorded)
		}
	})
}

// readsLostRows runs the psql line that was printed.
func readsLostRows(t *testing.T, prod *pgtest.Cluster, p sandglass.Peek) {
	t.Helper()
	args := append(p.Connection.PSQL[1:], "-X", "-A", "-t", "-c", "SELECT count(*), count(*) FILTER (WHERE id > 40), max(id) FROM orders")
	got, err := exec.CommandContext(t.Context(), filepath.Join(prod.Bin, p.Connection.PSQL[0]), args...).CombinedOutput()
	if err != nil || strings.TrimSpace(string(got)) != "100|60|100" {
		t.Errorf("%v: %s %v", p.Connection.PSQL, got, err)
	}
}

// readOnly tries to change the copy, also by what production gave to everybody.
func readOnly(t *testing.T, p sandglass.Peek) {
	ctx := t.Context()
	config, err := pgx.ParseConfig("host=" + p.Connection.Host + " user=" + p.Connection.User + " dbname=" + p.Connection.Database)
	must(t, err)
	config.Port = uint16(p.Connection.Port)
	conn, err := pgx.ConnectConfig(ctx, config)
	must(t, err)
	defer conn.Close(ctx)
	for _, row := range []struct{ sql, want string }{
		{"DELETE FROM orders", "25006"},
		{"BEGIN READ WRITE; DELETE FROM orders", "42501"},
		{"SELECT wipe()", "25006"},
		{"BEGIN READ WRITE; SELECT wipe()", ""}, // who means to may change the copy: it is sealed, and thrown away
		{"COPY orders TO '/tmp/x'", "42501"},
		{"COPY orders TO PROGRAM 'cat'", "42501"},
		{"SELECT pg_reload_conf()", "42501"},
	} {
		_, err := conn.Exec(ctx, row.sql, pgx.QueryExecModeSimpleProtocol)
		if got := pgtest.SQLState(err); got != row.want {
			t.Errorf("%s: %v, want SQLSTATE %s", row.sql, err, row.want)
		}
		_, err = conn.Exec(ctx, "ROLLBACK")
		must(t, err)
	}
}

func opensToNobodyElse(t *testing.T, s *systest.System, prod *pgtest.Cluster, p sandglass.Peek) {
	ctx := t.Context()
	for _, role := range []string{"app", "postgres"} {
		cmd := exec.CommandContext(ctx, filepath.Join(prod.Bin, "psql"), "-h", p.Connection.Host, "-p", "5432", "-U", role, "-d", "shop", "-c", "SELECT 1")
		cmd.Env = append(os.Environ(), "PGPASSWORD=of production")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("role %s gets in: %s", role, out)
		}
	}
	// The socket's folder lets in its owner's user and root; the servers' own user finds no line for it.
	if out, err := prod.Command(ctx, "psql", "-h", p.Connection.Host, "-p", "5432", "-U", p.Connection.User, "-d", "shop", "-c", "SELECT 1").CombinedOutput(); err == nil {
		t.Errorf("another OS user gets in: %s", out)
	}
	pid := pgtest.Postmasters(filepath.Dir(p.Connection.Host))
	if len(pid) != 1 {
		t.Fatalf("the peek has %d servers: %v", len(pid), pgtest.ProcessesOf(s.Dir))
	}
	for _, family := range []string{"tcp", "tcp6"} {
		if sockets := socketsOf(t, pid[0], family); len(sockets) > 0 {
			t.Errorf("%s sockets in the seal: %v", family, sockets)
		}
	}
}

// nothingOf checks that a peek is gone: process, mount, volume, socket.
func nothingOf(t *testing.T, s *systest.System, p sandglass.Peek) {
	t.Helper()
	ctx := t.Context()
	folder := filepath.Dir(p.Connection.Host)
	if left := pgtest.ProcessesOf(folder); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if mounts := pgtest.MountsOf(s.Dir); len(mounts) > 0 {
		t.Errorf("mounts are left: %v", mounts)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the copy's folder is left: %v", err)
	}
	volumes, err := s.Client.Volumes(ctx, "")
	must(t, err)
	for _, v := range volumes {
		if v.State != sandglass.VolumeGone {
			t.Errorf("volume %s is %s", v.ID, v.State)
		}
	}
	peeks := ran(t, s, "peek", "ls", "--json")
	var all []sandglass.Peek
	must(t, json.Unmarshal([]byte(peeks.Stdout), &all))
	if len(all) != 0 {
		t.Errorf("peek ls shows %v", all)
	}
}
