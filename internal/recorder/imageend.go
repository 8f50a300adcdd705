package recorder

// The end of an image: it exists once the WAL that makes it consistent is in the repository.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/repo"
	"sandglass/internal/wal"
)

// finish makes the image exist, once the WAL that makes it consistent is in the repository.
func (r *Recorder) finish(ctx context.Context, b *pg.Backup, w *repo.ImageWriter, image *sandglass.Image) error {
	if b.EndTimeline != b.Timeline {
		return fmt.Errorf("take image: the server's timeline changed from %d to %d meanwhile", b.Timeline, b.EndTimeline)
	}
	image.Ended = r.clock()
	r.hurry(b.End)
	err := r.wait(ctx, func() bool {
		if r.live == nil || r.inc.ID != image.Incarnation || r.status.DurableLSN < b.End {
			return false
		}
		if r.status.Timeline != b.Timeline {
			return true
		}
		end, ok := r.live.backupEnd(b.Start)
		image.Consistent, image.End = end.LSN, end.End
		return ok || r.live.from() > b.Start // else it was indexed before the stream's last reconnect
	})
	if err == nil && image.Consistent == 0 {
		err = r.storedEnd(ctx, b, image)
	}
	if err != nil {
		return err
	}
	if image.Consistent == 0 {
		return fmt.Errorf("take image: the end of the backup that began at %s is not in the WAL", b.Start)
	}
	done, digests, err := w.Finish(ctx, *image)
	if err != nil {
		return err
	}
	*image = done
	if digests != nil {
		r.keepDigests(digests)
	}
	r.log.Info("an image was taken", "image", image.ID, "redo", image.Redo, "consistent", image.Consistent, "bytes", image.Bytes, "stored", image.StoredBytes)
	return nil
}

// storedEnd finds the end of the backup in the repository's indexes.
func (r *Recorder) storedEnd(ctx context.Context, b *pg.Backup, image *sandglass.Image) error {
	r.mu.Lock()
	inc := r.inc
	r.mu.Unlock()
	if inc.ID != image.Incarnation {
		return errHistoryEnded
	}
	size := inc.SegmentSize
	for seg := b.End.Segment(size); seg >= b.Start.Segment(size); seg-- {
		raw, err := r.repo.Index(ctx, r.env.Name, image.Incarnation, b.Timeline, seg)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		x, err := wal.Unmarshal(raw)
		if err != nil {
			return err
		}
		for _, e := range x.BackupEnds {
			if e.Redo == b.Start {
				image.Consistent, image.End = e.LSN, e.End
				return nil
			}
		}
	}
	return nil
}
