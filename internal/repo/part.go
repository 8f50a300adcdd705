package repo

// This file keeps the parts of segments that are not finished: stretches of WAL as they came, with the
// keepalives heard meanwhile.

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"sandglass"
)

// Part is a stretch of WAL within one segment, from From on, with the keepalives heard meanwhile.
// Data may be empty: then it is only that time went by.
type Part struct {
	Timeline sandglass.TimelineID
	From     sandglass.LSN
	Data     []byte
	Beats    []sandglass.Beat
	// Draft, where there is one, takes note of the part for PutDrafted.
	Draft *Draft
}

// partMagic begins a part's head; its last byte is the version.
const partMagic = "SGPART\x00\x01"

// thin keeps, of beats at the same position, the first and the last: what lies between says nothing more.
func thin(beats []sandglass.Beat) []sandglass.Beat {
	beats = slices.Clone(beats)
	slices.SortStableFunc(beats, func(a, b sandglass.Beat) int { return a.Time.Compare(b.Time) })
	out := beats[:0]
	for _, b := range beats {
		if n := len(out); n >= 2 && out[n-1].LSN == b.LSN && out[n-2].LSN == b.LSN {
			out[n-1] = b
		} else {
			out = append(out, b)
		}
	}
	return out
}

// head is the part without its WAL: magic, timeline, from, length of the WAL, count of beats, then
// each beat as the differences of its time (microseconds) and position to the one before.
func (p Part) head(beats []sandglass.Beat) []byte {
	b := []byte(partMagic)
	b = binary.AppendUvarint(b, uint64(p.Timeline))
	b = binary.AppendUvarint(b, uint64(p.From))
	b = binary.AppendUvarint(b, uint64(len(p.Data)))
	b = binary.AppendUvarint(b, uint64(len(beats)))
	var at, lsn int64
	for _, x := range beats {
		b = binary.AppendVarint(b, x.Time.UnixMicro()-at)
		b = binary.AppendVarint(b, int64(x.LSN)-lsn)
		at, lsn = x.Time.UnixMicro(), int64(x.LSN)
	}
	return b
}

// parseHead reads a head back; of Data only the length is known from it.
func parseHead(b []byte) (p Part, length int64, err error) {
	if len(b) < len(partMagic) || string(b[:len(partMagic)]) != partMagic {
		return p, 0, errors.New("not the head of a part")
	}
	b = b[len(partMagic):]
	bad := false
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	signed := func() int64 { // zig-zag, as binary.AppendVarint
		v := next()
		return int64(v>>1) ^ -int64(v&1)
	}
	p.Timeline, p.From, length = sandglass.TimelineID(next()), sandglass.LSN(next()), int64(next())
	count := next()
	var at, lsn int64
	for i := uint64(0); i < count && !bad; i++ {
		at += signed()
		lsn += signed()
		p.Beats = append(p.Beats, sandglass.Beat{Time: time.UnixMicro(at).UTC(), LSN: sandglass.LSN(lsn)})
	}
	if bad {
		return p, 0, errors.New("the head of a part is cut short")
	}
	return p, length, nil
}

// PutPart keeps a part. The same part sent again is fine.
func (r *Repository) PutPart(ctx context.Context, env string, inc sandglass.IncarnationID, p Part) error {
	_, err := r.putPart(ctx, env, inc, p)
	return err
}

func (r *Repository) putPart(ctx context.Context, env string, inc sandglass.IncarnationID, p Part) (partName, error) {
	i, err := r.begun(ctx, env, inc)
	if err != nil {
		return partName{}, fmt.Errorf("put part: %w", err)
	}
	seg := p.From.Segment(i.SegmentSize)
	to := p.From + sandglass.LSN(len(p.Data))
	if to > (seg + 1).Start(i.SegmentSize) {
		return partName{}, fmt.Errorf("put part %s to %s: it reaches beyond its segment", p.From, to)
	}
	beats := thin(p.Beats)
	name := partName{segment: sandglass.SegmentName(p.Timeline, seg, i.SegmentSize), from: p.From, to: to}
	if n := len(beats); n > 0 {
		name.beat = beats[n-1].Time.UnixMicro()
	}
	head := p.head(beats)
	dg := newDigester(r.digestKey)
	sum := dg.of(head)
	name.head = hex.EncodeToString(sum[:digestSize/2])
	d := dg.of(p.Data)
	if err := r.sameWAL(ctx, env, inc, name, d); err != nil {
		return name, err
	}
	buf := r.codecs.buffers.Get().(*[]byte)
	defer r.codecs.buffers.Put(buf)
	frame, err := r.putFramed(ctx, name.key(env, inc), buf, head, p.Data, d)
	if err == nil {
		p.Draft.add(p, frame)
	}
	return name, err
}

// sameWAL refuses a part whose stretch of WAL is held with other bytes.
func (r *Repository) sameWAL(ctx context.Context, env string, inc sandglass.IncarnationID, name partName, d digest) error {
	if name.from == name.to {
		return nil
	}
	for obj, err := range r.store.List(ctx, name.sameWAL(env, inc), "") {
		if err != nil {
			return fmt.Errorf("put part: %w", err)
		}
		held, err := r.digestOf(ctx, obj.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // compacted meanwhile
		}
		if err != nil {
			return err
		}
		if held != d {
			return forked(obj.Key)
		}
	}
	return nil
}

