// Production's clock: up to when a branch's history is settled, and what time it is there.

package window

import (
	"context"
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
	// stopped is set when the branch ends with a shutdown checkpoint: nothing was written from then to this time.
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
		c.stopped = latest(x.Checkpoints[n-1].Time, b.inc.Ended)
		if away := b.inc.Away; len(away) > 0 && away[len(away)-1].To.IsZero() {
			c.stopped = latest(c.stopped, away[len(away)-1].From)
		}
	}
	beats, err := b.beats(ctx, x, hi)
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

// beatsBack is how many segments without a keepalive are passed over to find the last one.
const beatsBack = 8

// beats are the keepalives of the branch's last segments, and what the recorder heard last.
func (b *branch) beats(ctx context.Context, x *wal.Index, hi sandglass.SegmentNo) ([]sandglass.Beat, error) {
	list := x.Beats
	for seg := hi; len(list) == 0 && seg.Start(b.inc.SegmentSize) > b.from && hi-seg < beatsBack; seg-- {
		p, err := b.index(ctx, seg-1)
		if err != nil {
			return nil, err
		}
		list = p.Beats
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
