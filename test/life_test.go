package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
)

// The life of a sandbox after its restores: the ways back, its kept states, a reboot, its stop.
func TestLifeOfASandbox(t *testing.T) {
	t.Parallel()
	c := newCrashSite(t)
	ctx := t.Context()
	restore := sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}}
	undo := sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"}
	streaming(t, c.System, "prod")

	t.Run("an undo can be undone, again and again", func(t *testing.T) {
		succeeds(t, c.System, restore)
		c.is(t, c.fromProd)
		for _, want := range []string{c.own, c.fromProd, c.own, c.fromProd} {
			op := succeeds(t, c.System, undo)
			if took := op.Ended.Sub(op.Began); took > 10*time.Second {
				t.Errorf("an undo took %s", took)
			}
			c.is(t, want)
		}
		if volumes := volumesOf(t, c); volumes[sandglass.VolumeKept] != 1 {
			t.Errorf("volumes after four undos: %v, want one kept", volumes)
		}
	})
	t.Run("what was written between is not lost", func(t *testing.T) {
		do(t, c.System, "uat", "postgres", "CREATE TABLE written AS SELECT 1")
		succeeds(t, c.System, undo)
		succeeds(t, c.System, undo)
		if got, err := c.Query(ctx, "uat", "postgres", "SELECT to_regclass('written')"); err != nil || got != "written" {
			t.Errorf("the table made after the restore: %q %v", got, err)
		}
	})
	t.Run("a kept state can be dropped, the current one can't", func(t *testing.T) { dropsVolumes(t, c) })
	t.Run("a kept state goes when its time is over", func(t *testing.T) { keptStateExpires(t, c, restore) })
	t.Run("an older kept state can be gone back to", func(t *testing.T) { olderState(t, c, restore) })
	t.Run("everything comes back after a reboot", func(t *testing.T) { reboots(t, c) })
	t.Run("a stopped sandbox stays stopped, also after a reboot", func(t *testing.T) { staysStopped(t, c) })
}

func volumesOf(t *testing.T, c *crashSite) map[sandglass.VolumeState]int {
	t.Helper()
	all, err := c.Client.Volumes(t.Context(), "uat")
	must(t, err)
	count := map[sandglass.VolumeState]int{}
	for _, v := range all {
		count[v.State]++
	}
	return count
}

func dropsVolumes(t *testing.T, c *crashSite) {
	ctx := t.Context()
	all, err := c.Client.Volumes(ctx, "uat")
	must(t, err)
	listed := ran(t, c.System, "volume", "ls").Stdout
	for _, v := range all {
		if v.State != sandglass.VolumeGone && !strings.Contains(listed, v.ID) {
			t.Errorf("volume ls does not show %s, which is %s:\n%s", v.ID, v.State, listed)
		}
		if v.State == sandglass.VolumeCurrent {
			refused(t, c.System, 8, sandglass.CodeVolumeInUse, "volume", "drop", v.ID, "--yes")
		}
	}
	c.is(t, c.fromProd)
	for _, v := range all {
		if v.State != sandglass.VolumeKept {
			continue
		}
		if v.Bytes <= 0 || v.KeptSince.IsZero() || v.KeptUntil.Before(v.KeptSince.Add(24*time.Hour)) {
			t.Errorf("the kept volume: %+v", v)
		}
		ran(t, c.System, "volume", "drop", v.ID, "--yes")
		if _, err := os.Stat(v.Path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", v.Path, err)
		}
	}
	c.is(t, c.fromProd)
	refused(t, c.System, 3, sandglass.CodeNothingToUndo, "undo", "uat", "--yes")
}

// declare changes the declaration of uat.
func declare(t *testing.T, c *crashSite, edit func(*sandglass.Environment)) {
	t.Helper()
	e, err := c.Client.Environment(t.Context(), "uat")
	must(t, err)
	edit(&e.Environment)
	_, err = c.Client.Apply(t.Context(), e.Environment)
	must(t, err)
}

