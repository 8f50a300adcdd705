// Undo's own first step, and the operations of one step: release, start and stop.

package operation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/server"
	"sandglass/internal/volume"
)

// undoTarget chooses the volume an undo goes back to: the one before the last cutover ("" when
// the sandbox was empty then), or the kept one that the request names.
func (h *Host) undoTarget(ctx context.Context, r sandglass.Request) (db.Environment, db.Volume, error) {
	e, err := h.environment(ctx, r.Environment)
	if err != nil {
		return e, db.Volume{}, err
	}
	if err := sandboxOnly(e); err != nil {
		return e, db.Volume{}, err
	}
	id := r.Volume
	if id == "" {
		if !e.HasPrevious {
			return e, db.Volume{}, nothingKept(e.Declaration.Name)
		}
		id = e.Previous
	}
	if err := h.refuseLive(ctx, e); err != nil || id == "" {
		return e, db.Volume{}, err
	}
	v, err := h.DB.Volume(ctx, id)
	if err != nil {
		return e, v, err
	}
	if v.State != sandglass.VolumeKept || v.Environment != e.Declaration.Name {
		return e, v, nothingKept(e.Declaration.Name)
	}
	return e, v, nil
}

func nothingKept(environment string) error {
	return &sandglass.Error{Code: sandglass.CodeNothingToUndo, Op: "undo",
		Message: fmt.Sprintf("No state of %s is kept that an undo could go back to.", environment),
		Remedy:  "`sandglass volume ls` lists kept states; a moment of its history may still be restored."}
}

func sandboxOnly(e db.Environment) error {
	if e.Declaration.Kind == sandglass.Sandbox {
		return nil
	}
	return &sandglass.Error{Code: sandglass.CodeEnvironmentKind, Op: "check target",
		Message: fmt.Sprintf("%s is a production, which Sandglass only ever reads.", e.Declaration.Name),
		Remedy:  "Choose a sandbox as the target."}
}

func (h *Host) undoPreflight(ctx context.Context, run *engine.Run) error {
	_, v, err := h.undoTarget(ctx, run.Request)
	if err != nil {
		return &engine.Refused{Err: sandglass.AsError(err)}
	}
	m := memory{Volume: v.ID, Major: v.Major, passing: passing{Shown: v.Shown}}
	if m.Incarnation, err = h.resumable(ctx, v); err != nil {
		return err
	}
	return run.Save(ctx, m)
}

// release opens a held sandbox to everybody it is declared open to.
func (h *Host) release(ctx context.Context, run *engine.Run) error {
	unlock, err := h.locks.lock(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.DB.UpdateEnvironment(ctx, run.Request.Environment, func(e *db.Environment) error {
		e.Held = false
		return nil
	}); err != nil {
		return err
	}
	e, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	return h.Open(ctx, e)
}

// ownData is what a sandbox shows, for people, that was not restored from any other: what its team puts into it.
const ownData = "its own data"

// start starts the sandbox's server; in an empty sandbox, when asked to, with a new cluster.
func (h *Host) start(ctx context.Context, run *engine.Run) error {
	unlock, err := h.locks.lock(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	if e.Volume == "" {
		if !run.Request.New {
			return &engine.Refused{Err: Empty(e.Declaration.Name)}
		}
		if err := h.makeCluster(ctx, run, e); err != nil {
			return err
		}
	}
	if err := h.wishRunning(ctx, run); err != nil {
		return err
	}
	if e, err = h.environment(ctx, run.Request.Environment); err != nil {
		return err
	}
	return h.Open(ctx, e)
}

// wishRunning remembers what was wished before, and wishes the server to run.
func (h *Host) wishRunning(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		return tx.UpdateEnvironment(ctx, run.Request.Environment, func(e *db.Environment) error {
			if m.Before.Server == "" {
				m.Before.Server = e.Server
				if err := run.SaveTx(ctx, tx, m); err != nil {
					return err
				}
			}
			e.Server = db.WishRunning
			if m.Volume != "" { // of makeCluster
				e.Restored = ownData
			}
			return nil
		})
	})
}

// Empty is the refusal to do something with a sandbox that holds nothing.
func Empty(name string) *sandglass.Error {
	return &sandglass.Error{Code: sandglass.CodeEnvironmentEmpty, Op: "start sandbox",
		Message: fmt.Sprintf("%s is empty: nothing was restored into it yet.", name),
		Remedy:  fmt.Sprintf("Restore into it (sandglass restore %s), or make a new cluster: sandglass env start %s --new", name, name)}
}

