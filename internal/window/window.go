// Package window says which moments of an environment can be restored: Resolve turns a
// Moment into an exact Range, or refuses it with the reason and the nearest moments that can
// be had; Compute draws the Window; Commits finds the accident. It reads the repository's
// catalogue and WAL indexes, never a list of segments into memory and never more indexes
// than it needs: what lies far away is found by bisection, and what a restore across a
// stretch must know of by following the indexes' links (wal.Index.Notable).
//
// # What a time means
//
// T includes every commit that lies, in WAL order, before the first commit or abort record whose
// timestamp is later than T, as recovery_target_time does. The count begins at the
// consistency of the oldest image from which the WAL is held without a hole, so that the
// answer never depends on which image is nearest.
package window

import (
	"context"
	"io"
	"iter"
	"time"

	"sandglass"
	"sandglass/internal/repo"
)

// Settle is how far production's clock must be past T, with nothing more to come from before it, when no
// later commit or abort is held: a commit's time is taken before its record is written, and
// asynchronous commits are flushed late.
const Settle = 10 * time.Second

// Repository is what this package needs of a *repo.Repository.
type Repository interface {
	Incarnations(ctx context.Context, env string) ([]sandglass.Incarnation, error)
	Images(ctx context.Context, env string, inc sandglass.IncarnationID) ([]sandglass.Image, error)
	Gaps(ctx context.Context, env string, inc sandglass.IncarnationID) ([]repo.Gap, error)
	Segments(ctx context.Context, env string, inc sandglass.IncarnationID) iter.Seq2[repo.SegmentInfo, error]
	History(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID) ([]byte, error)
	Index(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) ([]byte, error)
	OpenWAL(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) (io.ReadCloser, int64, error)
	TailBeats(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) ([]sandglass.Beat, error)
}

// Live is what a running recorder knows beyond the repository.
type Live interface {
	// Status says, of the newest evidence of production: ServerTime and ServerLSN, its clock and the
	// WAL end it then had; and DurableLSN, the WAL that the repository holds. It answers at once.
	Status() sandglass.RecorderStatus
}
