// Resolve: a moment to an exact range of positions, or a refusal.

package window

import (
	"context"
	"fmt"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// resolver is one question about one environment.
type resolver struct {
	env sandglass.Environment
	// incarnations and branches are in the order in which the environment showed them last; branches of all
	// incarnations, only those with an image.
	incarnations []sandglass.Incarnation
	branches     []*branch
	pieces       []piece // of the branches, in order of time
}

// Resolve turns a moment of an environment into a Range, exactly, or refuses it with an Error
// whose Before and After are the nearest moments that can be had. live may be nil.
//
// A time belongs to the incarnation that the environment showed then. A position, transaction or name means,
// of the incarnations that hold it, the one that was shown last. When the Range's Stop is its image's Redo position, the
// image itself is the moment: it was taken of a stopped server, and nothing is to be replayed.
func Resolve(ctx context.Context, r Repository, env sandglass.Environment, m sandglass.Moment, live Live) (sandglass.Range, error) {
	s, err := newResolver(ctx, r, env, live)
	if err != nil {
		return sandglass.Range{}, err
	}
	if len(s.branches) == 0 {
		return sandglass.Range{}, s.refuse(sandglass.CodeWindowEmpty, time.Time{}, time.Time{},
			"Nothing of this environment can be restored yet: no image of it is finished.", "Wait for the first image; `sandglass record ls` shows how far it is.")
	}
	switch m.Kind {
	case sandglass.AtTime:
		return s.atTime(ctx, m.Time)
	case sandglass.AtLSN:
		return s.atLSN(ctx, m.LSN)
	case sandglass.AtXID:
		return s.atXID(ctx, m.XID, m.Before)
	case sandglass.AtName:
		return s.atName(ctx, m.Name)
	case sandglass.AtLatest:
		return s.atLatest(ctx)
	}
	return sandglass.Range{}, s.refuse(sandglass.CodeMomentSyntax, time.Time{}, time.Time{}, "This is no way to name a moment.",
		"Name a time, an LSN, a transaction, a restore point, or latest.")
}

func newResolver(ctx context.Context, r Repository, env sandglass.Environment, live Live) (*resolver, error) {
	s := &resolver{env: env.WithDefaults()}
	var err error
	if s.incarnations, err = r.Incarnations(ctx, env.Name); err != nil {
		return nil, fmt.Errorf("read incarnations: %w", err)
	}
	s.incarnations = inOrder(s.incarnations)
	for i, inc := range s.incarnations {
		list, err := branches(ctx, r, env.Name, inc)
		if err != nil {
			return nil, err
		}
		s.addBranches(list)
		if n := len(list); n > 0 && i == len(s.incarnations)-1 && inc.Current() {
			list[n-1].live, list[n-1].open = live, true
		}
	}
	s.sortPieces()
	return s, nil
}

// refuse is an Error of this package.
func (s *resolver) refuse(code sandglass.Code, before, after time.Time, message, remedy string) *sandglass.Error {
	return &sandglass.Error{Code: code, Op: "resolve moment of " + s.env.Name, Message: message, Remedy: remedy, Before: before, After: after}
}

// atTime resolves a time.
func (s *resolver) atTime(ctx context.Context, t time.Time) (sandglass.Range, error) {
	t = t.Truncate(time.Microsecond) // as PostgreSQL keeps times
	in := s.pieceAt(t)
	if in < 0 {
		first := s.pieces[0].from
		return sandglass.Range{}, s.refuse(sandglass.CodeMomentBefore, time.Time{}, first,
			fmt.Sprintf("%s is before the window, which begins at %s.", s.at(t), s.at(first)), "Choose a later moment.")
	}
	p := s.pieces[in]
	if !p.to.IsZero() && !t.Before(p.to) {
		return sandglass.Range{}, s.gap(ctx, in, t)
	}
	b := s.branches[p.at]
	steps, err := b.steps(ctx)
	if err != nil {
		return sandglass.Range{}, err
	}
	for _, k := range steps {
		if low := k.Low.Add(-wal.MaxDisorder); !t.Before(low) && t.Before(k.High) {
			return sandglass.Range{}, s.refuse(sandglass.CodeMomentClockStep, low.Add(-time.Microsecond), k.High,
				fmt.Sprintf("Production's clock was set back from %s to %s, so %s happened twice or not in order.", s.at(k.High), s.at(k.Low), s.at(t)),
				"Choose a moment outside that stretch, or name a transaction or an LSN in it.")
		}
	}
	until, err := b.later(ctx, t)
	if err != nil {
		return sandglass.Range{}, err
	}
	if until == nil {
		if err := s.settle(ctx, in, t); err != nil {
			return sandglass.Range{}, err
		}
	}
	return s.upTo(ctx, p.at, until)
}

// settle refuses a time in a piece, after the last commit or abort of its branch, of which more may come.
func (s *resolver) settle(ctx context.Context, in int, t time.Time) error {
	if s.whole(in) {
		return nil
	}
	b := s.branches[s.pieces[in].at]
	c, err := b.clock(ctx)
	if err != nil {
		return err
	}
	if !t.After(c.settled()) {
		return nil
	}
	settled, err := s.settledBy(ctx, in)
	switch {
	case err != nil:
		return err
	case !s.open(in):
		return s.gap(ctx, in, t)
	case !t.After(c.newest) || b.streaming() && t.Sub(c.newest) <= Settle:
		wait := int(max(0, t.Add(Settle).Sub(c.newest))/time.Second) + 1
		return s.refuse(sandglass.CodeMomentUnsettled, settled, time.Time{},
			fmt.Sprintf("%s is not settled yet: a commit of that time may still be on its way.", s.at(t)),
			fmt.Sprintf("Try again in about %d s, or choose %s.", wait, s.at(settled)))
	case b.streaming() || t.After(time.Now().Add(time.Minute)):
		return s.refuse(sandglass.CodeMomentFuture, settled, time.Time{},
			fmt.Sprintf("%s is in the future: production's clock last showed %s.", s.at(t), s.at(c.newest)), "Choose a moment that has passed.")
	}
	return s.refuse(sandglass.CodeMomentNotHeld, settled, time.Time{},
		fmt.Sprintf("%s is not recorded: production was last heard at %s.", s.at(t), s.at(c.newest)),
		"See with `sandglass record` why recording stopped, or choose an earlier moment.")
}

// gap refuses a time between two pieces, or after the last one of an environment that is no longer recorded.
func (s *resolver) gap(ctx context.Context, in int, t time.Time) error {
	g, err := s.gapAfter(ctx, in)
	if err != nil {
		return err
	}
	before, err := s.settledBy(ctx, in)
	if err != nil {
		return err
	}
	return s.refuse(sandglass.CodeMomentGap, before, g.To, fmt.Sprintf("%s lies in a gap of the window: %s", s.at(t), g.Reason), "Choose a moment before or after the gap.")
}

// atLSN resolves a position: records that start before it are included.
func (s *resolver) atLSN(ctx context.Context, lsn sandglass.LSN) (sandglass.Range, error) {
	at := -1
	for i := len(s.branches) - 1; i >= 0 && at < 0; i-- {
		if b := s.branches[i]; lsn > b.begin() && lsn <= b.end {
			at = i
		}
	}
	if at < 0 {
		return sandglass.Range{}, s.noLSN(ctx, lsn)
	}
	b := s.branches[at]
	if b.segment(lsn) >= b.segment(b.end-1) {
		end, err := b.whole(ctx)
		if err != nil {
			return sandglass.Range{}, err
		}
		if lsn > end {
			return sandglass.Range{}, s.noLSN(ctx, lsn)
		}
	}
	until, err := b.after(ctx, lsn)
	if err != nil {
		return sandglass.Range{}, err
	}
	return s.upTo(ctx, at, until)
}

// noLSN refuses a position that no branch holds, by comparison with the newest incarnation's.
func (s *resolver) noLSN(ctx context.Context, lsn sandglass.LSN) error {
	last := len(s.branches) - 1
	inc := s.branches[last].inc.ID
	for i := last; i >= 0 && s.branches[i].inc.ID == inc; i-- {
		b := s.branches[i]
		if lsn >= b.end || i == last && lsn > b.begin() {
			settled, err := b.latest(ctx)
			if err != nil {
				return err
			}
			if i == last {
				return s.refuse(sandglass.CodeMomentNotHeld, settled, time.Time{},
					fmt.Sprintf("LSN %s is not recorded: the WAL held ends at %s.", lsn, b.end), "Choose an earlier position, or wait until it is received.")
			}
			next := s.branches[i+1]
			return s.refuse(sandglass.CodeMomentGap, settled, next.images[0].Ended,
				fmt.Sprintf("LSN %s lies in a gap: WAL from %s on was never received, and the next image begins at %s.", lsn, b.end, next.begin()),
				"Choose a moment before or after the gap.")
		}
	}
	first := s.pieces[0].from
	return s.refuse(sandglass.CodeMomentBefore, time.Time{}, first,
		fmt.Sprintf("LSN %s is before the window of the current history, which begins at %s.", lsn, s.branches[last].begin()), "Choose a later position, or name a time.")
}

// atXID resolves a transaction: just after its end, or just before it.
func (s *resolver) atXID(ctx context.Context, xid uint64, before bool) (sandglass.Range, error) {
	for at := len(s.branches) - 1; at >= 0; at-- {
		b := s.branches[at]
		full, err := b.fullXID(ctx, xid)
		if err != nil {
			return sandglass.Range{}, err
		}
		t, err := b.finish(ctx, full)
		if err != nil {
			return sandglass.Range{}, err
		}
		if t == nil {
			continue
		}
		if before {
			return s.upTo(ctx, at, t)
		}
		until, err := b.after(ctx, t.LSN+1)
		if err != nil {
			return sandglass.Range{}, err
		}
		return s.upTo(ctx, at, until)
	}
	return sandglass.Range{}, s.refuse(sandglass.CodeMomentNotFound, time.Time{}, time.Time{},
		fmt.Sprintf("No end of a transaction %d is recorded in the window.", xid),
		"Check the number (pg_current_xact_id() and pg_xact_commit_timestamp() show it), or name a time. One that has just ended is recorded in a second or two; one that is still running, or that a crash ended, has no end to stop at.")
}

// CodeMomentManyNames refuses a restore point's name that was given twice.
const CodeMomentManyNames sandglass.Code = "moment.ambiguous_name"

// atName resolves a restore point.
func (s *resolver) atName(ctx context.Context, name string) (sandglass.Range, error) {
	at := -1
	var found []wal.RestorePoint
	for i := len(s.branches) - 1; i >= 0 && (at < 0 || s.branches[i].inc.ID == s.branches[at].inc.ID); i-- {
		for x, err := range s.branches[i].named(ctx) {
			if err != nil {
				return sandglass.Range{}, err
			}
			for _, p := range x.RestorePoints {
				if p.Name == name && p.LSN > s.branches[i].begin() && p.End <= s.branches[i].end {
					at = max(at, i)
					found = append(found, p)
				}
			}
		}
	}
	switch {
	case at < 0:
		return sandglass.Range{}, s.refuse(sandglass.CodeMomentNotFound, time.Time{}, time.Time{},
			fmt.Sprintf("No restore point %q is recorded in the window.", name), "Check its spelling, or name a time.")
	case len(found) > 1:
		return sandglass.Range{}, s.refuse(CodeMomentManyNames, found[1].Time, found[0].Time,
			fmt.Sprintf("There are %d restore points %q, the newest two of %s and %s.", len(found), name, s.at(found[1].Time), s.at(found[0].Time)),
			fmt.Sprintf("Name the LSN of the one you mean: the newest is just before %s.", found[0].End))
	}
	until, err := s.branches[at].after(ctx, found[0].End)
	if err != nil {
		return sandglass.Range{}, err
	}
	return s.upTo(ctx, at, until)
}

// atLatest resolves to everything that is held.
func (s *resolver) atLatest(ctx context.Context) (sandglass.Range, error) {
	at := len(s.branches) - 1
	b := s.branches[at]
	if newest := s.incarnations[len(s.incarnations)-1]; newest.ID != b.inc.ID {
		settled, err := b.latest(ctx)
		if err != nil {
			return sandglass.Range{}, err
		}
		return sandglass.Range{}, s.refuse(sandglass.CodeMomentNotHeld, settled, time.Time{},
			fmt.Sprintf("The newest history of %s, begun at %s, has no finished image yet.", s.env.Name, s.at(newest.Began)), "Wait for its first image, or name a time before it began.")
	}
	return s.upTo(ctx, at, nil)
}

// at is a time as messages show it: UTC, and the environment's zone where that differs.
func (s *resolver) at(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	text := t.UTC().Format("2006-01-02 15:04:05.999999 UTC")
	if zone, err := time.LoadLocation(s.env.Zone); err == nil && s.env.Zone != "UTC" {
		text += t.In(zone).Format(" (15:04:05 MST)")
	}
	return text
}
