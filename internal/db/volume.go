// Volumes and their states. A volume's row is written before its folder is made, and says
// "gone" only after the folder is.

package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"sandglass"
)

// volumeNext are the states a volume may go to. Current to staging is a cutover rolled back.
var volumeNext = map[sandglass.VolumeState][]sandglass.VolumeState{
	sandglass.VolumeStaging: {sandglass.VolumeCurrent, sandglass.VolumeGone},
	sandglass.VolumeCurrent: {sandglass.VolumeKept, sandglass.VolumeStaging, sandglass.VolumeGone},
	sandglass.VolumeKept:    {sandglass.VolumeCurrent, sandglass.VolumeGone},
}

// VolumeCanBecome says whether a volume may go from one state to the next.
func VolumeCanBecome(from, to sandglass.VolumeState) bool {
	return slices.Contains(volumeNext[from], to)
}

// Volume is a volume with the host that holds it.
type Volume struct {
	sandglass.Volume
	Host string
	// UID is the user ID that the volume has to itself; 0: it is the servers' common user's.
	UID int
	// Shown is what it showed when a cutover put it aside; of a kept volume.
	Shown Shown
}

const volumeColumns = `id, host, environment, operation, state, driver, path, major, bytes, created, kept_since, kept_until, moment, COALESCE(uid, 0),
	held, incarnation, restored, restored_from, restored_at`

func scanVolume(row pgx.CollectableRow) (Volume, error) {
	var v Volume
	var since, until, at *time.Time
	err := row.Scan(&v.ID, &v.Host, &v.Environment, &v.Operation, &v.State, &v.Driver, &v.Path, &v.Major, &v.Bytes, &v.Created, &since, &until, &v.Moment, &v.UID,
		&v.Shown.Held, &v.Shown.Incarnation, &v.Shown.Restored, &v.Shown.RestoredFrom, &at)
	v.Created, v.KeptSince, v.KeptUntil, v.Shown.RestoredAt = v.Created.UTC(), timeOf(since), timeOf(until), timeOf(at)
	return v, err
}

// InsertVolume writes a new volume, in state staging, before anything of it exists. Writing
// the same volume again changes nothing.
func (q Queries) InsertVolume(ctx context.Context, v Volume) error {
	_, err := q.q.Exec(ctx, `INSERT INTO sandglass.volume (id, host, environment, operation, state, driver, path, major, bytes, moment, uid)
		VALUES ($1, $2, $3, $4, 'staging', $5, $6, $7, $8, $9, NULLIF($10, 0)) ON CONFLICT (id) DO NOTHING`,
		v.ID, v.Host, v.Environment, v.Operation, v.Driver, v.Path, v.Major, v.Bytes, v.Moment, v.UID)
	return wrap("insert volume "+v.ID, err)
}

