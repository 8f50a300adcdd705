package operation

// A disk that is full shows in many ways: PostgreSQL ends, or refuses a statement, and may not even be able to log why. For people it
// is one thing.

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/engine"
)

// leastFree is the free space, in bytes, below which a server that ended or could not be entered had none: it makes WAL by
// segments, 16 MiB by default, 64 MiB on some clouds, and gives back the one that it could not make.
const leastFree = 64 << 20

// diskFull is the SQLSTATE disk_full (PostgreSQL's errcodes.txt, class 53).
const diskFull = "53100"

// onFullDisk has a step that fails for want of space on the volumes' disk fail with disk.full, whatever noticed it.
func (h *Host) onFullDisk(do func(context.Context, *engine.Run) error) func(context.Context, *engine.Run) error {
	return func(ctx context.Context, run *engine.Run) error {
		err := do(ctx, run)
		if err == nil || ctx.Err() != nil || !h.forWantOfSpace(ctx, err) {
			return err
		}
		return &sandglass.Error{Code: sandglass.CodeDiskFull, Op: "fill volume", Err: err,
			Message: fmt.Sprintf("The disk of the volumes is full: %s", sandglass.AsError(err).Message),
			Remedy:  "Free some space, for example by dropping kept states (sandglass volume drop), and try again."}
	}
}

func (h *Host) forWantOfSpace(ctx context.Context, err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == diskFull {
		return true
	}
	switch sandglass.CodeOf(err) {
	case sandglass.CodeServerFailed, sandglass.CodeRecoveryFailed, sandglass.CodeInternal:
	default:
		return false
	}
	if errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "No space left on device") {
		return true
	}
	free, freeErr := h.Volumes.Free(ctx)
	return freeErr == nil && free < leastFree
}
