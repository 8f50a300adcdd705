package engine_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"sandglass"
	"sandglass/internal/engine"
)

// TestRestart: a step interrupted by the end of serve is continued by the next, asks Done
// first, and is no failure; the same for an undo.
func TestRestart(t *testing.T) {
	var j journal
	var done atomic.Bool
	var undos atomic.Int64
	steps := j.steps("a", "b", "c")
	steps[1].Done = func(context.Context, *engine.Run) (bool, error) { return done.Load(), nil }
	steps[1].Do = func(ctx context.Context, r *engine.Run) error {
		j.add("do b")
		done.Store(true)
		<-ctx.Done()
		return ctx.Err()
	}
	steps[1].Undo = func(ctx context.Context, r *engine.Run) error {
		if undos.Add(1) == 1 {
			j.add("undo b, interrupted")
			<-ctx.Done()
			return ctx.Err()
		}
		j.add("undo b")
		return nil
	}
	steps[2].Do = func(context.Context, *engine.Run) error { return errors.New("oops") }
	e := newEngine(t, open(t), engine.Config{UndoTries: 1}, engine.Workflow{Kind: "toy", Steps: steps})
	stop := run(t, e)
	o := start(t, e, "toy")
	await(t, e, o.ID, stepIs("b", sandglass.Running))
	stop()
	stop = run(t, e)
	await(t, e, o.ID, stepIs("b", sandglass.Undoing))
	stop()
	run(t, e)
	o = await(t, e, o.ID, finished)
	if got, want := show(o), "failed internal a=undone b=undone c=undone"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	j.want(t, "do a", "do b", "undo c", "undo b, interrupted", "undo b", "undo a")
	if o.Steps[1].Attempt != 4 {
		t.Errorf("b was begun %d times", o.Steps[1].Attempt)
	}
}

// TestTwoEnginesOfOneHost: the second does nothing until the first has gone.
func TestTwoEnginesOfOneHost(t *testing.T) {
	d := open(t)
	entered := make(chan string, 10)
	workflow := func(who string) engine.Workflow {
		return engine.Workflow{Kind: "toy", Steps: []engine.Step{{Name: "a", Do: func(ctx context.Context, _ *engine.Run) error {
			entered <- who
			if who == "second" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}}}
	}
	waits := newSignal("another process does this host's operations")
	first := newEngine(t, d, engine.Config{}, workflow("first"))
	stop := run(t, first)
	o := start(t, first, "toy")
	if who := <-entered; who != "first" {
		t.Fatalf("%s began", who)
	}
	second := newEngine(t, d, engine.Config{Log: waits.log()}, workflow("second"))
	run(t, second)
	<-waits.seen
	select {
	case who := <-entered:
		t.Fatalf("%s began beside the first", who)
	default:
	}
	stop()
	if o = await(t, second, o.ID, finished); o.State != sandglass.Succeeded || <-entered != "second" {
		t.Errorf("operation is %s", show(o))
	}
}

// TestLockLost: when the lock's connection ends, the step's context ends too, and after the
// lock is had again the step is continued.
func TestLockLost(t *testing.T) {
	var tries atomic.Int64
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: []engine.Step{{Name: "a", Do: func(ctx context.Context, _ *engine.Run) error {
		if tries.Add(1) > 1 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}}})
	run(t, e)
	o := start(t, e, "toy")
	await(t, e, o.ID, stepIs("a", sandglass.Running))
	if n := cluster.Query(t, "postgres", `SELECT count(pg_terminate_backend(pid)) FROM pg_locks
		WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = hashtextextended('sandglass host testlocklost', 0)`); n != "1" {
		t.Fatalf("ended %s connections", n)
	}
	if o = await(t, e, o.ID, finished); show(o) != "succeeded a=done" || o.Steps[0].Attempt != 2 {
		t.Errorf("operation is %s", show(o))
	}
}

