// Starting, adopting, stopping, fencing and single-user mode, on real servers.

package server_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/server"
)

// TestAdopt follows a server over a restart of its keeper: found again, whole, told apart from a server that was killed.
func TestAdopt(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	pid := p.PID()
	p.Close() // the keeper ends
	again, err := server.Adopt(testContext(t), c)
	must(t, err)
	if again.PID() != pid || again.Sealed() {
		t.Errorf("adopted process %d, sealed %t; want %d, open", again.PID(), again.Sealed(), pid)
	}
	must(t, again.Ready(testContext(t)))
	if _, err := server.Start(testContext(t), c); sandglass.CodeOf(err) != sandglass.CodeVolumeInUse {
		t.Errorf("a second start said %v, want %s", err, sandglass.CodeVolumeInUse)
	}
	sealed := c
	sealed.Seal = &server.Seal{Volume: dir}
	whatever := server.Config{Data: c.Data, Run: c.Run, Owner: c.Owner}
	any, err := server.Adopt(testContext(t), whatever)
	must(t, err)
	any.Close()
	if _, err := server.Adopt(testContext(t), sealed); sandglass.CodeOf(err) != sandglass.CodeServerFailed {
		t.Errorf("adopting an open server as a sealed one said %v", err)
	}
	must(t, again.Stop(testContext(t), server.Fast))
	if _, err := server.Adopt(testContext(t), c); !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("adopting a stopped server said %v", err)
	}
}

// TestStalePIDFile sees that the process which was given a dead server's number is not taken for it, nor touched.
func TestStalePIDFile(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	other := exec.Command("sleep", "60") // of the same user, as the servers started at boot are
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.Owner.UID), Gid: uint32(c.Owner.GID)}}
	if os.Geteuid() != 0 {
		other.SysProcAttr = nil
	}
	must(t, other.Start())
	defer func() { other.Process.Kill(); other.Wait() }()
	stale := strings.Join([]string{strconv.Itoa(other.Process.Pid), c.Data, strconv.FormatInt(time.Now().Unix(), 10), "5432", c.Run, "", "  1234567 98765", "ready   ", ""}, "\n")
	must(t, os.WriteFile(filepath.Join(c.Data, "postmaster.pid"), []byte(stale), 0o600))
	if _, err := server.Adopt(testContext(t), c); !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("adopt said %v", err)
	}
	must(t, os.WriteFile(filepath.Join(c.Run, ".s.PGSQL.5432.lock"), []byte(stale), 0o600))
	start(t, c)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
}

// TestKilled sees that nothing is left of a server ended with SIGKILL after Discard, and that it starts again.
func TestKilled(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	id := sharedMemory(t, c)
	// One process of it can't end by itself, and keeps the memory.
	conn := connect(t, c, "postgres")
	stuck := ask[int](t, conn, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
	must(t, syscall.Kill(stuck, syscall.SIGSTOP))
	must(t, syscall.Kill(p.PID(), syscall.SIGKILL))
	<-p.Exited()
	if _, err := server.Start(testContext(t), c); sandglass.CodeOf(err) != sandglass.CodeVolumeInUse {
		t.Errorf("starting beside what is left of a server said %v", err)
	}
	must(t, server.Discard(testContext(t), c))
	if segmentExists(t, id) {
		t.Errorf("shared memory %s is left", id)
	}
	must(t, server.Discard(testContext(t), c)) // may be repeated
	start(t, c)
}

// sharedMemory is the SysV segment a server names.
func sharedMemory(t *testing.T, c server.Config) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Data, "postmaster.pid"))
	must(t, err)
	f := strings.Fields(strings.Split(string(b), "\n")[6])
	id := f[1]
	if !segmentExists(t, id) {
		t.Fatalf("shared memory %s does not exist", id)
	}
	return id
}

func segmentExists(t *testing.T, id string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/sysvipc/shm")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[1] == id {
			return true
		}
	}
	return false
}

// TestStartFails sees that the server's own words come back.
func TestStartFails(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	for _, test := range []struct{ name, value, want string }{
		{"shared_buffers", "a lot", `invalid value for parameter "shared_buffers"`},
		{"shared_preload_libraries", "no_such_library", `could not access file "no_such_library"`},
		{"no_such_setting", "1", `unrecognized configuration parameter "no_such_setting"`},
	} {
		bad := c
		bad.Settings = map[string]string{test.name: test.value}
		p, err := server.Start(testContext(t), bad)
		if err == nil {
			err = p.Ready(testContext(t))
			p.Close()
		}
		if sandglass.CodeOf(err) != sandglass.CodeServerFailed || !strings.Contains(sandglass.AsError(err).Message, test.want) {
			t.Errorf("%s = %s: %v, want %s", test.name, test.value, err, test.want)
		}
	}
}

