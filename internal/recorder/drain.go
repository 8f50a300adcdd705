package recorder

// What a stopped server's data folder still has of its WAL, when its recorder could not follow it to the end.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/wal"
)

// CodeWALLost is given when WAL is neither in the repository nor in the server's data folder any more.
const CodeWALLost sandglass.Code = "volume.wal_lost"

// CodeOtherTimeline is given for a stopped server whose timeline the repository does not know yet.
const CodeOtherTimeline sandglass.Code = "volume.other_timeline"

// StoppedAt is where the WAL of a cleanly stopped server ends, by its data folder; zero when it runs, or ended otherwise.
func StoppedAt(dataDir string) (sandglass.LSN, error) {
	c, err := readControl(dataDir)
	if err != nil || c.State != pg.StateShutDown {
		return 0, err
	}
	return checkpointEnd(dataDir, c)
}

func readControl(dataDir string) (pg.Control, error) {
	raw, err := pg.ReadFile(dataDir, pg.ControlFile, pg.ControlFileSize)
	if err != nil {
		return pg.Control{}, fmt.Errorf("read control file: %w", err)
	}
	return pg.ParseControl(raw)
}

// Drain brings the last WAL of a stopped server from its data folder into the repository, as far as that does not hold
// it, and says where it ends. The recorder's incarnation must be the server's, and nobody else may record it
// meanwhile. What is held already costs a look only. An incarnation without an image has nothing to gain by it.
func (r *Recorder) Drain(ctx context.Context, dataDir string) (sandglass.LSN, error) {
	c, err := readControl(dataDir)
	if err != nil {
		return 0, fmt.Errorf("drain volume: %w", err)
	}
	end, err := walEnd(dataDir, c)
	if err != nil {
		return 0, fmt.Errorf("drain volume: %w", err)
	}
	inc, err := r.repo.Incarnation(ctx, r.env.Name, r.want)
	if err != nil {
		return end, fmt.Errorf("drain volume: %w", err)
	}
	if inc.SystemIdentifier != c.SystemIdentifier || inc.SegmentSize != c.SegmentSize {
		return end, fmt.Errorf("drain volume: it is of system %d, incarnation %s of %d", c.SystemIdentifier, inc.ID, inc.SystemIdentifier)
	}
	p, err := r.find(ctx, inc)
	if err != nil || p.tli == 0 || !inc.Ended.IsZero() {
		return end, err
	}
	if held := (max(p.durable, p.start(p.first)) + 7) &^ 7; p.tli == c.Timeline && held >= end {
		return end, nil
	}
	if p.tli != c.Timeline {
		return end, &sandglass.Error{Code: CodeOtherTimeline, Op: "drain volume",
			Message: fmt.Sprintf("The volume is on timeline %d, the repository on %d, so its last WAL can't be told to follow.", c.Timeline, p.tli),
			Remedy:  "Its state as a whole is still there: undo to it, which its recorder follows, or give it up with `sandglass volume drop --force`."}
	}
	s, from, err := r.session(ctx, p, c.Major)
	if err != nil {
		return end, err
	}
	defer s.spool.close()
	r.log.Info("bringing the last WAL of a stopped server into the repository", "from", from, "to", end)
	if err := s.drain(ctx, dataDir, from, end); err != nil {
		return end, fmt.Errorf("drain volume: %w", err)
	}
	return end, nil
}

// drain takes WAL from a data folder, storing each segment before the next is read.
func (s *session) drain(ctx context.Context, dataDir string, from, end sandglass.LSN) error {
	for at := from; at < end; {
		seg := at.Segment(s.spool.size)
		upTo := min(end, s.pos.start(seg+1))
		f, err := pg.Open(dataDir, filepath.Join("pg_wal", sandglass.SegmentName(s.pos.tli, seg, s.spool.size)))
		if errors.Is(err, fs.ErrNotExist) && at < s.durable {
			// The page before what is held lies in a segment that the server has removed, as it may. Without it, nothing is compared.
			s.verified, at = true, s.durable
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return lostWAL(dataDir, at, err)
		}
		if err != nil {
			return fmt.Errorf("drain volume: %w", err)
		}
		at, err = s.drainSegment(f, at, upTo)
		f.Close()
		if err == nil {
			err = s.flush(ctx, at == end)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) drainSegment(f io.ReaderAt, at, end sandglass.LSN) (sandglass.LSN, error) {
	buf := make([]byte, 1<<20)
	for at < end {
		b := buf[:min(int64(len(buf)), int64(end-at))]
		if _, err := f.ReadAt(b, at.Offset(s.spool.size)); err != nil {
			return at, err
		}
		if err := s.take(at, b); err != nil {
			return at, err
		}
		at += sandglass.LSN(len(b))
	}
	return at, nil
}

func lostWAL(dataDir string, at sandglass.LSN, err error) error {
	return &sandglass.Error{Code: CodeWALLost, Op: "drain volume", Err: err,
		Message: fmt.Sprintf("The volume's WAL from LSN %s on is not in the repository, and the volume does not have it any more: its last moments can't be kept.", at),
		Remedy:  "Its state as a whole is still there: undo to it, or give it up with `sandglass volume drop --force`."}
}

// walEnd is where the WAL in a stopped server's data folder ends: with the shutdown checkpoint, or, when it
// ended otherwise, with the last whole record, from which its next start goes on.
func walEnd(dataDir string, c pg.Control) (sandglass.LSN, error) {
	if c.State == pg.StateShutDown {
		return checkpointEnd(dataDir, c)
	}
	seg := c.RedoLSN.Segment(c.SegmentSize)
	end := c.RedoLSN
	reader, err := wal.NewReader(wal.Config{Major: c.Major, SegmentSize: c.SegmentSize, Timeline: c.Timeline, Start: seg.Start(c.SegmentSize)},
		func(r *wal.Record) error { end = max(end, r.End); return nil })
	if err != nil {
		return 0, err
	}
	for ; ; seg++ {
		if reader.Ended() && end < seg.Start(c.SegmentSize) {
			break // with zeros; behind the record of a switch, the next segment goes on
		}
		err := feed(reader, dataDir, c)
		if _, damaged := errors.AsType[*wal.DamageError](err); damaged || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) {
			break // what follows was there before, or is not there
		}
		if err != nil {
			return 0, err
		}
	}
	return end, nil
}

// feed gives a reader of WAL the rest of the segment that it is in, little by little: a segment is sixteen megabytes and more, and
// what is looked for is often near its start.
func feed(r *wal.Reader, dataDir string, c pg.Control) error {
	f, err := pg.Open(dataDir, filepath.Join("pg_wal", sandglass.SegmentName(c.Timeline, r.Position().Segment(c.SegmentSize), c.SegmentSize)))
	if err != nil {
		return err
	}
	defer f.Close()
	from := r.Position().Offset(c.SegmentSize)
	n, err := io.Copy(r, io.NewSectionReader(f, from, c.SegmentSize-from))
	if err == nil && n < c.SegmentSize-from {
		return fmt.Errorf("read %s: %w", f.Name(), io.ErrUnexpectedEOF)
	}
	return err
}
