// Commits: what was done when, to find the accident.

package window

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// lookBack is how many segments before the first commit asked for are searched for rows of
// transactions that were already at work.
const lookBack = 64

// firstUserFile is the lowest relfilenumber of a relation that is not a system catalog's (FirstNormalObjectId in access/transam.h).
const firstUserFile = 16384

// Commits gives the committed transactions of the window in WAL order, from one time to
// another (zero: from the beginning, to the end), with the rows they changed by relation. Relations are
// named by number ("filenode 16402"), catalogs are left out. The Truncated of a relation also
// stands for a drop or a rewrite: WAL shows that its file went. Rows that a transaction changed more
// than 64 segments before the first commit asked for are not counted.
func Commits(ctx context.Context, r Repository, env sandglass.Environment, live Live, from, to time.Time) iter.Seq2[sandglass.Commit, error] {
	return func(yield func(sandglass.Commit, error) bool) {
		s, err := newResolver(ctx, r, env, live)
		if err != nil {
			yield(sandglass.Commit{}, err)
			return
		}
		for i, p := range s.pieces {
			if i+1 < len(s.pieces) && !from.IsZero() && !s.pieces[i+1].from.After(from) {
				continue // a later piece begins before the first commit asked for
			}
			low, high := from, to
			if p.back {
				low = latest(low, p.from)
			}
			if p.left != nil && (high.IsZero() || p.to.Before(high)) {
				high = p.to
			}
			for c, err := range s.branches[p.at].commits(ctx, low) {
				if err == nil && !low.IsZero() && c.Time.Before(low) {
					continue
				}
				if err == nil && !high.IsZero() && c.Time.After(high.Add(wal.MaxDisorder)) {
					break
				}
				if err == nil && !high.IsZero() && c.Time.After(high) {
					continue
				}
				if !yield(c, err) || err != nil {
					return
				}
			}
		}
	}
}

// Find answers a query with the newest commits first. Its Relation is compared with the names that Commits gives.
func Find(ctx context.Context, r Repository, env sandglass.Environment, live Live, q sandglass.CommitQuery) ([]sandglass.Commit, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	found := []sandglass.Commit{}
	for c, err := range Commits(ctx, r, env, live, q.From, q.To) {
		if err != nil {
			return nil, err
		}
		var rows int64
		truncated, named := false, q.Relation == ""
		for _, r := range c.Rows {
			if q.Relation != "" && r.Relation != q.Relation {
				continue
			}
			named = true
			rows += r.Inserted + r.Updated + r.Deleted
			truncated = truncated || r.Truncated
		}
		if !named || rows < q.MinRows && !truncated {
			continue
		}
		if found = append(found, c); len(found) > 2*limit {
			found = slices.Delete(found, 0, len(found)-limit)
		}
	}
	slices.Reverse(found)
	return found[:min(limit, len(found))], nil
}

// work is what a transaction has done to relations, by database and file.
type work map[wal.Relation]*sandglass.RelationRows

func (w work) of(r wal.Relation) *sandglass.RelationRows {
	n := w[r]
	if n == nil {
		n = &sandglass.RelationRows{Database: fmt.Sprintf("oid %d", r.Database), Relation: fmt.Sprintf("filenode %d", r.File)}
		if r.Tablespace == 0 { // a RelationTruncated names the table, not its file
			n.Relation = fmt.Sprintf("oid %d", r.File)
		}
		w[r] = n
	}
	return n
}

// commits gives a branch's commits from about a time on, in WAL order.
func (b *branch) commits(ctx context.Context, from time.Time) iter.Seq2[sandglass.Commit, error] {
	return func(yield func(sandglass.Commit, error) bool) {
		lo, hi := b.bounds()
		start := lo
		if !from.IsZero() {
			t, err := b.later(ctx, from.Add(-wal.MaxDisorder))
			if err != nil {
				yield(sandglass.Commit{}, err)
				return
			}
			if t == nil {
				return
			}
			start = b.segment(t.LSN)
		}
		pending := map[uint32]work{}
		for seg := max(lo, start-min(start, lookBack)); seg <= hi; seg++ {
			x, err := b.index(ctx, seg)
			if err != nil {
				yield(sandglass.Commit{}, err)
				return
			}
			gather(pending, x)
			for i := range x.Transactions {
				t := &x.Transactions[i]
				c := b.commit(pending, x, t)
				if t.Aborted || t.XID == 0 || seg < start || t.LSN <= b.begin() {
					continue
				}
				if !yield(c, nil) {
					return
				}
			}
			for xid := range pending { // of transactions that a crash ended
				if x.OldestXID != 0 && int32(xid-uint32(x.OldestXID)) < 0 {
					delete(pending, xid)
				}
			}
		}
	}
}

// gather adds a segment's rows to those of unfinished transactions. Rows that are changed after a commit in the same
// segment belong to other transactions, so all of the segment can be added first.
func gather(pending map[uint32]work, x *wal.Index) {
	of := func(xid uint32) work {
		if pending[xid] == nil {
			pending[xid] = work{}
		}
		return pending[xid]
	}
	for _, r := range x.Rows {
		if r.XID == 0 || r.Relation.File < firstUserFile || r.Inserted+r.Updated+r.Deleted == 0 {
			continue
		}
		n := of(r.XID).of(r.Relation)
		n.Inserted += int64(r.Inserted)
		n.Updated += int64(r.Updated)
		n.Deleted += int64(r.Deleted)
	}
	for _, r := range x.Relations {
		if r.XID != 0 && r.Relation.File >= firstUserFile && (r.Kind == wal.RelationTruncated || r.Kind == wal.RelationDropped) {
			of(r.XID).of(r.Relation).Truncated = true
		}
	}
}

// commit takes a transaction's work, with that of its subtransactions, out of what is pending.
func (b *branch) commit(pending map[uint32]work, x *wal.Index, t *wal.Transaction) sandglass.Commit {
	c := sandglass.Commit{XID: fullXID(t.XID, x.NextXID), LSN: t.LSN, Time: t.Time, Rows: []sandglass.RelationRows{}}
	all := pending[t.XID]
	delete(pending, t.XID)
	for _, sub := range t.Subs {
		for r, n := range pending[sub] {
			if all == nil {
				all = work{}
			}
			m := all.of(r)
			m.Inserted, m.Updated, m.Deleted, m.Truncated = m.Inserted+n.Inserted, m.Updated+n.Updated, m.Deleted+n.Deleted, m.Truncated || n.Truncated
		}
		delete(pending, sub)
	}
	keys := make([]wal.Relation, 0, len(all))
	for r := range all {
		keys = append(keys, r)
	}
	slices.SortFunc(keys, func(a, b wal.Relation) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.File, b.File), cmp.Compare(a.Tablespace, b.Tablespace))
	})
	for _, r := range keys {
		c.Rows = append(c.Rows, *all[r])
	}
	return c
}

// fullXID gives a number the epoch it has just below next, when that is known.
func fullXID(xid uint32, next uint64) uint64 {
	if next == 0 {
		return uint64(xid)
	}
	return next - uint64(uint32(next)-xid)
}