// TestFence closes a server under load, sees that only we are left, and opens it again.
func TestFence(t *testing.T) {
	dir := tempDir(t)
	port := freePort(t)
	c, p := newCluster(t, dir, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	c.Port, c.HBA = port, []string{"host all all 127.0.0.1/32 trust"}
	c.Settings["listen_addresses"] = "127.0.0.1"
	p = start(t, c)
	ours := connect(t, c, "postgres")
	run(t, ours, "CREATE ROLE app LOGIN")
	run(t, ours, "CREATE TABLE public.t (n int)")
	run(t, ours, "GRANT ALL ON public.t TO app; GRANT ALL ON SCHEMA public TO app")

	url := "host=127.0.0.1 user=app dbname=postgres sslmode=disable port=" + strconv.Itoa(port)
	listener, err := pgx.Connect(testContext(t), url)
	must(t, err)
	run(t, listener, "LISTEN sandglass")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // clients that come back at once
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c, err := pgx.Connect(context.Background(), url); err == nil {
				c.Exec(context.Background(), "INSERT INTO public.t VALUES (1)")
				c.Close(context.Background())
			}
		}
	}()
	began := time.Now()
	must(t, p.Fence(testContext(t), "going down"))
	t.Logf("fenced in %v", time.Since(began))
	before := ask[int](t, ours, "SELECT count(*)::int FROM public.t")
	_, err = pgx.Connect(testContext(t), url)
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "28000" {
		t.Errorf("a fenced server answered %v", err)
	}
	n, err := listener.WaitForNotification(testContext(t))
	if err != nil || n.Payload != "going down" {
		t.Errorf("the listener heard %v, %v", n, err)
	}
	if _, err := listener.WaitForNotification(testContext(t)); err == nil {
		t.Error("the listener was not ended")
	}
	if after := ask[int](t, ours, "SELECT count(*)::int FROM public.t"); after != before {
		t.Errorf("%d rows came in after the fence", after-before)
	}
	run(t, ours, "INSERT INTO public.t VALUES (2)")
	must(t, p.Unfence(testContext(t)))
	again, err := pgx.Connect(testContext(t), url)
	must(t, err)
	run(t, again, "INSERT INTO public.t VALUES (3)")
	again.Close(context.Background())
	close(stop)
	<-done

	if _, err := pgx.Connect(testContext(t), strings.Replace(url, "user=app", "user=sandglass", 1)); err == nil {
		t.Error("our role can come in over TCP")
	}
	bad := c
	bad.HBA = []string{"host all all nonsense trust extra=word"}
	if err := p.Reload(testContext(t), bad); sandglass.CodeOf(err) != sandglass.CodeConfig {
		t.Errorf("reloading a broken pg_hba.conf said %v", err)
	}
}

// TestFirstContact enters a cluster whose only superuser cannot log in and whose settings bite.
func TestFirstContact(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	conn := connect(t, c, "postgres")
	for _, sql := range []string{
		"CREATE ROLE boss SUPERUSER NOLOGIN",
		"ALTER DATABASE postgres SET session_preload_libraries = 'no_such_library'",
		"ALTER ROLE ALL SET default_transaction_read_only = on",
		"ALTER ROLE sandglass SET search_path = nowhere",
		"ALTER SYSTEM SET work_mem = '77MB'",
		"UPDATE pg_database SET datallowconn = false WHERE datname = 'postgres'",
		"ALTER ROLE sandglass NOLOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01' CONNECTION LIMIT 0",
	} {
		run(t, conn, sql)
	}
	conn.Close(testContext(t))
	must(t, p.Stop(testContext(t), server.Fast))

	must(t, server.FirstContact(testContext(t), c))
	must(t, server.FirstContact(testContext(t), c)) // may be repeated
	p = start(t, c)
	conn = connect(t, c, "postgres")
	run(t, conn, "CREATE TABLE public.can_write ()")
	if got := ask[string](t, conn, "SELECT current_setting('work_mem')"); got != "4MB" {
		t.Errorf("an ALTER SYSTEM setting of the copy lives: work_mem = %s", got)
	}
	if got := ask[bool](t, conn, "SELECT rolpassword IS NULL AND rolsuper AND rolcanlogin FROM pg_authid WHERE rolname = 'sandglass'"); !got {
		t.Error("our role is not as it should be")
	}
	must(t, p.Stop(testContext(t), server.Fast))
	out, err := server.SingleUser(testContext(t), c, "postgres", "CREATE TABLE public.one ();", "INSERT INTO nowhere VALUES ('a;\n b')", "CREATE TABLE public.two ()")
	if sandglass.CodeOf(err) != sandglass.CodeServerFailed || !strings.Contains(err.Error(), `relation "nowhere" does not exist`) {
		t.Errorf("single-user said %v: %s", err, out)
	}
	out, err = server.SingleUser(testContext(t), c, "postgres", "SELECT to_regclass('public.one') IS NOT NULL AS one, to_regclass('public.two') IS NULL AS two")
	if err != nil || strings.Count(out, `= "t"`) != 2 {
		t.Errorf("single-user said %v: %s", err, out)
	}
	if _, err := server.SingleUser(testContext(t), c, "no_such_database", "SELECT 1"); sandglass.CodeOf(err) != sandglass.CodeServerFailed {
		t.Errorf("single-user in a missing database said %v", err)
	}
}

// TestStopModes ends a server with a session open.
func TestStopModes(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	connect(t, c, "postgres")
	short, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	if err := p.Stop(short, server.Smart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a smart stop with a session open said %v", err)
	}
	must(t, p.Stop(testContext(t), server.Immediate))
	start(t, c)
}

// TestUnprivileged seals and runs a server without being root. It runs this test binary as another user.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the other tests run unprivileged already")
	}
	dir := tempDir(t)
	o := owner(t)
	must(t, os.Chown(dir, o.UID, o.GID))
	cmd := exec.CommandContext(testContext(t), helper(t, dir), "-test.run=^(TestSealedRecovery|TestAdopt|TestKilled|TestCheckSeal|TestRunBesideKilled)$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "SKIP") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCheckSeal tries the seal, and sees it refused by name where it can't be had.
func TestCheckSeal(t *testing.T) {
	dir := tempDir(t)
	must(t, server.CheckSeal(testContext(t), owner(t), helper(t, dir)))
	err := server.CheckSeal(testContext(t), owner(t), "/usr/bin/false")
	if sandglass.CodeOf(err) != sandglass.CodeSealNamespace {
		t.Errorf("a seal that can't be made said %v", err)
	}
}
