package repo

// This file keeps whole WAL segments, their indexes and timeline history files.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"sandglass"
)

// segment is the file name of a segment, by the segment size of its incarnation.
func (r *Repository) segment(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) (name string, size int64, err error) {
	i, err := r.begun(ctx, env, inc)
	if err != nil {
		return "", 0, fmt.Errorf("segment size: %w", err)
	}
	return sandglass.SegmentName(tli, seg, i.SegmentSize), i.SegmentSize, nil
}

// PutSegment keeps a whole segment, read from data's position on; data is read twice. The same segment
// sent again is fine, the same name with other bytes is history.forked.
func (r *Repository) PutSegment(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, data io.ReadSeeker) error {
	return r.putSegment(ctx, env, inc, tli, seg, r.NewDraft(0), data)
}

// putSegment takes the segment's beginning from a draft of it, if there is one, and the rest from data.
func (r *Repository) putSegment(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, d *Draft, data io.ReadSeeker) error {
	name, size, err := r.segment(ctx, env, inc, tli, seg)
	if err != nil {
		return fmt.Errorf("put segment: %w", err)
	}
	at, err := data.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("put segment %s: %w", name, err)
	}
	end, err := data.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = data.Seek(at, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("put segment %s: %w", name, err)
	}
	if end-at != size {
		return fmt.Errorf("put segment %s: it has %d bytes instead of %d", name, end-at, size)
	}
	if d.from != seg.Start(size) {
		d.Begin(seg.Start(size))
	}
	defer d.Begin((seg + 1).Start(size))
	if _, err := data.Seek(int64(d.at-d.from), io.SeekCurrent); err != nil {
		return fmt.Errorf("put segment %s: %w", name, err)
	}
	return r.putStream(ctx, walKey("wal", env, inc, name), d, data)
}

// PutIndex keeps the index of a segment. The first one stays: an index is made from its segment, and one made again after
// a crash may know fewer beats.
func (r *Repository) PutIndex(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, index []byte) error {
	name, _, err := r.segment(ctx, env, inc, tli, seg)
	if err != nil {
		return fmt.Errorf("put index: %w", err)
	}
	return firstStays(r.putBytes(ctx, walKey("index", env, inc, name), index))
}

// Index is a segment's index as it was put; fs.ErrNotExist when there is none.
func (r *Repository) Index(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) ([]byte, error) {
	name, _, err := r.segment(ctx, env, inc, tli, seg)
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	_, b, err := r.readBytes(ctx, walKey("index", env, inc, name), false)
	return b, err
}

// PutHistory keeps a timeline's history file.
func (r *Repository) PutHistory(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, content []byte) error {
	return r.putBytes(ctx, historyKey(env, inc, tli), content)
}

// History is a timeline's history file; fs.ErrNotExist when there is none.
func (r *Repository) History(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID) ([]byte, error) {
	_, b, err := r.readBytes(ctx, historyKey(env, inc, tli), false)
	return b, err
}

// Histories are the timelines whose history files are held, ascending.
func (r *Repository) Histories(ctx context.Context, env string, inc sandglass.IncarnationID) ([]sandglass.TimelineID, error) {
	var out []sandglass.TimelineID
	for obj, err := range r.store.List(ctx, prefixOf(env, inc)+"history/", "") {
		if err != nil {
			return nil, fmt.Errorf("list history files: %w", err)
		}
		tli, err := strconv.ParseUint(strings.TrimSuffix(baseName(obj.Key), ".history"), 16, 32)
		if err != nil {
			return nil, damaged(obj.Key, err)
		}
		out = append(out, sandglass.TimelineID(tli))
	}
	return out, nil
}

// OpenWAL reads a segment. One that is not finished is assembled from its parts and padded with zeros to the
// segment size; valid is how many bytes from the segment's start are WAL. fs.ErrNotExist means that it is certain
// that nothing of the segment is held.
func (r *Repository) OpenWAL(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) (rc io.ReadCloser, valid int64, err error) {
	name, size, err := r.segment(ctx, env, inc, tli, seg)
	if err != nil {
		return nil, 0, fmt.Errorf("open WAL: %w", err)
	}
	start := seg.Start(size)
	// The segment may become whole, and its parts may be compacted or dropped, between our looks.
	for range 5 {
		_, rc, err = r.openSealed(ctx, walKey("wal", env, inc, name), false)
		if err == nil {
			return rc, size, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		var parts []partName
		if parts, err = r.parts(ctx, env, inc, name); err != nil {
			return nil, 0, err
		}
		chain, end := chainOf(parts, start)
		if len(chain) == 0 {
			if _, err = r.store.Stat(ctx, walKey("wal", env, inc, name)); errors.Is(err, fs.ErrNotExist) {
				if hasWAL(parts) {
					return nil, 0, missing(partPrefix(env, inc, name)+"*", errors.New("the parts do not begin at the segment's start"))
				}
				return nil, 0, fmt.Errorf("open WAL %s: %w", name, fs.ErrNotExist)
			}
			continue
		}
		a := &assembled{ctx: ctx, repo: r, env: env, inc: inc, chain: chain, at: start, end: start + sandglass.LSN(size)}
		if err = a.next(); err == nil {
			return a, int64(end - start), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
	}
	return nil, 0, fmt.Errorf("open WAL %s: it kept changing", name)
}
