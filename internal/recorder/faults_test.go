package recorder_test

// Faults, each with its code, and what is still there after it.

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/pgtest"
	"sandglass/internal/recorder"
	"sandglass/internal/repo"
)

func TestRefusedUntilMended(t *testing.T) {
	g := newRig(t, pgtest.Options{Settings: map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}})
	g.start()
	g.code(sandglass.CodeProductionWALLevel)
	g.stop()
	codes := func() string {
		var out []string
		for _, f := range recorder.Check(t.Context(), g.env) {
			if f.Message == "" || f.Remedy == "" {
				t.Errorf("%s: no sentence or no remedy", f.Code)
			}
			out = append(out, string(f.Level)+" "+string(f.Code))
		}
		return strings.Join(out, ", ")
	}
	if c := codes(); !strings.Contains(c, "stop production.wal_level_minimal") || !strings.Contains(c, "stop production.no_wal_senders") {
		t.Errorf("findings %s", c)
	}
	set := func(restart bool, name, value string) {
		t.Helper()
		g.production.Exec(t, "postgres", "alter system set "+name+" = "+value)
		if restart {
			g.check(g.production.Restart(t.Context()))
			return
		}
		before := g.production.Query(t, "postgres", "select pg_conf_load_time()")
		g.production.Exec(t, "postgres", "select pg_reload_conf()")
		g.await("new connections to have the setting", "select 1 where pg_conf_load_time() > '"+before+"'")
	}
	set(false, "max_wal_senders", "10")
	set(true, "wal_level", "replica")
	if c := codes(); c != "" {
		t.Errorf("findings %s", c)
	}
	for value, matches := range map[string]bool{"'*'": true, "'a, \"Sandglass-Prod\"'": true, "'FIRST 1 (a, sandglass_prod, b)'": false,
		"'ANY 2 (a, \"sandglass-prod\")'": true, "'2 (\"*\", b)'": true, "'a,b'": false} {
		set(false, "synchronous_standby_names", value)
		if c := codes(); (c == "stop production.synchronous_standby") != matches || !matches && c != "" {
			t.Errorf("%s: findings %q", value, c)
		}
	}
	set(false, "synchronous_standby_names", "'*'")
	for value, small := range map[string]bool{"0": true, "'63MB'": true, "'64MB'": false} {
		set(false, "max_slot_wal_keep_size", value)
		if c := codes(); strings.Contains(c, "stop production.slot_cap_small") != small {
			t.Errorf("cap %s: findings %q", value, c)
		}
	}
	set(false, "max_slot_wal_keep_size", "-1")
	g.start()
	g.code(sandglass.CodeProductionSlotCap)
	if s := g.Status(); s.State != sandglass.RecorderRefused {
		t.Errorf("state %s", s.State)
	}
	if n := g.production.Query(t, "postgres", "select count(*) from pg_replication_slots"); n != "0" {
		t.Errorf("%s slots made", n)
	}
	g.stop()
	g.env.Accept = []sandglass.Code{sandglass.CodeProductionSlotCap, sandglass.CodeProductionSync}
	g.start()
	g.imaged()
}

func TestUnreachableWrongPasswordAndTaken(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	password := g.env.Recording.PasswordFile
	g.check(os.WriteFile(password, []byte("wrong"), 0o600))
	g.start()
	g.code(sandglass.CodeProductionPassword)
	g.check(os.WriteFile(password, []byte("secret"), 0o600))
	s := g.imaged()
	if s = g.until("no error", 5*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastError == nil }); s.State != sandglass.RecorderStreaming {
		t.Errorf("state %s", s.State)
	}
	g.check(g.production.Stop())
	g.code(sandglass.CodeProductionUnreachable)
	g.check(g.production.Start(t.Context()))
	g.until("streaming again", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })
	g.durable(g.flushed())
	g.stop()

	c, err := pg.Connect(t.Context(), pg.Target{Conninfo: g.env.Recording.Connection, Password: "secret", Application: "thief"})
	g.check(err)
	defer c.Abort()
	sys, err := c.IdentifySystem(t.Context())
	g.check(err)
	_, err = c.StartReplication(t.Context(), "sandglass_prod", sys.Timeline, sys.Flushed)
	g.check(err)
	g.start()
	g.code(sandglass.CodeSlotTaken)
	c.Abort()
	g.until("streaming again", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })
	if n := len(g.incarnations()); n != 1 {
		t.Errorf("%d incarnations", n)
	}
}

