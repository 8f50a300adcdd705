// Operations and their steps. The engine alone changes them; each change raises the
// operation's version and notifies, so that waiting is driven by events.

package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"sandglass"
)

// Operation is an operation's row: what people see of it, and what its engine needs.
type Operation struct {
	sandglass.Operation
	Host      string
	Exclusive bool // the only unfinished one of its environment
	NoReturn  bool // a cancel comes too late
	Request   sandglass.Request
	Memory    json.RawMessage // what its steps must remember
	// Tries are the undos that failed, by step.
	Tries []int
}

// Busy is the refusal of a second operation on an environment.
func Busy(environment, operation string) *sandglass.Error {
	return &sandglass.Error{Code: sandglass.CodeEnvironmentBusy, Op: "start operation",
		Message: fmt.Sprintf("Environment %q is busy with operation %s.", environment, operation),
		Remedy:  fmt.Sprintf("Wait for it with `sandglass ops watch %s`, or cancel it with `sandglass ops cancel %s`.", operation, operation)}
}

const operationColumns = `id, host, exclusive, kind, environment, source, state, asked_by, reason, created, began, ended, version,
	cancelling, no_return, request, plan, error, result, memory,
	(SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', s.name, 'state', s.state, 'attempt', s.attempt, 'progress', s.progress,
		'began', s.began, 'ended', s.ended, 'error', s.error)) ORDER BY s.position), '[]') FROM sandglass.step s WHERE s.operation = o.id),
	(SELECT coalesce(array_agg(s.tries ORDER BY s.position), '{}') FROM sandglass.step s WHERE s.operation = o.id)`

func scanOperation(row pgx.CollectableRow) (Operation, error) {
	var o Operation
	var began, ended *time.Time
	err := row.Scan(&o.ID, &o.Host, &o.Exclusive, &o.Kind, &o.Environment, &o.Source, &o.State, &o.AskedBy, &o.Reason, &o.Created, &began, &ended, &o.Version,
		&o.Cancelling, &o.NoReturn, &o.Request, &o.Plan, &o.Error, &o.Result, &o.Memory, &o.Steps, &o.Tries)
	o.Created, o.Began, o.Ended = o.Created.UTC(), timeOf(began), timeOf(ended)
	asked := o.Request
	o.Operation.Request = &asked
	for i := range o.Steps {
		o.Steps[i].Began, o.Steps[i].Ended = o.Steps[i].Began.UTC(), o.Steps[i].Ended.UTC()
	}
	return o, err
}

