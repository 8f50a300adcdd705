// The indexer: WAL in, indexes out.

package wal

import (
	"cmp"
	"fmt"
	"slices"

	"sandglass"
)

// Config says what WAL a Reader or Indexer will be given.
type Config struct {
	Major       int
	SegmentSize int64 // bytes
	// Timeline is that of the stream, so of the segments' names; pages from before a switch name an older one.
	Timeline sandglass.TimelineID
	// Start is the position of the first byte that Write will be given: a segment's first
	// byte, or any position in mid-stream (reading then begins at the first record start that a page header names).
	Start sandglass.LSN
	// Previous is the index of the segment before Start, if held: an Indexer's run goes on from it. Optional.
	Previous *Index
}

// maxRows bounds the row counts that are held by transaction: in a segment with more pairs of
// transaction and relation, the rest is counted by relation alone, under transaction 0.
const maxRows = 1 << 18

type rowKey struct {
	relation Relation
	xid      uint32
}

// Indexer reads contiguous WAL and makes the index of each segment. It is not safe for concurrent use.
type Indexer struct {
	config Config
	reader *Reader
	err    error

	current  *Index // of the segment that records are being added to
	highLSN  sandglass.LSN
	finished []*Index

	rows   map[rowKey]int // into counts
	counts []Rows
	last   int // the counts entry used last, -1 for none
}

// NewIndexer begins an index run. A configuration it can't work with is reported by the first Write.
func NewIndexer(c Config) *Indexer {
	x := &Indexer{config: c, rows: map[rowKey]int{}, last: -1}
	x.reader, x.err = NewReader(c, x.add)
	if x.err != nil {
		return x
	}
	x.current = &Index{RunStart: c.Start}
	if p := c.Previous; p != nil && p.Whole && p.Start+sandglass.LSN(p.SegmentSize) == c.Start {
		x.current.RunStart, x.current.LastTime, x.current.HighTime = p.RunStart, p.LastTime, p.HighTime
		x.current.LastEnded, x.current.LastCommit = p.LastEnded, p.LastCommit
		x.current.NextXID, x.current.OldestXID = p.NextXID, p.OldestXID
		x.current.Notable, x.current.Named = p.links()
	}
	x.current = x.begin(c.Start.Segment(c.SegmentSize), x.current)
	x.current.From, x.current.End = c.Start, c.Start
	return x
}

// Write takes the next bytes of WAL, in slices of any size. After an error the indexer is of no more use.
func (x *Indexer) Write(p []byte) error {
	if x.err != nil {
		return x.err
	}
	if _, err := x.reader.Write(p); err != nil {
		x.err = err
		return err
	}
	// Records that have yet to start belong to the segment of the position; one that is open, to its own.
	at := x.reader.Position()
	if open := x.reader.open(); open != 0 {
		at = open
	}
	x.advance(at)
	return nil
}

// Position is the position of the next byte that Write wants.
func (x *Indexer) Position() sandglass.LSN {
	if x.reader == nil {
		return x.config.Start
	}
	return x.reader.Position()
}

// SystemIdentifier is the one that the WAL's first pages named; zero before one was seen.
func (x *Indexer) SystemIdentifier() uint64 {
	if x.reader == nil {
		return 0
	}
	return x.reader.SystemIdentifier()
}

// Finished gives the indexes of segments all of whose records are complete, and forgets them.
func (x *Indexer) Finished() []*Index {
	f := x.finished
	x.finished = nil
	return f
}

// Tail is a copy of what is known of the unfinished segment (of the one before it, while a
// record is incomplete that started there). It is nil when the configuration was refused.
func (x *Indexer) Tail() *Index {
	if x.current == nil {
		return nil
	}
	t := *x.current
	t.Transactions, t.Relations = slices.Clone(t.Transactions), slices.Clone(t.Relations)
	t.RestorePoints, t.BackupEnds = slices.Clone(t.RestorePoints), slices.Clone(t.BackupEnds)
	t.Checkpoints, t.Parameters = slices.Clone(t.Checkpoints), slices.Clone(t.Parameters)
	t.Tablespaces, t.Databases = slices.Clone(t.Tablespaces), slices.Clone(t.Databases)
	t.ClockSteps = slices.Clone(t.ClockSteps)
	t.Rows = sortedRows(x.counts)
	return &t
}

