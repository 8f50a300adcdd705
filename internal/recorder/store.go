package recorder

// From the spool to the repository: whole segments, parts of the unfinished one, indexes.

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/repo"
)

// store makes WAL durable: whole segments as they come, the rest every second and when the
// server wants an answer or somebody here waits for it. It works on for a moment after ctx has ended, so that nothing
// received is left behind by a quiet stop.
func (s *session) store(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		all := true
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stuckAfter)
			defer cancel()
			if err := s.flush(last, true); err != nil {
				return err
			}
			return context.Cause(ctx)
		case <-tick.C:
			s.index.look()
			s.r.noticeTablespaces(s.index)
		case <-s.work:
			all = s.urgent()
		case <-s.r.soon:
			all = s.urgent()
		}
		if err := s.flush(ctx, all); err != nil {
			return err
		}
	}
}

// urgent says whether somebody waits for WAL that has been received and not been stored.
func (s *session) urgent() bool {
	s.r.mu.Lock()
	wanted := s.r.wanted
	s.r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer || s.durable < wanted && wanted <= s.received
}

// flush stores what was received: all of it, or the whole segments only.
func (s *session) flush(ctx context.Context, all bool) error {
	s.mu.Lock()
	received, verified, answer := s.received, s.verified, s.answer
	s.mu.Unlock()
	if !verified {
		return nil
	}
	if err := s.spool.settle(); err != nil {
		return err
	}
	for seg := s.pos.whole; s.pos.start(seg+1) <= received; seg++ {
		if err := s.storeSegment(ctx, seg); err != nil {
			return err
		}
	}
	if err := s.storeIndexes(ctx); err != nil { // before the tail: what is durable of later segments finds them there
		return err
	}
	if all {
		if err := s.storePart(ctx, received); err != nil {
			return err
		}
	}
	if answer && all {
		s.mu.Lock()
		if s.durable >= received {
			s.answer = false
		}
		s.mu.Unlock()
	}
	_ = s.sendStatus(false) // a broken connection is receive's to report
	return nil
}

// advance notes that the repository holds everything up to lsn.
func (s *session) advance(lsn sandglass.LSN) {
	s.mu.Lock()
	s.durable = max(s.durable, lsn)
	s.progress = time.Now()
	durable := s.durable
	s.mu.Unlock()
	wake(s.room)
	s.r.update(func() {
		s.r.status.DurableLSN = durable
	})
}

// storeSegment stores a whole segment.
func (s *session) storeSegment(ctx context.Context, seg sandglass.SegmentNo) error {
	if s.spool.has(seg) < s.spool.size {
		// Spool and key were lost with the segment unfinished in the repository; its parts are there.
		s.pos.whole = seg + 1
		return nil
	}
	f, err := s.spool.open(seg)
	if err != nil {
		return fmt.Errorf("store segment: %w", err)
	}
	defer f.Close()
	if err := s.r.repo.PutDrafted(ctx, s.r.env.Name, s.pos.inc.ID, s.pos.tli, seg, s.draft, progressing{f, s}); err != nil {
		return fmt.Errorf("store segment: %w", err)
	}
	s.pos.whole = seg + 1
	s.parts, s.compacted = 0, s.pos.start(seg+1)
	s.advance(s.pos.start(seg + 1))
	_ = s.sendStatus(false)
	return nil
}

// progressing is a segment being read by the repository: as long as that goes on, it is not stuck.
type progressing struct {
	io.ReadSeeker
	s *session
}

func (p progressing) Read(b []byte) (int, error) {
	p.s.mu.Lock()
	p.s.progress = time.Now()
	p.s.mu.Unlock()
	return p.ReadSeeker.Read(b)
}

// storePart stores what was received of the unfinished segment, with the keepalives since the last part.
func (s *session) storePart(ctx context.Context, received sandglass.LSN) error {
	from := max(s.durableEnd(), s.pos.start(s.pos.whole))
	seg := from.Segment(s.spool.size)
	beats := s.index.beatsOf(seg, s.partBeat, received)
	if from >= received && (len(beats) == 0 || time.Since(s.lastPart) < idlePart) {
		return nil
	}
	put := s.r.repo.PutPart
	if begin := max(s.compacted, s.pos.start(seg)); s.parts+1 >= compactAfter {
		if int64(received)-int64(begin) <= maxPart {
			// one part takes the place of all since the last time
			put, from, beats = s.r.repo.CompactParts, begin, s.index.beatsOf(seg, time.Time{}, received)
		}
		s.parts, s.compacted = -1, received
	}
	for {
		n := max(0, min(int64(received)-int64(from), maxPart))
		s.buffer = slices.Grow(s.buffer[:0], int(n))
		p := repo.Part{Timeline: s.pos.tli, From: from, Data: s.buffer[:n], Draft: s.draft}
		if err := s.spool.read(p.Data, from); err != nil {
			return err
		}
		from += sandglass.LSN(len(p.Data))
		if from >= received {
			p.Beats = beats
		}
		if err := put(ctx, s.r.env.Name, s.pos.inc.ID, p); err != nil {
			if len(p.Data) == 0 && sandglass.CodeOf(err) == sandglass.CodeHistoryForked {
				return nil // the same keepalives, put before in another grouping
			}
			return fmt.Errorf("store part: %w", err)
		}
		s.parts++
		s.advance(from)
		if from >= received {
			break
		}
	}
	s.lastPart = time.Now()
	if n := len(beats); n > 0 {
		s.partBeat = beats[n-1].Time
	}
	return nil
}

// storeIndexes stores finished indexes, and then lets go of what they replace: the parts of
// their segments, and the spool before the segment that was stored last.
func (s *session) storeIndexes(ctx context.Context) error {
	name, inc, tli := s.r.env.Name, s.pos.inc.ID, s.pos.tli
	before := s.pos.first
	for s.pos.first < s.pos.whole {
		seg := s.pos.first
		if x := s.index.next(); x != nil && x.Start.Segment(s.spool.size) <= seg {
			if x.Start.Segment(s.spool.size) == seg {
				err := s.r.repo.PutIndex(ctx, name, inc, tli, seg, x.Marshal())
				if err != nil && sandglass.CodeOf(err) != sandglass.CodeHistoryForked { // held already, with other keepalives
					return fmt.Errorf("store index: %w", err)
				}
			}
			s.index.stored(x)
			if x.Start.Segment(s.spool.size) < seg {
				continue
			}
		} else if !s.index.missed(seg) {
			break // its last record goes on in the next segment
		}
		if err := s.r.repo.DropParts(ctx, name, inc, tli, seg); err != nil {
			s.r.log.Warn("the parts of a whole segment could not be removed", "error", err)
		}
		s.pos.first = seg + 1
	}
	if s.pos.first == before || s.pos.first == 0 {
		return nil
	}
	keep := s.pos.first - 1 // to compare with after a reconnect
	return s.spool.remove(func(n sandglass.SegmentNo) bool { return n < keep })
}