// TestDatabaseRestart: the metadata server goes away in the midst of a step and comes back.
func TestDatabaseRestart(t *testing.T) {
	goOn := make(chan struct{})
	var tries atomic.Int64
	d := open(t)
	e := newEngine(t, d, engine.Config{}, engine.Workflow{Kind: "toy", Steps: []engine.Step{{Name: "a", Do: func(ctx context.Context, _ *engine.Run) error {
		if tries.Add(1) > 1 {
			return nil
		}
		close(goOn)
		<-ctx.Done()
		return ctx.Err()
	}}}})
	run(t, e)
	o := start(t, e, "toy")
	<-goOn
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Pool.Reset() // its connections were to the old server
	if o = await(t, e, o.ID, finished); show(o) != "succeeded a=done" {
		t.Errorf("operation is %s", show(o))
	}
}

// TestOlderVersionContinues: a step that this version does not know fails the operation, and
// what it knows of the earlier ones is undone.
func TestOlderVersionContinues(t *testing.T) {
	d := open(t)
	var j journal
	newer := newEngine(t, d, engine.Config{}, engine.Workflow{Kind: "toy", Steps: j.steps("a", "b", "c")})
	o := start(t, newer, "toy")
	run(t, newEngine(t, d, engine.Config{}, engine.Workflow{Kind: "toy", Steps: j.steps("a")}))
	if o = await(t, newer, o.ID, finished); show(o) != "failed internal a=undone b=failed c=skipped" {
		t.Errorf("operation is %s", show(o))
	}
	j.want(t, "do a", "undo a")
}

// TestFencedOut: a process that lost the lock and does not heed it can't settle the step that
// another process has taken over meanwhile.
func TestFencedOut(t *testing.T) {
	d := open(t)
	zombie, release := make(chan error, 1), make(chan struct{})
	var nexts atomic.Int64
	next := engine.Step{Name: "b", Do: func(context.Context, *engine.Run) error { nexts.Add(1); return nil }}
	first := newEngine(t, d, engine.Config{}, engine.Workflow{Kind: "toy", Steps: []engine.Step{{Name: "a", Do: func(ctx context.Context, r *engine.Run) error {
		<-ctx.Done()
		<-release
		zombie <- r.Save(context.WithoutCancel(ctx), "from the grave")
		return nil
	}}, next}})
	stop := run(t, first)
	o := start(t, first, "toy")
	await(t, first, o.ID, stepIs("a", sandglass.Running))
	waits := newSignal("another process does this host's operations")
	second := newEngine(t, d, engine.Config{Log: waits.log()}, engine.Workflow{Kind: "toy", Steps: []engine.Step{{Name: "a", Do: func(ctx context.Context, r *engine.Run) error {
		return r.Save(ctx, "alive")
	}}, next}, Finished: func(_ context.Context, r *engine.Run) error {
		if m, err := engine.Load[string](r); m != "alive" {
			t.Errorf("memory is %q, %v", m, err)
		}
		return nil
	}})
	run(t, second)
	<-waits.seen
	cluster.Query(t, "postgres", `SELECT count(pg_terminate_backend(pid)) FROM pg_locks
		WHERE granted AND locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = hashtextextended('sandglass host testfencedout', 0)`)
	if o = await(t, second, o.ID, finished); show(o) != "succeeded a=done b=done" {
		t.Errorf("operation is %s", show(o))
	}
	close(release)
	if err := <-zombie; err == nil {
		t.Error("the first process could still write the memory")
	}
	stop()
	if now, err := second.Get(t.Context(), o.ID); err != nil || now.Version != o.Version || nexts.Load() != 1 {
		t.Errorf("operation is %s, %v; b was done %d times", show(now), err, nexts.Load())
	}
}

// TestNoLogFolder: a folder for logs that can't be made keeps nothing from being done.
func TestNoLogFolder(t *testing.T) {
	var j journal
	e := newEngine(t, open(t), engine.Config{Dir: "/dev/null/ops"}, engine.Workflow{Kind: "toy", Steps: j.steps("a")})
	run(t, e)
	if o := await(t, e, start(t, e, "toy").ID, finished); o.State != sandglass.Succeeded {
		t.Errorf("operation is %s", show(o))
	}
}
