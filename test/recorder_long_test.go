//go:build long

package test

import (
	"fmt"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
)

// Killing the recorder again and again under load loses no commit that was acknowledged, and production never waits for it.
func TestRecorderKilledUnderLoad(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	s := newSystem(t)
	ledger, err := pgtest.NewLedger(ctx, prod, "postgres")
	must(t, err)
	must(t, s.Record(ctx, "prod", prod, nil))
	_, err = s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)

	ledger.Run(ctx, 3, time.Millisecond)
	for range 20 {
		time.Sleep(time.Duration(200) * time.Millisecond) // of streaming under load
		must(t, s.Kill())
		must(t, s.Serve(ctx))
	}
	must(t, ledger.Stop())
	commits, err := ledger.Commits(ctx)
	must(t, err)
	// What production was told is durable must be so: its slot may be at the end of WAL only once we hold it.
	must(t, s.Await(ctx, time.Minute, "the repository to hold everything", func() (bool, error) {
		e, err := s.Client.Environment(ctx, "prod")
		if err != nil || e.Recorder == nil {
			return false, err
		}
		return e.Recorder.DurableLSN >= e.Recorder.ServerLSN && e.Recorder.ServerLSN > 0 && e.Recorder.State == sandglass.RecorderStreaming, nil
	}))
	w, err := s.Client.Window(ctx, "prod")
	must(t, err)
	if len(w.Gaps) > 0 {
		t.Errorf("the window has gaps: %+v", w.Gaps)
	}
	if len(w.Incarnations) != 1 {
		t.Errorf("there are %d incarnations, want 1", len(w.Incarnations))
	}
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtXID, XID: commits[len(commits)-1].XID})
	must(t, err)
	got, err := s.Query(ctx, "uat", "postgres", pgtest.LedgerChecksum)
	must(t, err)
	if want := prod.Query(t, "postgres", pgtest.LedgerChecksum); got != want {
		t.Errorf("restored: %s; production: %s", got, want)
	}
	if restart := prod.Query(t, "postgres", fmt.Sprintf("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '%s' AND active", sandglass.SlotName("prod"))); restart != "1" {
		t.Errorf("the slot is active %s times, want once", restart)
	}
}
