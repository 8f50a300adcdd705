// Step 8 of a restore, and the whole of an undo: the swap of two volumes, and the way back.
//
// cutOver and rollBack may be killed at any instant and are then called again, so each act in
// them first looks whether it is already so. Which volume is current is one row, changed in
// one transaction, after the new server has answered and before it is opened.

package operation

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/server"
)

// stopStagingCleanly shuts the staging server down, so that its volume is a plain, consistent data folder.
func (h *Host) stopStagingCleanly(ctx context.Context, volumeID string) error {
	return h.stopServer(ctx, volumeID, server.Fast)
}

// cutOver swaps the current volume for the one in the memory; "" leaves the sandbox empty.
func (h *Host) cutOver(ctx context.Context, run *engine.Run) error {
	unlock, err := h.locks.lock(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	target = m.rehearsed(target)
	if m.Fenced.IsZero() {
		if err := h.refuseLive(ctx, target); err != nil { // it may have become one since preflight
			return err
		}
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
		err := within(ctx, historyWithin, historyLate(), func(ctx context.Context) error { return h.settlePassing(ctx, run, &m, target) })
		if err != nil {
			return err
		}
		if err := h.swap(ctx, run, m, target); err != nil {
			return err
		}
	}
	if err := within(ctx, historyWithin, historyLate(), func(ctx context.Context) error { return h.passHistory(ctx, run, m) }); err != nil {
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

// holds says whether the sandbox will be open to its administrator only: a restored state as it is declared, one that
// an undo goes back to if it was when it was left.
func holds(run *engine.Run, m memory, target db.Environment) bool {
	if run.Request.Kind == sandglass.KindUndo {
		return m.Shown.Held
	}
	return m.Volume != "" && target.Declaration.Server.Release == "manual"
}

// Codes of what takes longer than the sandbox may be unreachable: closing the old server, noting in the repository whose history it has.
const (
	CodeCloseLate   sandglass.Code = "cutover.close_late"
	CodeHistoryLate sandglass.Code = "cutover.history_late"
)

// What bounds the time in which nobody can reach the sandbox, besides server.carry_budget for 8c.
const (
	fenceWithin   = 10 * time.Second
	stopWithin    = 15 * time.Second // of both servers
	startWithin   = time.Minute      // of the new one, with its health check
	historyWithin = 10 * time.Second // each of the two looks at the repository
)

func historyLate() *sandglass.Error {
	return &sandglass.Error{Code: CodeHistoryLate, Op: "cut over", Message: fmt.Sprintf("The repository did not note within %s whose history the sandbox goes on with.", historyWithin),
		Remedy: "The sandbox is as it was. See whether the repository answers (sandglass doctor), then try again."}
}

// closeLate is what goes wrong when an act of closeOld takes too long.
func closeLate(what string, within time.Duration) *sandglass.Error {
	return &sandglass.Error{Code: CodeCloseLate, Op: "cut over", Message: fmt.Sprintf("The old server was not %s within %s.", what, within),
		Remedy: "The sandbox is as it was. Look in its log for what held it: other replication clients, a slow disk."}
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
		if err := within(ctx, fenceWithin, closeLate("fenced", fenceWithin), func(ctx context.Context) error { return old.Fence(ctx, "cutover") }); err != nil {
			return err
		}
		if err := h.settle(ctx, run, c, m, target); err != nil {
			return err
		}
	}
	err = within(ctx, stopWithin, closeLate("stopped", stopWithin), func(ctx context.Context) error {
		both, stopping := errgroup.WithContext(ctx)
		if m.Volume != "" {
			both.Go(func() error { return h.stopStagingCleanly(stopping, m.Volume) })
		}
		if old != nil {
			both.Go(func() error { return h.stopOld(stopping, old, target.Declaration.Name) })
		}
		return both.Wait()
	})
	if err != nil {
		return err
	}
	run.Log.Info("old server stopped", "seconds", time.Since(m.Fenced).Seconds())
	return h.letGo(ctx, target.Declaration.Name)
}

// within bounds an act; late is its error when it takes longer.
func within(ctx context.Context, limit time.Duration, late *sandglass.Error, act func(context.Context) error) error {
	bounded, end := context.WithTimeoutCause(ctx, limit, late)
	defer end()
	err := act(bounded)
	if err != nil && ctx.Err() == nil && context.Cause(bounded) == late {
		return late
	}
	return err
}

// stopOld stops the fenced server. Its last act is to wait until the recorder has all of its WAL; a
// recorder that can't keep up is let go after half the time, and what it lacks is read from the volume later.
func (h *Host) stopOld(ctx context.Context, old *server.Postmaster, environment string) error {
	patient, end := context.WithTimeout(ctx, stopWithin/2)
	defer end()
	err := old.Stop(patient, server.Fast)
	if err == nil || patient.Err() == nil || ctx.Err() != nil {
		return err
	}
	if err := h.letGo(ctx, environment); err != nil {
		return err
	}
	return old.Stop(ctx, server.Fast)
}

// letGo ends the environment's recorder. One that hangs in the repository has let go of the server, and ends by itself.
func (h *Host) letGo(ctx context.Context, environment string) error {
	patient, end := context.WithTimeout(ctx, time.Second)
	defer end()
	if err := h.Recorders.Pause(patient, environment); err != nil && ctx.Err() == nil {
		h.Log.Warn("the recorder has not ended yet", "environment", environment, "error", err)
	}
	return ctx.Err()
}

// startNext is the second half of 8d: the new server is at the environment's address, and
// answers the health check only.
func (h *Host) startNext(ctx context.Context, run *engine.Run, c server.Config, e sandglass.Environment) error {
	late := &sandglass.Error{Code: sandglass.CodeHealthFailed, Op: "health check",
		Message: fmt.Sprintf("The new server did not start and pass its health check within %s.", startWithin),
		Remedy:  "The sandbox is as it was. See the PostgreSQL log of the operation (sandglass ops logs), and how long the queries of server.health take."}
	return within(ctx, startWithin, late, func(ctx context.Context) error {
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
	})
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
		shown := db.Shown{Held: holds(run, m, target), Incarnation: m.Incarnation}
		if m.Volume != "" {
			v, err := tx.Volume(ctx, m.Volume)
			if err != nil {
				return err
			}
			shown.Restored, shown.RestoredFrom, shown.RestoredAt = v.Moment, run.Operation.Source, time.Now()
			if run.Request.Kind == sandglass.KindUndo && !m.Shown.RestoredAt.IsZero() {
				shown.Restored, shown.RestoredFrom, shown.RestoredAt = m.Shown.Restored, m.Shown.RestoredFrom, m.Shown.RestoredAt
			}
		}
		return tx.UpdateEnvironment(ctx, name, func(e *db.Environment) error {
			old := e.Shown
			old.Incarnation = m.kept()
			e.HasPrevious, e.Previous, e.Shown = true, m.Previous, shown
			e.Server = db.WishRunning
			if m.Volume == "" {
				e.Server = db.WishStopped
			}
			if m.Previous == "" {
				return nil
			}
			return tx.RememberShown(ctx, m.Previous, old)
		})
	})
}

