package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

var latest = &sandglass.Moment{Kind: sandglass.AtLatest}

// newSandbox is a sandbox with a cluster of its own, whose identity is "the sandbox".
func newSandbox(t *testing.T, s *systest.System, name string, edit func(*sandglass.Environment)) (port int) {
	t.Helper()
	ctx := t.Context()
	port, err := s.Sandbox(ctx, name, "prod", edit)
	must(t, err)
	op, err := s.Operate(ctx, sandglass.Request{Kind: sandglass.KindStart, Environment: name, New: true})
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("start of %s: %s %v", name, op.State, op.Error)
	}
	identify(t, s, name, "the sandbox")
	return port
}

func identify(t *testing.T, s *systest.System, name, who string) {
	t.Helper()
	conn, err := s.Connect(t.Context(), name, "postgres")
	must(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "CREATE TABLE IF NOT EXISTS identity (who text); TRUNCATE identity; INSERT INTO identity VALUES ('"+who+"')")
	must(t, err)
}

func shows(t *testing.T, s *systest.System, name, want string) {
	t.Helper()
	var got string
	must(t, s.Await(t.Context(), 30*time.Second, name+" to answer", func() (bool, error) {
		var err error
		got, err = s.Query(t.Context(), name, "postgres", whoAmI)
		return err == nil, err
	}))
	if got != want {
		t.Errorf("%s shows %q, want %q", name, got, want)
	}
}

// newSite is a recorded production whose identity is "production".
func newSite(t *testing.T) *systest.System {
	t.Helper()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who")
	s := newSystem(t)
	must(t, s.Record(t.Context(), "prod", prod, nil))
	return s
}

// redeclare applies a changed declaration.
func redeclare(t *testing.T, s *systest.System, name string, edit func(*sandglass.Environment)) {
	t.Helper()
	e, err := s.Client.Environment(t.Context(), name)
	must(t, err)
	edit(&e.Environment)
	_, err = s.Client.Apply(t.Context(), e.Environment)
	must(t, err)
}

// fails expects an operation to fail, and gives its error's code.
func fails(t *testing.T, s *systest.System, r sandglass.Request) sandglass.Code {
	t.Helper()
	op, err := s.Operate(t.Context(), r)
	must(t, err)
	if op.State != sandglass.Failed || op.Error == nil {
		t.Fatalf("%s of %s: %s, want failed", r.Kind, r.Environment, op.State)
	}
	return op.Error.Code
}

// A recorded sandbox goes on with its history after a restore that failed, and after an undo with the one it had
// before: one incarnation at most is shown, also after a SIGKILL.
func TestHistoryAfterFailureAndUndo(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSite(t)
	newSandbox(t, s, "uat", func(e *sandglass.Environment) { e.Recording = &sandglass.Recording{FastCheckpoint: true, MaxRate: -1} })
	_, err := s.Client.StartRecording(ctx, "uat", nil)
	must(t, err)
	streaming(t, s, "uat")
	before, err := s.Client.Window(ctx, "uat")
	must(t, err)

	redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.Health = map[string][]string{"postgres": {"SELECT 1/0"}} })
	if code := fails(t, s, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest}); code != sandglass.CodeHealthFailed {
		t.Errorf("a restore whose health check fails: %s", code)
	}
	redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.Health = nil })
	streaming(t, s, "uat")
	after, err := s.Client.Window(ctx, "uat")
	must(t, err)
	if len(before.Incarnations) != 1 || len(after.Incarnations) != 1 || after.Incarnations[0].ID != before.Incarnations[0].ID {
		t.Errorf("a failed restore changed the history: %+v, then %+v", before.Incarnations, after.Incarnations)
	}

	_, err = s.Restore(ctx, "uat", *latest)
	must(t, err)
	identify(t, s, "uat", "the restored sandbox")
	streaming(t, s, "uat")
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	shows(t, s, "uat", "the sandbox")
	streaming(t, s, "uat")
	must(t, s.Kill())
	must(t, s.Serve(ctx))
	streaming(t, s, "uat")
	all, err := openRepository(t, s).Incarnations(ctx, "uat")
	must(t, err)
	for i, inc := range all {
		if inc.Current() != (inc.ID == before.Incarnations[0].ID) {
			t.Errorf("incarnation %d of %d: %+v", i+1, len(all), inc)
		}
	}
	identify(t, s, "uat", "the undone sandbox")
	streaming(t, s, "uat")
	op, err := s.Operate(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Source: "uat", Moment: latest})
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("restore from its own history: %s %v", op.State, op.Error)
	}
	shows(t, s, "uat", "the undone sandbox")
}

