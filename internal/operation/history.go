// A sandbox's own history: a cutover passes from one stretch of it to another, and what was prepared
// for a cutover that did not happen is no part of it.
//
// Each volume has an incarnation of its own. A cutover does not end the old one: the environment leaves it, and an
// undo comes back to it, on the same timeline and with the slot that lies in the volume. It ends with its volume.

package operation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/policy"
	"sandglass/internal/recorder"
)

// neverLived is the end of an incarnation whose cutover did not happen. Its image shows a state
// that the sandbox never was in.
const neverLived = "the cutover it was made for did not happen"

// passing is what the steps of an operation remember of the way from one volume to another.
type passing struct {
	// Declared is the declaration with which the new server was rehearsed, and is cut over: one that is applied
	// later is for the next start.
	Declared *sandglass.Environment `json:"declared,omitempty"`
	// Shown is what an undo brings back of the volume it goes back to.
	Shown db.Shown `json:"shown,omitzero"`
	// Left is the instant at which the environment's history passes from the old volume's incarnation to the new
	// one's; it is decided once, when nobody can write to either. Leaves is the old one ("": none), whose WAL ends at LeavesAt.
	Left     time.Time               `json:"left,omitzero"`
	Leaves   sandglass.IncarnationID `json:"leaves,omitempty"`
	LeavesAt sandglass.LSN           `json:"leaves_at,omitempty"`
	// Unrecorded says that the recording had been stopped: the old incarnation ends here, and an undo begins another.
	Unrecorded bool `json:"unrecorded,omitempty"`
}

// kept is what the old volume's row is to remember of its own history.
func (p passing) kept() sandglass.IncarnationID {
	if p.Unrecorded {
		return ""
	}
	return p.Leaves
}

// rehearsed is the target as it was declared when the new server was rehearsed.
func (p passing) rehearsed(target db.Environment) db.Environment {
	if p.Declared != nil {
		target.Declaration = *p.Declared
	}
	return target
}

// adopt makes the stopped copy's image the first of the sandbox's next incarnation. What an attempt
// before made begins in WAL that is gone by now.
func (h *Host) adopt(ctx context.Context, run *engine.Run, m *memory, facts sandglass.Image) error {
	if err := h.disown(ctx, run.Request.Environment, m.Incarnation); err != nil {
		return err
	}
	m.Incarnation = sandglass.IncarnationID(time.Now().UTC().Format("20060102t150405") + "-" + strings.ToLower(rand.Text()[:4]))
	if err := run.Save(ctx, *m); err != nil {
		return err
	}
	return h.Recorders.Adopt(ctx, run.Request.Environment, m.Incarnation, h.Volumes.Layout(m.Volume), facts, run.Progress)
}

