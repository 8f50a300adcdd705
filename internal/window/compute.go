// Compute: the window with its gaps.

package window

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// Compute draws what can be restored of an environment. live may be nil. A window without a settled moment has no
// Latest; one without an image has no Earliest either.
func Compute(ctx context.Context, r Repository, env sandglass.Environment, live Live) (sandglass.Window, error) {
	s, err := newResolver(ctx, r, env, live)
	if err != nil {
		return sandglass.Window{}, err
	}
	w := sandglass.Window{Environment: env.Name, Gaps: []sandglass.Gap{}, Images: []sandglass.Image{}, Incarnations: s.incarnations, LagBytes: -1, LagSeconds: -1}
	for at, b := range s.branches {
		w.Images, w.LatestLSN = append(w.Images, b.images...), b.end
		inside, err := s.gapsInside(ctx, at)
		if err != nil {
			return w, err
		}
		w.Gaps = append(w.Gaps, s.inside(at, inside)...)
	}
	for i, p := range s.pieces {
		if i == 0 {
			w.Earliest, w.EarliestLSN = p.from, s.branches[p.at].begin()
		}
		if i == len(s.pieces)-1 {
			if w.Latest, err = s.settledBy(ctx, i); err != nil {
				return w, err
			}
			break
		}
		g, err := s.gapAfter(ctx, i)
		if err != nil {
			return w, err
		}
		if g.To.After(g.From) {
			w.Gaps = append(w.Gaps, g)
		}
	}
	slices.SortStableFunc(w.Images, func(a, b sandglass.Image) int { return a.Ended.Compare(b.Ended) })
	slices.SortStableFunc(w.Gaps, func(a, b sandglass.Gap) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
	return w, s.lag(ctx, &w, live)
}

// lag says how far the repository is behind production, when it is being recorded.
func (s *resolver) lag(ctx context.Context, w *sandglass.Window, live Live) error {
	if live == nil {
		return nil
	}
	status := live.Status()
	if status.ServerTime.IsZero() || status.State != sandglass.RecorderStreaming && status.State != sandglass.RecorderImaging {
		return nil
	}
	w.LagBytes, w.LagSeconds = max(0, int64(status.ServerLSN-status.DurableLSN)), 0
	if status.DurableLSN >= status.ServerLSN || len(s.branches) == 0 {
		return nil
	}
	b := s.branches[len(s.branches)-1]
	c, err := b.clock(ctx)
	if err == nil {
		w.LagSeconds = max(0, status.ServerTime.Sub(latest(c.high, c.covered)).Seconds())
	}
	return err
}

// latest is the newest settled moment of a branch; zero when there is none.
func (b *branch) latest(ctx context.Context) (time.Time, error) {
	c, err := b.clock(ctx)
	if err != nil {
		return time.Time{}, err
	}
	settled := c.settled()
	if settled.Before(b.images[0].Ended) {
		return time.Time{}, nil
	}
	return settled, nil
}

// hole says why WAL is missing between two branches of an incarnation.
func (s *resolver) hole(ctx context.Context, b, next *branch) (string, error) {
	gaps, err := b.r.Gaps(ctx, b.env, b.inc.ID)
	if err != nil {
		return "", fmt.Errorf("read gaps: %w", err)
	}
	for _, g := range gaps {
		if g.ToLSN > b.end && g.FromLSN < next.begin() && g.Reason != "" {
			return g.Reason, nil
		}
	}
	return fmt.Sprintf("WAL from LSN %s on is missing", b.end), nil
}

// gapsInside are the stretches of a branch that can't be restored: where its clock was set back, and from an obstacle to the next image.
func (s *resolver) gapsInside(ctx context.Context, at int) ([]sandglass.Gap, error) {
	b := s.branches[at]
	var gaps []sandglass.Gap
	steps, err := b.steps(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range steps {
		gaps = append(gaps, sandglass.Gap{From: k.Low.Add(-wal.MaxDisorder), To: k.High, Code: sandglass.CodeMomentClockStep, Reason: "Production's clock was set back here."})
	}
	var all []obstacle
	for x, err := range b.notable(ctx, b.images[0].Redo, b.end) {
		if err != nil {
			return nil, err
		}
		for _, o := range obstacles(x) {
			if o.lsn >= b.images[0].Redo {
				all = append(all, o)
			}
		}
	}
	slices.SortFunc(all, func(x, y obstacle) int { return cmp.Compare(x.lsn, y.lsn) })
	var blocked time.Time // where the gap of the obstacle before ends
	for _, o := range all {
		before, after, blocks, err := b.around(ctx, o.lsn)
		if err != nil {
			return nil, err
		}
		if !blocks {
			continue
		}
		if before.IsZero() {
			before = b.images[0].Ended
		}
		if after.IsZero() {
			if after, err = b.latest(ctx); err != nil {
				return nil, err
			}
		}
		if !after.After(before.Add(time.Microsecond)) || after.Equal(blocked) {
			continue
		}
		blocked = after
		gaps = append(gaps, sandglass.Gap{From: before, To: after, Code: o.code, Reason: fmt.Sprintf("At LSN %s %s; replay goes on from the next image.", o.lsn, o.reason)})
	}
	return gaps, nil
}