func TestWentBack(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	ctx := t.Context()
	g.start()
	g.imaged()
	g.durable(g.flushed())
	g.check(g.production.Stop())
	saved := filepath.Join(g.production.Dir, "saved")
	run(t, "cp", "-a", g.production.Data(), saved)
	g.check(g.production.Start(ctx))
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,10000) i")
	g.durable(g.flushed())
	g.check(g.production.Stop())
	run(t, "rm", "-rf", g.production.Data())
	run(t, "mv", saved, g.production.Data())
	g.check(g.production.Start(ctx))
	g.gap("gone back")
}

// TestNoEvidenceOfAnotherServer: what a server that went back says of itself is no evidence of the history before, also while
// that can't be ended.
func TestNoEvidenceOfAnotherServer(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	folder, err := repo.NewFolder(g.folder)
	g.check(err)
	store := &faulty{Store: folder}
	g.startWith(openRepo(t, store, g.key))
	inc := g.imaged().Incarnation
	g.durable(g.flushed())
	g.check(g.production.Stop())
	saved := filepath.Join(g.production.Dir, "saved")
	run(t, "cp", "-a", g.production.Data(), saved)
	g.check(g.production.Start(t.Context()))
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,10000) i")
	g.durable(g.flushed())
	g.check(g.production.Stop())
	run(t, "rm", "-rf", g.production.Data())
	run(t, "mv", saved, g.production.Data())
	store.set(nil, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	back := time.Now()
	g.check(g.production.Start(t.Context()))
	s := g.code(sandglass.CodeRepositoryFull)
	if s.Incarnation != inc || s.ServerTime.After(back) {
		t.Errorf("of %s (%s was recorded) at %s, %s after it went back: %s, held %s", s.Incarnation, inc, s.ServerTime, s.ServerTime.Sub(back), s.ServerLSN, s.DurableLSN)
	}
	store.set(nil, nil)
	g.gap("gone back")
}

// TestWentBackAndOvertook is a server that went back and has written more WAL than was recorded, before we look.
func TestWentBackAndOvertook(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	ctx := t.Context()
	g.start()
	g.imaged()
	g.durable(g.flushed())
	g.check(g.production.Stop())
	saved := filepath.Join(g.production.Dir, "saved")
	run(t, "cp", "-a", g.production.Data(), saved)
	g.check(g.production.Start(ctx))
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,10000) i")
	lsn, err := sandglass.ParseLSN(g.production.Query(t, "postgres", "select pg_current_wal_flush_lsn()"))
	g.check(err)
	g.durable(lsn)
	g.stop()
	g.check(g.production.Stop())
	run(t, "rm", "-rf", g.production.Data())
	run(t, "mv", saved, g.production.Data())
	g.check(g.production.Start(ctx))
	g.production.Exec(t, "postgres", "create table u as select generate_series(1,50000) i")
	g.start()
	g.gap("forked")
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", name, err, out)
	}
}

func TestOtherSystem(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	g.start()
	g.imaged()
	g.stop()
	other := pgtest.New(t, pgtest.Options{})
	conninfo, err := other.RecorderRole(t.Context(), "secret")
	g.check(err)
	g.env.Recording.Connection = conninfo
	g.production = other
	g.start()
	g.gap("another system")
}

