package repo

// This file lists what WAL is held, from the names of the objects alone.

import (
	"context"
	"fmt"
	"iter"

	"sandglass"
)

// SegmentInfo is what is held of a segment.
type SegmentInfo struct {
	Timeline sandglass.TimelineID
	Segment  sandglass.SegmentNo
	// From and End bound the WAL held without a hole; equal when only its index or beats are.
	From, End sandglass.LSN
	Whole     bool
	Indexed   bool
	Parts     int   // not yet dropped
	Bytes     int64 // stored
}

// Segments are an incarnation's in the order of timeline and number. It needs no identity and holds one at a time.
func (r *Repository) Segments(ctx context.Context, env string, inc sandglass.IncarnationID) iter.Seq2[SegmentInfo, error] {
	return r.SegmentsFrom(ctx, env, inc, 0, 0)
}

// SegmentsFrom are those from a timeline and segment on.
func (r *Repository) SegmentsFrom(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) iter.Seq2[SegmentInfo, error] {
	return func(yield func(SegmentInfo, error) bool) {
		i, err := r.begun(ctx, env, inc)
		if err != nil {
			yield(SegmentInfo{}, fmt.Errorf("list segments: %w", err))
			return
		}
		first := sandglass.SegmentName(tli, seg, i.SegmentSize)
		prefix := prefixOf(env, inc)
		whole, stop := iter.Pull2(r.named(ctx, prefix+"wal/", walKey("wal", env, inc, first), first))
		defer stop()
		indexes, stop := iter.Pull2(r.named(ctx, prefix+"index/", walKey("index", env, inc, first), first))
		defer stop()
		parts, stop := iter.Pull2(r.named(ctx, prefix+"part/", partPrefix(env, inc, first), first))
		defer stop()
		m := merge{size: i.SegmentSize, whole: cursor{next: whole}, index: cursor{next: indexes}, part: cursor{next: parts}}
		m.whole.advance()
		m.index.advance()
		m.part.advance()
		for {
			info, more, err := m.step()
			if err != nil {
				yield(SegmentInfo{}, fmt.Errorf("list segments: %w", err))
				return
			}
			if !more || !yield(info, nil) {
				return
			}
		}
	}
}

// named lists objects whose names begin with a segment's name, from the segment first on.
func (r *Repository) named(ctx context.Context, prefix, after, first string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		// after itself is wanted too, so the listing begins just before it.
		for obj, err := range r.store.List(ctx, prefix, after[:len(after)-1]) {
			if err == nil && (len(baseName(obj.Key)) < 24 || baseName(obj.Key)[:24] < first) {
				continue
			}
			if !yield(obj, err) {
				return
			}
		}
	}
}

// cursor is the current object of one listing.
type cursor struct {
	next    func() (Object, error, bool)
	obj     Object
	segment string // "" at the end
	err     error
}

func (c *cursor) advance() {
	obj, err, ok := c.next()
	c.obj, c.err, c.segment = obj, err, ""
	if ok && err == nil {
		c.segment = baseName(obj.Key)[:24]
	}
}

// merge joins the listings of segments, indexes and parts, all ordered by segment name.
type merge struct {
	size               int64
	whole, index, part cursor
}

// step gathers what there is of the next segment.
func (m *merge) step() (info SegmentInfo, more bool, err error) {
	name := ""
	for _, c := range []*cursor{&m.whole, &m.index, &m.part} {
		if c.err != nil {
			return info, false, c.err
		}
		if c.segment != "" && (name == "" || c.segment < name) {
			name = c.segment
		}
	}
	if name == "" {
		return info, false, nil
	}
	info.Timeline, info.Segment, err = sandglass.ParseSegmentName(name, m.size)
	if err != nil {
		return info, false, err
	}
	info.From = info.Segment.Start(m.size)
	info.End = info.From
	if m.whole.segment == name {
		info.Whole, info.End = true, info.From+sandglass.LSN(m.size)
		info.Bytes += m.whole.obj.Size
		m.whole.advance()
	}
	if m.index.segment == name {
		info.Indexed = true
		info.Bytes += m.index.obj.Size
		m.index.advance()
	}
	var parts []partName
	for m.part.segment == name {
		p, err := parsePart(baseName(m.part.obj.Key))
		if err != nil {
			return info, false, damaged(m.part.obj.Key, err)
		}
		parts = append(parts, p)
		info.Bytes += m.part.obj.Size
		m.part.advance()
	}
	info.Parts = len(parts)
	if !info.Whole {
		_, info.End = chainOf(parts, info.From)
	}
	return info, true, nil
}
