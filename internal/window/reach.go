// From the end of a moment to a Range: the image, where to stop, and what replay across it demands.

package window

import (
	"context"
	"fmt"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// upTo is the Range of everything before until, the first commit or abort that is excluded. When it is nil, nothing
// that is held is excluded; end then is the position that the moment lies before, zero for a settled time.
func (s *resolver) upTo(ctx context.Context, at int, until *wal.Transaction, end sandglass.LSN) (sandglass.Range, error) {
	b := s.branches[at]
	r := sandglass.Range{Environment: s.env.Name, Incarnation: b.inc.ID}
	limit := b.end
	if end != 0 {
		limit = end
	}
	if until != nil {
		r.Until, r.NextTime, limit = until.LSN, until.Time, until.LSN
	}
	last, err := b.before(ctx, limit)
	if err != nil {
		return r, err
	}
	var image sandglass.Image
	for _, i := range b.images {
		if i.Consistent < limit {
			image = i
		}
	}
	if image.ID == "" {
		first := b.images[0].Ended
		return r, s.refuse(sandglass.CodeMomentBefore, time.Time{}, first,
			fmt.Sprintf("This moment is before the window, which begins at %s.", s.at(first)), "Choose a later moment.")
	}
	r.Image, r.From = image.ID, image.Consistent
	if last != nil && last.LSN >= image.Consistent {
		r.From, r.CommitTime = last.LSN, last.Time
	}
	r.Stop = r.From
	r.Timeline = b.timeline(b.segment(r.Stop))
	r.ReplayBytes = int64(r.Stop - image.Redo)
	r.Minimums, err = s.demands(ctx, at, image, r.Stop)
	return r, err
}

// demands are the parameter minimums of a replay from an image to stop. It refuses a replay
// across WAL that lacks what wal_level=minimal left out, or across a tablespace created at a
// path of production's, which would be used there. Both begin anew with the next image. A
// tablespace that is dropped is one of the copy's own, which replay can follow.
func (s *resolver) demands(ctx context.Context, at int, image sandglass.Image, stop sandglass.LSN) (sandglass.Parameters, error) {
	b := s.branches[at]
	var changes []wal.ParameterChange // newest first
	var obstacle *obstacle
	for x, err := range b.notable(ctx, image.Redo, stop) {
		if err != nil {
			return sandglass.Parameters{}, err
		}
		for i := len(x.Parameters) - 1; i >= 0; i-- {
			if p := x.Parameters[i]; p.LSN >= image.Redo && p.LSN <= stop {
				changes = append(changes, p)
			}
		}
		for _, o := range obstacles(x) {
			if o.lsn >= image.Redo && o.lsn <= stop && (obstacle == nil || o.lsn < obstacle.lsn) {
				obstacle = &o
			}
		}
	}
	if obstacle != nil {
		return sandglass.Parameters{}, s.blocked(ctx, at, *obstacle, stop)
	}
	p := image.Minimums
	for i := len(changes) - 1; i >= 0; i-- {
		p = changes[i].Values.AtLeast(p)
	}
	return p, nil
}

// obstacle is a record that replay can't follow.
type obstacle struct {
	lsn    sandglass.LSN
	code   sandglass.Code
	reason string
}

// obstacles are those of one segment, not ordered.
func obstacles(x *wal.Index) []obstacle {
	var list []obstacle
	for _, p := range x.Parameters {
		if p.Values.WALLevel == "minimal" {
			list = append(list, obstacle{p.LSN, sandglass.CodeMomentMinimalWAL, "production ran with wal_level=minimal, so its WAL lacks changes"})
		}
	}
	for _, t := range x.Tablespaces {
		if !t.Dropped && t.Path != "" {
			list = append(list, obstacle{t.LSN, sandglass.CodeMomentTablespace, fmt.Sprintf("a tablespace was created at %s, which a copy must not touch", t.Path)})
		}
	}
	return list
}

// blocked refuses a moment beyond an obstacle, with the last moment before it and the first image after it.
func (s *resolver) blocked(ctx context.Context, at int, o obstacle, stop sandglass.LSN) error {
	b := s.branches[at]
	before, after, err := b.around(ctx, o.lsn)
	if err != nil {
		return err
	}
	if after.IsZero() && at+1 < len(s.branches) {
		after = s.branches[at+1].images[0].Ended
	}
	remedy := "Choose a moment before it, or wait for the next image and choose a moment after that."
	if !after.IsZero() {
		remedy = fmt.Sprintf("Choose a moment up to %s, or from %s on.", s.at(before), s.at(after))
	}
	return s.refuse(o.code, before, after, fmt.Sprintf("This moment can't be reached: at LSN %s %s, and there is no image between that and LSN %s.", o.lsn, o.reason, stop), remedy)
}

// around are the last moment before a record and the end of the first image after it; zero where there is none.
func (b *branch) around(ctx context.Context, lsn sandglass.LSN) (before, after time.Time, err error) {
	last, err := b.before(ctx, lsn)
	if err != nil {
		return before, after, err
	}
	before = b.images[0].Ended
	if b.begin() >= lsn {
		before = time.Time{}
	}
	if last != nil {
		before = latest(before, last.Time)
	}
	for _, i := range b.images {
		if i.Redo > lsn {
			return before, i.Ended, nil
		}
	}
	return before, after, nil
}
