// Sealed recovery of a real copy, from the inside and the outside.

package server_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/server"
)

// TestSealedRecovery takes an image, writes on, and recovers a copy, sealed, to a position in between. A tablespace
// lies in the volume, and production's stays as it was.
func TestSealedRecovery(t *testing.T) {
	dir := tempDir(t)
	prod, prodServer := newCluster(t, filepath.Join(dir, "p"), nil)
	space := filepath.Join(dir, "space")
	must(t, os.Mkdir(space, 0o700))
	must(t, os.Chown(space, prod.Owner.UID, prod.Owner.GID))
	conn := connect(t, prod, "postgres")
	run(t, conn, "CREATE TABLESPACE fast LOCATION '"+space+"'")
	run(t, conn, "CREATE TABLE public.t (n int) TABLESPACE fast")
	run(t, conn, "INSERT INTO public.t VALUES (1)")
	i := takeImage(t, prod, filepath.Join(dir, "image"))
	run(t, conn, "INSERT INTO public.t VALUES (2)")
	lsn := mark(t, conn)
	run(t, conn, "INSERT INTO public.t VALUES (3)")
	run(t, conn, "SELECT pg_switch_wal()")
	before := treeOf(t, space)

	c := newCopy(t, dir, i, walFolder(filepath.Join(prod.Data, "pg_wal")))
	// What would make a standby of it, for ever, that streams from production.
	must(t, os.WriteFile(filepath.Join(c.layout.Data, "standby.signal"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(c.layout.Data, "postgresql.auto.conf"), []byte("primary_conninfo = 'host=127.0.0.1 port=1'\n"), 0o600))
	c.recoverTo(t, lsn)
	if _, err := os.Lstat(filepath.Join(c.layout.Data, "standby.signal")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("standby.signal is still there: %v", err)
	}
	p := start(t, c.config)
	end, err := server.Recovered(c.config)
	must(t, err)
	if end.Last != lsn || end.Timeline != 2 {
		t.Errorf("recovery ended at %s on timeline %d, want %s on 2", end.Last, end.Timeline, lsn)
	}
	looksSealed(t, p.PID(), c, prod, filepath.Join(dir, "space"))

	// Nothing runs but the server's own.
	copied := connect(t, c.config, "postgres")
	if got := ask[int](t, copied, "SELECT sum(n)::int FROM public.t"); got != 3 {
		t.Errorf("the copy has sum %d, want 1+2", got)
	}
	if n := ask[int](t, copied, "SELECT count(*)::int FROM pg_stat_activity WHERE backend_type NOT IN ('client backend','checkpointer','background writer','walwriter','io worker')"); n != 0 {
		t.Errorf("%d workers run in the sealed copy", n)
	}
	if got := ask[string](t, copied, "SELECT concat(pg_is_in_recovery(), current_setting('primary_conninfo'))"); got != "f" {
		t.Errorf("the copy is a standby, or has a primary: %s", got)
	}
	run(t, copied, "UPDATE public.t SET n = 100")
	run(t, copied, "CHECKPOINT")
	if got := treeOf(t, space); got != before {
		t.Errorf("production's tablespace changed:\n%s\nwas\n%s", got, before)
	}
	for _, where := range []string{"host=" + prod.Run, "host=/proc/" + strconv.Itoa(prodServer.PID()) + "/root" + prod.Run, "host=127.0.0.1 port=1"} {
		run(t, copied, "CREATE EXTENSION IF NOT EXISTS dblink SCHEMA public")
		if _, err := copied.Exec(testContext(t), "SELECT public.dblink_connect($1)", where+" dbname=postgres connect_timeout=3"); err == nil {
			t.Errorf("a sealed server reached %s", where)
		} else if !strings.Contains(err.Error(), "could not establish connection") && !strings.Contains(err.Error(), "could not connect") {
			t.Errorf("dblink: %v", err)
		}
	}
	must(t, p.Stop(testContext(t), server.Fast))
}

// mark writes a record that changes nothing and gives where it starts.
func mark(t *testing.T, c *pgx.Conn) sandglass.LSN {
	t.Helper()
	at := ask[string](t, c, "SELECT pg_current_wal_insert_lsn()::text")
	run(t, c, "SELECT pg_logical_emit_message(false, 'mark', '')")
	lsn, err := sandglass.ParseLSN(at)
	must(t, err)
	return lsn
}

// looksSealed looks at the process from outside.
func looksSealed(t *testing.T, pid int, c copyOf, prod server.Config, hidden string) {
	t.Helper()
	root := filepath.Join("/proc", strconv.Itoa(pid))
	dev, err := os.ReadFile(filepath.Join(root, "net/dev"))
	must(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(dev)), "\n")[2:] {
		f := strings.Fields(line)
		if f[0] != "lo:" || f[1] != "0" || f[9] != "0" {
			t.Errorf("the sealed server has a network: %s", line)
		}
	}
	for _, path := range []string{prod.Run, prod.Data, hidden, "/run", "/var", "/root", "/home", "/work"} {
		if _, err := os.Lstat(filepath.Join(root, "root", path)); err == nil {
			t.Errorf("the sealed server sees %s", path)
		}
	}
	status, err := os.ReadFile(filepath.Join(root, "status"))
	must(t, err)
	for _, want := range []string{"NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the sealed server's process lacks %q", want)
		}
	}
	mounts, err := os.ReadFile(filepath.Join(root, "mounts"))
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		writable := strings.HasPrefix(f[3], "rw")
		own := f[1] == c.layout.Root || f[1] == "/tmp" || strings.HasPrefix(f[1], "/dev/")
		if writable && !own {
			t.Errorf("the sealed server can write to %s", f[1])
		}
	}
}