// A changed declaration takes effect at the next start, and one with which nothing starts harms nobody before.
func TestDeclarationChangesOfARunningSandbox(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSite(t)
	old := newSandbox(t, s, "uat", nil)
	port, err := pgtest.FreePort()
	must(t, err)
	redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.Port = port })
	reached := func(want int) {
		t.Helper()
		c, err := s.Client.Connect(ctx, "uat", "")
		must(t, err)
		e, err := s.Client.Environment(ctx, "uat")
		must(t, err)
		if c.Port != want || e.Address != fmt.Sprintf("127.0.0.1:%d", want) {
			t.Errorf("reached at port %d, address %s, want %d", c.Port, e.Address, want)
		}
	}
	reached(old)
	shows(t, s, "uat", "the sandbox")
	_, err = s.Restore(ctx, "uat", *latest)
	must(t, err)
	reached(port)
	shows(t, s, "uat", "production")

	next, err := pgtest.FreePort()
	must(t, err)
	redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.Port = next })
	for _, kind := range []sandglass.OperationKind{sandglass.KindStop, sandglass.KindStart} {
		op, err := s.Operate(ctx, sandglass.Request{Kind: kind, Environment: "uat"})
		must(t, err)
		if op.State != sandglass.Succeeded {
			t.Fatalf("%s: %s %v", kind, op.State, op.Error)
		}
	}
	reached(next)

	for what, spoil := range map[string]func(*sandglass.Environment){
		"a line of pg_hba.conf": func(e *sandglass.Environment) { e.Server.HBA = []string{"let everybody in"} },
		"a setting":             func(e *sandglass.Environment) { e.Server.Settings = map[string]string{"shared_buffers": "much"} },
	} {
		t.Log("spoilt: " + what)
		redeclare(t, s, "uat", spoil)
		for _, r := range []sandglass.Request{{Kind: sandglass.KindUndo, Environment: "uat"}, {Kind: sandglass.KindRestore, Environment: "uat", Moment: latest}} {
			fails(t, s, r)
			shows(t, s, "uat", "production")
		}
		redeclare(t, s, "uat", func(e *sandglass.Environment) { e.Server.HBA, e.Server.Settings = nil, nil })
	}
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	shows(t, s, "uat", "the sandbox")
}

// The undo of a first restore leaves the sandbox empty, also when `serve` is killed right after the swap; its
// own undo brings the copy back.
func TestUndoToEmptyKilled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSite(t)
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	_, err = s.Restore(ctx, "uat", *latest)
	must(t, err)
	must(t, s.Stop())
	must(t, s.Serve(ctx, "SANDGLASS_CRASH=undo/cut over:after"))
	op, err := s.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"})
	must(t, err)
	<-s.Exited()
	must(t, s.Kill())
	must(t, s.Serve(ctx))
	op, err = s.Finish(ctx, op.ID)
	must(t, err)
	e, err := s.Client.Environment(ctx, "uat")
	must(t, err)
	if op.State != sandglass.Succeeded || e.State != sandglass.SandboxEmpty {
		t.Fatalf("the undo %s (%v) and uat is %s", op.State, op.Error, e.State)
	}
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	shows(t, s, "uat", "production")
}

// With the metadata cluster lost, the repository still tells of every finished operation, and no volume goes.
func TestMetadataLost(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSite(t)
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	op, err := s.Restore(ctx, "uat", *latest)
	must(t, err)
	r := openRepository(t, s)
	must(t, s.Await(ctx, time.Minute, "the record", func() (bool, error) {
		log, err := r.OperationLog(ctx, op.ID)
		if err == nil {
			log.Close()
		}
		return err == nil, err
	}))
	must(t, s.Stop())
	for _, lost := range []string{"meta", "ops"} {
		must(t, os.RemoveAll(filepath.Join(s.State(), lost)))
	}
	must(t, s.Serve(ctx))
	must(t, s.Await(ctx, time.Minute, "the old operation", func() (bool, error) {
		_, err := s.Client.Operation(ctx, op.ID)
		return err == nil, err
	}))
	again, err := s.Client.Operation(ctx, op.ID)
	must(t, err)
	if again.State != op.State || len(again.Steps) != len(op.Steps) || !again.Ended.Equal(op.Ended) || string(again.Result) == "" {
		t.Errorf("it came back as %+v\nand was %+v", again, op)
	}
	if got := s.Run(ctx, "ops", "ls"); !strings.Contains(got.Stdout, op.ID) {
		t.Errorf("ops ls: %s%s", got.Stdout, got.Stderr)
	}
	zip := filepath.Join(s.Dir, "logs.zip")
	if got := s.Run(ctx, "ops", "logs", op.ID, "--output", zip); got.Exit != 0 {
		t.Errorf("ops logs: %s%s", got.Stdout, got.Stderr)
	}
	volumes, err := os.ReadDir(filepath.Join(s.State(), "volumes"))
	must(t, err)
	if len(volumes) != 1 {
		t.Errorf("%d volumes are left of 1", len(volumes))
	}
}
