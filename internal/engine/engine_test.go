package engine_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sandglass"
	"sandglass/internal/engine"
)

func TestSuccess(t *testing.T) {
	type memory struct{ Volume string }
	var j journal
	ended := make(chan sandglass.Operation, 1)
	steps := j.steps("one", "two words", "three")
	steps[0].Do = func(ctx context.Context, r *engine.Run) error {
		if r.Request.Reason != "test" || r.Operation.State != sandglass.Running || r.Attempt != 1 {
			t.Errorf("run is %+v", r)
		}
		r.Log.Debug("a line of one's own", "answer", 42)
		return r.Save(ctx, memory{"v1"})
	}
	steps[1].Do = func(ctx context.Context, r *engine.Run) error {
		if m, err := engine.Load[memory](r); err != nil || m.Volume != "v1" {
			t.Errorf("memory is %v, %v", m, err)
		}
		for i := range int64(1000) {
			r.Progress(sandglass.Progress{Done: i + 1, Total: 1000, Unit: "rows"})
		}
		if err := os.WriteFile(filepath.Join(r.Dir, "postgresql.log"), []byte("ready\n"), 0o600); err != nil {
			return err
		}
		if err := r.SetPlan(ctx, &sandglass.Plan{Seconds: 7}); err != nil {
			return err
		}
		return r.SetResult(ctx, map[string]int{"rows": 1000})
	}
	e := newEngine(t, open(t), engine.Config{Finished: func(ctx context.Context, r *engine.Run) error { ended <- r.Operation; return nil }},
		engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	if got, want := show(o), "succeeded one=done two words=done three=done"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if p := o.Steps[1].Progress; p == nil || p.Done != 1000 {
		t.Errorf("last progress is %v", p)
	}
	if o.Plan == nil || o.Plan.Seconds != 7 || string(o.Result) != `{"rows": 1000}` || o.Began.IsZero() || o.Ended.Before(o.Began) {
		t.Errorf("operation is %+v", o)
	}
	if last := <-ended; last.State != sandglass.Succeeded {
		t.Errorf("Finished saw %s", last.State)
	}
	files := unzip(t, e, o.ID)
	for name, want := range map[string]string{"operation.json": `"succeeded"`, "plan.json": `"seconds": 7`, "one.log": "answer=42", "postgresql.log": "ready", "three.log": "ends well"} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s in the logs is %q, want %q in it", name, files[name], want)
		}
	}
	if all, err := e.List(t.Context(), t.Name(), 5); err != nil || len(all) != 1 || all[0].ID != o.ID {
		t.Errorf("List: %v, %v", all, err)
	}
}

func unzip(t *testing.T, e *engine.Engine, id string) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if err := e.Logs(t.Context(), id, &b); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(text)
	}
	return files
}

// TestFailures: what is undone, in which order, and what is said, by how a step of four ends.
func TestFailures(t *testing.T) {
	stop := &sandglass.Error{Code: sandglass.CodePreflight, Message: "Stopped."}
	full := &sandglass.Error{Code: sandglass.CodeDiskFull, Message: "The disk is full."}
	for _, c := range []struct {
		name  string
		at    int
		err   error
		state string
		did   []string
	}{
		{"foreign", 2, errors.New("oops"), "failed internal a=undone b=undone c=undone d=skipped", []string{"do a", "do b", "do c", "undo c", "undo b", "undo a"}},
		{"last", 3, fmt.Errorf("copy: %w", full), "failed disk.full a=undone b=undone c=undone d=undone", []string{"do a", "do b", "do c", "do d", "undo d", "undo c", "undo b", "undo a"}},
		{"first", 0, full, "failed disk.full a=undone b=skipped c=skipped d=skipped", []string{"do a", "undo a"}},
		{"refused first", 0, stop, "failed preflight.stopped a=failed b=skipped c=skipped d=skipped", []string{"do a"}},
		{"refused late", 2, &engine.Refused{Err: full}, "failed disk.full a=undone b=undone c=failed d=skipped", []string{"do a", "do b", "do c", "undo b", "undo a"}},
		{"panic", 1, nil, "failed internal a=undone b=undone c=skipped d=skipped", []string{"do a", "do b", "undo b", "undo a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j journal
			steps := j.steps("a", "b", "c", "d")
			steps[c.at].Do = func(context.Context, *engine.Run) error {
				j.add("do " + steps[c.at].Name)
				if c.err == nil {
					panic("fault")
				}
				return c.err
			}
			ended := make(chan sandglass.State, 1)
			e := newEngine(t, open(t), engine.Config{Host: strings.ReplaceAll(t.Name(), " ", "_")}, engine.Workflow{Kind: "toy", Steps: steps,
				Finished: func(_ context.Context, r *engine.Run) error { ended <- r.Operation.State; return nil }})
			run(t, e)
			o := await(t, e, start(t, e, "toy").ID, finished)
			if got := show(o); got != c.state {
				t.Errorf("got %s, want %s", got, c.state)
			}
			j.want(t, c.did...)
			if o.Steps[c.at].Error == nil || o.Steps[c.at].Error.Code != o.Error.Code {
				t.Errorf("the step's error is %v, the operation's %v", o.Steps[c.at].Error, o.Error)
			}
			if state := <-ended; state != sandglass.Failed {
				t.Errorf("Finished saw %s", state)
			}
		})
	}
}

