package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// What happens to the slot on production is shown with its code, shows as a gap where WAL was lost, and recording goes on by itself.
func TestSlotFaults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, map[string]string{"min_wal_size": "32MB", "max_wal_size": "32MB"})
	slot := sandglass.SlotName("prod")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	streaming(t, s, "prod")
	images := func() int {
		w, err := s.Client.Window(ctx, "prod")
		must(t, err)
		return len(w.Images)
	}
	// goesOn waits for a new image, and sees that the window shows so many gaps, the newest for the reason.
	goesOn := func(t *testing.T, before, gaps int, reason string) {
		t.Helper()
		must(t, s.AwaitImages(ctx, "prod", before+1))
		streaming(t, s, "prod")
		w, err := s.Client.Window(ctx, "prod")
		must(t, err)
		if len(w.Gaps) != gaps {
			t.Fatalf("the window has %d gaps, want %d: %+v", len(w.Gaps), gaps, w.Gaps)
		}
		for _, g := range w.Gaps {
			if g.Code != sandglass.CodeMomentGap || g.Reason == "" || !g.To.After(g.From) {
				t.Errorf("a gap without its code, a reason or a length: %+v", g)
			}
			_, err := s.Client.Resolve(ctx, "prod", sandglass.Moment{Kind: sandglass.AtTime, Time: g.From.Add(g.To.Sub(g.From) / 2)})
			if e := sandglass.AsError(err); e == nil || e.Code != sandglass.CodeMomentGap || e.Before.IsZero() || e.After.IsZero() {
				t.Errorf("a moment in the gap: %+v", e)
			}
		}
		newest := w.Gaps[gaps-1].Reason
		if !strings.Contains(newest, reason) {
			t.Errorf("the gap's reason is %q, want %q in it", newest, reason)
		}
		if out := ran(t, s, "window", "prod").Stdout; !strings.Contains(out, newest) {
			t.Errorf("window does not show the gap's reason %q:\n%s", newest, out)
		}
	}

	t.Run("taken by another receiver", func(t *testing.T) {
		must(t, s.Stop())
		dir := filepath.Join(prod.Dir, "other")
		must(t, prod.MakeDir(dir))
		receiver, stop := context.WithCancel(ctx)
		other := prod.Command(receiver, "pg_receivewal", "-D", dir, "-S", slot, "-n")
		must(t, other.Start())
		defer func() { stop(); other.Wait() }()
		must(t, wait(ctx, 20*time.Second, "the slot to be taken", func() bool {
			return prod.Query(t, "postgres", "SELECT active FROM pg_replication_slots") == "t"
		}))
		must(t, s.Serve(ctx))
		showsCode(t, s, "prod", sandglass.CodeSlotTaken)
		stop()
		other.Wait()
		streaming(t, s, "prod")
		if w, err := s.Client.Window(ctx, "prod"); err != nil || len(w.Gaps) > 0 {
			t.Errorf("the window: %+v %v", w.Gaps, err)
		}
	})
	t.Run("production is away", func(t *testing.T) {
		must(t, prod.Stop())
		showsCode(t, s, "prod", sandglass.CodeProductionUnreachable)
		must(t, prod.Start(ctx))
		streaming(t, s, "prod")
	})
	t.Run("the password was changed", func(t *testing.T) {
		prod.Exec(t, "postgres", "ALTER ROLE sandglass_recorder PASSWORD 'another'", "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
		showsCode(t, s, "prod", sandglass.CodeProductionPassword)
		must(t, os.WriteFile(filepath.Join(s.Dir, "prod.password"), []byte("another"), 0o600))
		streaming(t, s, "prod")
		if w, err := s.Client.Window(ctx, "prod"); err != nil || len(w.Gaps) > 0 || len(w.Incarnations) != 1 {
			t.Errorf("the window: %+v %v", w, err)
		}
	})
	t.Run("dropped by hand", func(t *testing.T) {
		before := images()
		must(t, s.Stop())
		prod.Exec(t, "postgres", "SELECT pg_drop_replication_slot('"+slot+"')", "CREATE TABLE lost AS SELECT generate_series(1, 1000) i")
		for range 4 { // WAL that nobody keeps
			prod.Exec(t, "postgres", "SELECT pg_switch_wal()", "INSERT INTO lost SELECT 1", "CHECKPOINT")
		}
		must(t, s.Serve(ctx))
		goesOn(t, before, 1, "The replication slot was dropped")
	})
	t.Run("lost", func(t *testing.T) {
		before := images()
		must(t, s.Stop())
		cap := func(size string) {
			prod.Exec(t, "postgres", "ALTER SYSTEM SET max_slot_wal_keep_size = '"+size+"'", "SELECT pg_reload_conf()")
		}
		cap("16MB")
		for range 6 {
			prod.Exec(t, "postgres", "INSERT INTO lost SELECT 1", "SELECT pg_switch_wal()", "CHECKPOINT")
		}
		if got := prod.Query(t, "postgres", "SELECT wal_status FROM pg_replication_slots"); got != "lost" {
			t.Fatalf("production's slot is %s, want lost", got)
		}
		cap("2GB")
		must(t, s.Serve(ctx))
		goesOn(t, before, 2, "the slot was further behind than max_slot_wal_keep_size allows")
		if got := prod.Query(t, "postgres", "SELECT string_agg(slot_name::text || wal_status, ',') FROM pg_replication_slots"); got != slot+"reserved" {
			t.Errorf("production's slots: %s", got)
		}
	})
	t.Run("dropped by us", func(t *testing.T) {
		const slots = "SELECT count(*) FROM pg_replication_slots"
		ran(t, s, "record", "stop", "prod", "--yes")
		if got := prod.Query(t, "postgres", slots); got != "0" {
			t.Errorf("after record stop production has %s slots", got)
		}
		ran(t, s, "record", "start", "prod")
		streaming(t, s, "prod")
		if got := prod.Query(t, "postgres", slots); got != "1" {
			t.Errorf("after record start production has %s slots", got)
		}
		// Nobody can drop the slot of a production that is away, but its administrator, later.
		must(t, prod.Stop())
		r := ran(t, s, "env", "rm", "prod", "--yes")
		if said := strings.Join(strings.Fields(r.Stdout+r.Stderr), " "); !strings.Contains(said, "SELECT pg_drop_replication_slot('"+slot+"')") {
			t.Errorf("env rm does not say how to drop the slot:\n%s%s", r.Stdout, r.Stderr)
		}
		if _, err := s.Client.Environment(ctx, "prod"); sandglass.CodeOf(err) != sandglass.CodeEnvironmentUnknown {
			t.Errorf("after env rm: %v", err)
		}
	})
}

