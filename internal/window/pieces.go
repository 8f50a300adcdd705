// Which branch a time belongs to. An environment's history is the branches one after the other, but not always
// each in one piece: a sandbox that is undone goes on with the incarnation it had before.

package window

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"sandglass"
)

// piece is a stretch of time of which one branch tells.
type piece struct {
	at       int       // of the branch
	from, to time.Time // to is zero while it goes on
	// back says that it began by a cutover, at which the environment took up this branch's state; else its first image began it.
	back bool
	// left is set when it ended because the environment took up another state.
	left *sandglass.Absence
}

// lastShown is when an incarnation was taken up last; false when it never was.
func lastShown(i sandglass.Incarnation) (time.Time, bool) {
	shown := i.Shown()
	if len(shown) == 0 {
		return time.Time{}, false
	}
	return shown[len(shown)-1].From, true
}

// inOrder leaves out the incarnations that were never shown, and puts that which was taken up last at the end.
func inOrder(all []sandglass.Incarnation) []sandglass.Incarnation {
	all = slices.DeleteFunc(all, func(i sandglass.Incarnation) bool { _, ok := lastShown(i); return !ok })
	slices.SortStableFunc(all, func(a, b sandglass.Incarnation) int {
		x, _ := lastShown(a)
		y, _ := lastShown(b)
		return x.Compare(y)
	})
	return all
}

// addBranches takes an incarnation's branches, with the pieces that each is shown in. One that is in none is left out.
func (s *resolver) addBranches(list []*branch) {
	for i, b := range list {
		var until time.Time
		if i+1 < len(list) {
			until = list[i+1].images[0].Ended
		}
		pieces := b.pieces(until)
		if len(pieces) == 0 {
			continue
		}
		for k := range pieces {
			pieces[k].at = len(s.branches)
		}
		s.branches, s.pieces = append(s.branches, b), append(s.pieces, pieces...)
	}
}

// pieces are when the branch is shown, up to a time (zero: without end).
func (b *branch) pieces(until time.Time) []piece {
	var list []piece
	add := func(p piece) {
		if begin := b.images[0].Ended; p.from.Before(begin) {
			p.from, p.back = begin, false
		}
		if !until.IsZero() && (p.to.IsZero() || until.Before(p.to)) {
			p.to, p.left = until, nil
		}
		if p.to.IsZero() || p.to.After(p.from) {
			list = append(list, p)
		}
	}
	next := piece{from: b.inc.Began}
	for i := range b.inc.Away {
		a := &b.inc.Away[i]
		next.to, next.left = a.From, a
		add(next)
		if a.To.IsZero() {
			return list
		}
		next = piece{from: a.To, back: true}
	}
	add(next)
	return list
}

// sortPieces puts them in the order of their beginnings.
func (s *resolver) sortPieces() {
	slices.SortStableFunc(s.pieces, func(a, b piece) int { return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.at, b.at)) })
}

// pieceAt is the index of the piece that a time belongs to, or that it follows; -1 before all.
func (s *resolver) pieceAt(t time.Time) int {
	at := -1
	for i, p := range s.pieces {
		if !p.from.After(t) {
			at = i
		}
	}
	return at
}

// open says whether more may come in a piece.
func (s *resolver) open(i int) bool {
	p := s.pieces[i]
	return i == len(s.pieces)-1 && p.to.IsZero() && s.branches[p.at].open
}

// whole says whether a piece ended in an orderly way, and all WAL of it is held.
func (s *resolver) whole(i int) bool {
	p := s.pieces[i]
	return p.left != nil && p.left.LSN != 0 && s.branches[p.at].end >= p.left.LSN
}

// heldUntil is up to when a piece is settled: its end, or its newest settled moment; zero when there is none.
func (s *resolver) heldUntil(ctx context.Context, i int) (time.Time, error) {
	p := s.pieces[i]
	if s.whole(i) {
		return p.to, nil
	}
	settled, err := s.branches[p.at].latest(ctx)
	if err != nil || settled.Before(p.from) {
		return time.Time{}, err
	}
	if !p.to.IsZero() && settled.After(p.to) {
		settled = p.to
	}
	return settled, nil
}

// settledBy is the newest settled moment of a piece or, if it has none, of one before it; zero when there is none.
func (s *resolver) settledBy(ctx context.Context, i int) (time.Time, error) {
	for ; i >= 0; i-- {
		held, err := s.heldUntil(ctx, i)
		if err != nil {
			return held, err
		}
		if to := s.pieces[i].to; !to.IsZero() && held.Equal(to) {
			held = to.Add(-time.Microsecond) // the end itself belongs to what follows
		}
		if !held.IsZero() {
			return held, nil
		}
	}
	return time.Time{}, nil
}

// gapAfter is the gap between a piece and the next, which is without end when there is none. It is empty
// (To is not after From) where one follows the other.
func (s *resolver) gapAfter(ctx context.Context, i int) (sandglass.Gap, error) {
	p := s.pieces[i]
	b := s.branches[p.at]
	g := sandglass.Gap{Code: sandglass.CodeMomentGap}
	var err error
	if g.From, err = s.heldUntil(ctx, i); err != nil {
		return g, err
	}
	if g.From.IsZero() {
		g.From = p.from
	}
	next := "there is no newer image yet"
	if i+1 < len(s.pieces) {
		n := s.pieces[i+1]
		g.To, next = n.from, "the next image was finished at "+s.at(n.from)
		if n.back {
			next = "the next state that was recorded was taken up at " + s.at(n.from)
		}
		if nb := s.branches[n.at]; p.left == nil && n.at != p.at && nb.inc.ID == b.inc.ID {
			reason, err := s.hole(ctx, b, nb)
			g.Reason = reason + "; " + next + "."
			return g, err
		}
	}
	reason := b.inc.EndReason
	switch {
	case p.left != nil && !g.From.Before(p.to):
		reason = fmt.Sprintf("%s showed another state then, which was not recorded (%s)", s.env.Name, cmp.Or(p.left.Reason, "a cutover"))
	case p.left != nil:
		reason = "the last WAL before the cutover is not in the repository yet"
	case reason == "":
		reason = "this history ended"
	}
	g.Reason = reason + "; " + next + "."
	return g, nil
}

// inside leaves of a branch's gaps what lies in its pieces.
func (s *resolver) inside(at int, gaps []sandglass.Gap) []sandglass.Gap {
	var list []sandglass.Gap
	for _, p := range s.pieces {
		if p.at != at {
			continue
		}
		for _, g := range gaps {
			if p.back && g.From.Before(p.from) {
				g.From = p.from
			}
			if !p.to.IsZero() && g.To.After(p.to) {
				g.To = p.to
			}
			if g.To.After(g.From) {
				list = append(list, g)
			}
		}
	}
	return list
}

// after is when the first piece of another branch begins after those of a branch; zero when there is none.
func (s *resolver) after(at int) time.Time {
	last := -1
	for i, p := range s.pieces {
		if p.at == at {
			last = i
		}
	}
	if last < 0 || last+1 >= len(s.pieces) {
		return time.Time{}
	}
	return s.pieces[last+1].from
}
