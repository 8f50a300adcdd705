// Step 8 of a restore, and the whole of an undo: the swap of two volumes, and the way back.
//
// cutOver and rollBack may be killed at any instant and are then called again, so each act in
// them first looks whether it is already so. Which volume is current is one row, changed in
// one transaction, after the new server has answered and before it is opened.

package operation

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/server"
)

// stopStagingCleanly shuts the staging server down, so that its volume is a plain, consistent data folder.
func (h *Host) stopStagingCleanly(ctx context.Context, volumeID string) error {
	return ensureStopped(ctx, h.whatever(volumeID), server.Fast)
}

// cutOver swaps the current volume for the one in the memory; "" leaves the sandbox empty.
func (h *Host) cutOver(ctx context.Context, run *engine.Run) error {
	defer h.locks.lock(run.Request.Environment)()
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	if m.Fenced.IsZero() {
		m.Previous, m.Before, m.Fenced = target.Volume, stateOf(target), time.Now()
		// The supervisor leaves the environment alone from now until the operation has ended.
		if err := run.Save(ctx, m); err != nil {
			return err
		}
	}
	var next server.Config
	if m.Volume != "" {
		if next, err = h.sandboxConfig(ctx, m.Volume, m.Major, target.Declaration); err != nil {
			return err
		}
		if target.Volume == m.Volume { // opened before, perhaps
			next = asItRuns(ctx, next)
		}
	}
	if target.Volume == m.Previous { // not swapped yet
		if err := h.closeOld(ctx, run, &m, target); err != nil {
			return err
		}
		if m.Volume != "" {
			if err := h.startNext(ctx, run, next, target.Declaration); err != nil {
				return err
			}
		}
		if err := h.swap(ctx, run, m, target); err != nil {
			return err
		}
	}
	if err := h.endHistory(ctx, target.Declaration.Name, m.Incarnation, string(run.Request.Kind)+" "+run.Operation.ID); err != nil {
		return err
	}
	if m.Volume != "" {
		if err := h.open(ctx, next, target.Declaration, holds(run, m, target)); err != nil {
			return err
		}
	}
	m.Opened = time.Now()
	run.Log.Info("opened", "unreachable", m.Opened.Sub(m.Fenced).String())
	h.Recorders.Resume(target.Declaration.Name)
	if err := run.Save(ctx, m); err != nil { // clients are in: no reason to go back
		run.Log.Warn("the time of the opening could not be kept", "error", err)
	}
	return nil
}

// holds says whether the sandbox will be open to its administrator only.
func holds(run *engine.Run, m memory, target db.Environment) bool {
	return m.Volume != "" && target.Declaration.Server.Release == "manual" && run.Request.Kind != sandglass.KindUndo
}

// closeOld is 8b, 8c and the first half of 8d: the old server is fenced, what stays the sandbox's own
// is settled, and both servers are stopped, each cleanly.
func (h *Host) closeOld(ctx context.Context, run *engine.Run, m *memory, target db.Environment) error {
	if target.Volume == "" {
		return h.stopStagingCleanly(ctx, m.Volume)
	}
	c, err := h.Sandbox(ctx, target)
	if err != nil {
		return err
	}
	old, err := running(ctx, c)
	if err != nil {
		return err
	}
	if old == nil && m.Carried != "" && !m.Settled {
		return wentDown(target.Declaration.Name)
	}
	if old != nil {
		defer old.Close()
		m.Fenced = time.Now()
		if err := old.Fence(ctx, "cutover"); err != nil {
			return err
		}
		if err := h.settle(ctx, run, c, m, target); err != nil {
			return err
		}
	}
	both, stopping := errgroup.WithContext(ctx)
	if m.Volume != "" {
		both.Go(func() error { return h.stopStagingCleanly(stopping, m.Volume) })
	}
	if old != nil {
		both.Go(func() error { return old.Stop(stopping, server.Fast) })
	}
	if err := both.Wait(); err != nil {
		return err
	}
	run.Log.Info("old server stopped", "seconds", time.Since(m.Fenced).Seconds())
	return h.Recorders.Pause(ctx, target.Declaration.Name)
}

