package engine_test

import (
	"context"
	"testing"

	"sandglass"
	"sandglass/internal/engine"
)

func cancel(t *testing.T, e *engine.Engine, id string) {
	t.Helper()
	if _, err := e.Cancel(t.Context(), id, "tester"); err != nil {
		t.Fatal(err)
	}
}

func TestCancelQueued(t *testing.T) {
	var j journal
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: j.steps("a", "b")})
	o := start(t, e, "toy")
	cancel(t, e, o.ID)
	if o, err := e.Get(t.Context(), o.ID); err != nil || show(o) != "cancelled operation.cancelled a=skipped b=skipped" {
		t.Errorf("%s, %v", show(o), err)
	}
	if _, err := e.Cancel(t.Context(), o.ID, "tester"); sandglass.CodeOf(err) != sandglass.CodeOperationFinished {
		t.Errorf("a second cancel: %v", err)
	}
	run(t, e)
	await(t, e, start(t, e, "toy").ID, finished)
	j.want(t, "do a", "do b") // of the second
}

func TestCancelRunning(t *testing.T) {
	for _, heeds := range []bool{true, false} {
		var j journal
		steps := j.steps("a", "b", "c")
		steps[1].Do = func(ctx context.Context, _ *engine.Run) error {
			<-ctx.Done()
			if code := sandglass.CodeOf(context.Cause(ctx)); code != sandglass.CodeCancelled {
				t.Errorf("the cause is %s", code)
			}
			if heeds {
				return ctx.Err()
			}
			return nil
		}
		e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
		stop := run(t, e)
		o := start(t, e, "toy")
		await(t, e, o.ID, stepIs("b", sandglass.Running))
		cancel(t, e, o.ID)
		o = await(t, e, o.ID, finished)
		if got, want := show(o), "cancelled operation.cancelled a=undone b=undone c=skipped"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		j.want(t, "do a", "undo b", "undo a")
		stop()
	}
}

// A cancel asked for while no process works is heeded by the one that continues.
func TestCancelBetweenProcesses(t *testing.T) {
	var j journal
	steps := j.steps("a", "b", "c")
	steps[1].Do = func(ctx context.Context, _ *engine.Run) error { j.add("do b"); <-ctx.Done(); return ctx.Err() }
	d := open(t)
	e := newEngine(t, d, engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
	stop := run(t, e)
	o := start(t, e, "toy")
	await(t, e, o.ID, stepIs("b", sandglass.Running))
	stop()
	if now, err := e.Get(t.Context(), o.ID); err != nil || now.State != sandglass.Running || now.Error != nil {
		t.Fatalf("after the stop: %s, %v", show(now), err)
	}
	cancel(t, e, o.ID)
	run(t, e)
	o = await(t, e, o.ID, finished)
	if got, want := show(o), "cancelled operation.cancelled a=undone b=undone c=skipped"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	j.want(t, "do a", "do b", "undo b", "undo a")
}

func TestCancelTooLate(t *testing.T) {
	var j journal
	steps := j.steps("a", "b", "c")
	goOn := make(chan struct{})
	steps[1].NoReturn = true
	steps[1].Do = func(context.Context, *engine.Run) error { <-goOn; return nil }
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := start(t, e, "toy")
	await(t, e, o.ID, stepIs("b", sandglass.Running))
	if _, err := e.Cancel(t.Context(), o.ID, "tester"); sandglass.CodeOf(err) != sandglass.CodeOperationTooLate {
		t.Errorf("cancel: %v", err)
	}
	close(goOn)
	if o = await(t, e, o.ID, finished); o.State != sandglass.Succeeded || o.Cancelling {
		t.Errorf("operation is %s", show(o))
	}
}

func TestCancelWhileUndoing(t *testing.T) {
	var j journal
	steps := j.steps("a", "b")
	goOn := make(chan struct{})
	steps[1].Do = func(context.Context, *engine.Run) error {
		return &sandglass.Error{Code: sandglass.CodeDiskFull, Message: "The disk is full."}
	}
	steps[1].Undo = func(context.Context, *engine.Run) error { <-goOn; return nil }
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := start(t, e, "toy")
	await(t, e, o.ID, stepIs("b", sandglass.Undoing))
	cancel(t, e, o.ID)
	close(goOn)
	if o = await(t, e, o.ID, finished); show(o) != "failed disk.full a=undone b=undone" {
		t.Errorf("operation is %s", show(o))
	}
}
