//go:build long

package test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/operation"
)

// An old server that does not come to its stop is not waited for: it is called back, with all it had.
func TestOldServerHangs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSystem(t)
	recordedSandbox(t, s)
	checkpointer, err := s.Query(ctx, "uat", "postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
	must(t, err)
	var pid int
	fmt.Sscan(checkpointer, &pid)
	conn, err := s.Connect(ctx, "uat", "postgres")
	must(t, err)
	defer conn.Close(ctx)
	id := killedAt(t, s, "restore/cut over:before", sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
	_, err = conn.Exec(ctx, "UPDATE identity SET who = 'written last'")
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP)) // the shutdown checkpoint never comes
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	began := time.Now()
	must(t, s.Serve(ctx))
	op, err := s.Finish(ctx, id)
	must(t, err)
	if op.State != sandglass.Failed || op.Error.Code != operation.CodeCloseLate {
		t.Errorf("the restore ended as %s: %v", op.State, op.Error)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("that took %s", took)
	}
	shows(t, s, "uat", "written last")
	streaming(t, s, "uat")
	w, err := s.Client.Window(ctx, "uat")
	must(t, err)
	if len(w.Gaps) != 0 || len(w.Incarnations) != 1 {
		t.Errorf("the window: gaps %+v, incarnations %+v", w.Gaps, w.Incarnations)
	}
	succeeds(t, s, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
	shows(t, s, "uat", "written last")
}

// A SIGKILL on either side of a cutover leaves the history of a recorded sandbox whole: one state is shown at each time, and
// the one that is shown is recorded.
func TestHistoryKilledAtTheCutover(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSystem(t)
	recordedSandbox(t, s)
	recorded := func() sandglass.IncarnationID {
		t.Helper()
		streaming(t, s, "uat")
		e, err := s.Client.Environment(ctx, "uat")
		must(t, err)
		return e.Recorder.Incarnation
	}
	first := recorded()
	restore := sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest}
	undo := sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"}
	for _, c := range []struct {
		request sandglass.Request
		point   string
		back    bool // to the first state
	}{
		{restore, "restore/cut over:before", false}, {undo, "undo/cut over:before", true}, {undo, "undo/cut over:after", false},
		{undo, "undo/finish:before", true}, {restore, "restore/cut over:after", false}, {undo, "undo/rehearse:after", true},
	} {
		at := time.Now()
		was := recorded()
		id := killedAt(t, s, c.point, c.request)
		must(t, s.Serve(ctx))
		op, err := s.Finish(ctx, id)
		must(t, err)
		if op.State != sandglass.Succeeded {
			t.Fatalf("%s: %s %v", c.point, op.State, op.Error)
		}
		if now := recorded(); (now == first) != c.back {
			t.Errorf("%s: %s is recorded; %s is the first", c.point, now, first)
		}
		w, err := s.Client.Window(ctx, "uat")
		must(t, err)
		current := 0
		for _, i := range w.Incarnations {
			if i.Current() {
				current++
			}
		}
		if len(w.Gaps) != 0 || current != 1 {
			t.Errorf("%s: gaps %+v, %d of the incarnations are shown: %+v", c.point, w.Gaps, current, w.Incarnations)
		}
		if r, err := s.Client.Resolve(ctx, "uat", sandglass.Moment{Kind: sandglass.AtTime, Time: at}); err != nil || r.Incarnation != was {
			t.Errorf("%s: the time before it is of %s, %v; want %s", c.point, r.Incarnation, err, was)
		}
	}
	ran(t, s, "repo", "verify")
}
