// How volumes end: dropped, expired, left over, or with their sandbox. What is the last of a sandbox's own
// history in one is brought into the repository first.

package operation

import (
	"context"
	"fmt"
	"time"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/server"
)

// CodeNotDrained is a kept state whose last WAL could not be brought into the repository.
const CodeNotDrained sandglass.Code = "volume.not_drained"

// DropVolume removes a kept state, once its last WAL is in the repository; with force also without that. Its row says so
// first, so that no undo can begin to go back to it; the supervisor removes a folder that is left.
func (h *Host) DropVolume(ctx context.Context, id string, force bool) error {
	v, err := h.DB.Volume(ctx, id)
	if err != nil {
		return err
	}
	if v.State == sandglass.VolumeKept && !force {
		if err := h.drainToDrop(ctx, v); err != nil {
			return err
		}
	}
	err = h.DB.Do(ctx, func(tx *db.Tx) error {
		v, err := tx.Volume(ctx, id)
		if err != nil {
			return err
		}
		if v.State == sandglass.VolumeGone {
			return &sandglass.Error{Code: sandglass.CodeVolumeUnknown, Op: "drop volume",
				Message: fmt.Sprintf("Volume %s is gone already.", id), Remedy: "`sandglass volume ls` lists those that are there."}
		}
		if v.State != sandglass.VolumeKept {
			return &sandglass.Error{Code: sandglass.CodeVolumeInUse, Op: "drop volume",
				Message: fmt.Sprintf("Volume %s is %s and can't be dropped.", id, v.State), Remedy: "Only kept states can be dropped: sandglass volume ls."}
		}
		if busy, err := tx.Unfinished(ctx, v.Environment); err != nil || busy != "" {
			if err == nil {
				err = db.Busy(v.Environment, busy)
			}
			return err
		}
		return tx.VolumeBecome(ctx, id, sandglass.VolumeGone, time.Time{})
	})
	if err != nil {
		return err
	}
	return h.forget(ctx, v)
}

// drainToDrop drains a kept state while no undo of it can come to its cutover.
func (h *Host) drainToDrop(ctx context.Context, v db.Volume) error {
	unlock, err := h.locks.lock(ctx, v.Environment)
	if err != nil {
		return err
	}
	defer unlock()
	if busy, err := h.DB.Unfinished(ctx, v.Environment); err != nil || busy != "" {
		return err // refused below
	}
	err = h.drain(ctx, v)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &sandglass.Error{Code: CodeNotDrained, Op: "drop volume", Err: err,
		Message: fmt.Sprintf("The last WAL of volume %s could not be brought into the repository, so moments of %s would be lost with it: %s", v.ID, v.Environment, sandglass.AsError(err).Message),
		Remedy:  fmt.Sprintf("Mend that and try again, or give those moments up: sandglass volume drop %s --force", v.ID)}
}

// forget removes a volume that is gone, after its history has ended: nothing can go on with it any more.
func (h *Host) forget(ctx context.Context, v db.Volume) error {
	if err := h.endIncarnation(ctx, v.Environment, v.Shown.Incarnation, "its kept state was dropped"); err != nil {
		return err
	}
	return h.removeFolder(ctx, v.ID, "")
}

// RemoveLeftover removes what is left of a volume that is gone, or that an operation without success made.
func (h *Host) RemoveLeftover(ctx context.Context, id string) error {
	v, err := h.DB.Volume(ctx, id)
	switch {
	case err != nil:
		return err
	case v.State == sandglass.VolumeGone:
		return h.forget(ctx, v)
	case v.State == sandglass.VolumeStaging:
		return h.destroyVolume(ctx, id, "")
	}
	return nil
}

// DrainSandbox stops a sandbox's server for good, and brings the last WAL of all its volumes into the repository. What can't be
// brought in is said: the volumes are about to be removed.
func (h *Host) DrainSandbox(ctx context.Context, e db.Environment) (findings []sandglass.Finding, err error) {
	if e.Declaration.Kind != sandglass.Sandbox {
		return nil, nil
	}
	note := func(what string, err error) {
		if err != nil {
			findings = append(findings, sandglass.Finding{Code: CodeNotDrained, Level: sandglass.Warning,
				Message: fmt.Sprintf("%s is not in the repository, so the last moments of its history can't be restored: %s", what, sandglass.AsError(err).Message)})
		}
	}
	unlock, err := h.locks.lock(ctx, e.Declaration.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	volumes, err := h.DB.Volumes(ctx, e.Declaration.Name)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		err := error(nil)
		switch v.State {
		case sandglass.VolumeCurrent:
			v.Shown.Incarnation, err = h.recordedNow(ctx, e.Declaration.Name, e.Incarnation)
			note("What was recorded last", err)
			err = within(ctx, stopWithin, closeLate("stopped", stopWithin), func(ctx context.Context) error { return h.stopServer(ctx, v.ID, server.Fast) })
		case sandglass.VolumeKept:
		default:
			continue
		}
		if err == nil {
			err = h.drain(ctx, v)
		}
		note("The last WAL of volume "+v.ID, err)
	}
	return findings, nil
}

// RemoveSandbox stops the sandbox's server and removes all its volumes.
func (h *Host) RemoveSandbox(ctx context.Context, e db.Environment) error {
	if e.Declaration.Kind != sandglass.Sandbox {
		return nil
	}
	unlock, err := h.locks.lock(ctx, e.Declaration.Name)
	if err != nil {
		return err
	}
	defer unlock()
	volumes, err := h.DB.Volumes(ctx, e.Declaration.Name)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.State == sandglass.VolumeCurrent {
			if err := h.DB.VolumeBecome(ctx, v.ID, sandglass.VolumeStaging, time.Time{}); err != nil {
				return err
			}
		}
		if err := h.destroyVolume(ctx, v.ID, ""); err != nil {
			return err
		}
	}
	return nil
}
