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

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// crashSite is a sandbox with a life of its own, a production to restore from, and what each should look like.
type crashSite struct {
	*systest.System
	prod          *pgtest.Cluster
	own, fromProd string // what the sandbox's table says in the two states
	slot          string
}

const whoAmI = "SELECT who FROM identity"

func newCrashSite(t *testing.T) *crashSite {
	t.Helper()
	ctx := t.Context()
	c := &crashSite{prod: production(t, nil), own: "the sandbox", fromProd: "production", slot: sandglass.SlotName("prod")}
	c.prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who", "CREATE ROLE app LOGIN PASSWORD 'production'")
	c.System = newSystem(t)
	must(t, c.Record(ctx, "prod", c.prod, nil))
	newSandbox(t, c.System, "uat", nil)
	return c
}

// is fails the test unless the sandbox shows the state, and nothing is left over of the way there.
func (c *crashSite) is(t *testing.T, want string) {
	t.Helper()
	ctx := t.Context()
	var got string
	must(t, c.Await(ctx, 30*time.Second, "uat to answer", func() (ok bool, err error) {
		got, err = c.Query(ctx, "uat", "postgres", whoAmI)
		return err == nil, err
	}))
	if got != want {
		t.Errorf("uat shows %q, want %q", got, want)
	}
	c.nothingLeft(t)
}

// nothingLeft checks that there is no orphan: of volumes, processes, mounts, slots.
func (c *crashSite) nothingLeft(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	known, err := c.Client.Volumes(ctx, "")
	must(t, err)
	var ids []string
	for _, v := range known {
		switch v.State {
		case sandglass.VolumeCurrent, sandglass.VolumeKept:
			ids = append(ids, v.ID)
		case sandglass.VolumeStaging:
			t.Errorf("volume %s is still staging", v.ID)
		}
	}
	entries, err := os.ReadDir(filepath.Join(c.State(), "volumes"))
	must(t, err)
	for _, e := range entries {
		if !slices.Contains(ids, e.Name()) {
			t.Errorf("the folder of volume %s is left over", e.Name())
		}
	}
	// One server is the metadata's, one is uat's.
	if servers := pgtest.Postmasters(c.Dir); len(servers) != 2 {
		t.Errorf("%d PostgreSQL servers run, want 2: %v", len(servers), pgtest.ProcessesOf(c.Dir))
	}
	for _, p := range pgtest.ProcessesOf(c.Dir) {
		if strings.Contains(strings.Join(p.Argv, " "), "seal-exec") {
			t.Errorf("a seal is left: %s", p)
		}
	}
	if mounts := pgtest.MountsOf(c.Dir); len(mounts) > 0 {
		t.Errorf("mounts are left: %v", mounts)
	}
	if got := c.prod.Query(t, "postgres", "SELECT string_agg(slot_name::text, ',') FROM pg_replication_slots"); got != c.slot {
		t.Errorf("production's slots are %q, want %q", got, c.slot)
	}
	if got := c.prod.Query(t, "postgres", "SELECT who FROM identity"); got != c.fromProd {
		t.Errorf("production is %q", got)
	}
}

// crash starts an operation on a `serve` that will kill itself at a point, starts another `serve`, and gives how the operation ended.
func (c *crashSite) crash(t *testing.T, r sandglass.Request, point string) sandglass.Operation {
	t.Helper()
	ctx := t.Context()
	must(t, c.Stop())
	must(t, c.Serve(ctx, "SANDGLASS_CRASH="+point))
	must(t, c.settle(ctx))
	op, err := c.Client.Start(ctx, r)
	must(t, err)
	select {
	case <-c.Exited():
	case <-time.After(2 * time.Minute):
		op, _ = c.Client.Operation(ctx, op.ID)
		t.Fatalf("serve was not killed at %s; the operation is %s", point, op.State)
	}
	must(t, c.Kill())
	must(t, c.Serve(ctx))
	op, err = c.Finish(ctx, op.ID)
	must(t, err)
	return op
}

// settle waits until the recorder streams again, so that latest can be restored.
func (c *crashSite) settle(ctx context.Context) error {
	return c.Await(ctx, 30*time.Second, "the recorder to stream", func() (bool, error) {
		e, err := c.Client.Environment(ctx, "prod")
		return err == nil && e.Recorder != nil && e.Recorder.State == sandglass.RecorderStreaming, err
	})
}

// matrix kills `serve` before and after each step of restore, refresh and undo. Each operation must
// end as it does without, and leave nothing behind. Steps are taken from a real run, so a new step is covered on the day it is written.
func matrix(t *testing.T, chosen func(kind sandglass.OperationKind, step, when string) bool) {
	c := newCrashSite(t)
	latest := &sandglass.Moment{Kind: sandglass.AtLatest}
	restore := sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest}
	undo := sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"}
	refresh := sandglass.Request{Kind: sandglass.KindRefresh, Environment: "uat"}

	for _, row := range []struct {
		r      sandglass.Request
		before string // the state the operation begins with and, undone, comes back to
		after  string
	}{
		{restore, c.own, c.fromProd},
		{undo, c.fromProd, c.own},
		{refresh, c.own, c.fromProd},
	} {
		c.bring(t, row.before, restore, undo)
		op, err := c.Operate(t.Context(), row.r)
		must(t, err)
		if op.State != sandglass.Succeeded {
			t.Fatalf("%s without a crash: %s %v", row.r.Kind, op.State, op.Error)
		}
		c.is(t, row.after)
		for _, step := range op.Steps {
			for _, when := range []string{"before", "after"} {
				if !chosen(row.r.Kind, step.Name, when) || step.State == sandglass.Skipped {
					continue
				}
				point := fmt.Sprintf("%s/%s:%s", row.r.Kind, step.Name, when)
				t.Run(point, func(t *testing.T) {
					c.bring(t, row.before, restore, undo)
					op := c.crash(t, row.r, point)
					if op.State != sandglass.Succeeded {
						t.Errorf("the operation ended as %s: %v", op.State, op.Error)
					}
					c.is(t, row.after)
				})
			}
		}
	}
}

// bring brings uat into a state, by the operation that leads there.
func (c *crashSite) bring(t *testing.T, want string, restore, undo sandglass.Request) {
	t.Helper()
	ctx := t.Context()
	must(t, c.settle(ctx))
	got, err := c.Query(ctx, "uat", "postgres", whoAmI)
	must(t, err)
	if got == want {
		return
	}
	r := restore
	if want == c.own {
		r = undo
	}
	op, err := c.Operate(ctx, r)
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("%s between two crashes: %s %v", r.Kind, op.State, op.Error)
	}
	// Kept states would fill the disk in so many rounds; only the newest is needed for the way back.
	volumes, err := c.Client.Volumes(ctx, "uat")
	must(t, err)
	slices.SortFunc(volumes, func(a, b sandglass.Volume) int { return b.KeptSince.Compare(a.KeptSince) })
	kept := 0
	for _, v := range volumes {
		if v.State == sandglass.VolumeKept {
			if kept++; kept > 1 {
				must(t, c.Client.DropVolume(ctx, v.ID, false))
			}
		}
	}
}