// LockUIDs lets nobody else choose a user ID for a volume of the host until the transaction ends.
func (tx *Tx) LockUIDs(ctx context.Context, host string) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('sandglass user ids ' || $1, 0))`, host)
	return wrap("lock the user IDs of "+host, err)
}

// UIDs reads which user IDs volumes of the host have had: when each was given last, and which of them volumes have that are not gone.
func (q Queries) UIDs(ctx context.Context, host string) (given map[int]time.Time, held map[int]bool, err error) {
	rows, err := q.q.Query(ctx, `SELECT uid, max(created), bool_or(state <> 'gone') FROM sandglass.volume WHERE host = $1 AND uid IS NOT NULL GROUP BY uid`, host)
	if err != nil {
		return nil, nil, fmt.Errorf("read user IDs of volumes: %w", err)
	}
	given, held = map[int]time.Time{}, map[int]bool{}
	var uid int
	var at time.Time
	var there bool
	_, err = pgx.ForEachRow(rows, []any{&uid, &at, &there}, func() error {
		given[uid], held[uid] = at, there
		return nil
	})
	return given, held, wrap("read user IDs of volumes", err)
}

// Volume reads one; CodeVolumeUnknown when there is none.
func (q Queries) Volume(ctx context.Context, id string) (Volume, error) { return q.volume(ctx, id, "") }

func (q Queries) volume(ctx context.Context, id, lock string) (Volume, error) {
	rows, err := q.q.Query(ctx, `SELECT `+volumeColumns+` FROM sandglass.volume WHERE id = $1 `+lock, id)
	if err != nil {
		return Volume{}, fmt.Errorf("read volume %s: %w", id, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, scanVolume)
	if errors.Is(err, pgx.ErrNoRows) {
		return v, &sandglass.Error{Code: sandglass.CodeVolumeUnknown, Op: "read volume",
			Message: fmt.Sprintf("There is no volume %q.", id), Remedy: "`sandglass volume ls` lists them."}
	}
	return v, wrap("read volume "+id, err)
}

// Volumes reads the volumes that are not gone, of one environment or ("") of all, newest last.
func (q Queries) Volumes(ctx context.Context, environment string) ([]Volume, error) {
	rows, err := q.q.Query(ctx, `SELECT `+volumeColumns+` FROM sandglass.volume
		WHERE state <> 'gone' AND ($1 = '' OR environment = $1) ORDER BY created, id`, environment)
	if err != nil {
		return nil, fmt.Errorf("read volumes: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanVolume)
	return all, wrap("read volumes", err)
}

// SetVolumeBytes writes a volume's usage.
func (q Queries) SetVolumeBytes(ctx context.Context, id string, bytes int64) error {
	_, err := q.q.Exec(ctx, `UPDATE sandglass.volume SET bytes = $2 WHERE id = $1`, id, bytes)
	return wrap("set usage of volume "+id, err)
}

// RememberShown writes what a volume showed, before it is put aside.
func (q Queries) RememberShown(ctx context.Context, id string, s Shown) error {
	_, err := q.q.Exec(ctx, `UPDATE sandglass.volume SET held = $2, incarnation = $3, restored = $4, restored_from = $5, restored_at = $6 WHERE id = $1`,
		id, s.Held, s.Incarnation, s.Restored, s.RestoredFrom, timePtr(s.RestoredAt))
	return wrap("remember what volume "+id+" showed", err)
}

// KeepLonger moves a kept volume's end; of any other it changes nothing.
func (q Queries) KeepLonger(ctx context.Context, id string, until time.Time) error {
	_, err := q.q.Exec(ctx, `UPDATE sandglass.volume SET kept_until = $2 WHERE id = $1 AND state = 'kept'`, id, until)
	return wrap("keep volume "+id+" longer", err)
}

// VolumeBecome moves a volume to a state; to be where it is already is no error. Becoming
// current sets the environment's volume, ceasing to be current clears it. keptUntil is for VolumeKept.
func (tx *Tx) VolumeBecome(ctx context.Context, id string, to sandglass.VolumeState, keptUntil time.Time) error {
	v, err := tx.volume(ctx, id, "FOR UPDATE")
	if err != nil || v.State == to {
		return err
	}
	if !VolumeCanBecome(v.State, to) {
		return fmt.Errorf("volume %s is %s and can't become %s", id, v.State, to)
	}
	var since, until *time.Time
	if to == sandglass.VolumeKept {
		now := time.Now()
		since, until = &now, timePtr(keptUntil)
	}
	if _, err := tx.Exec(ctx, `UPDATE sandglass.volume SET state = $2, kept_since = $3, kept_until = $4 WHERE id = $1`, id, to, since, until); err != nil {
		return fmt.Errorf("volume %s becomes %s: %w", id, to, err)
	}
	switch {
	case to == sandglass.VolumeCurrent:
		_, err = tx.Exec(ctx, `UPDATE sandglass.environment SET volume = $2, changed = now() WHERE name = $1`, v.Environment, id)
	case v.State == sandglass.VolumeCurrent:
		_, err = tx.Exec(ctx, `UPDATE sandglass.environment SET volume = NULL, changed = now() WHERE name = $1 AND volume = $2`, v.Environment, id)
	}
	if err != nil {
		return fmt.Errorf("set current volume of %s: %w", v.Environment, err)
	}
	return tx.Notify(ctx, EnvironmentTopic(v.Environment))
}

// VolumeBecome is Tx.VolumeBecome in a transaction of its own.
func (db *DB) VolumeBecome(ctx context.Context, id string, to sandglass.VolumeState, keptUntil time.Time) error {
	return db.Do(ctx, func(tx *Tx) error { return tx.VolumeBecome(ctx, id, to, keptUntil) })
}

// Swap makes volume id the current one of its environment; the one that was current becomes
// "then": kept (until keptUntil) at a cutover, staging when a cutover is rolled back.
func (tx *Tx) Swap(ctx context.Context, id string, then sandglass.VolumeState, keptUntil time.Time) error {
	v, err := tx.volume(ctx, id, "FOR UPDATE")
	if err != nil || v.State == sandglass.VolumeCurrent {
		return err
	}
	var old string
	err = tx.QueryRow(ctx, `SELECT id FROM sandglass.volume WHERE environment = $1 AND state = 'current' FOR UPDATE`, v.Environment).Scan(&old)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read current volume of %s: %w", v.Environment, err)
	}
	if old != "" {
		if err := tx.VolumeBecome(ctx, old, then, keptUntil); err != nil {
			return err
		}
	}
	return tx.VolumeBecome(ctx, id, sandglass.VolumeCurrent, time.Time{})
}
