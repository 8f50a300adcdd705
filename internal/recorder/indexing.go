package recorder

// The index on the way: the indexer of the stream, indexes that wait to be stored, and the
// keepalives of each segment.

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// beatEvery is the distance of two kept keepalives while WAL is being written; while none
// is, the first and the last at the same position are kept.
const beatEvery = 10 * time.Second

type indexing struct {
	log *slog.Logger

	mu      sync.Mutex
	config  wal.Config
	indexer *wal.Indexer
	broken  bool         // the indexer gave up; a new one begins with the next segment
	pending []*wal.Index // finished, not yet in the repository
	beats   map[sandglass.SegmentNo][]sandglass.Beat
	newest  sandglass.Beat
	ends    []wal.BackupEnd // the newest few
	spaces  sandglass.LSN   // the newest tablespace change
}

func newIndexing(c wal.Config, log *slog.Logger) *indexing {
	return &indexing{config: c, indexer: wal.NewIndexer(c), log: log, beats: make(map[sandglass.SegmentNo][]sandglass.Beat)}
}

// write takes the next WAL. What can't be indexed is recorded all the same: a segment
// without index costs speed, one without WAL costs moments.
func (x *indexing) write(at sandglass.LSN, data []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.broken {
		next := at
		if at.Offset(x.config.SegmentSize) != 0 {
			next = (at.Segment(x.config.SegmentSize) + 1).Start(x.config.SegmentSize)
		}
		skip := int64(next - at)
		if skip >= int64(len(data)) {
			return
		}
		data = data[skip:]
		x.config.Start, x.config.Previous, x.broken = next, nil, false
		x.indexer = wal.NewIndexer(x.config)
		at = next
	}
	err := x.indexer.Write(data)
	for _, f := range x.indexer.Finished() {
		x.pending = append(x.pending, f)
		x.notice(f)
	}
	if err != nil {
		x.broken = true
		x.log.Error("WAL can't be indexed; it is recorded, and its index goes on with the next segment", "lsn", at, "error", err)
	}
}

// from is where the indexer began.
func (x *indexing) from() sandglass.LSN {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.config.Start
}

// look notices what the unfinished segment tells.
func (x *indexing) look() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.indexer.Current(); t != nil {
		x.notice(t)
	}
}

func (x *indexing) notice(i *wal.Index) {
	for _, e := range i.BackupEnds {
		if !slices.Contains(x.ends, e) {
			x.ends = append(x.ends, e)
		}
	}
	x.ends = x.ends[max(0, len(x.ends)-16):]
	for _, t := range i.Tablespaces {
		x.spaces = max(x.spaces, t.LSN)
	}
}

// backupEnd finds the end of the backup that began at redo.
func (x *indexing) backupEnd(redo sandglass.LSN) (wal.BackupEnd, bool) {
	x.look()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.ends {
		if e.Redo == redo {
			return e, true
		}
	}
	return wal.BackupEnd{}, false
}

// hear keeps a beat; worth says whether it should be made durable soon even if no WAL comes.
func (x *indexing) hear(b sandglass.Beat) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.newest = b
	seg := b.LSN.Segment(x.config.SegmentSize)
	x.beats[seg] = addBeat(x.beats[seg], b)
}

// addBeat keeps the first and the last of beats at one position, and others not too close.
func addBeat(beats []sandglass.Beat, b sandglass.Beat) []sandglass.Beat {
	n := len(beats)
	switch {
	case n == 0:
	case b.Time.Before(beats[n-1].Time): // the clock stepped back, or a beat read back is newer
		return beats
	case n >= 2 && beats[n-1].LSN == b.LSN && beats[n-2].LSN == b.LSN:
		beats[n-1] = b
		return beats
	case beats[n-1].LSN != b.LSN && b.Time.Sub(beats[n-1].Time) < beatEvery && n >= 2 && beats[n-1].Time.Sub(beats[n-2].Time) < beatEvery:
		beats[n-1] = b // under load the newest one says all
		return beats
	}
	return append(beats, b)
}

// beatSegments are the segments that have beats, ascending. Called with the lock held.
func (x *indexing) beatSegments() []sandglass.SegmentNo { return slices.Sorted(maps.Keys(x.beats)) }

// beatsOf is a copy of a segment's beats after a time, and not beyond a position.
func (x *indexing) beatsOf(seg sandglass.SegmentNo, after time.Time, upTo sandglass.LSN) []sandglass.Beat {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []sandglass.Beat
	for _, b := range x.beats[seg] {
		if b.Time.After(after) && b.LSN <= upTo {
			out = append(out, b)
		}
	}
	return out
}

// next gives the oldest index that waits to be stored, with its beats; nil if there is none.
func (x *indexing) next() *wal.Index {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.pending) == 0 {
		return nil
	}
	i := *x.pending[0]
	i.Beats = slices.Clone(x.beats[i.Start.Segment(i.SegmentSize)])
	return &i
}

// stored forgets the index that next gave, and beats of earlier segments.
func (x *indexing) stored(i *wal.Index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pending = x.pending[1:]
	seg := i.Start.Segment(i.SegmentSize)
	maps.DeleteFunc(x.beats, func(n sandglass.SegmentNo, _ []sandglass.Beat) bool { return n <= seg })
}

// missed says whether a segment's index will never come.
func (x *indexing) missed(seg sandglass.SegmentNo) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.pending) > 0 && x.pending[0].Start.Segment(x.config.SegmentSize) <= seg {
		return false
	}
	return x.broken || x.config.Start.Segment(x.config.SegmentSize) > seg
}
