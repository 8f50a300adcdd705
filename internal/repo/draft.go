package repo

// This file spares compressing WAL twice: the frames of a segment's parts, one after the other, are the beginning of
// the whole segment.

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"io"

	"sandglass"
)

const (
	// maxDraft bounds the frames that a draft holds in memory.
	maxDraft = 8 << 20
	// minDraft is the least WAL of a part that a draft takes: smaller frames compress noticeably worse than a long one.
	minDraft = chunkSize
)

// Draft is the beginning of one segment as it will be stored: parts put with it, from the segment's start on without a
// hole, need not be compressed again by PutDrafted. It ends where a part is small, missing, or would make it too large.
// It is for one goroutine.
type Draft struct {
	from, at sandglass.LSN
	frames   []byte
	h        hash.Hash
}

// NewDraft begins the draft of the segment that starts at start.
func (r *Repository) NewDraft(start sandglass.LSN) *Draft {
	return &Draft{from: start, at: start, h: hmac.New(sha256.New, r.digestKey)}
}

// Begin makes it the draft of another segment, of which nothing is there yet.
func (d *Draft) Begin(start sandglass.LSN) {
	d.from, d.at, d.frames = start, start, d.frames[:0]
	d.h.Reset()
}

// add takes a stored part.
func (d *Draft) add(p Part, frame []byte) {
	if d == nil || p.From != d.at || len(p.Data) < minDraft || len(d.frames)+len(frame) > maxDraft {
		return
	}
	d.frames = append(d.frames, frame...)
	d.h.Write(p.Data)
	d.at += sandglass.LSN(len(p.Data))
}

// PutDrafted is PutSegment of the segment whose beginning is in a draft. The draft then is one of the next segment.
func (r *Repository) PutDrafted(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, d *Draft, data io.ReadSeeker) error {
	return r.putSegment(ctx, env, inc, tli, seg, d, data)
}
