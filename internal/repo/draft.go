package repo

// This file spares compressing WAL twice: the frames of a segment's parts, one after the other, are the beginning of
// the whole segment.

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"sandglass"
)

const (
	// maxDraft bounds the frames that a draft holds in memory.
	maxDraft = 8 << 20
	// minDraft is the least WAL of a part that a draft takes: smaller frames compress noticeably worse than a long one.
	minDraft = chunkSize
	// framePiece is how much goes into a frame of what was not part of a draft: in the encoder's own window, so that
	// it need not be copied there.
	framePiece = 1 << 20
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

// fill takes what is left, as long as there is room for it.
func (d *Draft) fill(f *framing) error {
	for len(d.frames) <= maxDraft-framePiece {
		frame, err := f.next()
		if err != nil {
			return err
		}
		d.h.Write(f.piece)
		d.frames = append(d.frames, frame...)
	}
	return nil
}

// framing reads data as zstd frames.
type framing struct {
	data          io.Reader
	enc           *zstd.Encoder
	buf, out      *[]byte
	piece, unread []byte // of data, in buf; of the frame, in out
}

func (c *codecs) framing(data io.Reader) *framing {
	f := &framing{data: data, enc: c.encoder(), buf: c.buffers.Get().(*[]byte), out: c.buffers.Get().(*[]byte)}
	*f.buf = slices.Grow((*f.buf)[:0], framePiece)
	return f
}

func (c *codecs) doneFraming(f *framing) {
	c.doneEncoding(f.enc)
	c.buffers.Put(f.buf)
	c.buffers.Put(f.out)
}

// next is the next frame; io.EOF after the last.
func (f *framing) next() ([]byte, error) {
	n, err := io.ReadFull(f.data, (*f.buf)[:framePiece])
	if n == 0 || err != nil && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	f.piece = (*f.buf)[:n]
	*f.out = f.enc.EncodeAll(f.piece, (*f.out)[:0])
	return *f.out, nil
}

// Read gives the frames one after the other.
func (f *framing) Read(p []byte) (int, error) {
	for len(f.unread) == 0 {
		var err error
		if f.unread, err = f.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.unread)
	f.unread = f.unread[n:]
	return n, nil
}

// PutDrafted is PutSegment of the segment whose beginning is in a draft. The draft then is one of the next segment.
func (r *Repository) PutDrafted(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, d *Draft, data io.ReadSeeker) error {
	return r.putSegment(ctx, env, inc, tli, seg, d, data)
}
