// A branch: WAL of one incarnation that is held without a hole, with the images that can start from it.

package window

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/repo"
	"sandglass/internal/wal"
)

// section is a stretch of a branch that lies on one timeline: whole segments, the last maybe unfinished.
type section struct {
	timeline    sandglass.TimelineID
	first, last sandglass.SegmentNo
}

// branch is a hole-free stretch of WAL. Its methods load indexes one at a time.
type branch struct {
	r    Repository
	env  string
	inc  sandglass.Incarnation
	live Live // only of the branch that is being recorded, and maybe not known then
	open bool // the branch goes on: the newest of an incarnation that has not ended

	sections  []section
	from, end sandglass.LSN     // the WAL held; from is a segment's start
	images    []sandglass.Image // whose WAL up to End is all here, oldest first

	indexes map[sandglass.SegmentNo]*wal.Index // the last few loaded
}

// maxIndexes bounds how many indexes a branch keeps in memory.
const maxIndexes = 6

// branches gives the branches of an incarnation that have an image, oldest first.
func branches(ctx context.Context, r Repository, env string, inc sandglass.Incarnation) ([]*branch, error) {
	stretches, err := heldStretches(ctx, r, env, inc)
	if err != nil {
		return nil, err
	}
	switches, err := switchPoints(ctx, r, env, inc, stretches)
	if err != nil {
		return nil, err
	}
	images, err := r.Images(ctx, env, inc.ID)
	// A damaged manifest costs its own image; what the others reach stays reachable.
	if err != nil && (len(images) == 0 || sandglass.CodeOf(err) != sandglass.CodeRepositoryDamaged) {
		return nil, fmt.Errorf("read images: %w", err)
	}
	for i := range images {
		images[i].Ended = wholeMicrosecond(images[i].Ended)
	}
	all := join(stretches, switches, inc.SegmentSize)
	var usable []*branch
	for _, b := range all {
		b.r, b.env, b.inc, b.indexes = r, env, inc, map[sandglass.SegmentNo]*wal.Index{}
		b.end = (b.end + 7) &^ 7 // records end aligned; the padding is not always sent
		for _, i := range images {
			if i.Redo >= b.from && i.Redo < b.end && i.End <= b.end {
				b.images = append(b.images, i)
			}
		}
		slices.SortFunc(b.images, func(a, b sandglass.Image) int { return int(int64(a.Consistent - b.Consistent)) })
		if len(b.images) > 0 {
			usable = append(usable, b)
		}
	}
	return usable, nil
}

// wholeMicrosecond is the first time not before t that can be asked for: PostgreSQL keeps microseconds.
func wholeMicrosecond(t time.Time) time.Time {
	return t.Add(time.Microsecond - time.Nanosecond).Truncate(time.Microsecond)
}

// stretch is a run of neighbouring segments of one timeline.
type stretch struct {
	section
	end sandglass.LSN
}

// heldStretches reads the list of segments, keeping only where it is interrupted. A segment
// that is not held from its first byte can't be read by a server, so it is left out.
func heldStretches(ctx context.Context, r Repository, env string, inc sandglass.Incarnation) ([]stretch, error) {
	var list []stretch
	for s, err := range r.Segments(ctx, env, inc.ID) {
		if err != nil {
			return nil, fmt.Errorf("list WAL segments: %w", err)
		}
		start := s.Segment.Start(inc.SegmentSize)
		if s.From != start || s.End <= start {
			continue
		}
		if n := len(list); n > 0 && list[n-1].timeline == s.Timeline && list[n-1].last+1 == s.Segment && list[n-1].end == start {
			list[n-1].last, list[n-1].end = s.Segment, s.End
			continue
		}
		list = append(list, stretch{section{s.Timeline, s.Segment, s.Segment}, s.End})
	}
	return list, nil
}

// switchPoints tells, for each timeline that the newest one descends from, where it was left.
func switchPoints(ctx context.Context, r Repository, env string, inc sandglass.Incarnation, list []stretch) (map[sandglass.TimelineID]sandglass.LSN, error) {
	var tip sandglass.TimelineID
	for _, s := range list {
		tip = max(tip, s.timeline)
	}
	if tip <= 1 {
		return nil, nil
	}
	content, err := r.History(ctx, env, inc.ID, tip)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", tip, err)
	}
	history, err := sandglass.ParseHistory(string(content))
	if err != nil {
		return nil, err
	}
	at := map[sandglass.TimelineID]sandglass.LSN{}
	for _, e := range history {
		at[e.Timeline] = e.Switch
	}
	return at, nil
}

