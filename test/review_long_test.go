//go:build long

package test

// This file is what a recorded sandbox's history and a changed declaration go through, at length.

import (
	"fmt"
	"testing"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

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