// CompactParts puts p, then removes the parts that it covers: those of its segment that lie within it and have
// no newer beat. The caller vouches that p has all that those parts had; by calling this now and then with the
// segment's WAL and beats so far, a slow or idle stretch makes few objects.
func (r *Repository) CompactParts(ctx context.Context, env string, inc sandglass.IncarnationID, p Part) error {
	name, err := r.putPart(ctx, env, inc, p)
	if err != nil {
		return fmt.Errorf("compact parts: %w", err)
	}
	parts, err := r.parts(ctx, env, inc, name.segment)
	if err != nil {
		return fmt.Errorf("compact parts: %w", err)
	}
	for _, q := range parts {
		if q != name && q.from >= name.from && q.to <= name.to && q.beat <= name.beat {
			if err := r.store.Delete(ctx, q.key(env, inc)); err != nil {
				return fmt.Errorf("compact parts: %w", err)
			}
		}
	}
	return nil
}

// DropParts removes the parts of a segment that is held whole; otherwise it refuses. The beats of the
// parts must be in the segment's index by then.
func (r *Repository) DropParts(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) error {
	name, _, err := r.segment(ctx, env, inc, tli, seg)
	if err != nil {
		return fmt.Errorf("drop parts: %w", err)
	}
	if _, err := r.store.Stat(ctx, walKey("wal", env, inc, name)); err != nil {
		return fmt.Errorf("drop parts of %s: the segment is not held whole: %w", name, err)
	}
	parts, err := r.parts(ctx, env, inc, name)
	if err != nil {
		return fmt.Errorf("drop parts: %w", err)
	}
	for _, p := range parts {
		if err := r.store.Delete(ctx, p.key(env, inc)); err != nil {
			return fmt.Errorf("drop parts: %w", err)
		}
	}
	return nil
}

// TailBeats are the keepalives in the parts of a segment that is not finished, in order of time.
func (r *Repository) TailBeats(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) ([]sandglass.Beat, error) {
	name, _, err := r.segment(ctx, env, inc, tli, seg)
	if err != nil {
		return nil, fmt.Errorf("read beats: %w", err)
	}
	parts, err := r.parts(ctx, env, inc, name)
	if err != nil {
		return nil, fmt.Errorf("read beats: %w", err)
	}
	var beats []sandglass.Beat
	for _, p := range parts {
		if p.beat == 0 {
			continue
		}
		head, rc, err := r.openSealed(ctx, p.key(env, inc), true)
		if errors.Is(err, fs.ErrNotExist) {
			continue // compacted into another, or its segment is whole by now
		}
		if err != nil {
			return nil, err
		}
		rc.Close()
		part, _, err := parseHead(head)
		if err != nil {
			return nil, damaged(p.key(env, inc), err)
		}
		beats = append(beats, part.Beats...)
	}
	return thin(beats), nil
}

// parts are the parts of a segment by position, the longest of those with the same start first.
func (r *Repository) parts(ctx context.Context, env string, inc sandglass.IncarnationID, segment string) ([]partName, error) {
	var out []partName
	for obj, err := range r.store.List(ctx, partPrefix(env, inc, segment), "") {
		if err != nil {
			return nil, fmt.Errorf("list parts of %s: %w", segment, err)
		}
		p, err := parsePart(baseName(obj.Key))
		if err != nil {
			return nil, damaged(obj.Key, err)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b partName) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to), cmp.Compare(a.beat, b.beat))
	})
	return out, nil
}

func hasWAL(parts []partName) bool {
	return slices.ContainsFunc(parts, func(p partName) bool { return p.to > p.from })
}

// chainOf picks parts that together hold the WAL from start on without a hole, as far as it goes.
func chainOf(parts []partName, start sandglass.LSN) (chain []partName, end sandglass.LSN) {
	end = start
	for {
		var best partName
		for _, p := range parts {
			if p.from > end {
				break
			}
			if p.to > end && p.to > best.to {
				best = p
			}
		}
		if best.to == 0 {
			return chain, end
		}
		chain, end = append(chain, best), best.to
	}
}

// assembled reads a chain of parts as one segment, padded with zeros.
type assembled struct {
	ctx     context.Context // of OpenWAL's caller
	repo    *Repository
	env     string
	inc     sandglass.IncarnationID
	chain   []partName // not yet opened
	at, end sandglass.LSN
	to      sandglass.LSN // end of the open part
	part    io.ReadCloser
}

// next opens the next part at the position reached.
func (a *assembled) next() error {
	p := a.chain[0]
	_, rc, err := a.repo.openSealed(a.ctx, p.key(a.env, a.inc), true)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, rc, int64(a.at-p.from)); err != nil {
		rc.Close()
		return damaged(p.key(a.env, a.inc), err)
	}
	a.part, a.to, a.chain = rc, p.to, a.chain[1:]
	return nil
}

func (a *assembled) Read(b []byte) (int, error) {
	for {
		if a.part != nil {
			n, err := a.part.Read(b)
			a.at += sandglass.LSN(n)
			if err == io.EOF {
				err = a.part.Close()
				a.part = nil
				if err == nil && a.at != a.to {
					err = fmt.Errorf("a part of the WAL ends at %s instead of %s", a.at, a.to)
				}
			}
			if n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if len(a.chain) > 0 {
			if err := a.next(); err != nil {
				return 0, err
			}
			continue
		}
		n := min(int64(len(b)), int64(a.end-a.at))
		if n == 0 && len(b) > 0 {
			return 0, io.EOF
		}
		clear(b[:n])
		a.at += sandglass.LSN(n)
		return int(n), nil
	}
}

func (a *assembled) Close() error {
	if a.part == nil {
		return nil
	}
	err := a.part.Close()
	a.part = nil
	return err
}
