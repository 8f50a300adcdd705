// Finding commits, changes and names in a branch with few indexes read.

package window

import (
	"context"
	"iter"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// state is what a branch's history has come to at the end of a segment; LSNs are zero when
// there was none since the branch's beginning.
type state struct {
	ended, commit sandglass.LSN // the newest commit or abort, and the newest commit
	time          time.Time     // of ended
	nextXID       uint64
	oldestXID     uint64
}

// state gathers the state at the end of a segment, from the run of its index and, where that
// began too recently to know, from the runs before it.
func (b *branch) state(ctx context.Context, seg sandglass.SegmentNo) (state, error) {
	var s state
	for {
		x, err := b.index(ctx, seg)
		if err != nil {
			return state{}, err
		}
		if s.ended == 0 && x.LastEnded > b.begin() {
			s.ended, s.time = x.LastEnded, x.LastTime
		}
		if s.commit == 0 && x.LastCommit > b.begin() {
			s.commit = x.LastCommit
		}
		if s.nextXID == 0 {
			s.nextXID = x.NextXID
		}
		if s.oldestXID == 0 {
			s.oldestXID = x.OldestXID
		}
		before, ok := b.runBefore(x)
		if !ok || s.ended != 0 && s.commit != 0 && s.nextXID != 0 && s.oldestXID != 0 {
			return s, nil
		}
		seg = before
	}
}

// runBefore is the last segment before the run of an index.
func (b *branch) runBefore(x *wal.Index) (sandglass.SegmentNo, bool) {
	start := min(x.RunStart, x.Start)
	if start <= b.from {
		return 0, false
	}
	return b.segment(start) - 1, true
}

// bisect finds the first segment from lo to hi for which yes holds, where it holds for all
// that follow one for which it does; hi+1 when there is none.
func bisect(lo, hi sandglass.SegmentNo, yes func(sandglass.SegmentNo) (bool, error)) (sandglass.SegmentNo, error) {
	end := hi + 1
	for lo < end {
		mid := lo + (end-lo)/2
		ok, err := yes(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			end = mid
		} else {
			lo = mid + 1
		}
	}
	return lo, nil
}

// whole is where the last whole record of the branch ends.
func (b *branch) whole(ctx context.Context) (sandglass.LSN, error) {
	lo, hi := b.bounds()
	for seg := hi; ; seg-- {
		x, err := b.index(ctx, seg)
		if err != nil {
			return 0, err
		}
		if x.First != 0 || seg == lo {
			return max(x.End, b.images[0].End), nil
		}
	}
}

// scan gives the branch's commits and aborts in WAL order, from a segment on.
func (b *branch) scan(ctx context.Context, seg sandglass.SegmentNo) iter.Seq2[*wal.Transaction, error] {
	return func(yield func(*wal.Transaction, error) bool) {
		for _, hi := b.bounds(); seg <= hi; seg++ {
			x, err := b.index(ctx, seg)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range x.Transactions {
				if x.Transactions[i].LSN > b.begin() && !yield(&x.Transactions[i], nil) {
					return
				}
			}
		}
	}
}

// first is the first commit or abort, from a segment on, for which yes holds; nil when there is none.
func (b *branch) first(ctx context.Context, seg sandglass.SegmentNo, yes func(*wal.Transaction) bool) (*wal.Transaction, error) {
	for t, err := range b.scan(ctx, seg) {
		if err != nil {
			return nil, err
		}
		if yes(t) {
			return t, nil
		}
	}
	return nil, nil
}

// after is the first commit or abort that starts at lsn or later; nil when there is none.
func (b *branch) after(ctx context.Context, lsn sandglass.LSN) (*wal.Transaction, error) {
	lo, hi := b.bounds()
	seg, err := bisect(max(lo, min(hi, b.segment(lsn))), hi, func(s sandglass.SegmentNo) (bool, error) {
		st, err := b.state(ctx, s)
		return st.ended >= lsn && st.ended != 0, err
	})
	if err != nil || seg > hi {
		return nil, err
	}
	return b.first(ctx, seg, func(t *wal.Transaction) bool { return t.LSN >= lsn })
}

// before is the last commit that starts before lsn (zero: the last of all); nil when there is none.
func (b *branch) before(ctx context.Context, lsn sandglass.LSN) (*wal.Transaction, error) {
	lo, hi := b.bounds()
	if lsn == 0 {
		lsn = b.end
	}
	seg := min(hi, b.segment(lsn))
	if seg < lo {
		return nil, nil
	}
	t, err := b.lastCommit(ctx, seg, lsn)
	if t != nil || err != nil || seg == lo {
		return t, err
	}
	st, err := b.state(ctx, seg-1)
	if err != nil || st.commit == 0 {
		return nil, err
	}
	return b.lastCommit(ctx, b.segment(st.commit), lsn)
}

// lastCommit is the last commit of a segment that starts before lsn.
func (b *branch) lastCommit(ctx context.Context, seg sandglass.SegmentNo, lsn sandglass.LSN) (*wal.Transaction, error) {
	x, err := b.index(ctx, seg)
	if err != nil {
		return nil, err
	}
	for i := len(x.Transactions) - 1; i >= 0; i-- {
		if t := &x.Transactions[i]; !t.Aborted && t.LSN < lsn && t.LSN > b.begin() {
			return t, nil
		}
	}
	return nil, nil
}

// later is the first commit or abort whose time is later than t; nil when there is none. It
// rests on there being no clock step around t: then any record's time is at most MaxDisorder above that of any later one.
func (b *branch) later(ctx context.Context, t time.Time) (*wal.Transaction, error) {
	lo, hi := b.bounds()
	seg, err := bisect(lo, hi, func(s sandglass.SegmentNo) (bool, error) {
		st, err := b.state(ctx, s)
		return st.ended != 0 && st.time.After(t), err
	})
	if err != nil {
		return nil, err
	}
	// The last record of an earlier segment was not later than t; one before it may be, by the disorder of neighbours.
	for seg > lo {
		st, err := b.state(ctx, seg-1)
		if err != nil {
			return nil, err
		}
		if st.ended == 0 || !st.time.After(t.Add(-wal.MaxDisorder)) {
			break
		}
		seg--
	}
	return b.first(ctx, seg, func(x *wal.Transaction) bool { return x.Time.After(t) })
}

// high is the highest time of a commit or abort before lsn, as far as neighbours go; zero when there is none.
func (b *branch) high(ctx context.Context, lsn sandglass.LSN) (time.Time, error) {
	var high time.Time
	seg := b.segment(lsn)
	x, err := b.index(ctx, seg)
	if err != nil {
		return high, err
	}
	for i := range x.Transactions {
		if x.Transactions[i].LSN < lsn {
			high = latest(high, x.Transactions[i].Time)
		}
	}
	if seg.Start(b.inc.SegmentSize) > b.from {
		p, err := b.index(ctx, seg-1)
		if err != nil {
			return high, err
		}
		if high.IsZero() || p.HighTime.Sub(high) <= wal.MaxDisorder {
			high = latest(high, p.HighTime)
		}
	}
	return high, nil
}

// linked gives the indexes of segments from that of to back to that of from which a chain of links names, newest first.
func (b *branch) linked(ctx context.Context, from, to sandglass.LSN, is func(*wal.Index) bool, link func(*wal.Index) sandglass.LSN) iter.Seq2[*wal.Index, error] {
	return func(yield func(*wal.Index, error) bool) {
		low := b.segment(max(from, b.from))
		for seg := b.segment(min(to, b.end-1)); seg >= low; {
			x, err := b.index(ctx, seg)
			if err != nil {
				yield(nil, err)
				return
			}
			if is(x) && !yield(x, nil) {
				return
			}
			before, ok := b.runBefore(x)
			if at := link(x); at != 0 {
				before, ok = b.segment(at), true
			}
			if !ok || before >= seg {
				return
			}
			seg = before
		}
	}
}

// notable gives the indexes with parameter and tablespace changes and clock steps, newest first.
func (b *branch) notable(ctx context.Context, from, to sandglass.LSN) iter.Seq2[*wal.Index, error] {
	return b.linked(ctx, from, to, (*wal.Index).IsNotable, func(x *wal.Index) sandglass.LSN { return x.Notable })
}

// named gives the indexes with restore points, newest first.
func (b *branch) named(ctx context.Context) iter.Seq2[*wal.Index, error] {
	return b.linked(ctx, b.begin(), b.end, func(x *wal.Index) bool { return len(x.RestorePoints) > 0 }, func(x *wal.Index) sandglass.LSN { return x.Named })
}

// steps are the backward steps of production's clock in the branch, newest first. Between two
// runs of the recorder nobody has compared times, so that is done here.
func (b *branch) steps(ctx context.Context) ([]wal.ClockStep, error) {
	var list []wal.ClockStep
	note := func(s wal.ClockStep) {
		if s.LSN > b.begin() {
			list = append(list, s)
		}
	}
	for x, err := range b.notable(ctx, b.begin(), b.end) {
		if err != nil {
			return nil, err
		}
		for i := len(x.ClockSteps) - 1; i >= 0; i-- {
			note(x.ClockSteps[i])
		}
	}
	lo, hi := b.bounds()
	for seg := hi; ; {
		x, err := b.index(ctx, seg)
		if err != nil {
			return nil, err
		}
		before, ok := b.runBefore(x)
		if !ok || before < lo {
			return list, nil
		}
		run := x.RunStart
		old, err := b.index(ctx, before)
		if err != nil {
			return nil, err
		}
		next, err := b.firstOf(ctx, run)
		if err != nil {
			return nil, err
		}
		if next != nil && !old.HighTime.IsZero() && old.HighTime.Sub(next.Time) > wal.MaxDisorder {
			note(wal.ClockStep{LSN: next.LSN, High: old.HighTime, Low: next.Time})
		}
		seg = before
	}
}

// firstOf is the first commit or abort that starts at the start of a run or later, which is mostly in its first segment.
func (b *branch) firstOf(ctx context.Context, run sandglass.LSN) (*wal.Transaction, error) {
	x, err := b.index(ctx, b.segment(run))
	if err != nil {
		return nil, err
	}
	for i := range x.Transactions {
		if x.Transactions[i].LSN > b.begin() {
			return &x.Transactions[i], nil
		}
	}
	return b.after(ctx, run)
}

// finish finds the record that ended a transaction, or a subtransaction with its own; nil when the branch does not hold it. xid has its epoch.
func (b *branch) finish(ctx context.Context, xid uint64) (*wal.Transaction, error) {
	lo, hi := b.bounds()
	seg, err := bisect(lo, hi, func(s sandglass.SegmentNo) (bool, error) {
		st, err := b.state(ctx, s)
		return st.nextXID > xid, err
	})
	if err != nil {
		return nil, err
	}
	// A run of the recorder knows no numbers before its first checkpoint.
	for seg > lo {
		x, err := b.index(ctx, seg-1)
		if err != nil {
			return nil, err
		}
		if x.NextXID != 0 {
			break
		}
		seg--
	}
	for ; seg <= hi; seg++ {
		x, err := b.index(ctx, seg)
		if err != nil {
			return nil, err
		}
		for i := range x.Transactions {
			if t := &x.Transactions[i]; t.LSN > b.begin() && names(t, uint32(xid)) {
				return t, nil
			}
		}
		if x.OldestXID > xid {
			return nil, nil // it had ended by then, without a record here: before the branch, or in a crash
		}
	}
	return nil, nil
}

func names(t *wal.Transaction, xid uint32) bool {
	if t.XID == xid {
		return true
	}
	for _, s := range t.Subs {
		if s == xid {
			return true
		}
	}
	return false
}

// fullXID gives a transaction number its epoch: that of the transaction of this number nearest to the branch's newest.
func (b *branch) fullXID(ctx context.Context, xid uint64) (uint64, error) {
	if xid>>32 != 0 {
		return xid, nil
	}
	_, hi := b.bounds()
	st, err := b.state(ctx, hi)
	if err != nil || st.nextXID == 0 {
		return xid, err
	}
	full := int64(st.nextXID) + int64(int32(uint32(xid)-uint32(st.nextXID)))
	if full < 0 {
		full += 1 << 32
	}
	return uint64(full), nil
}