// rollBack undoes cutOver: the server before it is current, running and open again.
func (h *Host) rollBack(ctx context.Context, run *engine.Run) error {
	unlock, err := h.locks.lock(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := engine.Load[memory](run)
	if err != nil || m.Fenced.IsZero() {
		return err
	}
	if m.Volume != "" {
		mode := server.Immediate // it is discarded; what counts is that the old one is back
		if run.Request.Kind == sandglass.KindUndo {
			mode = server.Fast
		}
		if err := h.stopServer(ctx, m.Volume, mode); err != nil {
			return err
		}
	}
	if err := h.swapBack(ctx, run, m); err != nil {
		return err
	}
	if err := h.reopen(ctx, run, m); err != nil {
		return err
	}
	// The history comes last: a repository that does not answer must not keep the sandbox closed. Nothing is recorded before.
	if err := h.passBack(ctx, run, m); err != nil {
		return err
	}
	h.Recorders.Resume(run.Request.Environment)
	return nil
}

// reopen opens the server that was current before the cutover, if it should run.
func (h *Host) reopen(ctx context.Context, run *engine.Run, m memory) error {
	if m.Previous == "" {
		return nil
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil || target.Server != db.WishRunning {
		return err
	}
	if err := h.endStopping(ctx, m.Previous); err != nil {
		return err
	}
	if err := h.Open(ctx, m.rehearsed(target)); err != nil {
		return err
	}
	run.Log.Info("the sandbox is as it was", "volume", m.Previous)
	return nil
}

// stopsWithin is how long a server that was told to stop is waited for, when it is to serve again.
const stopsWithin = 2 * time.Second

// endStopping ends a server that is still on its way down: it can't be called back. If it must be ended at once, its next
// start recovers as after a crash, and nothing that was committed is lost.
func (h *Host) endStopping(ctx context.Context, volumeID string) error {
	c, err := h.whatever(ctx, volumeID)
	if err != nil {
		return err
	}
	if postmasterLine(c.Data, 8) != "stopping" { // LOCK_FILE_LINE_PM_STATUS in miscadmin.h
		return nil
	}
	waiting, end := context.WithTimeout(ctx, stopsWithin)
	defer end()
	if err := ensureStopped(waiting, c, server.Fast); err == nil || ctx.Err() != nil {
		return err
	}
	return ensureStopped(ctx, c, server.Immediate)
}

// swapBack takes back the transaction of swap, if it was committed.
func (h *Host) swapBack(ctx context.Context, run *engine.Run, m memory) error {
	then := sandglass.VolumeStaging // discarded by the undo of stage
	if run.Request.Kind == sandglass.KindUndo {
		then = sandglass.VolumeKept
	}
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		e, err := tx.Environment(ctx, run.Request.Environment)
		if err != nil || e.Volume == m.Previous || e.Volume != m.Volume { // not swapped, or another state was made since a way back was given up
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