func keptStateExpires(t *testing.T, c *crashSite, restore sandglass.Request) {
	declare(t, c, func(e *sandglass.Environment) { e.Server.Keep = sandglass.Duration(time.Second) })
	defer declare(t, c, func(e *sandglass.Environment) { e.Server.Keep = sandglass.Duration(time.Hour) })
	succeeds(t, c.System, restore)
	// Its row goes first, its folder after that.
	must(t, c.Await(t.Context(), 30*time.Second, "the kept state and its folder to go", func() (bool, error) {
		folders, err := os.ReadDir(c.State() + "/volumes")
		return volumesOf(t, c)[sandglass.VolumeKept] == 0 && len(folders) == 1, err
	}))
	c.is(t, c.fromProd)
	refused(t, c.System, 3, sandglass.CodeNothingToUndo, "undo", "uat", "--yes")
}

// olderState restores twice and goes back over both.
func olderState(t *testing.T, c *crashSite, restore sandglass.Request) {
	do(t, c.System, "uat", "postgres", "UPDATE identity SET who = 'the oldest'")
	succeeds(t, c.System, restore)
	do(t, c.System, "uat", "postgres", "UPDATE identity SET who = 'the middle'")
	succeeds(t, c.System, restore)
	all, err := c.Client.Volumes(t.Context(), "uat")
	must(t, err)
	kept := slices.DeleteFunc(all, func(v sandglass.Volume) bool { return v.State != sandglass.VolumeKept })
	slices.SortFunc(kept, func(a, b sandglass.Volume) int { return a.KeptSince.Compare(b.KeptSince) })
	if len(kept) != 2 {
		t.Fatalf("%d states are kept, want 2", len(kept))
	}
	succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat", Volume: kept[0].ID})
	c.is(t, "the oldest")
	succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat", Volume: kept[1].ID})
	c.is(t, "the middle")
}

// powerOff ends `serve` and every server of the system at once, as the loss of power does.
func powerOff(t *testing.T, c *crashSite) {
	t.Helper()
	all := pgtest.ProcessesOf(c.Dir)
	for range 2 { // what was just being started as well
		for _, p := range all {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				must(t, err)
			}
		}
		must(t, c.Kill())
		all = pgtest.ProcessesOf(c.Dir)
	}
	must(t, wait(t.Context(), 20*time.Second, "all processes to be gone", func() bool { return len(pgtest.ProcessesOf(c.Dir)) == 0 }))
}