func TestStepsWithoutUndoKeepTheirState(t *testing.T) {
	var j journal
	steps := j.steps("a", "b", "c")
	steps[1].Undo, steps[2].Undo = nil, nil
	steps[2].Do = func(context.Context, *engine.Run) error { return errors.New("oops") }
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	if got, want := show(o), "failed internal a=undone b=done c=failed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	j.want(t, "do a", "do b", "undo a")
}

func TestTimeout(t *testing.T) {
	var j journal
	steps := j.steps("a", "b")
	steps[1].Timeout = 20 * time.Millisecond
	steps[1].Do = func(ctx context.Context, _ *engine.Run) error { <-ctx.Done(); return ctx.Err() }
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	if got, want := show(o), "failed operation.step_timeout a=undone b=undone"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	j.want(t, "do a", "undo b", "undo a")
}

func TestUndoIsTriedAgain(t *testing.T) {
	var j journal
	var tries atomic.Int64
	steps := j.steps("a", "b")
	steps[1].Do = func(context.Context, *engine.Run) error { return errors.New("oops") }
	steps[0].Undo = func(context.Context, *engine.Run) error {
		if tries.Add(1) < 3 {
			return errors.New("not yet")
		}
		return nil
	}
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	if got, want := show(o), "failed internal a=undone b=undone"; got != want || tries.Load() != 3 {
		t.Errorf("got %s after %d tries, want %s", got, tries.Load(), want)
	}
}

func TestUndoGivesUp(t *testing.T) {
	var j journal
	steps := j.steps("a", "b", "c")
	steps[2].Do = func(context.Context, *engine.Run) error { return errors.New("oops") }
	steps[1].Undo = func(context.Context, *engine.Run) error {
		return &sandglass.Error{Code: sandglass.CodeServerFailed, Message: "The server does not start."}
	}
	e := newEngine(t, open(t), engine.Config{UndoTries: 2}, engine.Workflow{Kind: "toy", Steps: steps})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	if got, want := show(o), "failed operation.undo_incomplete a=done b=failed c=undone"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if want := "The server does not start. Left as they are: b, a."; !strings.Contains(o.Error.Message, want) {
		t.Errorf("message is %q, want %q in it", o.Error.Message, want)
	}
}

func TestRetryOfAWayBack(t *testing.T) {
	var j journal
	var mended atomic.Bool
	var ends atomic.Int64
	steps := j.steps("a", "b", "c")
	steps[2].Do = func(context.Context, *engine.Run) error {
		return &sandglass.Error{Code: sandglass.CodeHealthFailed, Message: "It is not well."}
	}
	steps[1].Undo = func(context.Context, *engine.Run) error {
		if mended.Load() {
			return nil
		}
		return errors.New("not yet")
	}
	e := newEngine(t, open(t), engine.Config{UndoTries: 1}, engine.Workflow{Kind: "toy", Steps: steps,
		Finished: func(context.Context, *engine.Run) error { ends.Add(1); return nil }})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	if got, want := show(o), "failed operation.undo_incomplete a=done b=failed c=undone"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	retry := func() (err error) { // its end may not be written yet
		for range 100 {
			if _, err = e.Retry(t.Context(), o.ID, "anna"); sandglass.CodeOf(err) != sandglass.CodeEnvironmentBusy {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	}
	if err := retry(); err != nil {
		t.Fatal(err)
	}
	o = await(t, e, o.ID, finished)
	if got, want := show(o), "failed operation.undo_incomplete a=done b=failed c=undone"; got != want {
		t.Errorf("while the cause is there: got %s, want %s", got, want)
	}
	mended.Store(true)
	if err := retry(); err != nil {
		t.Fatal(err)
	}
	o = await(t, e, o.ID, finished)
	if got, want := show(o), "failed "+string(sandglass.CodeHealthFailed)+" a=undone b=undone c=undone"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := retry(); sandglass.CodeOf(err) != engine.CodeNothingToRetry {
		t.Errorf("once more: %v", err)
	}
	if ends.Load() < 2 {
		t.Errorf("its end was told %d times", ends.Load())
	}
	await(t, e, start(t, e, "toy").ID, finished) // the environment is free
}

// TestNoWayBackPastALaterOne: a way back that was given up must not undo what a later operation has made.
func TestNoWayBackPastALaterOne(t *testing.T) {
	var j journal
	steps := j.steps("a", "b")
	steps[1].NoReturn = true
	steps[1].Do = func(context.Context, *engine.Run) error { return errors.New("oops") }
	steps[1].Undo = func(context.Context, *engine.Run) error { return errors.New("not yet") }
	other := j.steps("look")
	later := j.steps("c")
	later[0].NoReturn = true
	e := newEngine(t, open(t), engine.Config{UndoTries: 1}, engine.Workflow{Kind: "toy", Steps: steps}, engine.Workflow{Kind: "other", Steps: other},
		engine.Workflow{Kind: "later", Steps: later})
	run(t, e)
	first := await(t, e, start(t, e, "toy").ID, finished)
	await(t, e, start(t, e, "other").ID, finished)
	if _, err := e.Retry(t.Context(), first.ID, "anna"); err != nil {
		t.Errorf("after one that changed nothing: %v", err)
	}
	await(t, e, first.ID, finished)
	o := await(t, e, start(t, e, "later").ID, finished)
	_, err := e.Retry(t.Context(), first.ID, "anna")
	if sandglass.CodeOf(err) != engine.CodeNothingToRetry || !strings.Contains(err.Error(), o.ID) {
		t.Errorf("after one that can't be taken back: %v", err)
	}
	j.want(t, "do a", "do look", "do c")
}

func TestFinishedIsRepeated(t *testing.T) {
	var j journal
	var tries atomic.Int64
	ok := make(chan struct{})
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: j.steps("a"), Finished: func(context.Context, *engine.Run) error {
		if tries.Add(1) == 1 {
			return errors.New("the repository is away")
		}
		close(ok)
		return nil
	}})
	run(t, e)
	o := await(t, e, start(t, e, "toy").ID, finished)
	<-ok
	if o, err := e.Get(t.Context(), o.ID); err != nil || o.State != sandglass.Succeeded {
		t.Errorf("operation is %s, %v", show(o), err)
	}
}