func TestTimelineSwitch(t *testing.T) {
	g := newRig(t, keepWAL())
	ctx := t.Context()
	g.start()
	s := g.imaged()
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,10000) i")
	g.durable(g.flushed())
	g.check(g.production.Stop())
	// production's fail-over, as far as a recorder sees it: the same history goes on on timeline 2
	signal := filepath.Join(g.production.Data(), "recovery.signal")
	run(t, "install", "-o", "postgres", "-m", "600", "/dev/null", signal)
	conf := filepath.Join(g.production.Data(), "postgresql.conf")
	text, err := os.ReadFile(conf)
	g.check(err)
	g.check(os.WriteFile(conf, append(text, "\nrestore_command = 'false'\n"...), 0o600))
	g.check(g.production.Start(ctx))
	for g.production.Query(t, "postgres", "select 1 where pg_is_in_recovery()") != "" {
		time.Sleep(50 * time.Millisecond)
	}
	s2 := g.until("timeline 2", 40*time.Second, func(s sandglass.RecorderStatus) bool {
		return s.State == sandglass.RecorderStreaming && s.Timeline == 2
	})
	if s2.Incarnation != s.Incarnation {
		t.Errorf("incarnation %s became %s", s.Incarnation, s2.Incarnation)
	}
	g.production.Exec(t, "postgres", "create table u as select generate_series(1,10000) i")
	end := g.flushed()
	g.durable(end)
	if _, held := g.compare(s.Incarnation); held < end {
		t.Errorf("held %s, want %s", held, end)
	}
	raw, err := g.repo.History(ctx, "prod", s.Incarnation, 2)
	g.check(err)
	h, err := sandglass.ParseHistory(string(raw))
	g.check(err)
	tail := sandglass.LSN(0)
	for info, err := range g.repo.Segments(ctx, "prod", s.Incarnation) {
		g.check(err)
		if info.Timeline == 1 {
			tail = info.End
		}
	}
	if len(h) != 1 || tail != h[0].Switch {
		t.Errorf("timeline 1 is held up to %s, history %v", tail, h)
	}
	g.stop() // and a restart finds its place on timeline 2
	g.production.Exec(t, "postgres", "create table v as select 1")
	g.start()
	g.durable(g.flushed())
	g.compare(s.Incarnation)
}

// faulty is a store that can be made to hang, or to be full.
type faulty struct {
	repo.Store
	only string // part of the keys that are hit; empty: all
	mu   sync.Mutex
	hang chan struct{}
	fail error
}

func (f *faulty) set(hang chan struct{}, fail error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hang, f.fail = hang, fail
}

func (f *faulty) Put(ctx context.Context, key string, r io.Reader, ifAbsent bool) error {
	f.mu.Lock()
	hang, fail := f.hang, f.fail
	f.mu.Unlock()
	if !strings.Contains(key, f.only) {
		hang, fail = nil, nil
	}
	if hang != nil {
		<-hang // as a disk does: no context ends it
	}
	if fail != nil {
		return fail
	}
	return f.Store.Put(ctx, key, r, ifAbsent)
}

func TestShutdownNeverWaitsForUs(t *testing.T) {
	g := newRig(t, keepWAL())
	folder, err := repo.NewFolder(g.folder)
	g.check(err)
	store := &faulty{Store: folder}
	g.startWith(openRepo(t, store, g.key))
	s := g.imaged()
	stop := func(limit time.Duration) {
		t.Helper()
		begun := time.Now()
		g.check(g.production.Stop())
		d := time.Since(begun)
		t.Logf("stop took %s", d)
		if d > limit {
			t.Errorf("stop took %s", d)
		}
	}
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,100000) i")
	stop(5 * time.Second)
	// all that production had written is in the repository
	control, err := os.ReadFile(filepath.Join(g.production.Data(), pg.ControlFile))
	g.check(err)
	c, err := pg.ParseControl(control)
	g.check(err)
	if d := g.Status().DurableLSN; d <= c.CheckpointLSN {
		t.Errorf("durable %s, shutdown checkpoint at %s", d, c.CheckpointLSN)
	}
	g.check(g.production.Start(t.Context()))
	g.until("streaming again", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })

	hang := make(chan struct{})
	store.set(hang, nil)
	g.production.Exec(t, "postgres", "create table u as select generate_series(1,100000) i")
	stop(15 * time.Second)
	g.code(recorder.CodeStuck)
	g.check(g.production.Start(t.Context()))
	store.set(nil, nil)
	close(hang)
	g.until("streaming again", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })

	store.set(nil, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	g.production.Exec(t, "postgres", "create table v as select generate_series(1,300000) i")
	g.code(sandglass.CodeRepositoryFull)
	flush, err := sandglass.ParseLSN(g.production.Query(t, "postgres", "select restart_lsn from pg_replication_slots"))
	g.check(err)
	if d := g.Status().DurableLSN; flush > d {
		t.Errorf("acknowledged %s, durable %s", flush, d)
	}
	store.set(nil, nil)
	end := g.flushed()
	g.until("streaming again", 30*time.Second, func(s sandglass.RecorderStatus) bool {
		return s.State == sandglass.RecorderStreaming && s.LastError == nil
	})
	g.durable(end)
	g.compare(s.Incarnation)
	if n := len(g.incarnations()); n != 1 {
		t.Errorf("%d incarnations", n)
	}
}

