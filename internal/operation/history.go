// A sandbox's own history: a swap of volumes ends one stretch of it and begins the next, and what
// was prepared for a swap that did not happen is no part of it.

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

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/repo"
)

// neverLived is the end of an incarnation whose cutover did not happen. Its image shows a state
// that the sandbox never was in.
const neverLived = "the cutover it was made for did not happen"

// History is the repository as an environment's window sees it: without incarnations whose cutover
// did not happen, or has not happened yet.
type History struct {
	*repo.Repository
	Current sandglass.IncarnationID // the one being recorded; "": not known
}

// Incarnations are those that the environment lived through, oldest first.
func (r History) Incarnations(ctx context.Context, env string) ([]sandglass.Incarnation, error) {
	all, err := r.Repository.Incarnations(ctx, env)
	live := slices.ContainsFunc(all, func(i sandglass.Incarnation) bool { return i.ID == r.Current && i.Ended.IsZero() })
	return slices.DeleteFunc(all, func(i sandglass.Incarnation) bool {
		return i.EndReason == neverLived || live && i.ID != r.Current && i.Ended.IsZero()
	}), err
}

// History is that of an environment.
func (h *Host) History(e db.Environment) History { return History{h.Repository, e.Incarnation} }

// adopt makes the stopped copy's image the first of the sandbox's next incarnation. What an attempt
// before made begins in WAL that is gone by now.
func (h *Host) adopt(ctx context.Context, run *engine.Run, m *memory) error {
	if err := h.disown(ctx, run.Request.Environment, m.Incarnation); err != nil {
		return err
	}
	m.Incarnation = sandglass.IncarnationID(time.Now().UTC().Format("20060102t150405") + "-" + strings.ToLower(rand.Text()[:4]))
	if err := run.Save(ctx, *m); err != nil {
		return err
	}
	return h.Recorders.Adopt(ctx, run.Request.Environment, m.Incarnation, h.Volumes.Layout(m.Volume), run.Progress)
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
	if id == "" {
		return nil
	}
	_, err := h.Repository.Incarnation(ctx, environment, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.Repository.EndIncarnation(ctx, environment, id, time.Now(), neverLived)
}

// endHistory ends every incarnation of the environment but one. The window takes the newest as the
// one that goes on, so an undone state does not continue its old incarnation: its recorder begins a new one.
func (h *Host) endHistory(ctx context.Context, environment string, but sandglass.IncarnationID, why string) error {
	all, err := h.Repository.Incarnations(ctx, environment)
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.ID == but || !i.Ended.IsZero() {
			continue
		}
		if err := h.Repository.EndIncarnation(ctx, environment, i.ID, time.Now(), why); err != nil {
			return fmt.Errorf("end incarnation %s: %w", i.ID, err)
		}
	}
	return nil
}

// state is what a swap changes in an environment's row, besides its volume.
type state struct {
	Server       db.Wish                 `json:"server,omitempty"`
	Held         bool                    `json:"held,omitempty"`
	Incarnation  sandglass.IncarnationID `json:"incarnation,omitempty"`
	Restored     string                  `json:"restored,omitempty"`
	RestoredFrom string                  `json:"restored_from,omitempty"`
	RestoredAt   time.Time               `json:"restored_at,omitzero"`
	HasPrevious  bool                    `json:"has_previous,omitempty"`
	Previous     string                  `json:"previous,omitempty"`
}

func stateOf(e db.Environment) state {
	return state{e.Server, e.Held, e.Incarnation, e.Restored, e.RestoredFrom, e.RestoredAt, e.HasPrevious, e.Previous}
}

func (s state) bringBack(e *db.Environment) {
	e.Server, e.Held, e.Incarnation = s.Server, s.Held, s.Incarnation
	e.Restored, e.RestoredFrom, e.RestoredAt = s.Restored, s.RestoredFrom, s.RestoredAt
	e.HasPrevious, e.Previous = s.HasPrevious, s.Previous
}
