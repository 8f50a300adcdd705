// The transitions of operations and steps, each within a transaction that has locked the
// operation's row and that also inserts the next job.

package engine

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"sandglass"
	"sandglass/internal/db"
)

// What a job is to do with its step.
const (
	phaseDo       = "do"
	phaseUndo     = "undo"
	phaseFinished = "finished"
)

// stepJob is River's job: one phase of one step, once.
type stepJob struct {
	Operation string `json:"operation"`
	Step      string `json:"step"`
	Phase     string `json:"phase"`
}

// Kind names the job to River.
func (stepJob) Kind() string { return "sandglass_step" }

// insert adds a job within the transaction. Its attempts are in effect without bound: what a
// step does about errors is decided here, River only repeats when the rows could not be written.
func (e *Engine) insert(ctx context.Context, tx *db.Tx, o *db.Operation, step, phase string) error {
	job, err := e.inserter.InsertTx(ctx, tx.Tx, stepJob{o.ID, step, phase},
		&river.InsertOpts{Queue: queueOf(o.Host), MaxAttempts: 30000, UniqueOpts: river.UniqueOpts{ByArgs: true}})
	if err != nil {
		return fmt.Errorf("insert the job to %s step %s of operation %s: %w", phase, step, o.ID, err)
	}
	if job.UniqueSkippedAsDuplicate {
		return fmt.Errorf("the job to %s step %s of operation %s is there already", phase, step, o.ID)
	}
	return nil
}

// become moves an operation to a state.
func become(o *db.Operation, to sandglass.State) error {
	if !sandglass.OperationCanBecome(o.State, to) {
		return fmt.Errorf("operation %s is %s and can't become %s", o.ID, o.State, to)
	}
	o.State = to
	return nil
}

// stepBecome moves a step to a state and writes it.
func stepBecome(ctx context.Context, tx *db.Tx, o *db.Operation, i int, to sandglass.State) error {
	s := &o.Steps[i]
	if !sandglass.StepCanBecome(s.State, to) {
		return fmt.Errorf("step %s of operation %s is %s and can't become %s", s.Name, o.ID, s.State, to)
	}
	s.State = to
	switch to {
	case sandglass.Done, sandglass.Failed, sandglass.Undone:
		s.Ended = time.Now()
	}
	return tx.UpdateStep(ctx, o.ID, i, *s, o.Tries[i])
}

// advance goes on after step i is done: to the next step, or to success.
func (e *Engine) advance(ctx context.Context, tx *db.Tx, o *db.Operation, i int) error {
	if i+1 == len(o.Steps) {
		return e.finish(ctx, tx, o, sandglass.Succeeded)
	}
	if err := tx.UpdateOperation(ctx, *o); err != nil {
		return err
	}
	return e.insert(ctx, tx, o, o.Steps[i+1].Name, phaseDo)
}

// turnBack begins the way back because of cause: steps not begun are skipped, then those
// before position below are undone, last first.
func (e *Engine) turnBack(ctx context.Context, tx *db.Tx, o *db.Operation, below int, cause *sandglass.Error) error {
	o.Error = cause
	for i := range o.Steps {
		if o.Steps[i].State == sandglass.Pending {
			if err := stepBecome(ctx, tx, o, i, sandglass.Skipped); err != nil {
				return err
			}
		}
	}
	return e.undoNext(ctx, tx, o, below)
}

// undoNext goes on to undo the last step before position below that left something, or, when
// there is none, ends the operation.
func (e *Engine) undoNext(ctx context.Context, tx *db.Tx, o *db.Operation, below int) error {
	for i := below - 1; i >= 0; i-- {
		if !e.leftSomething(o, i) {
			continue
		}
		if o.State != sandglass.Undoing {
			if err := become(o, sandglass.Undoing); err != nil {
				return err
			}
		}
		if err := tx.UpdateOperation(ctx, *o); err != nil {
			return err
		}
		return e.insert(ctx, tx, o, o.Steps[i].Name, phaseUndo)
	}
	if o.Error.Code == sandglass.CodeCancelled {
		return e.finish(ctx, tx, o, sandglass.Cancelled)
	}
	return e.finish(ctx, tx, o, sandglass.Failed)
}

// leftSomething says whether step i has something to undo.
func (e *Engine) leftSomething(o *db.Operation, i int) bool {
	s := o.Steps[i]
	return (s.State == sandglass.Done || s.State == sandglass.Failed) && e.step(o.Kind, s.Name).Undo != nil
}

// giveUp ends an operation whose step i could not be undone. Earlier steps stay as they are:
// to undo them under a step that is still in place could do more harm.
func (e *Engine) giveUp(ctx context.Context, tx *db.Tx, o *db.Operation, i int, why *sandglass.Error) error {
	o.Steps[i].Error = cmp.Or(o.Steps[i].Error, why) // what went wrong first says more
	if err := stepBecome(ctx, tx, o, i, sandglass.Failed); err != nil {
		return err
	}
	var left []string
	for j := i; j >= 0; j-- {
		if e.leftSomething(o, j) {
			left = append(left, o.Steps[j].Name)
		}
	}
	o.Error = &sandglass.Error{Code: CodeUndoFailed, Op: string(o.Kind),
		Message: fmt.Sprintf("The operation ended early (%s) and could not be taken back: %s Left as they are: %s.", o.Error.Message, why.Message, strings.Join(left, ", ")),
		Remedy:  fmt.Sprintf("See `sandglass ops logs %[1]s`; once the cause is gone, go on with the way back: sandglass ops retry %[1]s", o.ID)}
	return e.finish(ctx, tx, o, sandglass.Failed)
}

// finish ends an operation, and leaves its last job where somebody wants to know.
func (e *Engine) finish(ctx context.Context, tx *db.Tx, o *db.Operation, state sandglass.State) error {
	if err := become(o, state); err != nil {
		return err
	}
	o.Ended = time.Now()
	if err := tx.UpdateOperation(ctx, *o); err != nil {
		return err
	}
	if w := e.workflows[o.Kind]; e.Finished == nil && (w == nil || w.Finished == nil) {
		return nil
	}
	return e.insert(ctx, tx, o, phaseFinished, phaseFinished)
}
