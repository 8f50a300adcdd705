// Environments: their declarations, what was wished of them, and what they show.

package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"sandglass"
)

// Wish is what was asked of a sandbox's server.
type Wish string

// The wishes.
const (
	WishRunning Wish = "running"
	WishStopped Wish = "stopped"
)

// Environment is an environment's row.
type Environment struct {
	Declaration sandglass.Environment
	Created     time.Time
	Changed     time.Time
	Recording   bool // wished on
	Server      Wish // of a sandbox
	Volume      string
	Shown       // what its current volume shows
	// Previous is the volume that was current before the last cutover, "" when the sandbox was
	// empty then; it means something only with HasPrevious. An undo goes back to it.
	HasPrevious bool
	Previous    string
	// Removing says that `env rm` has begun: nothing else begins any more.
	Removing bool
}

// Shown is what belongs to a volume and is its sandbox's while it is the current one. A kept
// volume's row remembers it from one cutover to the next.
type Shown struct {
	Held         bool                    `json:"held,omitempty"`        // open to the administrator only, until released
	Incarnation  sandglass.IncarnationID `json:"incarnation,omitempty"` // of its history; "": not recorded yet
	Restored     string                  `json:"restored,omitempty"`    // the moment it shows, for people
	RestoredFrom string                  `json:"restored_from,omitempty"`
	RestoredAt   time.Time               `json:"restored_at,omitzero"`
}

const environmentColumns = `declaration, created, changed, recording, server, held, coalesce(volume, ''), incarnation, restored, restored_from, restored_at, has_previous, previous, removing`

func scanEnvironment(row pgx.CollectableRow) (Environment, error) {
	var e Environment
	var at *time.Time
	err := row.Scan(&e.Declaration, &e.Created, &e.Changed, &e.Recording, &e.Server, &e.Held, &e.Volume, &e.Incarnation, &e.Restored, &e.RestoredFrom, &at, &e.HasPrevious, &e.Previous, &e.Removing)
	e.Created, e.Changed, e.RestoredAt = e.Created.UTC(), e.Changed.UTC(), timeOf(at)
	return e, err
}

// ApplyEnvironment inserts the declaration, or replaces it and leaves the rest of the row.
// It says whether the environment is new. The kind of an environment can't change.
func (q Queries) ApplyEnvironment(ctx context.Context, e sandglass.Environment) (created bool, err error) {
	err = q.q.QueryRow(ctx, `INSERT INTO sandglass.environment AS e (name, declaration) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET declaration = excluded.declaration, changed = now()
		WHERE e.declaration->>'kind' = excluded.declaration->>'kind' AND NOT e.removing
		RETURNING xmax = 0`, e.Name, e).Scan(&created)
	if errors.Is(err, pgx.ErrNoRows) {
		if there, err := q.Environment(ctx, e.Name); err == nil && there.Removing {
			return false, Removing(e.Name)
		}
		return false, &sandglass.Error{Code: sandglass.CodeConfig, Op: "apply environment",
			Message: fmt.Sprintf("Environment %q exists as another kind, and an environment never changes its kind.", e.Name),
			Remedy:  "Choose another name, or remove the environment first."}
	}
	if err != nil {
		return false, fmt.Errorf("apply environment %s: %w", e.Name, err)
	}
	return created, q.Notify(ctx, EnvironmentTopic(e.Name))
}

// Environment reads one; CodeEnvironmentUnknown when there is none of that name.
func (q Queries) Environment(ctx context.Context, name string) (Environment, error) {
	return q.environment(ctx, name, "")
}

