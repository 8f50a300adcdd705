package control

import (
	"errors"
	"log/slog"
	"testing"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/pgtest"
)

// A prune waits for copies in the making, which read what is about to go; for nothing else.
func TestNoPruneWhileACopyIsMade(t *testing.T) {
	ctx := t.Context()
	d, err := db.Open(ctx, pgtest.New(t, pgtest.Options{}).ConnString("postgres"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if _, err := d.ApplyEnvironment(ctx, sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Server: &sandglass.Server{Source: "prod"}}); err != nil {
		t.Fatal(err)
	}
	c := repository{&Control{db: d}}
	for kind, busy := range map[sandglass.OperationKind]bool{sandglass.KindRestore: true, sandglass.KindRefresh: true, sandglass.KindUndo: false} {
		o := db.Operation{Host: "h", Exclusive: true, Request: sandglass.Request{Kind: kind, Environment: "uat"},
			Operation: sandglass.Operation{ID: string(kind), Kind: kind, Environment: "uat", State: sandglass.Running}}
		if err := d.Do(ctx, func(tx *db.Tx) error { return tx.InsertOperation(ctx, o) }); err != nil {
			t.Fatal(err)
		}
		if err := c.nothingRestored(ctx); (sandglass.CodeOf(err) == sandglass.CodeEnvironmentBusy) != busy {
			t.Errorf("while a %s runs: %v", kind, err)
		}
		if busy {
			if _, err := c.ExecutePrune(ctx, "no such plan", "me", nil); sandglass.CodeOf(err) != sandglass.CodeEnvironmentBusy {
				t.Errorf("a prune while a %s runs: %v", kind, err)
			}
		}
		if err := d.Do(ctx, func(tx *db.Tx) error {
			o, err := tx.LockOperation(ctx, o.ID)
			o.State = sandglass.Succeeded
			return errors.Join(err, tx.UpdateOperation(ctx, o))
		}); err != nil {
			t.Fatal(err)
		}
		if err := c.nothingRestored(ctx); err != nil {
			t.Errorf("after the %s: %v", kind, err)
		}
	}
}

func TestOneVerifyAtATime(t *testing.T) {
	c := &Control{}
	c.verifying.Lock() // as one that runs
	if _, err := (repository{c}).Verify(t.Context(), false, nil); sandglass.CodeOf(err) != sandglass.CodeEnvironmentBusy {
		t.Errorf("a second verify: %v", err)
	}
}