// makeCluster gives an empty sandbox a new cluster of the newest installed major.
func (h *Host) makeCluster(ctx context.Context, run *engine.Run, e db.Environment) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	if m.Volume == "" {
		found, err := h.Installed.Find(ctx)
		if err != nil {
			return err
		}
		for major := range found {
			m.Major = max(m.Major, major)
		}
		m.Volume = newVolumeID()
		if err := run.Save(ctx, m); err != nil {
			return err
		}
	}
	v := sandglass.Volume{ID: m.Volume, Environment: e.Declaration.Name, Operation: run.Operation.ID, Driver: h.Volumes.Name(),
		Path: h.Volumes.Layout(m.Volume).Root, Major: m.Major, Moment: ownData}
	if err := h.insertVolume(ctx, v, true); err != nil {
		return err
	}
	c, err := h.sandboxConfig(ctx, m.Volume, m.Major, e.Declaration)
	if err != nil {
		return err
	}
	// In the seal its user has a name; without one, and without namespaces, it may as well be made in the open.
	c.Seal = &server.Seal{Volume: h.Volumes.Layout(m.Volume).Root, ConfigOnly: true}
	if run.Attempt > 1 { // half a cluster can't be told from a whole one, and initdb may still be at it
		if err := server.Discard(ctx, c); err != nil {
			return err
		}
		if err := h.Volumes.Destroy(ctx, m.Volume); err != nil {
			return err
		}
	}
	if err := h.Volumes.CreateEmpty(ctx, m.Volume, volume.Owner{UID: c.Owner.UID, GID: c.Owner.GID}); err != nil {
		return err
	}
	if err := server.InitDB(ctx, c, server.InitOptions{}); err != nil {
		return err
	}
	return h.DB.VolumeBecome(ctx, m.Volume, sandglass.VolumeCurrent, time.Time{})
}

// unstart removes a new cluster that did not come to run, and wishes what was wished before.
func (h *Host) unstart(ctx context.Context, run *engine.Run) error {
	unlock, err := h.locks.lock(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	if m.Before.Server != "" {
		if err := h.DB.UpdateEnvironment(ctx, run.Request.Environment, func(e *db.Environment) error {
			e.Server = m.Before.Server
			if m.Volume != "" {
				e.Restored = ""
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if m.Volume == "" {
		return nil
	}
	v, err := h.DB.Volume(ctx, m.Volume)
	if sandglass.CodeOf(err) == sandglass.CodeVolumeUnknown {
		return nil
	}
	if err != nil {
		return err
	}
	if v.State == sandglass.VolumeCurrent {
		if err := h.DB.VolumeBecome(ctx, m.Volume, sandglass.VolumeStaging, time.Time{}); err != nil {
			return err
		}
	}
	return h.destroyVolume(ctx, m.Volume, run.Dir)
}

// stop stops the sandbox's server, and remembers that it should not run.
func (h *Host) stop(ctx context.Context, run *engine.Run) error {
	unlock, err := h.locks.lock(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.DB.UpdateEnvironment(ctx, run.Request.Environment, func(e *db.Environment) error {
		e.Server = db.WishStopped
		return nil
	}); err != nil {
		return err
	}
	e, err := h.environment(ctx, run.Request.Environment)
	if err != nil || e.Volume == "" {
		return err
	}
	return h.stopServer(ctx, e.Volume, server.Fast)
}

// ClosePeek ends a peek: its server stops and its copy goes.
func (h *Host) ClosePeek(ctx context.Context, operation string) error {
	volumes, err := h.DB.Volumes(ctx, "")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(volumes, func(v db.Volume) bool { return v.Operation == operation && v.State == sandglass.VolumeStaging })
	if i < 0 {
		return nil
	}
	return h.destroyVolume(ctx, volumes[i].ID, "")
}

// Check refuses what can't be asked of an environment, before anything is planned.
func Check(e db.Environment, r sandglass.Request) error {
	name := e.Declaration.Name
	switch r.Kind {
	case sandglass.KindPeek:
		if r.Reason == "" {
			return &sandglass.Error{Code: sandglass.CodeUsage, Op: "check request", Message: "A peek shows production's own data, so it needs a reason.",
				Remedy: "Say why with --reason; it is kept with the operation."}
		}
		return nil
	case sandglass.KindStop, sandglass.KindRelease:
		if e.Declaration.Kind == sandglass.Sandbox && e.Volume == "" {
			return Empty(name)
		}
	case sandglass.KindStart:
		if e.Declaration.Kind == sandglass.Sandbox && e.Volume == "" && !r.New {
			return Empty(name)
		}
		if r.New && e.Volume != "" {
			return &sandglass.Error{Code: sandglass.CodeUsage, Op: "check request", Message: name + " already holds a cluster; a new one would replace it.",
				Remedy: "Start it without --new."}
		}
	}
	return sandboxOnly(e)
}
