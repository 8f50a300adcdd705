package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// migrations are a sandbox's own, as shell scripts in a folder of the host.
type migrations struct {
	*systest.System
	t      *testing.T
	folder string
	env    sandglass.Environment
}

// migrating is a production with vendors and a sandbox with migrations, restored once.
func migrating(t *testing.T) (*migrations, *pgtest.Cluster) {
	t.Helper()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE ROLE shop_owner LOGIN PASSWORD 'owner-in-production'", "CREATE DATABASE shop OWNER shop_owner")
	prod.Exec(t, "shop", "SET ROLE shop_owner; CREATE SCHEMA app; CREATE TABLE app.vendors (id int PRIMARY KEY, name text); INSERT INTO app.vendors SELECT i, 'Vendor ' || i FROM generate_series(1, 500) i",
		"SET ROLE shop_owner; CREATE TABLE app.runs (at timestamptz DEFAULT clock_timestamp())")
	s := newSystem(t)
	m := &migrations{System: s, t: t, folder: filepath.Join(t.TempDir(), "shop")}
	must(t, os.MkdirAll(m.folder, 0o755))
	must(t, s.Record(t.Context(), "prod", prod, func(e *sandglass.Environment) { e.Databases = map[string]string{"business": "shop"} }))
	_, err := s.Sandbox(t.Context(), "uat", "prod", func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "shop"}
		m.env = *e
	})
	must(t, err)
	return m, prod
}

// declare writes the script and declares it; edit may change the declaration.
func (m *migrations) declare(script string, edit func(*sandglass.Environment)) {
	m.t.Helper()
	must(m.t, os.WriteFile(filepath.Join(m.folder, "migrate"), []byte("#!/bin/bash\nset -e\n"+script), 0o755))
	e, server := m.env, *m.env.Server
	server.Synchronize = &sandglass.Synchronize{Command: []string{"migrate", "--all"}, Folder: m.folder, Environment: map[string]string{"LEVEL": "7"}}
	e.Server = &server
	if edit != nil {
		edit(&e)
	}
	_, err := m.Client.Apply(m.t.Context(), e)
	must(m.t, err)
}

