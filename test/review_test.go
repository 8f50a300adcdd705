package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
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

// The undo of a first restore leaves the sandbox empty, also when `serve` is killed right after the swap; its
// own undo brings the copy back.
func TestUndoToEmptyKilled(t *testing.T) {
	inLong(t)
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
