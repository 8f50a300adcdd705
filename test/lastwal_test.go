package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/operation"
	"sandglass/internal/systest"
)

// recordedSandbox is a sandbox with a life and a recorded history of its own.
func recordedSandbox(t *testing.T, s *systest.System) {
	t.Helper()
	newSandbox(t, s, "uat", func(e *sandglass.Environment) {
		e.Recording = &sandglass.Recording{FastCheckpoint: true, MaxRate: -1}
		e.Server.Source = "uat"
	})
	_, err := s.Client.StartRecording(t.Context(), "uat", nil)
	must(t, err)
	streaming(t, s, "uat")
}

// disconnect keeps the recorder of uat from connecting again: its spool can't be opened. mend lets it.
func disconnect(t *testing.T, s *systest.System) (mend func()) {
	t.Helper()
	spool := filepath.Join(s.State(), "recorder", "uat", "spool")
	must(t, os.RemoveAll(spool))
	must(t, os.WriteFile(spool, nil, 0o600))
	do(t, s, "uat", "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
	must(t, s.Await(t.Context(), 30*time.Second, "the recorder to be gone", func() (bool, error) {
		n, err := s.Query(t.Context(), "uat", "postgres", "SELECT count(*) FROM pg_stat_replication")
		return n == "0", err
	}))
	return func() { must(t, os.Remove(spool)) }
}

// killedAt starts an operation on the recorded uat in a `serve` that kills itself at a point, and gives its ID once it has.
func killedAt(t *testing.T, s *systest.System, point string, r sandglass.Request) (operation string) {
	t.Helper()
	must(t, s.Stop())
	must(t, s.Serve(t.Context(), "SANDGLASS_CRASH="+point))
	streaming(t, s, "uat")
	op, err := s.Client.Start(t.Context(), r)
	must(t, err)
	select {
	case <-s.Exited():
	case <-time.After(2 * time.Minute):
		t.Fatalf("serve was not killed at %s", point)
	}
	must(t, s.Kill())
	return op.ID
}

// The WAL that a sandbox wrote while its recorder was away is in the repository once it has been put aside, or its
// volume is not let go of.
func TestLastWALOfASandbox(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSystem(t)
	recordedSandbox(t, s)
	before, err := s.Client.Window(ctx, "uat")
	must(t, err)
	latest := sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest}

	mend := disconnect(t, s)
	text, err := s.Query(ctx, "uat", "postgres", "INSERT INTO identity VALUES ('late') RETURNING pg_current_xact_id()")
	must(t, err)
	var late uint64
	fmt.Sscan(text, &late)
	succeeds(t, s, latest) // of what is held: without the late row
	mend()
	r, err := s.Client.Resolve(ctx, "uat", sandglass.Moment{Kind: sandglass.AtXID, XID: late})
	must(t, err)
	if r.Incarnation != before.Incarnations[0].ID {
		t.Errorf("the late transaction is in incarnation %s, want %s", r.Incarnation, before.Incarnations[0].ID)
	}
	streaming(t, s, "uat")

	mend = disconnect(t, s)
	file, err := s.Query(ctx, "uat", "postgres", "SELECT pg_walfile_name(pg_switch_wal())")
	must(t, err)
	do(t, s, "uat", "postgres", "INSERT INTO identity VALUES ('lost')", "SELECT pg_switch_wal()", "CHECKPOINT")
	e, err := s.Client.Environment(ctx, "uat")
	must(t, err)
	must(t, os.Remove(filepath.Join(e.Volume.Path, "data", "pg_wal", file)))
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	mend()
	streaming(t, s, "uat")
	refused := s.Run(ctx, "volume", "drop", e.Volume.ID, "--yes")
	if refused.Exit == 0 || !strings.Contains(refused.Stderr, string(operation.CodeNotDrained)) || !strings.Contains(refused.Stderr, "--force") {
		t.Errorf("drop of a volume with WAL of its own: exit %d\n%s%s", refused.Exit, refused.Stdout, refused.Stderr)
	}
	// With its time over it goes all the same: what it lacks can't be brought in later.
	metadata(t, s, fmt.Sprintf("UPDATE sandglass.volume SET kept_until = now() - interval '1 s' WHERE id = '%s' RETURNING id", e.Volume.ID))
	must(t, s.Await(ctx, time.Minute, "the expired volume to go", func() (bool, error) {
		_, err := os.Stat(e.Volume.Path)
		return errors.Is(err, fs.ErrNotExist), nil
	}))
	all, err := openRepository(t, s).Incarnations(ctx, "uat")
	must(t, err)
	i := slices.IndexFunc(all, func(i sandglass.Incarnation) bool { return i.ID == e.Recorder.Incarnation })
	if i < 0 || all[i].Ended.IsZero() || !all[i].Ended.Equal(all[i].Away[len(all[i].Away)-1].From) {
		t.Errorf("the dropped volume's incarnation %s: %+v", e.Recorder.Incarnation, all)
	}
	op := succeeds(t, s, latest)
	volumes, err := s.Client.Volumes(ctx, "uat")
	must(t, err)
	kept := slices.IndexFunc(volumes, func(v sandglass.Volume) bool { return v.State == sandglass.VolumeKept })
	if kept < 0 {
		t.Fatalf("%s kept nothing: %+v", op.ID, volumes)
	}
	ran(t, s, "volume", "drop", volumes[kept].ID, "--yes", "--force")
}

// A cutover uses what was rehearsed, whatever is applied meanwhile; and whether a state is held for its administrator goes
// with the volume, there and back.
func TestDeclarationAtTheCutover(t *testing.T) {
	inLong(t)
	t.Parallel()
	ctx := t.Context()
	s := newSystem(t)
	port := newSandbox(t, s, "uat", func(e *sandglass.Environment) {
		e.Recording = &sandglass.Recording{FastCheckpoint: true, MaxRate: -1}
		e.Server.Source = "uat"
	})
	do(t, s, "uat", "postgres", "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss'", "CREATE ROLE app LOGIN PASSWORD 'app'")
	redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.Release, e.Server.Administrator = "manual", "boss" })
	_, err := s.Client.StartRecording(ctx, "uat", nil)
	must(t, err)
	streaming(t, s, "uat")
	id := killedAt(t, s, "restore/cut over:before", sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
	metadata(t, s, `UPDATE sandglass.environment SET declaration = jsonb_set(jsonb_set(declaration, '{server,health}', '{"postgres": ["SELECT 1/0"]}'),
		'{server,settings}', '{"shared_buffers": "900TB"}') WHERE name = 'uat' RETURNING name`)
	must(t, s.Serve(ctx))
	op, err := s.Finish(ctx, id)
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("the restore ended as %s: %v", op.State, op.Error)
	}
	redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.Health, e.Server.Settings = nil, nil })

	held := func(want bool) {
		t.Helper()
		e, err := s.Client.Environment(ctx, "uat")
		must(t, err)
		if got := e.State == sandglass.SandboxHeld; got != want {
			t.Errorf("uat is %s; held should be %v", e.State, want)
		}
		if got := login(ctx, port, "app", "app") != ""; got != want {
			t.Errorf("app is kept out: %v, want %v", got, want)
		}
		if got := login(ctx, port, "boss", "boss"); got != "" {
			t.Errorf("its administrator does not get in: %s", got)
		}
	}
	held(true)
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	held(false)
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	held(true)
	succeeds(t, s, sandglass.Request{Kind: sandglass.KindRelease, Environment: "uat"})
	held(false)
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	held(false) // it has been released
}
