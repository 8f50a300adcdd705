// Small records: recorders' pointers, the audit and plans of prune.

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

// Recorder is where an environment's recorder is; the zero value before it first ran.
type Recorder struct {
	Incarnation sandglass.IncarnationID // being recorded
	LastImage   sandglass.ImageID
	// Digests is the image whose chunk digests the state folder holds; "" means none, and the next image is full.
	Digests sandglass.ImageID
	Changed time.Time
}

// Recorder reads an environment's recorder.
func (q Queries) Recorder(ctx context.Context, environment string) (Recorder, error) {
	var r Recorder
	err := q.q.QueryRow(ctx, `SELECT incarnation, last_image, digests, changed FROM sandglass.recorder WHERE environment = $1`, environment).
		Scan(&r.Incarnation, &r.LastImage, &r.Digests, &r.Changed)
	if errors.Is(err, pgx.ErrNoRows) {
		return Recorder{}, nil
	}
	r.Changed = r.Changed.UTC()
	return r, wrap("read recorder of "+environment, err)
}

// SetRecorder writes an environment's recorder.
func (q Queries) SetRecorder(ctx context.Context, environment string, r Recorder) error {
	_, err := q.q.Exec(ctx, `INSERT INTO sandglass.recorder (environment, incarnation, last_image, digests) VALUES ($1, $2, $3, $4)
		ON CONFLICT (environment) DO UPDATE SET incarnation = excluded.incarnation, last_image = excluded.last_image, digests = excluded.digests, changed = now()`,
		environment, r.Incarnation, r.LastImage, r.Digests)
	return wrap("write recorder of "+environment, err)
}

// AuditRow says who did what, when.
type AuditRow struct {
	ID          int64           `json:"id"`
	At          time.Time       `json:"at"`
	Who         string          `json:"who"`
	What        string          `json:"what"` // "environment.applied", "restore.asked", "peek.opened", ...
	Environment string          `json:"environment,omitempty"`
	Operation   string          `json:"operation,omitempty"`
	Detail      json.RawMessage `json:"detail,omitempty"`
}

// Audit writes a row; ID and At are set by the database. In a Tx it commits with what it tells of.
func (q Queries) Audit(ctx context.Context, row AuditRow) error {
	_, err := q.q.Exec(ctx, `INSERT INTO sandglass.audit (who, what, environment, operation, detail) VALUES ($1, $2, $3, $4, $5)`,
		row.Who, row.What, row.Environment, row.Operation, row.Detail)
	return wrap("write audit", err)
}

// Audits reads the newest rows first, of one environment or ("") of all.
func (q Queries) Audits(ctx context.Context, environment string, limit int) ([]AuditRow, error) {
	rows, err := q.q.Query(ctx, `SELECT id, at, who, what, environment, operation, detail FROM sandglass.audit
		WHERE $1 = '' OR environment = $1 ORDER BY id DESC LIMIT $2`, environment, limit)
	if err != nil {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AuditRow])
	for i := range all {
		all[i].At = all[i].At.UTC()
	}
	return all, wrap("read audit", err)
}

// InsertPrunePlan keeps a plan, to be executed by its ID.
func (q Queries) InsertPrunePlan(ctx context.Context, p sandglass.PrunePlan) error {
	_, err := q.q.Exec(ctx, `INSERT INTO sandglass.prune_plan (id, made, plan) VALUES ($1, $2, $3)`, p.ID, p.Made, p)
	return wrap("keep prune plan "+p.ID, err)
}

// CodePruneUnknown is given for a plan that was never made, CodePruneExecuted for one that was executed.
const (
	CodePruneUnknown  sandglass.Code = "prune_plan.not_found"
	CodePruneExecuted sandglass.Code = "prune_plan.executed"
)

// PrunePlan reads a plan.
func (q Queries) PrunePlan(ctx context.Context, id string) (sandglass.PrunePlan, error) {
	var p sandglass.PrunePlan
	var executed bool
	err := q.q.QueryRow(ctx, `SELECT plan, executed IS NOT NULL FROM sandglass.prune_plan WHERE id = $1`, id).Scan(&p, &executed)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, &sandglass.Error{Code: CodePruneUnknown, Op: "read prune plan",
			Message: fmt.Sprintf("There is no prune plan %q.", id), Remedy: "Make one with `sandglass prune`."}
	}
	p.Executed = executed
	return p, wrap("read prune plan "+id, err)
}

// PrunePlanExecuted marks a plan as executed; CodePruneExecuted when it was already.
func (q Queries) PrunePlanExecuted(ctx context.Context, id string) error {
	tag, err := q.q.Exec(ctx, `UPDATE sandglass.prune_plan SET executed = now() WHERE id = $1 AND executed IS NULL`, id)
	if err != nil {
		return fmt.Errorf("mark prune plan %s: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return &sandglass.Error{Code: CodePruneExecuted, Op: "mark prune plan",
			Message: fmt.Sprintf("Prune plan %s was executed already.", id), Remedy: "Make a new one with `sandglass prune`."}
	}
	return nil
}
