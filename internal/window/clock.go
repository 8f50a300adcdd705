// Production's clock: up to when a branch's history is settled, and what time it is there.

package window

import (
	"context"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// clock is what is known of production's clock against a branch's WAL.
type clock struct {
	// high is the latest time of a commit or abort since the clock last stepped back: everything before it is settled.
	high time.Time
	// covered is the latest time at which production's WAL ended at or before the branch's end.
	covered time.Time
	// stopped is the time of the shutdown checkpoint that the branch ends with, if it does. What was after it is not known:
	// the server may have run again, or another in its place, unheard.
	stopped time.Time
	// newest is production's clock when last heard, with or without its WAL.
	newest time.Time
}

// clock reads the evidence at the branch's end.
func (b *branch) clock(ctx context.Context) (clock, error) {
	var c clock
	_, hi := b.bounds()
	x, err := b.index(ctx, hi)
	if err != nil {
		return c, err
	}
	st, err := b.state(ctx, hi)
	if err != nil {
		return c, err
	}
	if st.ended != 0 {
		c.high = st.time
		if x.HighTime.After(c.high) {
			c.high = x.HighTime
		}
	}
	if n := len(x.Checkpoints); n > 0 && x.Checkpoints[n-1].LSN == x.Last && x.Checkpoints[n-1].Kind == wal.ShutdownCheckpoint {
		c.stopped = x.Checkpoints[n-1].Time
	}
	beats, err := b.beats(ctx, x, max(b.begin(), st.ended))
	if err != nil {
		return c, err
	}
	for _, k := range beats {
		c.newest = latest(c.newest, k.Time)
		if k.LSN <= b.end {
			c.covered = latest(c.covered, k.Time)
		}
	}
	c.newest = latest(c.newest, c.high)
	return c, nil
}

// beats are the newest keepalives that the branch holds, and what the recorder heard last; x is the branch's last index.
// None from before since, the newest commit or abort, is looked for: it tells no more than that does, whose time
// was taken at most Settle before.
func (b *branch) beats(ctx context.Context, x *wal.Index, since sandglass.LSN) ([]sandglass.Beat, error) {
	list := x.Beats
	if b.end.Offset(b.inc.SegmentSize) == 0 { // what was heard since belongs to a segment of which nothing is there yet
		_, hi := b.bounds()
		next, err := b.r.TailBeats(ctx, b.env, b.inc.ID, b.timeline(hi), hi+1)
		if err != nil {
			return nil, err
		}
		list = slices.Concat(list, next)
	}
	for at := x.Start; len(list) == 0 && at > since && at > b.from; at = x.Start {
		var err error
		if x, err = b.index(ctx, b.segment(at)-1); err != nil {
			return nil, err
		}
		list = x.Beats
	}
	if b.live == nil {
		return list, nil
	}
	s := b.live.Status()
	if s.Incarnation == b.inc.ID && !s.ServerTime.IsZero() {
		list = append(list[:len(list):len(list)], sandglass.Beat{Time: s.ServerTime, LSN: s.ServerLSN})
	}
	return list, nil
}

// settled is the latest moment of which nothing more can come; zero when there is none.
func (c clock) settled() time.Time {
	s := c.stopped
	if !c.high.IsZero() {
		s = latest(s, c.high.Add(-time.Microsecond))
	}
	if !c.covered.IsZero() {
		s = latest(s, c.covered.Add(-Settle))
	}
	return s
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// streaming says whether the recorder hears production now.
func (b *branch) streaming() bool {
	if b.live == nil {
		return false
	}
	s := b.live.Status().State
	return s == sandglass.RecorderStreaming || s == sandglass.RecorderImaging
}
