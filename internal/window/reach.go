// From the end of a moment to a Range: the image, where to stop, and what replay across it demands.

package window

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// upTo is the Range of everything before until, the first commit or abort that is excluded; nil
// when none that is held is.
func (s *resolver) upTo(ctx context.Context, at int, until *wal.Transaction) (sandglass.Range, error) {
	b := s.branches[at]
	r := sandglass.Range{Environment: s.env.Name, Incarnation: b.inc.ID}
	limit := b.end
	if until != nil {
		r.Until, r.NextTime, limit = until.LSN, until.Time, until.LSN
	}
	commit, err := b.before(ctx, limit)
	if err != nil {
		return r, err
	}
	// The newest image comes first. An older one is of use only when that one's own consistency lies
	// beyond something that the moment itself does not.
	var refusal error
	for _, image := range slices.Backward(b.images) {
		if image.Consistent >= limit {
			continue
		}
		r.Image, r.From, r.CommitTime = image.ID, image.Consistent, time.Time{}
		follows := commit != nil && commit.LSN >= image.Consistent
		if follows {
			r.From, r.CommitTime = commit.LSN, commit.Time
		}
		r.Stop, r.ReplayBytes = r.From, int64(r.From-image.Redo)
		r.Timeline = b.timeline(b.segment(r.Stop))
		if r.Minimums, err = s.demands(ctx, at, image, r.Stop); err == nil {
			return r, nil
		}
		if refusal == nil {
			refusal = err
		}
		if follows || sandglass.CodeOf(err) == sandglass.CodeInternal {
			break
		}
	}
	if refusal != nil {
		return sandglass.Range{}, refusal
	}
	first := b.images[0].Ended
	return sandglass.Range{}, s.refuse(sandglass.CodeMomentBefore, time.Time{}, first,
		fmt.Sprintf("This moment is before the window, which begins at %s.", s.at(first)), "Choose a later moment.")
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

// blocked refuses a moment beyond an obstacle, with the last moment before it and the first one that the next image reaches.
func (s *resolver) blocked(ctx context.Context, at int, o obstacle, stop sandglass.LSN) error {
	before, after, _, err := s.branches[at].around(ctx, o.lsn)
	if err != nil {
		return err
	}
	if after.IsZero() {
		after = s.after(at)
	}
	remedy := "Choose a moment before it, or wait for the next image and choose a moment after that."
	if !after.IsZero() {
		remedy = fmt.Sprintf("Choose a moment up to %s, or from %s on.", s.at(before), s.at(after))
		if before.IsZero() {
			remedy = fmt.Sprintf("Choose a moment from %s on.", s.at(after))
		}
	}
	return s.refuse(o.code, before, after, fmt.Sprintf("This moment can't be reached: at LSN %s %s, and no image lies between that and LSN %s.", o.lsn, o.reason, stop), remedy)
}

// around are the last moment that is reached without passing an obstacle, zero when that is before the branch's first moment,
// and the first one that the next image reaches, zero when there is no such image. blocks is false when no commit
// lies beyond the obstacle, so that it is in nobody's way.
func (b *branch) around(ctx context.Context, lsn sandglass.LSN) (before, after time.Time, blocks bool, err error) {
	if lsn > b.begin() {
		t, err := b.after(ctx, lsn)
		if err == nil && t != nil && t.Aborted {
			t, err = b.first(ctx, b.segment(t.LSN), func(t *wal.Transaction) bool { return !t.Aborted && t.LSN > lsn })
		}
		if err != nil || t == nil {
			return before, after, false, err
		}
		if t.Time.After(b.images[0].Ended) {
			before = t.Time.Add(-time.Microsecond)
		}
	}
	for _, i := range b.images {
		if i.Redo > lsn {
			after, err = b.high(ctx, i.Consistent)
			if after.IsZero() || lsn < b.begin() {
				after = i.Ended
			}
			return before, after, true, err
		}
	}
	return before, after, true, nil
}