func TestBusy(t *testing.T) {
	var j journal
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: j.steps("a")}, engine.Workflow{Kind: "look", Steps: j.steps("a"), Shared: true})
	var wins atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := e.Start(t.Context(), sandglass.Request{Kind: "toy", Environment: t.Name()}, "tester", nil)
			if err == nil {
				wins.Add(1)
			} else if sandglass.CodeOf(err) != sandglass.CodeEnvironmentBusy {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d operations began", wins.Load())
	}
	start(t, e, "look")
	start(t, e, "look")
	ops, err := e.List(t.Context(), t.Name(), 10)
	if err != nil || len(ops) != 3 {
		t.Fatalf("List: %v, %v", ops, err)
	}
	i := slices.IndexFunc(ops, func(o sandglass.Operation) bool { return o.Kind == "toy" })
	_, err = e.Start(t.Context(), sandglass.Request{Kind: "toy", Environment: t.Name()}, "tester", nil)
	if err == nil || !strings.Contains(err.Error(), ops[i].ID) {
		t.Errorf("the refusal does not name the operation: %v", err)
	}
	run(t, e)
	await(t, e, ops[i].ID, finished)
	await(t, e, start(t, e, "toy").ID, finished) // free again
	_, err = e.Start(t.Context(), sandglass.Request{Kind: "nonsense", Environment: t.Name()}, "tester", nil)
	if sandglass.CodeOf(err) != sandglass.CodeUsage {
		t.Errorf("an unknown kind: %v", err)
	}
	if _, err := e.Get(t.Context(), "nonsense"); sandglass.CodeOf(err) != sandglass.CodeOperationUnknown {
		t.Errorf("an unknown operation: %v", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	var j journal
	e := newEngine(t, open(t), engine.Config{}, engine.Workflow{Kind: "toy", Steps: j.steps("a")})
	o := start(t, e, "toy")
	ctx, end := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer end()
	got, err := e.Wait(ctx, o.ID, o.Version)
	if !errors.Is(err, context.DeadlineExceeded) || cmp.Diff(o, got) != "" {
		t.Errorf("Wait: %v, %v", got, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	d := open(t)
	var j journal
	for name, workflows := range map[string][]engine.Workflow{
		"no steps":   {{Kind: "toy"}},
		"twice":      {{Kind: "toy", Steps: j.steps("a")}, {Kind: "toy", Steps: j.steps("a")}},
		"same step":  {{Kind: "toy", Steps: j.steps("a", "a")}},
		"bad name":   {{Kind: "toy", Steps: j.steps("../a")}},
		"no do":      {{Kind: "toy", Steps: []engine.Step{{Name: "a"}}}},
		"last's job": {{Kind: "toy", Steps: j.steps("finished")}},
	} {
		if _, err := engine.New(engine.Config{DB: d, Host: "h", Dir: t.TempDir(), Log: testLog(t), Workflows: workflows}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
