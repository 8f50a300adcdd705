// River's worker: begins a step, does or undoes it, and settles what came of it.

package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"sandglass"
	"sandglass/internal/db"
)

// settleTimeout bounds the transactions around a step; they are finished also when the process stops.
const settleTimeout = 30 * time.Second

// worker does jobs while its session, the time this process holds the host's lock, lasts.
type worker struct {
	river.WorkerDefaults[stepJob]
	*Engine
	session context.Context
}

// Timeout is River's own, which is none: steps have their timeouts here, and River's rescuer
// must not touch jobs (it can't tell a dead process from a slow step; the host's lock can).
func (w *worker) Timeout(*river.Job[stepJob]) time.Duration { return -1 }

// NextRetry is when a job is repeated whose rows could not be read or written, or whose Finished failed.
func (w *worker) NextRetry(job *river.Job[stepJob]) time.Time {
	return time.Now().Add(min(time.Duration(job.Attempt)*time.Second, time.Minute))
}

// Work does one job.
func (w *worker) Work(ctx context.Context, job *river.Job[stepJob]) error {
	if w.session.Err() != nil {
		return river.JobSnooze(0)
	}
	switch job.Args.Phase {
	case phaseDo:
		return w.do(ctx, job)
	case phaseUndo:
		return w.undo(ctx, job)
	case phaseFinished:
		return w.finished(ctx, job)
	}
	return river.JobCancel(fmt.Errorf("unknown phase %q", job.Args.Phase))
}

// errOutdated says that the step is no longer this attempt's.
var errOutdated = errors.New("another attempt of this step has begun")

// transact runs f on the locked operation, with the position of the job's step. When f says
// so, the job completes in the same transaction. The process stopping does not interrupt it.
func (w *worker) transact(ctx context.Context, job *river.Job[stepJob], f func(ctx context.Context, tx *db.Tx, o *db.Operation, i int) (complete bool, err error)) error {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer end()
	return w.DB.Do(ctx, func(tx *db.Tx) error {
		o, err := tx.LockOperation(ctx, job.Args.Operation)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(o.Steps, func(s sandglass.Step) bool { return s.Name == job.Args.Step })
		if i < 0 {
			return fmt.Errorf("operation %s has no step %s", o.ID, job.Args.Step)
		}
		complete, err := f(ctx, tx, &o, i)
		if err != nil || !complete {
			return err
		}
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx.Tx, job)
		return err
	})
}

// begin marks a step as running or undoing and gives the operation with the step's position;
// position -1 means that there is nothing to do, and the job is complete.
func (w *worker) begin(ctx context.Context, job *river.Job[stepJob], expect []sandglass.State, to sandglass.State) (begun db.Operation, at int, err error) {
	at = -1
	err = w.transact(ctx, job, func(ctx context.Context, tx *db.Tx, o *db.Operation, i int) (bool, error) {
		s := &o.Steps[i]
		if o.State.Finished() || (o.State == sandglass.Undoing) != (to == sandglass.Undoing) || !slices.Contains(expect, s.State) {
			return true, nil
		}
		if o.State == sandglass.Queued {
			if err := become(o, sandglass.Running); err != nil {
				return false, err
			}
			o.Began = time.Now()
		}
		if to == sandglass.Running && o.Cancelling {
			if s.State == sandglass.Running { // left so by a dead process
				s.Error = cancelled(o.Operation)
				if err := stepBecome(ctx, tx, o, i, sandglass.Failed); err != nil {
					return false, err
				}
			}
			return true, w.turnBack(ctx, tx, o, i+1, cancelled(o.Operation))
		}
		s.Attempt++
		if s.Began.IsZero() {
			s.Began = time.Now()
		}
		if to == sandglass.Running {
			o.NoReturn = o.NoReturn || w.step(o.Kind, s.Name).NoReturn
		}
		if s.State == to { // continued
			err = tx.UpdateStep(ctx, o.ID, i, *s, o.Tries[i])
		} else {
			err = stepBecome(ctx, tx, o, i, to)
		}
		if err != nil {
			return false, err
		}
		begun, at = *o, i
		return false, tx.UpdateOperation(ctx, *o)
	})
	if err != nil {
		return begun, -1, err
	}
	return begun, at, nil
}