// InsertOperation writes a new operation with its steps; CodeEnvironmentBusy when it is
// exclusive and another on its environment is unfinished, and when the environment or the source is being
// removed. After a refusal the transaction can only be rolled back.
func (tx *Tx) InsertOperation(ctx context.Context, o Operation) error {
	var removing *string // the rows stay locked against a removal until the transaction ends
	if err := tx.QueryRow(ctx, `SELECT max(name) FILTER (WHERE removing) FROM
		(SELECT name, removing FROM sandglass.environment WHERE name IN ($1, $2) ORDER BY name FOR SHARE) e`, o.Environment, o.Source).Scan(&removing); err != nil {
		return fmt.Errorf("lock environment %s: %w", o.Environment, err)
	}
	if removing != nil {
		return Removing(*removing)
	}
	if o.Exclusive {
		if id, err := tx.Unfinished(ctx, o.Environment); err != nil {
			return err
		} else if id != "" {
			return Busy(o.Environment, id)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO sandglass.operation (id, host, exclusive, kind, environment, source, state, asked_by, reason, request, plan)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		o.ID, o.Host, o.Exclusive, o.Kind, o.Environment, o.Source, o.State, o.AskedBy, o.Reason, o.Request, o.Plan)
	if violates(err, "operation_one_unfinished") {
		return Busy(o.Environment, "that began a moment ago") // the winner is not visible to this transaction
	}
	if err != nil {
		return fmt.Errorf("insert operation %s: %w", o.ID, err)
	}
	for i, s := range o.Steps {
		if _, err := tx.Exec(ctx, `INSERT INTO sandglass.step (operation, position, name, state) VALUES ($1, $2, $3, $4)`, o.ID, i, s.Name, s.State); err != nil {
			return fmt.Errorf("insert step %s of operation %s: %w", s.Name, o.ID, err)
		}
	}
	return tx.Notify(ctx, OperationTopic(o.ID))
}

// NoReturnSince names the first exclusive operation on the same environment that was begun after one and came to its
// point of no return; "" for none.
func (q Queries) NoReturnSince(ctx context.Context, id string) (later string, err error) {
	err = q.q.QueryRow(ctx, `SELECT coalesce(min(l.id), '') FROM sandglass.operation o JOIN sandglass.operation l
		ON l.environment = o.environment AND l.created > o.created AND l.exclusive AND l.no_return WHERE o.id = $1`, id).Scan(&later)
	return later, wrap("look for operations after "+id, err)
}

// KnownOperations are the IDs of all operations.
func (q Queries) KnownOperations(ctx context.Context) (map[string]bool, error) {
	rows, err := q.q.Query(ctx, `SELECT id FROM sandglass.operation`)
	if err != nil {
		return nil, fmt.Errorf("read operations' IDs: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	known := make(map[string]bool, len(ids))
	for _, id := range ids {
		known[id] = true
	}
	return known, wrap("read operations' IDs", err)
}

// ImportOperation writes a finished operation as its record in the repository tells of it, unless
// it is there already. Nothing is done for it any more.
func (tx *Tx) ImportOperation(ctx context.Context, host string, o sandglass.Operation) error {
	if !o.State.Finished() {
		return fmt.Errorf("import operation %s: it is %s, not finished", o.ID, o.State)
	}
	request := sandglass.Request{Kind: o.Kind, Environment: o.Environment, Source: o.Source, Reason: o.Reason}
	if o.Request != nil {
		request = *o.Request
	}
	tag, err := tx.Exec(ctx, `INSERT INTO sandglass.operation (id, host, exclusive, kind, environment, source, state, asked_by, reason, created, began, ended, version,
			cancelling, no_return, request, plan, error, result)
		VALUES ($1, $2, false, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, true, $14, $15, $16, $17) ON CONFLICT (id) DO NOTHING`,
		o.ID, host, o.Kind, o.Environment, o.Source, o.State, o.AskedBy, o.Reason, o.Created, timePtr(o.Began), timePtr(o.Ended), max(o.Version, 1),
		o.Cancelling, request, o.Plan, o.Error, o.Result)
	if err != nil || tag.RowsAffected() == 0 {
		return wrap("import operation "+o.ID, err)
	}
	for i, s := range o.Steps {
		if _, err := tx.Exec(ctx, `INSERT INTO sandglass.step (operation, position, name, state, attempt, progress, began, ended, error)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, o.ID, i, s.Name, s.State, s.Attempt, s.Progress, timePtr(s.Began), timePtr(s.Ended), s.Error); err != nil {
			return fmt.Errorf("import step %s of operation %s: %w", s.Name, o.ID, err)
		}
	}
	return tx.Notify(ctx, OperationTopic(o.ID))
}

// Unfinished is the ID of the unfinished exclusive operation on an environment, or "".
func (q Queries) Unfinished(ctx context.Context, environment string) (string, error) {
	var id string
	err := q.q.QueryRow(ctx, `SELECT id FROM sandglass.operation WHERE environment = $1 AND exclusive AND state IN ('queued', 'running', 'undoing')`, environment).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return id, wrap("look for an unfinished operation", err)
}

// Operation reads one; CodeOperationUnknown when there is none.
func (q Queries) Operation(ctx context.Context, id string) (Operation, error) {
	return q.operation(ctx, id, "")
}

// LockOperation reads one and locks its row until the transaction ends.
func (tx *Tx) LockOperation(ctx context.Context, id string) (Operation, error) {
	// Two statements: the steps must be read after the lock is had, not at the snapshot from before the wait.
	if _, err := tx.Exec(ctx, `SELECT FROM sandglass.operation WHERE id = $1 FOR UPDATE`, id); err != nil {
		return Operation{}, fmt.Errorf("lock operation %s: %w", id, err)
	}
	return tx.operation(ctx, id, "")
}

func (q Queries) operation(ctx context.Context, id, lock string) (Operation, error) {
	rows, err := q.q.Query(ctx, `SELECT `+operationColumns+` FROM sandglass.operation o WHERE id = $1 `+lock, id)
	if err != nil {
		return Operation{}, fmt.Errorf("read operation %s: %w", id, err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, &sandglass.Error{Code: sandglass.CodeOperationUnknown, Op: "read operation",
			Message: fmt.Sprintf("There is no operation %q.", id), Remedy: "`sandglass ops ls` lists them."}
	}
	return o, wrap("read operation "+id, err)
}

// Operations reads the newest first, of one environment (as target or source) or ("") of all.
func (q Queries) Operations(ctx context.Context, environment string, limit int) ([]Operation, error) {
	rows, err := q.q.Query(ctx, `SELECT `+operationColumns+` FROM sandglass.operation o
		WHERE $1 = '' OR environment = $1 OR source = $1 ORDER BY created DESC, id DESC LIMIT $2`, environment, limit)
	if err != nil {
		return nil, fmt.Errorf("read operations: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanOperation)
	return all, wrap("read operations", err)
}

// UpdateOperation writes what can change of an operation that the transaction has locked,
// raises its version and notifies.
func (tx *Tx) UpdateOperation(ctx context.Context, o Operation) error {
	if _, err := tx.Exec(ctx, `UPDATE sandglass.operation SET state = $2, began = $3, ended = $4, version = version + 1, cancelling = $5, no_return = $6,
		error = $7 WHERE id = $1`,
		o.ID, o.State, timePtr(o.Began), timePtr(o.Ended), o.Cancelling, o.NoReturn, o.Error); err != nil {
		return fmt.Errorf("update operation %s: %w", o.ID, err)
	}
	return tx.Notify(ctx, OperationTopic(o.ID))
}

// UpdateStep writes what can change of a step; its operation is updated by the same transaction.
func (tx *Tx) UpdateStep(ctx context.Context, operation string, position int, s sandglass.Step, tries int) error {
	_, err := tx.Exec(ctx, `UPDATE sandglass.step SET state = $3, attempt = $4, tries = $5, progress = $6, began = $7, ended = $8, error = $9
		WHERE operation = $1 AND position = $2`,
		operation, position, s.State, s.Attempt, tries, s.Progress, timePtr(s.Began), timePtr(s.Ended), s.Error)
	return wrap(fmt.Sprintf("update step %s of operation %s", s.Name, operation), err)
}

// SetProgress writes the progress of a step while this attempt of it is the one that runs.
func (db *DB) SetProgress(ctx context.Context, operation, step string, attempt int, p sandglass.Progress) error {
	return db.Do(ctx, func(tx *Tx) error {
		// The operation first, as everywhere, so that transactions never wait for one another in a circle.
		if _, err := tx.Exec(ctx, `UPDATE sandglass.operation SET version = version + 1 WHERE id = $1`, operation); err != nil {
			return fmt.Errorf("write progress of operation %s: %w", operation, err)
		}
		if _, err := tx.Exec(ctx, `UPDATE sandglass.step SET progress = $4
			WHERE operation = $1 AND name = $2 AND attempt = $3 AND state IN ('running', 'undoing')`, operation, step, attempt, p); err != nil {
			return fmt.Errorf("write progress of operation %s: %w", operation, err)
		}
		return tx.Notify(ctx, OperationTopic(operation))
	})
}

// SetMemory writes what an operation's steps must remember, unless a later attempt of the
// step has begun (then it is for that one to say). People don't see it, so nobody is told.
func (q Queries) SetMemory(ctx context.Context, operation, step string, attempt int, memory json.RawMessage) error {
	tag, err := q.q.Exec(ctx, `UPDATE sandglass.operation SET memory = $4 WHERE id = $1 AND NOT EXISTS
		(SELECT FROM sandglass.step WHERE operation = $1 AND name = $2 AND attempt <> $3)`, operation, step, attempt, memory)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("another attempt of the step has begun")
	}
	return wrap("write memory of operation "+operation, err)
}

// SetPlan writes an operation's plan.
func (q Queries) SetPlan(ctx context.Context, operation string, plan *sandglass.Plan) error {
	if _, err := q.q.Exec(ctx, `UPDATE sandglass.operation SET plan = $2, version = version + 1 WHERE id = $1`, operation, plan); err != nil {
		return fmt.Errorf("write plan of operation %s: %w", operation, err)
	}
	return q.Notify(ctx, OperationTopic(operation))
}

// SetResult writes what an operation gives to people.
func (q Queries) SetResult(ctx context.Context, operation string, result json.RawMessage) error {
	if _, err := q.q.Exec(ctx, `UPDATE sandglass.operation SET result = $2, version = version + 1 WHERE id = $1`, operation, result); err != nil {
		return fmt.Errorf("write result of operation %s: %w", operation, err)
	}
	return q.Notify(ctx, OperationTopic(operation))
}