// startNext is the second half of 8d: the new server is at the environment's address, and
// answers the health check only.
func (h *Host) startNext(ctx context.Context, run *engine.Run, c server.Config, e sandglass.Environment) error {
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	run.Log.Info("new server started")
	if err := healthy(ctx, c, e); err != nil {
		return err
	}
	return listening(ctx, e)
}

// swap writes, in one transaction, that the new volume is current and the old one kept.
func (h *Host) swap(ctx context.Context, run *engine.Run, m memory, target db.Environment) error {
	name, keep := target.Declaration.Name, time.Now().Add(time.Duration(target.Declaration.Server.Keep))
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		if m.Volume == "" {
			if err := tx.VolumeBecome(ctx, target.Volume, sandglass.VolumeKept, keep); err != nil {
				return err
			}
		} else if err := tx.Swap(ctx, m.Volume, sandglass.VolumeKept, keep); err != nil {
			return err
		}
		moment := ""
		if m.Volume != "" {
			v, err := tx.Volume(ctx, m.Volume)
			if err != nil {
				return err
			}
			moment = v.Moment
		}
		return tx.UpdateEnvironment(ctx, name, func(e *db.Environment) error {
			e.HasPrevious, e.Previous = true, m.Previous
			e.Restored, e.RestoredAt, e.RestoredFrom = moment, time.Now(), run.Operation.Source
			e.Held = holds(run, m, target)
			e.Incarnation = m.Incarnation
			e.Server = db.WishRunning
			if m.Volume == "" {
				e.Server = db.WishStopped
			}
			return nil
		})
	})
}

// rollBack undoes cutOver: the server before it is current, running and open again.
func (h *Host) rollBack(ctx context.Context, run *engine.Run) error {
	defer h.locks.lock(run.Request.Environment)()
	m, err := engine.Load[memory](run)
	if err != nil || m.Fenced.IsZero() {
		return err
	}
	if m.Volume != "" {
		mode := server.Immediate // it is discarded; what counts is that the old one is back
		if run.Request.Kind == sandglass.KindUndo {
			mode = server.Fast
		}
		if err := ensureStopped(ctx, h.whatever(m.Volume), mode); err != nil {
			return err
		}
	}
	if err := h.swapBack(ctx, run, m); err != nil {
		return err
	}
	h.Recorders.Resume(run.Request.Environment)
	if m.Previous == "" {
		return nil
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil || target.Server != db.WishRunning {
		return err
	}
	if err := h.Open(ctx, target); err != nil {
		return err
	}
	run.Log.Info("the sandbox is as it was", "volume", m.Previous)
	return nil
}

// swapBack takes back the transaction of swap, if it was committed.
func (h *Host) swapBack(ctx context.Context, run *engine.Run, m memory) error {
	then := sandglass.VolumeStaging // discarded by the undo of stage
	if run.Request.Kind == sandglass.KindUndo {
		then = sandglass.VolumeKept
	}
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		e, err := tx.Environment(ctx, run.Request.Environment)
		if err != nil || e.Volume == m.Previous {
			return err
		}
		until := time.Now().Add(time.Duration(e.Declaration.WithDefaults().Server.Keep))
		if m.Previous == "" {
			err = tx.VolumeBecome(ctx, e.Volume, then, until)
		} else {
			err = tx.Swap(ctx, m.Previous, then, until)
		}
		if err != nil {
			return err
		}
		return tx.UpdateEnvironment(ctx, run.Request.Environment, func(e *db.Environment) error {
			m.Before.bringBack(e)
			return nil
		})
	})
}

// Open sees that the environment's current server runs, at its address, open to whom it should be.
func (h *Host) Open(ctx context.Context, e db.Environment) error {
	c, err := h.Sandbox(ctx, e)
	if err != nil {
		return err
	}
	return h.open(ctx, c, e.Declaration, e.Held)
}

func (h *Host) open(ctx context.Context, c server.Config, e sandglass.Environment, held bool) error {
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Reload(ctx, opened(c, e, held))
}