func wait(ctx context.Context, patience time.Duration, what string, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func reboots(t *testing.T, c *crashSite) {
	ctx := t.Context()
	do(t, c.System, "uat", "postgres", "CREATE TABLE committed AS SELECT 42 AS n")
	streaming(t, c.System, "prod")
	operations, err := c.Client.Operations(ctx, sandglass.OperationQuery{Limit: 100})
	must(t, err)
	powerOff(t, c)
	c.prod.Exec(t, "postgres", "CREATE TABLE while_away AS SELECT 1")
	must(t, c.Serve(ctx))
	c.is(t, "the middle")
	if got, err := c.Query(ctx, "uat", "postgres", "SELECT n FROM committed"); err != nil || got != "42" {
		t.Errorf("what was committed before: %q %v", got, err)
	}
	again, err := c.Client.Operations(ctx, sandglass.OperationQuery{Limit: 100})
	must(t, err)
	if len(again) != len(operations) {
		t.Errorf("the history has %d operations, before %d", len(again), len(operations))
	}
	streaming(t, c.System, "prod")
	w, err := c.Client.Window(ctx, "prod")
	must(t, err)
	if len(w.Gaps) != 0 || len(w.Incarnations) != 1 {
		t.Errorf("the window has gaps %+v and %d incarnations", w.Gaps, len(w.Incarnations))
	}
	_, err = c.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	if got, err := c.Query(ctx, "uat", "postgres", "SELECT to_regclass('while_away')"); err != nil || got != "while_away" {
		t.Errorf("what production committed meanwhile: %q %v", got, err)
	}
}

func staysStopped(t *testing.T, c *crashSite) {
	ctx := t.Context()
	state := func() sandglass.SandboxState {
		e, err := c.Client.Environment(ctx, "uat")
		must(t, err)
		return e.State
	}
	ran(t, c.System, "env", "stop", "uat")
	if s := state(); s != sandglass.SandboxStopped {
		t.Errorf("after env stop uat is %s", s)
	}
	powerOff(t, c)
	must(t, c.Serve(ctx))
	time.Sleep(6 * time.Second) // the supervisor looks every five seconds
	if s := state(); s != sandglass.SandboxStopped {
		t.Errorf("after a reboot uat is %s", s)
	}
	if n := len(pgtest.Postmasters(c.Dir)); n != 1 {
		t.Errorf("%d servers run, want the metadata's alone", n)
	}
	ran(t, c.System, "env", "start", "uat")
	if s := state(); s != sandglass.SandboxRunning {
		t.Errorf("after env start uat is %s", s)
	}
	c.is(t, c.fromProd)
	// A server that dies is started again.
	for _, pid := range pgtest.Postmasters(c.State() + "/volumes") {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	must(t, c.Await(ctx, 30*time.Second, "uat to be down", func() (bool, error) { return state() == sandglass.SandboxDown, nil }))
	must(t, c.Await(ctx, 30*time.Second, "uat to be back", func() (bool, error) { return state() == sandglass.SandboxRunning, nil }))
	c.is(t, c.fromProd)
}

// The undo of a first restore leaves the sandbox empty, and its undo brings the restored state back.
// With release: manual only the administrator gets in until the release.
func TestFirstRestoreAndRelease(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE TABLE mark AS SELECT 1 AS n")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	port, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	state := func() sandglass.SandboxState {
		e, err := s.Client.Environment(ctx, "uat")
		must(t, err)
		return e.State
	}

	t.Run("undo of a first restore", func(t *testing.T) {
		latest := sandglass.Moment{Kind: sandglass.AtLatest}
		_, err := s.Restore(ctx, "uat", latest)
		must(t, err)
		for range 2 {
			_, err = s.Undo(ctx, "uat")
			must(t, err)
			if got := state(); got != sandglass.SandboxEmpty {
				t.Errorf("after the undo uat is %s", got)
			}
			if n := len(pgtest.Postmasters(s.Dir)); n != 1 {
				t.Errorf("after the undo %d servers run, want the metadata's alone", n)
			}
			refused(t, s, 3, sandglass.CodeEnvironmentEmpty, "env", "start", "uat")
			_, err = s.Undo(ctx, "uat")
			must(t, err)
			if got, err := s.Query(ctx, "uat", "postgres", "SELECT n FROM mark"); err != nil || got != "1" {
				t.Errorf("after the undo of the undo: %q %v", got, err)
			}
		}
	})
	t.Run("release", func(t *testing.T) {
		do(t, s, "uat", "postgres", "CREATE ROLE boss LOGIN PASSWORD 'b'", "CREATE ROLE clerk LOGIN PASSWORD 'c'")
		e, err := s.Client.Environment(ctx, "uat")
		must(t, err)
		e.Server.Release, e.Server.Administrator = "manual", "boss"
		_, err = s.Client.Apply(ctx, e.Environment)
		must(t, err)
		_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
		must(t, err)
		held := func(when string) {
			t.Helper()
			if got := state(); got != sandglass.SandboxHeld {
				t.Errorf("%s uat is %s", when, got)
			}
			if got := login(ctx, port, "boss", "b"); got != "" {
				t.Errorf("%s the administrator is refused: %s", when, got)
			}
			if got := login(ctx, port, "clerk", "c"); got != "28000" {
				t.Errorf("%s the clerk: %q, want a refusal by pg_hba.conf", when, got)
			}
		}
		held("after the restore")
		must(t, s.Kill())
		must(t, s.Serve(ctx))
		held("after a restart of serve")
		for _, pid := range pgtest.Postmasters(s.State() + "/volumes") {
			must(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		must(t, s.Await(ctx, 30*time.Second, "uat to be down", func() (bool, error) { return state() != sandglass.SandboxHeld, nil }))
		must(t, s.Await(ctx, 30*time.Second, "uat to answer", func() (bool, error) { return login(ctx, port, "boss", "b") == "", nil }))
		held("after a crash of the server")

		ran(t, s, "release", "uat")
		if got := state(); got != sandglass.SandboxRunning {
			t.Errorf("after the release uat is %s", got)
		}
		for role, password := range map[string]string{"boss": "b", "clerk": "c"} {
			if got := login(ctx, port, role, password); got != "" {
				t.Errorf("after the release %s is refused: %s", role, got)
			}
		}
		// An undo goes back to a state that was open.
		_, err = s.Undo(ctx, "uat")
		must(t, err)
		if got := login(ctx, port, "clerk", "c"); got != "" {
			t.Errorf("after the undo the clerk is refused: %s", got)
		}
	})
}
