// The audit: who did what, when.

package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

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

// Forget removes finished operations and audit rows from before a time, and says how many. What a volume that is there
// still names stays, and so does a recent operation's audit.
func (db *DB) Forget(ctx context.Context, before time.Time) (rows int64, err error) {
	err = db.Do(ctx, func(tx *Tx) error {
		for _, sql := range []string{
			`DELETE FROM sandglass.operation o WHERE state IN ('succeeded', 'failed', 'cancelled') AND created < $1 AND ended < $1
				AND NOT EXISTS (SELECT FROM sandglass.volume v WHERE v.operation = o.id AND v.state <> 'gone')`,
			`DELETE FROM sandglass.audit a WHERE at < $1 AND NOT EXISTS (SELECT FROM sandglass.operation o WHERE o.id = a.operation)`,
			`DELETE FROM sandglass.volume WHERE state = 'gone' AND created < $1`,
		} {
			tag, err := tx.Exec(ctx, sql, before)
			if err != nil {
				return fmt.Errorf("forget what is old: %w", err)
			}
			rows += tag.RowsAffected()
		}
		return nil
	})
	return rows, err
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
