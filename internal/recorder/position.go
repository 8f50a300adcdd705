package recorder

// Where recording goes on: which incarnation, and from which byte.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/repo"
	"sandglass/internal/wal"
)

// position is what the repository holds of an incarnation.
type position struct {
	inc   sandglass.Incarnation
	image sandglass.Image // the newest; no ID when there is none
	tli   sandglass.TimelineID
	// durable is the end of the WAL held; zero when none is.
	durable sandglass.LSN
	// first is the first segment that is not whole with its index.
	first sandglass.SegmentNo
	// whole is the first segment that is not whole.
	whole sandglass.SegmentNo
	// undropped are segments held whole with their index whose parts are still there.
	undropped []sandglass.SegmentNo
}

func (p position) start(seg sandglass.SegmentNo) sandglass.LSN { return seg.Start(p.inc.SegmentSize) }

// newID is a sortable, unique name: UTC time and four random characters.
func newID(now time.Time) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return now.UTC().Format("20060102t150405") + "-" + string(b[:])
}

// open finds the incarnation to go on with; its ID is empty if there is none. If the one asked
// for has ended, it is one that began after that. Those that the environment does not show are kept volumes' own; to be asked
// for one means that a cutover was given up before the history was passed back, and then nothing may be recorded.
func (r *Recorder) open(ctx context.Context) (sandglass.Incarnation, error) {
	incs, err := r.repo.Incarnations(ctx, r.env.Name)
	if err != nil {
		return sandglass.Incarnation{}, fmt.Errorf("find incarnation: %w", err)
	}
	var since time.Time
	for _, i := range incs {
		if i.ID == r.want && i.Current() {
			return i, nil
		}
		if i.ID != r.want {
			continue
		}
		if since = i.Ended; since.IsZero() {
			return i, &sandglass.Error{Code: CodeNotShown, Op: "find incarnation",
				Message: fmt.Sprintf("By the repository, %s has shown another state since %s than the one that runs.", r.env.Name, i.Away[len(i.Away)-1].From.Format(time.DateTime+" MST")),
				Remedy:  "A cutover was given up on its way back. Go on with it: sandglass ops ls, then sandglass ops retry ID."}
		}
	}
	var found sandglass.Incarnation
	for _, i := range incs {
		if i.Current() && !i.Began.Before(since) && (found.ID == "" || i.Began.After(found.Began)) {
			found = i
		}
	}
	return found, nil
}

// find reads from the repository where an incarnation ends.
func (r *Recorder) find(ctx context.Context, inc sandglass.Incarnation) (position, error) {
	p := position{inc: inc}
	images, err := r.repo.Images(ctx, r.env.Name, inc.ID)
	if sandglass.CodeOf(err) == sandglass.CodeRepositoryDamaged {
		// Recording goes on, and without an image that can be read it begins with a new one.
		r.log.Error("the manifest of an image is damaged; see `sandglass repo verify`", "error", err)
		err = nil
	}
	if err != nil {
		return p, fmt.Errorf("find position: %w", err)
	}
	for _, i := range images {
		if p.image.ID == "" || i.Timeline > p.image.Timeline || (i.Timeline == p.image.Timeline && i.Redo >= p.image.Redo) {
			p.image = i
		}
	}
	// All WAL from the newest image on is held, so nothing before it needs to be looked at.
	for info, err := range r.repo.SegmentsFrom(ctx, r.env.Name, inc.ID, p.image.Timeline, p.image.Redo.Segment(inc.SegmentSize)) {
		if err != nil {
			return p, fmt.Errorf("find position: %w", err)
		}
		p.see(info)
	}
	if p.tli == 0 && p.image.ID != "" {
		p.tli = p.image.Timeline
		p.first = p.image.Redo.Segment(inc.SegmentSize)
		p.whole = p.first
	}
	return p, nil
}

// see takes the next segment, in order of timeline and number.
func (p *position) see(s repo.SegmentInfo) {
	if s.Timeline != p.tli {
		*p = position{inc: p.inc, image: p.image, tli: s.Timeline, durable: s.From, first: s.Segment, whole: s.Segment}
	}
	p.durable = max(p.durable, s.End)
	if s.Whole {
		p.whole = s.Segment + 1
	}
	if s.Whole && s.Indexed {
		p.first = s.Segment + 1
		if s.Parts > 0 {
			p.undropped = append(p.undropped, s.Segment)
		}
	}
}

// beginIncarnation begins a new stretch of history. Its WAL starts with the segment that is being written.
func (r *Recorder) beginIncarnation(ctx context.Context, sys pg.System, major int, segmentSize int64) (position, error) {
	now := r.clock()
	inc := sandglass.Incarnation{ID: sandglass.IncarnationID(newID(time.Now())), Environment: r.env.Name, SystemIdentifier: sys.Identifier,
		Major: major, SegmentSize: segmentSize, Began: now}
	if err := r.repo.BeginIncarnation(ctx, inc); err != nil {
		return position{}, fmt.Errorf("begin incarnation: %w", err)
	}
	r.log.Info("a new stretch of history begins", "incarnation", inc.ID, "system", sys.Identifier)
	seg := sys.Flushed.Segment(segmentSize)
	return position{inc: inc, tli: sys.Timeline, first: seg, whole: seg}, nil
}