// factsOfCopy are what an image of the copy is to say besides what its files tell: the databases of the running copy, and the
// settings that the environment declares for its server.
func (h *Host) factsOfCopy(ctx context.Context, connect policy.Connect, m memory, target db.Environment) (sandglass.Image, error) {
	c, err := h.sandboxConfig(ctx, m.Volume, m.Major, target.Declaration)
	if err != nil {
		return sandglass.Image{}, err
	}
	conn, err := connect(ctx, "postgres")
	if err != nil {
		return sandglass.Image{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	facts := sandglass.Image{Settings: c.Settings, Preload: c.Settings["shared_preload_libraries"], Databases: map[string]int64{}}
	rows, err := conn.Query(ctx, "SELECT datname, pg_catalog.pg_database_size(oid) FROM pg_catalog.pg_database WHERE datconnlimit <> -2")
	if err != nil {
		return facts, fmt.Errorf("read the copy's databases: %w", err)
	}
	var name string
	var size int64
	if _, err = pgx.ForEachRow(rows, []any{&name, &size}, func() error { facts.Databases[name] = size; return nil }); err != nil {
		return facts, fmt.Errorf("read the copy's databases: %w", err)
	}
	return facts, nil
}

// unrehearse undoes rehearse: an incarnation that was begun for the copy is ended.
func (h *Host) unrehearse(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	return h.disown(ctx, run.Request.Environment, m.Incarnation)
}

// disown ends an incarnation that will have no cutover; one that was never begun, or is "", is none.
func (h *Host) disown(ctx context.Context, environment string, id sandglass.IncarnationID) error {
	return h.endIncarnation(ctx, environment, id, neverLived)
}

func (h *Host) endIncarnation(ctx context.Context, environment string, id sandglass.IncarnationID, why string) error {
	if id == "" {
		return nil
	}
	inc, err := h.Repository.Incarnation(ctx, environment, id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !inc.Ended.IsZero() {
		return nil
	}
	if err != nil {
		return err
	}
	at := time.Now()
	if n := len(inc.Away); n > 0 && inc.Away[n-1].To.IsZero() && why != neverLived {
		at = inc.Away[n-1].From // nothing has been written to it since
	}
	return h.Repository.EndIncarnation(ctx, environment, id, at, why)
}

// resumable is a volume's incarnation, if more can still be recorded of it.
func (h *Host) resumable(ctx context.Context, v db.Volume) (sandglass.IncarnationID, error) {
	if v.Shown.Incarnation == "" {
		return "", nil
	}
	inc, err := h.Repository.Incarnation(ctx, v.Environment, v.Shown.Incarnation)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !inc.Ended.IsZero() {
		return "", nil
	}
	return v.Shown.Incarnation, err
}

// recordedNow is the incarnation that the environment's recorder goes on with, by the rule it has itself (Recorder.open): the one that
// is noted or, where that has ended or none was noted yet, the newest that has begun since.
func (h *Host) recordedNow(ctx context.Context, environment string, noted sandglass.IncarnationID) (sandglass.IncarnationID, error) {
	all, err := h.Repository.Incarnations(ctx, environment)
	if err != nil {
		return noted, err
	}
	var since time.Time
	for _, i := range all {
		if i.ID != noted {
			continue
		}
		if since = i.Ended; since.IsZero() {
			return noted, nil
		}
	}
	var found sandglass.Incarnation
	for _, i := range all {
		if i.Current() && !i.Began.Before(since) && i.Began.After(found.Began) {
			found = i
		}
	}
	return found.ID, nil
}

// settlePassing decides, once, when the environment's history passes from one incarnation to the next, and where the
// old one's WAL ended. No server of the two runs that a client could reach.
func (h *Host) settlePassing(ctx context.Context, run *engine.Run, m *memory, target db.Environment) error {
	if !m.Left.IsZero() {
		return nil
	}
	all, err := h.Repository.Incarnations(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	left := time.Now()
	for _, i := range all { // the repository knows best: the recorder may have begun one a moment ago
		if i.Current() && i.ID != m.Incarnation {
			m.Leaves = i.ID
		}
		for _, a := range i.Away { // also where our clock has been set back
			left = later(left, later(a.From, a.To).Add(time.Microsecond))
		}
	}
	if m.Previous != "" && m.Leaves != "" {
		if m.LeavesAt, err = recorder.StoppedAt(h.Volumes.Layout(m.Previous).Data); err != nil {
			return fmt.Errorf("read where the old server's WAL ends: %w", err)
		}
	}
	m.Unrecorded = !target.Recording || target.Declaration.Recording == nil
	m.Left = left
	return run.Save(ctx, *m)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// passHistory passes the environment's history on, in the repository. It may be done again.
func (h *Host) passHistory(ctx context.Context, run *engine.Run, m memory) error {
	environment := run.Request.Environment
	all, err := h.Repository.Incarnations(ctx, environment)
	if err != nil {
		return err
	}
	for _, i := range all {
		if !i.Current() || i.ID == m.Incarnation {
			continue
		}
		a := sandglass.Absence{From: m.Left, Reason: string(run.Request.Kind) + " " + run.Operation.ID}
		if i.ID == m.kept() {
			a.LSN = m.LeavesAt
			err = h.Repository.LeaveIncarnation(ctx, environment, i.ID, a)
		} else { // no volume remembers it
			err = h.Repository.EndIncarnation(ctx, environment, i.ID, a.From, a.Reason)
		}
		if err != nil {
			return fmt.Errorf("leave incarnation %s: %w", i.ID, err)
		}
	}
	return h.comeBack(ctx, environment, all, m.Incarnation, m.Left)
}

// comeBack has the environment show an incarnation from a time on, if it does not yet and there is one.
func (h *Host) comeBack(ctx context.Context, environment string, all []sandglass.Incarnation, id sandglass.IncarnationID, at time.Time) error {
	i := slices.IndexFunc(all, func(i sandglass.Incarnation) bool { return i.ID == id })
	if i < 0 || all[i].Current() || !all[i].Ended.IsZero() {
		return nil
	}
	if err := h.Repository.ReturnIncarnation(ctx, environment, id, at); err != nil {
		return fmt.Errorf("come back to incarnation %s: %w", id, err)
	}
	return nil
}

// passBack takes back what passHistory did. The old incarnation goes on as if it had never been left: nobody was let
// into the new server.
func (h *Host) passBack(ctx context.Context, run *engine.Run, m memory) error {
	if m.Left.IsZero() {
		return nil
	}
	environment := run.Request.Environment
	all, err := h.Repository.Incarnations(ctx, environment)
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.ID == m.Incarnation && i.Current() {
			if err := h.Repository.LeaveIncarnation(ctx, environment, i.ID, sandglass.Absence{From: m.Left, Reason: "rolled back"}); err != nil {
				return fmt.Errorf("leave incarnation %s: %w", i.ID, err)
			}
		}
	}
	return h.comeBack(ctx, environment, all, m.Leaves, m.Left)
}

// drain sees that the last WAL of a volume that no server runs on is in the repository.
func (h *Host) drain(ctx context.Context, v db.Volume) error {
	id, err := h.resumable(ctx, v)
	if err != nil || id == "" {
		return err
	}
	return h.Recorders.Drain(ctx, v.Environment, id, h.Volumes.Layout(v.ID))
}

// drainKept drains the volume that a cutover has put aside. The clients are in the new server: what can't
// be brought in now is tried again before the volume may go.
func (h *Host) drainKept(ctx context.Context, run *engine.Run, id string) {
	if id == "" {
		return
	}
	v, err := h.DB.Volume(ctx, id)
	if err == nil && v.State == sandglass.VolumeKept {
		err = h.drain(ctx, v)
	}
	if err != nil {
		run.Log.Warn("the last WAL of the old server is not in the repository yet", "volume", id, "error", err)
	}
}

// state is what a swap changes in an environment's row, besides its volume.
type state struct {
	Server      db.Wish `json:"server,omitempty"`
	HasPrevious bool    `json:"has_previous,omitempty"`
	Previous    string  `json:"previous,omitempty"`
	db.Shown
}

func stateOf(e db.Environment) state { return state{e.Server, e.HasPrevious, e.Previous, e.Shown} }

func (s state) bringBack(e *db.Environment) {
	e.Server, e.HasPrevious, e.Previous, e.Shown = s.Server, s.HasPrevious, s.Previous, s.Shown
}
