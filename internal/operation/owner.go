// Whose a volume is: as root, each has an operating system user of its own, so that a superuser of an open sandbox, who can
// run programs as his server's user, reaches no other volume, sealed ones least of all.

package operation

import (
	"context"
	"os"
	"syscall"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/server"
)

// insertVolume writes the row of a new volume, and in it whose it will be, before anything of it exists. It may be
// repeated, and changes nothing then. Where no namespaces can be had, it is the common user's, if that may be: a copy of
// production is so only in an environment that accepts it.
func (h *Host) insertVolume(ctx context.Context, v sandglass.Volume, maybeCommon bool) error {
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		if err := tx.LockUIDs(ctx, h.Name); err != nil {
			return err
		}
		if _, err := tx.Volume(ctx, v.ID); sandglass.CodeOf(err) != sandglass.CodeVolumeUnknown {
			return err
		}
		row := db.Volume{Volume: v, Host: h.Name}
		own, err := h.OwnUIDs(ctx)
		if err != nil && (!maybeCommon || sandglass.CodeOf(err) != sandglass.CodeSealNamespace) {
			return err
		}
		if own {
			if row.UID, err = h.chooseUID(ctx, tx.Queries); err != nil {
				return err
			}
		}
		return tx.InsertVolume(ctx, row)
	})
}

// OwnUIDs says whether volumes get user IDs of their own: only root can give them, and a server without an account is entered
// in single-user mode only in a seal. It is CodeSealNamespace where none can be had.
func (h *Host) OwnUIDs(ctx context.Context) (bool, error) {
	if os.Geteuid() != 0 || h.UIDs.Empty() {
		return false, nil
	}
	err := server.CheckSeal(ctx, h.Owner, h.Helper)
	return err == nil, err
}

// chooseUID gives a user ID that is nobody's; 0 where volumes have none of their own.
func (h *Host) chooseUID(ctx context.Context, q db.Queries) (int, error) {
	if os.Geteuid() != 0 || h.UIDs.Empty() {
		return 0, nil
	}
	given, held, err := q.UIDs(ctx, h.Name)
	if err != nil {
		return 0, err
	}
	// Folders of volumes whose rows are gone, or lost with the metadata, still belong to somebody.
	ids, err := h.Volumes.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if info, err := os.Lstat(h.Volumes.Layout(id).Data); err == nil {
			held[int(info.Sys().(*syscall.Stat_t).Uid)] = true
		}
	}
	running := server.RunningUIDs()
	return h.UIDs.Choose(given, func(uid int) bool { return held[uid] || running[uid] || server.HasAccount(uid) })
}

// owner is the user that a volume, and every server on it, belongs to.
func (h *Host) owner(ctx context.Context, volumeID string) (server.Owner, error) {
	v, err := h.DB.Volume(ctx, volumeID)
	if err != nil || v.UID == 0 {
		return h.Owner, err
	}
	return server.UIDOwner(v.UID), nil
}