// showsCode waits until the recorder gives a code, with a sentence and a remedy, and the command line shows it.
func showsCode(t *testing.T, s *systest.System, name string, codes ...sandglass.Code) {
	t.Helper()
	ctx := t.Context()
	var last *sandglass.Error
	must(t, s.Await(ctx, time.Minute, fmt.Sprintf("%s to show %v", name, codes), func() (bool, error) {
		e, err := s.Client.Environment(ctx, name)
		if err != nil || e.Recorder == nil || e.Recorder.LastError == nil {
			return false, err
		}
		last = e.Recorder.LastError
		return slices.Contains(codes, last.Code), last
	}))
	if last.Message == "" || last.Remedy == "" {
		t.Errorf("no sentence or no remedy: %+v", last)
	}
	if out := ran(t, s, "env", "show", name).Stdout; !strings.Contains(out, string(last.Code)) {
		t.Errorf("env show does not show %s:\n%s", last.Code, out)
	}
}

// tmpfs mounts a small file system; it is gone at the test's end.
func tmpfs(t *testing.T, dir, size string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size="+size); err != nil {
		t.Skipf("tmpfs can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// fill takes all but left bytes of a file system.
func fill(t *testing.T, dir string, left int64) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	must(t, err)
	for size := int64(0); ; { // others take of it at the same time
		var st unix.Statfs_t
		must(t, unix.Statfs(dir, &st))
		more := int64(st.Bavail)*st.Bsize - left
		if more <= 0 {
			break
		}
		if err := unix.Fallocate(int(f.Fd()), 0, size, more); err == nil {
			size += more
		} else if err != unix.ENOSPC && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	must(t, f.Close())
	return func() { must(t, os.Remove(path)) }
}

// A full disk stops what needs it with its code, loses nothing, and once there is room it goes on by itself.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	binary, err := build()
	must(t, err)
	s := systest.New(t, binary)
	// The repository's folder and that of the volumes are small file systems.
	side := filepath.Join(s.Dir, "small")
	tmpfs(t, side, "200m")
	must(t, moveAside(s.Repository(), filepath.Join(side, "repository")))
	must(t, s.Serve(ctx))
	volumes := filepath.Join(s.State(), "volumes")
	tmpfs(t, volumes, "700m")
	must(t, os.Chmod(volumes, 0o711))
	must(t, s.Record(ctx, "prod", prod, nil))
	prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who")
	_, err = s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	streaming(t, s, "prod")
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	do(t, s, "uat", "postgres", "UPDATE identity SET who = 'the sandbox'")
	untouched := func(t *testing.T) {
		t.Helper()
		if got, err := s.Query(ctx, "uat", "postgres", whoAmI); err != nil || got != "the sandbox" {
			t.Errorf("uat shows %q %v", got, err)
		}
		if n := len(pgtest.Postmasters(s.Dir)); n != 2 {
			t.Errorf("%d servers run, want the metadata's and uat's", n)
		}
		if got := metadata(t, s, "SELECT count(*) FROM sandglass.volume WHERE state = 'staging'"); got != "0" {
			t.Errorf("%s volumes are staging", got)
		}
	}

	t.Run("of the repository", func(t *testing.T) {
		free := fill(t, side, 256<<10)
		// Random text: it does not compress.
		prod.Exec(t, "postgres", "CREATE TABLE noise AS SELECT md5(random()::text) || md5(random()::text) AS x FROM generate_series(1, 100000)")
		showsCode(t, s, "prod", sandglass.CodeRepositoryFull)
		if got := prod.Query(t, "postgres", "SELECT count(*) FROM noise"); got != "100000" {
			t.Errorf("production waited for us: %s", got)
		}
		untouched(t)
		free()
		streaming(t, s, "prod")
		w, err := s.Client.Window(ctx, "prod")
		must(t, err)
		if len(w.Gaps) > 0 || len(w.Incarnations) != 1 {
			t.Errorf("after that the window has gaps %+v and %d incarnations", w.Gaps, len(w.Incarnations))
		}
	})
	t.Run("of the volumes, seen by preflight", func(t *testing.T) {
		free := fill(t, volumes, 20<<20)
		defer free()
		refused(t, s, 3, "preflight.disk_space", "restore", "uat", "--yes", "--latest")
		untouched(t)
	})
	t.Run("of the volumes, in the midst of a restore", func(t *testing.T) {
		op, err := s.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
		must(t, err)
		must(t, s.Await(ctx, 30*time.Second, "the volume to be begun", func() (bool, error) {
			entries, err := os.ReadDir(volumes)
			return len(entries) >= 2, err
		}))
		free := fill(t, volumes, 1<<20)
		op, err = s.Finish(ctx, op.ID)
		free()
		must(t, err)
		if op.State != sandglass.Failed || op.Error == nil || op.Error.Code != sandglass.CodeDiskFull || op.Error.Message == "" || op.Error.Remedy == "" {
			t.Errorf("the restore ended as %s: %v", op.State, op.Error)
		}
		untouched(t)
		_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
		must(t, err)
		if got, err := s.Query(ctx, "uat", "postgres", "SELECT count(*) FROM noise"); err != nil || got != "100000" {
			t.Errorf("restored after there was room: %q %v", got, err)
		}
	})
}

// moveAside moves a folder and leaves a link in its place.
func moveAside(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	if err := os.RemoveAll(from); err != nil {
		return err
	}
	return os.Symlink(to, from)
}

// A key that is another's, or none, is told from one that is missing.
func TestWrongKeys(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	must(t, s.Stop())
	key := filepath.Join(s.State(), "key.txt")
	right, err := os.ReadFile(key)
	must(t, err)
	binary, err := build()
	must(t, err)
	other := systest.New(t, binary)
	theirs, err := os.ReadFile(filepath.Join(other.State(), "key.txt"))
	must(t, err)
	for name, content := range map[string][]byte{"another installation's": theirs, "no key at all": []byte("once upon a time\n"), "cut short": right[:len(right)-20]} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(key, content, 0o600))
			refused(t, s, sandglass.ExitDamaged, sandglass.CodeKeyWrong, "serve")
		})
	}
	must(t, os.WriteFile(key, right, 0o600))
	must(t, s.Serve(t.Context()))
}