func (q Queries) environment(ctx context.Context, name, lock string) (Environment, error) {
	rows, err := q.q.Query(ctx, `SELECT `+environmentColumns+` FROM sandglass.environment WHERE name = $1 `+lock, name)
	if err != nil {
		return Environment{}, fmt.Errorf("read environment %s: %w", name, err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, scanEnvironment)
	if errors.Is(err, pgx.ErrNoRows) {
		return e, &sandglass.Error{Code: sandglass.CodeEnvironmentUnknown, Op: "read environment",
			Message: fmt.Sprintf("There is no environment %q.", name),
			Remedy:  "`sandglass env ls` lists them; `sandglass apply` declares one."}
	}
	return e, wrap("read environment "+name, err)
}

// Environments reads all, by name.
func (q Queries) Environments(ctx context.Context) ([]Environment, error) {
	rows, err := q.q.Query(ctx, `SELECT `+environmentColumns+` FROM sandglass.environment ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("read environments: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanEnvironment)
	return all, wrap("read environments", err)
}

// UpdateEnvironment locks the row, lets f change it and writes it back; an error of f changes
// nothing. The name, the declaration and the dates stay as they are, and Volume changes by
// the volume functions only.
func (tx *Tx) UpdateEnvironment(ctx context.Context, name string, f func(e *Environment) error) error {
	e, err := tx.environment(ctx, name, "FOR UPDATE")
	if err != nil {
		return err
	}
	if err := f(&e); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE sandglass.environment SET changed = now(), recording = $2, server = $3, held = $4, incarnation = $5,
		restored = $6, restored_from = $7, restored_at = $8, has_previous = $9, previous = $10 WHERE name = $1`,
		name, e.Recording, e.Server, e.Held, e.Incarnation, e.Restored, e.RestoredFrom, timePtr(e.RestoredAt), e.HasPrevious, e.Previous); err != nil {
		return fmt.Errorf("update environment %s: %w", name, err)
	}
	return tx.Notify(ctx, EnvironmentTopic(name))
}

// UpdateEnvironment is Tx.UpdateEnvironment in a transaction of its own.
func (db *DB) UpdateEnvironment(ctx context.Context, name string, f func(e *Environment) error) error {
	return db.Do(ctx, func(tx *Tx) error { return tx.UpdateEnvironment(ctx, name, f) })
}

// Removing is the refusal to begin something with an environment that is being removed.
func Removing(environment string) *sandglass.Error {
	return &sandglass.Error{Code: sandglass.CodeEnvironmentBusy, Op: "use environment",
		Message: fmt.Sprintf("Environment %q is being removed.", environment),
		Remedy:  fmt.Sprintf("If the removal was broken off, finish it with `sandglass env rm %s`.", environment)}
}

// BeginRemoval marks the environment, so that no operation on it, or from it, can begin any more. It is refused
// while one is unfinished (CodeEnvironmentBusy). Of an operation and a removal that begin at once, one wins.
func (tx *Tx) BeginRemoval(ctx context.Context, name string) error {
	if _, err := tx.environment(ctx, name, "FOR UPDATE"); err != nil {
		return err
	}
	var busy string
	err := tx.QueryRow(ctx, `SELECT id FROM sandglass.operation WHERE (environment = $1 OR source = $1) AND state IN ('queued', 'running', 'undoing')
		ORDER BY id LIMIT 1`, name).Scan(&busy)
	if err == nil {
		return Busy(name, busy)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("look for unfinished operations of %s: %w", name, err)
	}
	if _, err := tx.Exec(ctx, `UPDATE sandglass.environment SET removing = true, recording = false, server = 'stopped', changed = now() WHERE name = $1`, name); err != nil {
		return fmt.Errorf("begin to remove environment %s: %w", name, err)
	}
	return tx.Notify(ctx, EnvironmentTopic(name))
}

// RemoveEnvironment removes the declaration. It is refused while an operation is unfinished
// (CodeEnvironmentBusy) or a volume is left (CodeVolumeInUse). Operations and audit stay.
func (tx *Tx) RemoveEnvironment(ctx context.Context, name string) error {
	if _, err := tx.environment(ctx, name, "FOR UPDATE"); err != nil {
		return err
	}
	if id, err := tx.Unfinished(ctx, name); err != nil {
		return err
	} else if id != "" {
		return Busy(name, id)
	}
	var volumes int
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM sandglass.volume WHERE environment = $1 AND state <> 'gone'`, name).Scan(&volumes); err != nil {
		return fmt.Errorf("count volumes of %s: %w", name, err)
	}
	if volumes > 0 {
		return &sandglass.Error{Code: sandglass.CodeVolumeInUse, Op: "remove environment",
			Message: fmt.Sprintf("Environment %q still has %d volume(s).", name, volumes),
			Remedy:  fmt.Sprintf("They go with it: run `sandglass env rm %s` once more; `sandglass volume ls` lists them.", name)}
	}
	if _, err := tx.Exec(ctx, `DELETE FROM sandglass.environment WHERE name = $1`, name); err != nil {
		return fmt.Errorf("remove environment %s: %w", name, err)
	}
	return tx.Notify(ctx, EnvironmentTopic(name))
}
