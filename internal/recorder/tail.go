package recorder

// The live tail: what the recorder knows beyond what the repository's indexes say.

import (
	"slices"

	"sandglass"
	"sandglass/internal/wal"
)

// Tail is the newest stretch of the history, as it is being recorded.
type Tail struct {
	Incarnation sandglass.IncarnationID
	Timeline    sandglass.TimelineID
	// Received is what the spool holds, Durable what the repository holds. Indexes may reach
	// beyond Durable; what lies there can't be restored yet.
	Received, Durable sandglass.LSN
	// Beats are keepalives, in order of time, of the segments in Indexes; the last is the newest
	// heard. A beat says: all WAL that was on production's disk at Time lies before LSN.
	Beats []sandglass.Beat
	// Indexes are of segments whose index the repository may not hold yet, ascending; the last
	// is of the unfinished segment.
	Indexes []*wal.Index
}

// Tail is a copy of the live tail; false while nothing is streamed.
func (r *Recorder) Tail() (Tail, bool) {
	r.mu.Lock()
	x := r.live
	t := Tail{Incarnation: r.inc.ID, Timeline: r.status.Timeline, Received: r.status.ReceivedLSN, Durable: r.status.DurableLSN}
	r.mu.Unlock()
	if x == nil {
		return Tail{}, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	t.Indexes = slices.Clone(x.pending)
	if tail := x.indexer.Tail(); tail != nil {
		t.Indexes = append(t.Indexes, tail)
	}
	for _, seg := range x.beatSegments() {
		t.Beats = append(t.Beats, x.beats[seg]...)
	}
	if x.newest.LSN != 0 && (len(t.Beats) == 0 || t.Beats[len(t.Beats)-1] != x.newest) {
		t.Beats = append(t.Beats, x.newest)
	}
	return t, true
}