func (m *migrations) restore() sandglass.Operation {
	m.t.Helper()
	op, err := m.Operate(m.t.Context(), sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	must(m.t, err)
	return op
}

// fails restores, which must fail with the code.
func (m *migrations) fails(code sandglass.Code) sandglass.Operation {
	m.t.Helper()
	op := m.restore()
	if op.State != sandglass.Failed || op.Error == nil || op.Error.Code != code {
		m.t.Fatalf("the restore ended as %s: %v, want %s", op.State, op.Error, code)
	}
	return op
}

func (m *migrations) query(sql string) string {
	m.t.Helper()
	got, err := m.Query(m.t.Context(), "uat", "shop", sql)
	must(m.t, err)
	return got
}

// The sandbox's migrations run on the sealed copy, as an unprivileged user and the database's owner, and reach
// nothing else. When they fail, in whatever way, the sandbox is as it was, and never was away.
func TestSynchronize(t *testing.T) {
	t.Parallel()
	m, prod := migrating(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())

	m.declare(`echo "level $LEVEL as $(id -un) in $PWD with $*"
		psql -v ON_ERROR_STOP=1 -qAt -c "ALTER TABLE app.vendors ADD COLUMN rating int DEFAULT $LEVEL" -c "CREATE TABLE app.added (id int)" -c "SELECT 'role ' || current_user"
		psql -U sandglass -c 'SELECT 1' 2>&1 || echo "not as sandglass"
		(exec 3<>/dev/tcp/127.0.0.1/`+port+`) 2>/dev/null && echo "REACHED the network" || echo "no network"
		for path in `+strings.Join([]string{m.Repository(), m.State(), m.State() + "/volumes", prod.Socket()}, " ")+`; do ls -A $path 2>/dev/null && echo "REACHED $path"; done
		touch `+m.folder+`/written 2>/dev/null && echo "REACHED its own folder" || echo "read-only"
		echo complaint >&2
	`, nil)
	op := m.restore()
	if op.State != sandglass.Succeeded {
		t.Fatalf("ended as %s: %v", op.State, op.Error)
	}
	said := zipped(m.t, m.System, op)["synchronize.log"]
	for _, want := range []string{"level 7 as nobody in " + m.folder + " with --all", "role shop_owner", "not as sandglass", "no network", "read-only", "complaint"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(said, "REACHED") || t.Failed() {
		t.Errorf("the migrations said:\n%s", said)
	}
	if report := zipped(m.t, m.System, op)["synchronize.json"]; !strings.Contains(report, `"exit": 0`) || !strings.Contains(report, `"proof.login_roles"`) {
		t.Errorf("report: %s", report)
	}
	if got := m.query("SELECT sum(rating) || ' ' || (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'shop_owner') || ' ' || (SELECT tableowner FROM pg_tables WHERE tablename = 'added') FROM app.vendors"); got != "3500 false shop_owner" {
		t.Errorf("after the migrations: %s", got)
	}
	if !strings.Contains(fmt.Sprint(op.Plan.Lines), `Run "migrate --all" on the sealed copy as the owner of shop, for 1h0m0s at most, its network closed`) {
		t.Errorf("the plan does not say what will be run: %v", op.Plan.Lines)
	}

	t.Run("classic failure", func(t *testing.T) { duplicateKey(t, m, prod) })
	t.Run("timeout", func(t *testing.T) {
		m.declare("echo waiting; psql -qc 'SELECT pg_sleep(600)'", func(e *sandglass.Environment) {
			e.Server.Synchronize.Timeout = sandglass.Duration(700 * time.Millisecond)
		})
		m.fails("synchronize.timeout")
	})
	t.Run("what the policy took out is brought back", func(t *testing.T) {
		m.declare(publish, nil)
		m.fails("proof.publications")
	})
	t.Run("no command", func(t *testing.T) {
		m.declare("", func(e *sandglass.Environment) { e.Server.Synchronize.Folder = "/srv/not/there" })
		if _, err := m.Restore(t.Context(), "uat", sandglass.Moment{Kind: sandglass.AtLatest}); sandglass.CodeOf(err) != "synchronize.no_command" {
			t.Errorf("a folder that is not there: %v", err)
		}
		m.declare("", func(e *sandglass.Environment) { e.Server.Synchronize.Show = []string{"/srv/not/there"} })
		if _, err := m.Restore(t.Context(), "uat", sandglass.Moment{Kind: sandglass.AtLatest}); sandglass.CodeOf(err) != "synchronize.no_command" {
			t.Errorf("something to show that is not there: %v", err)
		}
		for key, edit := range map[string]func(*sandglass.Synchronize){
			"user": func(s *sandglass.Synchronize) { s.User = "root" }, "timeout": func(s *sandglass.Synchronize) { s.Timeout = -1 },
			"folder": func(s *sandglass.Synchronize) { s.Folder = "migrations" }, "database": func(s *sandglass.Synchronize) { s.Database = "nowhere" },
			"folder and show": func(s *sandglass.Synchronize) { s.Show = []string{"/proc/1"} },
			"command":         func(s *sandglass.Synchronize) { s.Command = nil }, "role": func(s *sandglass.Synchronize) { s.Role = "sandglass" },
		} {
			e, server := m.env, *m.env.Server
			server.Synchronize = &sandglass.Synchronize{Command: []string{"migrate"}}
			edit(server.Synchronize)
			e.Server = &server
			if _, err := m.Client.Apply(t.Context(), e); sandglass.CodeOf(err) != sandglass.CodeConfig || !strings.Contains(err.Error(), "synchronize."+key) {
				t.Errorf("a wrong %s: %v", key, err)
			}
		}
	})
	t.Run("serve is killed", func(t *testing.T) { killedInMidst(t, m) })
}

// duplicateKey is the classic failure: production has what the sandbox's newer schema forbids.
func duplicateKey(t *testing.T, m *migrations, prod *pgtest.Cluster) {
	ctx := t.Context()
	do(t, m.System, "uat", "shop", "INSERT INTO app.vendors VALUES (9001, 'Only in the sandbox')")
	const state = `SELECT md5(string_agg(v::text, ',' ORDER BY id)) || pg_postmaster_start_time() FROM app.vendors v`
	before := m.query(state)
	prod.Exec(t, "shop", "INSERT INTO app.vendors VALUES (1001, 'Acme'), (1002, 'Acme')")
	streaming(t, m.System, "prod")
	m.declare(`psql -v ON_ERROR_STOP=1 -qc 'ALTER TABLE app.vendors ADD COLUMN gone int' -c 'CREATE UNIQUE INDEX vendors_name ON app.vendors (name)'`, nil)

	asking, stop := context.WithCancel(ctx)
	type asked struct {
		n   int
		err error
	}
	answers := make(chan asked)
	go func() {
		var a asked
		conn, err := m.Connect(ctx, "uat", "shop")
		if err != nil {
			answers <- asked{0, err}
			return
		}
		defer conn.Close(ctx)
		for asking.Err() == nil && a.err == nil {
			var n int
			a.err = conn.QueryRow(ctx, "SELECT count(*) FROM app.vendors WHERE id = 9001").Scan(&n)
			if n != 1 && a.err == nil {
				a.err = fmt.Errorf("the row of the sandbox is gone")
			}
			a.n++
			time.Sleep(time.Millisecond)
		}
		answers <- a
	}()
	op := m.fails("synchronize.failed")
	stop()
	if a := <-answers; a.err != nil || a.n < 100 {
		t.Errorf("the client of the sandbox got %d answers, then %v", a.n, a.err)
	}
	if !strings.Contains(op.Error.Message, "Key (name)=(Acme) is duplicated") || !strings.Contains(zipped(m.t, m.System, op)["synchronize.log"], "Key (name)=(Acme) is duplicated") {
		t.Errorf("neither the error nor the log name the key: %s", op.Error.Message)
	}
	if got := m.query(state); got != before {
		t.Errorf("the sandbox is not as it was")
	}
	volumes, err := m.Client.Volumes(ctx, "uat")
	must(t, err)
	for _, v := range volumes {
		if v.State == sandglass.VolumeStaging {
			t.Errorf("volume %s is left", v.ID)
		}
	}
	prod.Exec(t, "shop", "DELETE FROM app.vendors WHERE id = 1002")
}

const publish = "psql -v ON_ERROR_STOP=1 -qc 'CREATE PUBLICATION again FOR TABLE app.vendors'\n"

// killedInMidst kills serve while the migrations run: they die with it, and are run again. They also do what the
// sandbox's declaration accepts.
func killedInMidst(t *testing.T, m *migrations) {
	ctx := t.Context()
	mark := "88" + strconv.Itoa(os.Getpid())
	m.declare(`psql -v ON_ERROR_STOP=1 -qc 'INSERT INTO app.runs DEFAULT VALUES'
		if [ "$(psql -Atc 'SELECT count(*) FROM app.runs')" = 1 ]; then psql -c 'BEGIN; INSERT INTO app.runs DEFAULT VALUES; SELECT pg_sleep(600)' & sleep `+mark+`; fi
		`+publish, func(e *sandglass.Environment) {
		e.Accept = []sandglass.Code{"proof.publications"}
		e.Server.Synchronize.Network = "open"
	})
	op, err := m.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	must(t, err)
	sleeps := func() bool { return exec.Command("pgrep", "-f", "^sleep "+mark).Run() == nil }
	must(t, m.Await(ctx, time.Minute, "the migrations to begin", func() (bool, error) { return sleeps(), nil }))
	must(t, m.Kill())
	for end := time.Now().Add(10 * time.Second); sleeps(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the migrations outlive serve")
		}
	}
	must(t, m.Serve(ctx))
	op, err = m.Finish(ctx, op.ID)
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("ended as %s: %v", op.State, op.Error)
	}
	for _, code := range []string{"proof.publications", "synchronize.network_open"} {
		if !strings.Contains(string(op.Result), code) {
			t.Errorf("the result does not say %s: %s", code, op.Result)
		}
	}
	if got := m.query("SELECT count(*) FROM app.runs"); got != "2" {
		t.Errorf("%s runs, want the interrupted one and the one after it", got)
	}
}