// join makes branches of stretches, across timeline switches. As a server does, it takes the
// segment in which a switch lies from the newer timeline, which begins with a copy of the older one's.
func join(list []stretch, switches map[sandglass.TimelineID]sandglass.LSN, segmentSize int64) []*branch {
	var all []*branch
	for i, s := range list {
		if at, ok := switches[s.timeline]; ok {
			seg := at.Segment(segmentSize)
			copied := slices.ContainsFunc(list[i+1:], func(n stretch) bool {
				return n.timeline > s.timeline && n.first <= seg && seg <= n.last
			})
			switch {
			case copied && s.first >= seg:
				continue
			case copied && s.last >= seg:
				s.last, s.end = seg-1, seg.Start(segmentSize)
			default:
				s.end = min(s.end, at)
			}
		}
		start := s.first.Start(segmentSize)
		if n := len(all); n > 0 && all[n-1].end == start {
			b := all[n-1]
			if _, known := switches[b.timeline(s.first-1)]; known {
				b.sections, b.end = append(b.sections, s.section), s.end
				continue
			}
		}
		all = append(all, &branch{sections: []section{s.section}, from: start, end: s.end})
	}
	return all
}

// segment is the number of the segment that holds lsn.
func (b *branch) segment(lsn sandglass.LSN) sandglass.SegmentNo {
	return lsn.Segment(b.inc.SegmentSize)
}

// begin is the position after which the branch's history counts: the consistency of its oldest image.
func (b *branch) begin() sandglass.LSN { return b.images[0].Consistent }

// bounds are the first and last segment that the branch's history lies in.
func (b *branch) bounds() (lo, hi sandglass.SegmentNo) {
	return b.segment(b.begin()), b.segment(b.end - 1)
}

// timeline is that of a segment of the branch.
func (b *branch) timeline(seg sandglass.SegmentNo) sandglass.TimelineID {
	for _, s := range b.sections {
		if seg <= s.last {
			return s.timeline
		}
	}
	return b.sections[len(b.sections)-1].timeline
}

// index loads the index of a segment, or makes it from the WAL where none is stored (yet): of
// the unfinished segment, or of one whose last record has only just become whole.
func (b *branch) index(ctx context.Context, seg sandglass.SegmentNo) (*wal.Index, error) {
	if x := b.indexes[seg]; x != nil {
		return x, nil
	}
	x, err := b.stored(ctx, seg)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, wal.ErrIndex) {
		x, err = b.make(ctx, seg)
	}
	if d, ok := errors.AsType[*wal.DamageError](err); ok {
		return nil, &sandglass.Error{Code: sandglass.CodeRepositoryDamaged, Op: "index WAL of " + b.env, Err: err,
			Message: fmt.Sprintf("The WAL held of %s is damaged at LSN %s: %s.", b.env, d.LSN, d.Problem),
			Remedy:  "Run `sandglass repo verify`; it says which moments the damage costs."}
	}
	if err != nil {
		return nil, fmt.Errorf("index of %s: %w", sandglass.SegmentName(b.timeline(seg), seg, b.inc.SegmentSize), err)
	}
	if len(b.indexes) >= maxIndexes {
		clear(b.indexes)
	}
	b.indexes[seg] = x
	return x, nil
}

func (b *branch) stored(ctx context.Context, seg sandglass.SegmentNo) (*wal.Index, error) {
	data, err := b.r.Index(ctx, b.env, b.inc.ID, b.timeline(seg), seg)
	if err != nil {
		return nil, err
	}
	x, err := wal.Unmarshal(data)
	if err == nil && (!x.Whole || x.Start != seg.Start(b.inc.SegmentSize)) {
		return nil, fs.ErrNotExist // of no use; the WAL itself is
	}
	return x, err
}

// make indexes a segment from its WAL and as much of the next ones as its last record needs.
func (b *branch) make(ctx context.Context, seg sandglass.SegmentNo) (*wal.Index, error) {
	c := wal.Config{Major: b.inc.Major, SegmentSize: b.inc.SegmentSize, Timeline: b.timeline(seg), Start: seg.Start(b.inc.SegmentSize)}
	if c.Start > b.from {
		if p, err := b.stored(ctx, seg-1); err == nil {
			c.Previous = p
		}
	}
	x := wal.NewIndexer(c)
	for s := seg; s <= b.segment(b.end-1); s++ {
		if err := b.feed(ctx, x, s); err != nil {
			return nil, err
		}
		if done := x.Finished(); len(done) > 0 {
			return done[0], nil
		}
	}
	t := x.Tail()
	var err error
	t.Beats, err = b.r.TailBeats(ctx, b.env, b.inc.ID, b.timeline(seg), seg)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return t, err
}

// feed gives a segment's WAL, up to the branch's end, to an indexer.
func (b *branch) feed(ctx context.Context, x *wal.Indexer, seg sandglass.SegmentNo) error {
	rc, valid, err := b.r.OpenWAL(ctx, b.env, b.inc.ID, b.timeline(seg), seg)
	if err != nil {
		return fmt.Errorf("open WAL: %w", err)
	}
	defer rc.Close()
	valid = min(valid, int64(b.end-seg.Start(b.inc.SegmentSize)))
	_, err = io.Copy(writer{ctx, x}, io.LimitReader(rc, valid))
	return err
}

type writer struct {
	ctx context.Context
	x   *wal.Indexer
}

func (w writer) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return len(p), w.x.Write(p)
}

var _ Repository = (*repo.Repository)(nil)
