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
	ctx := t.Context()
	s := newSystem(t)
	recordedSandbox(t, s)
	checkpointer, err := s.Query(ctx, "uat", "postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
	must(t, err)
	var pid int
	fmt.Sscan(checkpointer, &pid)
	must(t, s.Stop())
	must(t, s.Serve(ctx, "SANDGLASS_CRASH=restore/cut over:before"))
	streaming(t, s, "uat")
	conn, err := s.Connect(ctx, "uat", "postgres")
	must(t, err)
	defer conn.Close(ctx)
	op, err := s.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
	must(t, err)
	select {
	case <-s.Exited():
	case <-time.After(2 * time.Minute):
		t.Fatal("serve was not killed at the cutover")
	}
	must(t, s.Kill())
	_, err = conn.Exec(ctx, "UPDATE identity SET who = 'written last'")
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP)) // the shutdown checkpoint never comes
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	began := time.Now()
	must(t, s.Serve(ctx))
	op, err = s.Finish(ctx, op.ID)
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
