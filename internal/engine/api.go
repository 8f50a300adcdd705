// What people ask of the engine: start, read, await and cancel operations.

package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/db"
)

// Start writes a new operation with its steps and the job of its first step, in one
// transaction. It gives CodeEnvironmentBusy when another operation on the environment is unfinished. The plan may be nil.
func (e *Engine) Start(ctx context.Context, request sandglass.Request, askedBy string, plan *sandglass.Plan) (sandglass.Operation, error) {
	w := e.workflows[request.Kind]
	if w == nil {
		return sandglass.Operation{}, &sandglass.Error{Code: sandglass.CodeUsage, Op: "start operation",
			Message: fmt.Sprintf("There is no operation of kind %q.", request.Kind), Remedy: "See `sandglass help` for what can be done."}
	}
	o := db.Operation{Host: e.Host, Exclusive: !w.Shared, Request: request, Operation: sandglass.Operation{
		ID: newID(time.Now()), Kind: request.Kind, Environment: request.Environment, Source: request.Source, State: sandglass.Queued,
		AskedBy: askedBy, Reason: request.Reason, Plan: plan}}
	for _, s := range w.Steps {
		o.Steps = append(o.Steps, sandglass.Step{Name: s.Name, State: sandglass.Pending})
	}
	err := e.DB.Do(ctx, func(tx *db.Tx) error {
		if err := tx.InsertOperation(ctx, o); err != nil {
			return err
		}
		if err := tx.Audit(ctx, db.AuditRow{Who: askedBy, What: string(request.Kind) + ".asked", Environment: request.Environment, Operation: o.ID}); err != nil {
			return err
		}
		return e.insert(ctx, tx, &o, w.Steps[0].Name, phaseDo)
	})
	if err != nil {
		return sandglass.Operation{}, err
	}
	return e.Get(ctx, o.ID)
}

// newID is sortable by time: "20060102t150405-" and four random letters or digits.
func newID(now time.Time) string {
	return now.UTC().Format("20060102t150405") + "-" + strings.ToLower(rand.Text()[:4])
}

// Get reads an operation; CodeOperationUnknown when there is none.
func (e *Engine) Get(ctx context.Context, id string) (sandglass.Operation, error) {
	o, err := e.DB.Operation(ctx, id)
	return o.Operation, err
}

// List reads the newest operations first, those of one environment (as target or source) or ("") all.
func (e *Engine) List(ctx context.Context, environment string, limit int) ([]sandglass.Operation, error) {
	rows, err := e.DB.Operations(ctx, environment, limit)
	all := make([]sandglass.Operation, len(rows))
	for i := range rows {
		all[i] = rows[i].Operation
	}
	return all, err
}

// Wait returns the operation as soon as its version is greater than after, or at once when it is
// finished. When ctx ends first it gives the operation as last seen, and ctx's error.
func (e *Engine) Wait(ctx context.Context, id string, after int64) (sandglass.Operation, error) {
	changed, end := e.DB.Subscribe(db.OperationTopic(id)) // before reading: no change is missed
	defer end()
	var last sandglass.Operation
	for {
		o, err := e.Get(ctx, id)
		if err != nil && ctx.Err() != nil {
			return last, ctx.Err()
		}
		if err != nil || o.Version > after || o.State.Finished() {
			return o, err
		}
		last = o
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-changed:
		}
	}
}

// Cancel asks an operation to end early and to be undone, and returns at once; Wait tells when
// it is. It gives CodeOperationFinished or CodeOperationTooLate when it can't be. An operation on its way back stays so.
func (e *Engine) Cancel(ctx context.Context, id, askedBy string) (sandglass.Operation, error) {
	err := e.DB.Do(ctx, func(tx *db.Tx) error {
		o, err := tx.LockOperation(ctx, id)
		switch {
		case err != nil:
			return err
		case o.State.Finished():
			return &sandglass.Error{Code: sandglass.CodeOperationFinished, Op: "cancel operation",
				Message: fmt.Sprintf("Operation %s has already %s.", id, map[sandglass.State]string{sandglass.Succeeded: "succeeded",
					sandglass.Failed: "failed", sandglass.Cancelled: "been cancelled"}[o.State]),
				Remedy: "A restore that succeeded is taken back with `sandglass undo`."}
		case o.State == sandglass.Undoing || o.Cancelling:
			return nil
		case o.NoReturn:
			return &sandglass.Error{Code: sandglass.CodeOperationTooLate, Op: "cancel operation",
				Message: fmt.Sprintf("Operation %s is past the point where it can be cancelled.", id),
				Remedy:  "Wait for it; a restore that succeeded is taken back with `sandglass undo`."}
		}
		if err := tx.Audit(ctx, db.AuditRow{Who: askedBy, What: string(o.Kind) + ".cancelled", Environment: o.Environment, Operation: id}); err != nil {
			return err
		}
		o.Cancelling = true
		if o.State == sandglass.Queued { // nothing has begun; its job will find it finished
			if err := e.turnBack(ctx, tx, &o, 0, cancelled(o.Operation)); err != nil {
				return err
			}
		} else if err := tx.UpdateOperation(ctx, o); err != nil {
			return err
		}
		return tx.Notify(ctx, db.CancelTopic(id))
	})
	if err != nil {
		return sandglass.Operation{}, err
	}
	return e.Get(ctx, id)
}

// cancelled is the error of a cancelled operation.
func cancelled(o sandglass.Operation) *sandglass.Error {
	return &sandglass.Error{Code: sandglass.CodeCancelled, Op: string(o.Kind), Message: "The operation was cancelled.", Remedy: "Start it again when you wish."}
}