// do does a step and settles it: on to the next, or back.
func (w *worker) do(ctx context.Context, job *river.Job[stepJob]) error {
	o, i, err := w.begin(ctx, job, []sandglass.State{sandglass.Pending, sandglass.Running}, sandglass.Running)
	if err != nil || i < 0 {
		return err
	}
	s := o.Steps[i]
	crashAt(o.Kind, s.Name, "before")
	failure, err := w.attempt(ctx, o, s, w.doOnce)
	if err != nil {
		return err
	}
	if failure == nil {
		crashAt(o.Kind, s.Name, "after")
	}
	return w.transact(ctx, job, func(ctx context.Context, tx *db.Tx, o *db.Operation, i int) (bool, error) {
		if o.Steps[i].Attempt != s.Attempt || o.Steps[i].State != sandglass.Running {
			return false, errOutdated
		}
		if failure == nil {
			if err := stepBecome(ctx, tx, o, i, sandglass.Done); err != nil {
				return false, err
			}
			if o.Cancelling {
				return true, w.turnBack(ctx, tx, o, len(o.Steps), cancelled(o.Operation))
			}
			return true, w.advance(ctx, tx, o, i)
		}
		cause := failure.person
		if o.Cancelling { // what else went wrong on the way is in the log
			cause = cancelled(o.Operation)
		}
		o.Steps[i].Error = cause
		if err := stepBecome(ctx, tx, o, i, sandglass.Failed); err != nil {
			return false, err
		}
		below := i + 1
		if failure.refused {
			below = i
		}
		return true, w.turnBack(ctx, tx, o, below, cause)
	})
}

// undo undoes a step and settles it: on to the one before, again later, or given up.
func (w *worker) undo(ctx context.Context, job *river.Job[stepJob]) error {
	o, i, err := w.begin(ctx, job, []sandglass.State{sandglass.Done, sandglass.Failed, sandglass.Undoing}, sandglass.Undoing)
	if err != nil || i < 0 {
		return err
	}
	s := o.Steps[i]
	crashAt(o.Kind, s.Name, "undo-before")
	failure, err := w.attempt(ctx, o, s, w.undoOnce)
	if err != nil {
		return err
	}
	if failure == nil {
		crashAt(o.Kind, s.Name, "undo-after")
	}
	var again time.Duration
	err = w.transact(ctx, job, func(ctx context.Context, tx *db.Tx, o *db.Operation, i int) (bool, error) {
		if o.Steps[i].Attempt != s.Attempt || o.Steps[i].State != sandglass.Undoing {
			return false, errOutdated
		}
		if failure == nil {
			if err := stepBecome(ctx, tx, o, i, sandglass.Undone); err != nil {
				return false, err
			}
			return true, w.undoNext(ctx, tx, o, i)
		}
		o.Tries[i]++
		if o.Tries[i] >= w.UndoTries {
			return true, w.giveUp(ctx, tx, o, i, failure.person)
		}
		again = w.UndoBackoff << (o.Tries[i] - 1)
		return false, tx.UpdateStep(ctx, o.ID, i, o.Steps[i], o.Tries[i])
	})
	if err == nil && again > 0 {
		return river.JobSnooze(again)
	}
	return err
}

