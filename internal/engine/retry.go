// A way back that was given up can be taken up again, once its cause is gone.

package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"sandglass"
	"sandglass/internal/db"
)

// CodeNothingToRetry is an operation that left nothing to be undone.
const CodeNothingToRetry sandglass.Code = "operation.nothing_to_retry"

// Retry goes on with the way back of an operation that ended with CodeUndoFailed, and returns at once; Wait tells when it
// has ended. It gives CodeNothingToRetry when nothing was left, or a later operation came to its point of
// no return: what it made would be lost; and CodeEnvironmentBusy while another operation is unfinished.
func (e *Engine) Retry(ctx context.Context, id, askedBy string) (sandglass.Operation, error) {
	err := e.DB.Do(ctx, func(tx *db.Tx) error {
		o, err := tx.LockOperation(ctx, id)
		if err != nil {
			return err
		}
		at := e.givenUp(&o)
		if at < 0 {
			return &sandglass.Error{Code: CodeNothingToRetry, Op: "retry operation",
				Message: fmt.Sprintf("Operation %s has no way back that was given up.", id), Remedy: "`sandglass ops show` tells how it ended."}
		}
		if busy, err := tx.Unfinished(ctx, o.Environment); err != nil {
			return err
		} else if busy != "" && o.Exclusive {
			return db.Busy(o.Environment, busy)
		}
		if later, err := tx.NoReturnSince(ctx, id); err != nil {
			return err
		} else if later != "" && o.Exclusive {
			return &sandglass.Error{Code: CodeNothingToRetry, Op: "retry operation",
				Message: fmt.Sprintf("Operation %s has changed %s since, so operation %s can't be taken back any more.", later, o.Environment, id),
				Remedy:  "To go back from what is there now, use `sandglass undo`."}
		}
		if err := e.forgetJobs(ctx, tx, id); err != nil {
			return err
		}
		if err := tx.Audit(ctx, db.AuditRow{Who: askedBy, What: string(o.Kind) + ".retried", Environment: o.Environment, Operation: id}); err != nil {
			return err
		}
		for i := range o.Steps[:at+1] {
			if err := tx.UpdateStep(ctx, id, i, o.Steps[i], 0); err != nil {
				return err
			}
		}
		o.Error = firstCause(o)
		return e.undoNext(ctx, tx, &o, at+1)
	})
	if err != nil {
		return sandglass.Operation{}, err
	}
	return e.Get(ctx, id)
}

// givenUp is the position of the step whose undo was given up; -1 when there is none.
func (e *Engine) givenUp(o *db.Operation) int {
	if o.State != sandglass.Failed || sandglass.CodeOf(o.Error) != CodeUndoFailed {
		return -1
	}
	for i := len(o.Steps) - 1; i >= 0; i-- {
		if e.leftSomething(o, i) {
			return i
		}
	}
	return -1
}

// firstCause is why the operation went back at first: what the last step that was begun says.
func firstCause(o db.Operation) *sandglass.Error {
	for _, s := range slices.Backward(o.Steps) {
		if s.State != sandglass.Skipped {
			return cmp.Or(s.Error, o.Error)
		}
	}
	return o.Error
}

// forgetJobs makes room for new jobs of an operation that has ended: River knows one of each.
func (e *Engine) forgetJobs(ctx context.Context, tx *db.Tx, id string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM sandglass.river_job WHERE kind = $1 AND args->>'operation' = $2 AND state IN ('completed', 'cancelled', 'discarded')`,
		stepJob{}.Kind(), id); err != nil {
		return fmt.Errorf("forget the jobs of operation %s: %w", id, err)
	}
	var left int
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM sandglass.river_job WHERE kind = $1 AND args->>'operation' = $2`, stepJob{}.Kind(), id).Scan(&left); err != nil {
		return fmt.Errorf("look for jobs of operation %s: %w", id, err)
	}
	if left > 0 {
		return &sandglass.Error{Code: sandglass.CodeEnvironmentBusy, Op: "retry operation", Message: fmt.Sprintf("Operation %s is still being written to the history.", id),
			Remedy: "Try again in a moment; if that lasts, see with `sandglass doctor` whether the repository takes anything."}
	}
	return nil
}