func TestImageFailures(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	folder, err := repo.NewFolder(g.folder)
	g.check(err)
	store := &faulty{Store: folder}
	g.startWith(openRepo(t, store, g.key))
	s := g.imaged()
	store.set(nil, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := g.TakeImage(ctx); sandglass.CodeOf(err) != sandglass.CodeRepositoryFull {
		t.Errorf("image on a full disk: %v", err)
	}
	store.set(nil, nil)
	if err := g.TakeImage(ctx); err != nil {
		t.Errorf("image: %v", err)
	}
	images := g.images(s.Incarnation)
	if len(images) != 2 || images[1].Parent != images[0].ID || images[1].StoredBytes > images[0].StoredBytes/4 {
		t.Errorf("images %+v", images)
	}
	if d := g.Status(); d.LastError != nil || d.LastImage != images[1].ID {
		t.Errorf("status %+v", d)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("too slow")
	}
}

// TestWrongPages has a page that does not match its checksum: the image is taken all the same, and says so.
func TestWrongPages(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	p := g.production
	p.Exec(t, "postgres", "create table damaged as select generate_series(1,5000) i", "checkpoint")
	path := filepath.Join(p.Data(), p.Query(t, "postgres", "select pg_relation_filepath('damaged')"))
	g.check(p.Stop())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	g.check(err)
	_, err = f.WriteAt([]byte("not what was written"), 8192+4000)
	g.check(errors.Join(err, f.Close()))
	g.check(p.Start(t.Context()))
	g.start()
	s := g.imaged()
	if images := g.images(s.Incarnation); len(images) != 1 || !images[0].WrongPages {
		t.Errorf("images %+v", images)
	}
}

// TestSpoolFull gives the recorder a spool of a few megabytes.
func TestSpoolFull(t *testing.T) {
	g := newRig(t, keepWAL())
	if err := syscall.Mount("tmpfs", g.dir, "tmpfs", 0, "size=52m"); err != nil {
		t.Skipf("no small file system can be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(g.dir, syscall.MNT_DETACH) })
	g.env.Recording.PasswordFile = filepath.Join(g.dir, "password")
	g.check(os.WriteFile(g.env.Recording.PasswordFile, []byte("secret"), 0o600))
	ballast := filepath.Join(g.dir, "ballast")
	g.start()
	s := g.imaged()
	// What the spool has not let go of yet may leave less than that.
	if err := os.WriteFile(ballast, make([]byte, 24<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		g.check(err)
	}
	g.production.Exec(t, "postgres", "create table v as select generate_series(1,600000) i")
	g.code(sandglass.CodeDiskFull)
	g.check(os.Remove(ballast))
	g.check(syscall.Mount("", g.dir, "", syscall.MS_REMOUNT, "size=200m"))
	end := g.flushed()
	g.durable(end)
	if _, held := g.compare(s.Incarnation); held < end || len(g.incarnations()) != 1 {
		t.Errorf("held %s, want %s; %d incarnations", held, end, len(g.incarnations()))
	}
	g.until("no error", 10*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastError == nil })
}