// finished runs what wanted to know of the operation's end.
func (w *worker) finished(ctx context.Context, job *river.Job[stepJob]) error {
	o, err := w.DB.Operation(ctx, job.Args.Operation)
	if err != nil {
		return err
	}
	crashAt(o.Kind, phaseFinished, "before")
	failure, err := w.attempt(ctx, o, sandglass.Step{Name: phaseFinished, Attempt: job.Attempt}, func(ctx context.Context, _ Step, run *Run) error {
		if workflow := w.workflows[o.Kind]; workflow != nil && workflow.Finished != nil {
			if err := workflow.Finished(ctx, run); err != nil {
				return err
			}
		}
		if w.Finished != nil {
			return w.Finished(ctx, run)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if failure != nil {
		return failure.person // River repeats it
	}
	crashAt(o.Kind, phaseFinished, "after")
	return nil
}

// failure is what came of an attempt that did not succeed.
type failure struct {
	person  *sandglass.Error // as people may see it
	refused bool             // before anything was changed
}

// attempt calls f once, within the step's timeout, ended early by a cancel or the end of the
// session. The error is for River: the attempt counts for nothing and the job is to be repeated.
func (w *worker) attempt(ctx context.Context, o db.Operation, s sandglass.Step, f func(context.Context, Step, *Run) error) (*failure, error) {
	run := w.newRun(ctx, o, s.Name, s.Attempt)
	defer run.close()
	def := w.step(o.Kind, s.Name)
	limit := def.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	timeout := &sandglass.Error{Code: CodeTimeout, Op: s.Name, Message: fmt.Sprintf("Step %q took longer than the %v it may.", s.Name, limit),
		Remedy: "See its log for where the time went, then start the operation again."}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.session, func() { cancel(errStopping) })()
	ctx, end := context.WithTimeoutCause(ctx, limit, timeout)
	defer end()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer end()
	if s.State == sandglass.Running {
		watcher.Go(func() { w.awaitCancel(ctx, o, cancel) })
	}

	run.Log.Info("begins", "attempt", s.Attempt)
	began := time.Now()
	err := guard(func() error { return f(ctx, def, run) })
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case err == nil:
		run.Log.Info("ends well", "took", took)
		return nil, nil
	case w.session.Err() != nil:
		run.Log.Info("is interrupted, and will be continued", "took", took, "error", err)
		return nil, river.JobSnooze(0)
	}
	person, interrupted := errors.AsType[*sandglass.Error](context.Cause(ctx)) // by a cancel or the timeout
	if !interrupted {
		person = sandglass.AsError(err)
	}
	level := slog.LevelWarn
	if person.Code == sandglass.CodeInternal {
		level = slog.LevelError // the only place that shows the cause
	}
	run.Log.Log(ctx, level, "fails", "took", took, "code", person.Code, "error", err)
	_, refused := errors.AsType[*Refused](err)
	return &failure{person: person, refused: !interrupted && (refused || person.Code == sandglass.CodePreflight)}, nil
}

// doOnce asks whether the step is done already, and does it otherwise.
func (w *worker) doOnce(ctx context.Context, def Step, run *Run) error {
	if def.Do == nil {
		return fmt.Errorf("this version of sandglass knows no step %q of %q", run.Step, run.Operation.Kind)
	}
	if def.Done != nil {
		if done, err := def.Done(ctx, run); err != nil {
			return fmt.Errorf("ask whether step %s is done: %w", run.Step, err)
		} else if done {
			run.Log.Info("is done already")
			return nil
		}
	}
	return def.Do(ctx, run)
}

func (w *worker) undoOnce(ctx context.Context, def Step, run *Run) error {
	if def.Undo == nil {
		return nil
	}
	return def.Undo(ctx, run)
}

// awaitCancel ends the attempt when a person cancels the operation.
func (w *worker) awaitCancel(ctx context.Context, o db.Operation, cancel context.CancelCauseFunc) {
	asked, end := w.DB.Subscribe(db.CancelTopic(o.ID))
	defer end()
	for {
		now, err := w.DB.Operation(ctx, o.ID)
		if err == nil && now.Cancelling {
			cancel(cancelled(o.Operation))
			return
		}
		var again <-chan time.Time
		if err != nil { // the event is spent: ask again without one
			again = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-asked:
		case <-again:
		}
	}
}

// guard makes a panic of f an error: a fault in a step must end in its undo, not in a repetition without end.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