// Current is Tail without the counts of rows and without the cost of a copy: it changes with the next Write.
func (x *Indexer) Current() *Index { return x.current }

// begin is an empty index of a segment, in the run of an earlier one.
func (x *Indexer) begin(seg sandglass.SegmentNo, run *Index) *Index {
	start := seg.Start(x.config.SegmentSize)
	return &Index{Major: x.config.Major, Timeline: x.config.Timeline, SegmentSize: x.config.SegmentSize,
		Start: start, From: start, End: start, RunStart: run.RunStart, Notable: run.Notable, Named: run.Named,
		LastEnded: run.LastEnded, LastCommit: run.LastCommit, LastTime: run.LastTime, HighTime: run.HighTime, NextXID: run.NextXID, OldestXID: run.OldestXID}
}

// links are what the index of the next segment says of earlier ones.
func (x *Index) links() (notable, named sandglass.LSN) {
	notable, named = x.Notable, x.Named
	if x.IsNotable() {
		notable = x.Start
	}
	if len(x.RestorePoints) > 0 {
		named = x.Start
	}
	return notable, named
}

// advance finishes every segment before the one that holds lsn.
func (x *Indexer) advance(lsn sandglass.LSN) {
	for x.current.Start+sandglass.LSN(x.config.SegmentSize) <= lsn {
		done := x.current
		done.Whole = done.From == done.Start
		done.Rows = sortedRows(x.counts)
		clear(x.rows)
		x.counts, x.last = x.counts[:0], -1
		if done.First == 0 {
			done.End = done.From
		}
		x.finished = append(x.finished, done)
		run := *done
		run.Notable, run.Named = done.links()
		x.current = x.begin(done.Start.Segment(x.config.SegmentSize)+1, &run)
	}
}

// add notes one record.
func (x *Indexer) add(r *Record) error {
	x.advance(r.LSN)
	c := x.current
	if c.First == 0 {
		c.First = r.LSN
	}
	c.Last, c.End = r.LSN, r.End
	x.seeXID(r.XID)
	if err := x.decode(r); err != nil {
		return &DamageError{LSN: r.LSN, Problem: fmt.Sprintf("record of resource manager %d, type %#02x: %v", r.Manager, r.Info, err)}
	}
	return nil
}

// seeXID moves NextXID past a transaction number that is in use. Numbers compare modulo 2^32 (TransactionIdPrecedes).
func (x *Indexer) seeXID(xid uint32) {
	c := x.current
	if c.NextXID == 0 || xid == 0 {
		return
	}
	if ahead := int32(xid - uint32(c.NextXID)); ahead >= 0 {
		c.NextXID += uint64(ahead) + 1
	}
}

// count adds a record's rows to its transaction's and relation's.
func (x *Indexer) count(xid uint32, rel Relation, inserted, updated, deleted uint64) {
	if x.last < 0 || x.counts[x.last].XID != xid || x.counts[x.last].Relation != rel {
		key := rowKey{rel, xid}
		i, ok := x.rows[key]
		if !ok && len(x.counts) >= maxRows && xid != 0 {
			x.count(0, rel, inserted, updated, deleted)
			return
		}
		if !ok {
			i = len(x.counts)
			x.counts = append(x.counts, Rows{XID: xid, Relation: rel})
			x.rows[key] = i
		}
		x.last = i
	}
	n := &x.counts[x.last]
	n.Inserted += inserted
	n.Updated += updated
	n.Deleted += deleted
}

func sortedRows(rows []Rows) []Rows {
	if len(rows) == 0 {
		return nil
	}
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b Rows) int {
		return cmp.Or(cmp.Compare(a.Relation.Database, b.Relation.Database), cmp.Compare(a.Relation.Tablespace, b.Relation.Tablespace),
			cmp.Compare(a.Relation.File, b.Relation.File), cmp.Compare(a.XID, b.XID))
	})
	return rows
}