// endIncarnation ends a stretch of history that can't be gone on with; why is shown as the cause of the gap.
func (r *Recorder) endIncarnation(ctx context.Context, inc sandglass.Incarnation, why *sandglass.Error) error {
	if err := r.repo.EndIncarnation(ctx, r.env.Name, inc.ID, r.clock(), why.Message); err != nil {
		return fmt.Errorf("end incarnation: %w", err)
	}
	r.log.Warn("a stretch of history has ended", "incarnation", inc.ID, "code", why.Code, "reason", why.Message)
	r.update(func() {
		r.status.LastError, r.live = why, nil
		if r.inc.ID == inc.ID {
			r.inc = sandglass.Incarnation{} // an image being made for it ends
		}
	})
	return nil
}

// fill brings the WAL from the first unindexed segment up to the durable end into the
// spool and through a new indexer, from the spool itself or from the repository. If it
// can't be had (no spool and no key), it is asked of the server again: then refetch is the
// segment to begin with.
func (r *Recorder) fill(ctx context.Context, p position, s *spool, major int) (x *indexing, refetch bool, err error) {
	from := p.start(p.first)
	end := max(p.durable, from)
	if err := s.cut(end); err != nil {
		return nil, false, err
	}
	for at := from; at < end; {
		seg := at.Segment(s.size)
		upTo := min(end, p.start(seg+1))
		if s.has(seg) < int64(upTo-p.start(seg)) {
			if err := r.fetch(ctx, p, s, seg, int64(upTo-p.start(seg))); err != nil {
				r.log.Warn("the spool is not complete, so the server is asked for its last segment again", "error", err)
				from, refetch = p.start(end.Segment(s.size)), true
				break
			}
		}
		at = upTo
	}
	config := wal.Config{Major: major, SegmentSize: s.size, Timeline: p.tli, Start: from}
	if prev := from.Segment(s.size); prev > 0 && from == p.start(prev) {
		config.Previous = r.previous(ctx, p, prev-1)
	}
	x = newIndexing(config, r.log)
	x.spaces = r.tablespacesSince(ctx, p, config.Previous)
	if refetch {
		return x, true, nil
	}
	buf := make([]byte, 1<<20)
	for at := from; at < end; {
		b := buf[:min(int64(len(buf)), int64(end-at), s.size-at.Offset(s.size))]
		if err := s.read(b, at); err != nil {
			return nil, false, err
		}
		x.write(at, b)
		at += sandglass.LSN(len(b))
	}
	if seg := end.Segment(s.size); p.durable > 0 {
		beats, err := r.repo.TailBeats(ctx, r.env.Name, p.inc.ID, p.tli, seg)
		if err == nil {
			x.beats[seg] = beats
		}
	}
	return x, false, nil
}

// fetch copies the start of a segment from the repository into the spool.
func (r *Recorder) fetch(ctx context.Context, p position, s *spool, seg sandglass.SegmentNo, n int64) error {
	rc, valid, err := r.repo.OpenWAL(ctx, r.env.Name, p.inc.ID, p.tli, seg)
	if err != nil {
		return err
	}
	defer rc.Close()
	if valid < n {
		return fmt.Errorf("the repository holds %d bytes of segment %d instead of %d", valid, seg, n)
	}
	buf := make([]byte, 256<<10)
	for off := int64(0); off < n; {
		b := buf[:min(int64(len(buf)), n-off)]
		if _, err := io.ReadFull(rc, b); err != nil {
			return fmt.Errorf("read WAL from the repository: %w", err)
		}
		if err := s.write(p.start(seg)+sandglass.LSN(off), b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return s.close()
}

// tablespacesSince finds the newest tablespace change after the newest image, in the
// indexes up to a segment: an image may still be due for it.
func (r *Recorder) tablespacesSince(ctx context.Context, p position, x *wal.Index) sandglass.LSN {
	for p.image.ID != "" && x != nil && x.Start+sandglass.LSN(x.SegmentSize) > p.image.Redo {
		if n := len(x.Tablespaces); n > 0 {
			return x.Tablespaces[n-1].LSN
		}
		if x.Notable == 0 {
			break
		}
		x = r.previous(ctx, p, x.Notable.Segment(x.SegmentSize))
	}
	return 0
}

// previous is the index of a segment, if the repository has it and may be read.
func (r *Recorder) previous(ctx context.Context, p position, seg sandglass.SegmentNo) *wal.Index {
	b, err := r.repo.Index(ctx, r.env.Name, p.inc.ID, p.tli, seg)
	if err == nil {
		var x *wal.Index
		if x, err = wal.Unmarshal(b); err == nil {
			return x
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("the index of the segment before can't be read", "error", err)
	}
	return nil
}