// treeOf is a folder's files with size and time of change.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(path + " " + strconv.FormatInt(info.Size(), 10) + " " + info.ModTime().String() + "\n")
		return nil
	}))
	return b.String()
}

// TestTablespaceAfterImage replays a CREATE TABLESPACE newer than the image: it must fail, and touch nothing of production's.
func TestTablespaceAfterImage(t *testing.T) {
	dir := tempDir(t)
	prod, _ := newCluster(t, filepath.Join(dir, "p"), nil)
	conn := connect(t, prod, "postgres")
	i := takeImage(t, prod, filepath.Join(dir, "image"))
	space := filepath.Join(dir, "space")
	must(t, os.Mkdir(space, 0o700))
	must(t, os.Chown(space, prod.Owner.UID, prod.Owner.GID))
	run(t, conn, "CREATE TABLESPACE fast LOCATION '"+space+"'")
	run(t, conn, "CREATE TABLE public.t TABLESPACE fast AS SELECT generate_series(1, 1000) AS n")
	run(t, conn, "CHECKPOINT")
	lsn := mark(t, conn)
	run(t, conn, "SELECT pg_switch_wal()")
	before := treeOf(t, space)

	c := newCopy(t, dir, i, walFolder(filepath.Join(prod.Data, "pg_wal")))
	c.recoverTo(t, lsn)
	p, err := server.Start(testContext(t), c.config)
	must(t, err)
	defer p.Close()
	err = p.Ready(testContext(t))
	if sandglass.CodeOf(err) != sandglass.CodeRecoveryFailed || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("recovery said %v, want a failure for the missing folder", err)
	}
	if got := treeOf(t, space); got != before {
		t.Errorf("production's tablespace changed:\n%s\nwas\n%s", got, before)
	}
	if got := ask[int](t, conn, "SELECT count(*)::int FROM public.t"); got != 1000 {
		t.Errorf("production has %d rows, want 1000", got)
	}
	must(t, server.Discard(testContext(t), c.config))
	must(t, c.driver.Destroy(testContext(t), c.id))
}

// failing is a source of WAL whose worker is in trouble.
type failing struct{}

func (failing) Fetch(context.Context, string, string) (bool, error) {
	return false, errors.New("the repository is on fire")
}

// TestSourceFails sees that a source in trouble fails recovery instead of ending it early.
func TestSourceFails(t *testing.T) {
	dir := tempDir(t)
	prod, _ := newCluster(t, filepath.Join(dir, "p"), nil)
	i := takeImage(t, prod, filepath.Join(dir, "image"))
	c := newCopy(t, dir, i, failing{})
	c.recoverTo(t, 1<<40)
	p, err := server.Start(testContext(t), c.config)
	must(t, err)
	defer p.Close()
	err = p.Ready(testContext(t))
	if sandglass.CodeOf(err) != sandglass.CodeRecoveryFailed || !strings.Contains(err.Error(), "exit code 255") {
		t.Errorf("recovery said %v, want a failure with exit code 255", err)
	}
	log, err := os.ReadFile(c.config.Log)
	must(t, err)
	if !strings.Contains(string(log), "on fire") {
		t.Errorf("the log does not say why: %s", log)
	}
	if _, err := server.Adopt(testContext(t), c.config); !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("adopt said %v, want that nothing runs", err)
	}
}

// TestSocketsCovered sees that a socket in a folder of the system is not reachable from the seal.
func TestSocketsCovered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can put a socket into /usr")
	}
	dir := tempDir(t)
	folder, err := os.MkdirTemp("/usr/local", "sgtest")
	must(t, err)
	defer os.RemoveAll(folder)
	must(t, os.Chmod(folder, 0o755))
	l, err := net.Listen("unix", filepath.Join(folder, "s"))
	must(t, err)
	defer l.Close()
	c, p := newCluster(t, filepath.Join(dir, "v"), nil)
	must(t, p.Stop(testContext(t), server.Fast))
	c.Seal, c.Helper = &server.Seal{Volume: filepath.Join(dir, "v")}, helper(t, dir)
	p = start(t, c)
	if _, err := os.Stat("/proc/" + strconv.Itoa(p.PID()) + "/root" + folder + "/s"); err == nil {
		t.Errorf("the sealed server sees the socket in %s", folder)
	}
}
