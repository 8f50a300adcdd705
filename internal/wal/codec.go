// The compact binary form of an index.

package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"sandglass"
)

// The first bytes of a stored index: its magic and the version of its form.
const (
	indexMagic   = "SGWI"
	indexVersion = 1
)

// ErrIndex is the error of Unmarshal for bytes that are not an index, or a damaged one.
var ErrIndex = errors.New("not a WAL index, or a damaged one")

// Marshal writes the index in its stored form, described in the package comment. Equal indexes give equal bytes.
func (x *Index) Marshal() []byte {
	e := &encoder{b: append(make([]byte, 0, 1024+12*len(x.Transactions)+8*len(x.Rows)), indexMagic...)}
	e.uint(indexVersion)
	e.uint(uint64(x.Major))
	e.uint(uint64(x.Timeline))
	e.uint(uint64(x.SegmentSize))
	e.uint(uint64(x.Start))
	e.flags(x.Whole)
	e.last = x.Start
	e.lsn(x.From)
	e.lsn(x.End)
	e.optional(x.Start, x.First)
	e.optional(x.Start, x.Last)
	e.uint(uint64(x.RunStart))
	e.uint(uint64(x.Notable))
	e.uint(uint64(x.Named))
	e.uint(uint64(x.LastEnded))
	e.uint(uint64(x.LastCommit))
	e.time(x.LastTime)
	e.time(x.HighTime)
	e.uint(x.NextXID)
	e.uint(x.OldestXID)
	e.transactions(x.Start, x.Transactions)
	e.rows(x.Rows)
	section(e, x.Start, x.Relations, func(r *RelationChange) {
		e.lsn(r.LSN)
		e.uint(uint64(r.XID))
		e.uint(uint64(r.Kind))
		e.relation(r.Relation)
		e.uint(uint64(r.Blocks))
	})
	section(e, x.Start, x.RestorePoints, func(r *RestorePoint) {
		e.lsn(r.LSN)
		e.lsn(r.End)
		e.time(r.Time)
		e.text(r.Name)
	})
	section(e, x.Start, x.BackupEnds, func(r *BackupEnd) {
		e.lsn(r.LSN)
		e.lsn(r.End)
		e.uint(uint64(r.Redo))
	})
	section(e, x.Start, x.Checkpoints, func(r *Checkpoint) {
		e.lsn(r.LSN)
		e.lsn(r.End)
		e.uint(uint64(r.Kind))
		e.uint(uint64(r.Redo))
		e.uint(uint64(r.Timeline))
		e.uint(uint64(r.Previous))
		e.time(r.Time)
		e.uint(r.NextXID)
	})
	section(e, x.Start, x.Parameters, func(r *ParameterChange) {
		e.lsn(r.LSN)
		e.parameters(r.Values)
	})
	section(e, x.Start, x.Tablespaces, func(r *TablespaceChange) {
		e.lsn(r.LSN)
		e.uint(uint64(r.XID))
		e.uint(uint64(r.OID))
		e.flags(r.Dropped)
		e.text(r.Path)
	})
	section(e, x.Start, x.Databases, func(r *DatabaseChange) {
		e.lsn(r.LSN)
		e.uint(uint64(r.XID))
		e.uint(uint64(r.OID))
		e.uint(uint64(r.Tablespace))
		e.flags(r.Dropped)
	})
	section(e, x.Start, x.ClockSteps, func(r *ClockStep) {
		e.lsn(r.LSN)
		e.time(r.High)
		e.time(r.Low)
		e.uint(uint64(r.Previous))
	})
	section(e, x.Start, x.Beats, func(r *sandglass.Beat) {
		e.int(int64(r.LSN - e.last))
		e.last = r.LSN
		e.time(r.Time)
	})
	return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b, castagnoli))
}

// Unmarshal reads what Marshal wrote. Its error is ErrIndex, or names a version that is too new.
func Unmarshal(b []byte) (*Index, error) {
	if len(b) < len(indexMagic)+5 || string(b[:len(indexMagic)]) != indexMagic ||
		crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("read index: %w", ErrIndex)
	}
	d := &decoder{p: b[len(indexMagic) : len(b)-4]}
	if v := d.uint(); v != indexVersion {
		return nil, fmt.Errorf("read index: version %d is not known to this version of Sandglass", v)
	}
	x := &Index{Major: int(d.uint()), Timeline: sandglass.TimelineID(d.uint()), SegmentSize: int64(d.uint()), Start: sandglass.LSN(d.uint())}
	x.Whole = d.flags()[0]
	d.last = x.Start
	x.From, x.End = d.lsn(), d.lsn()
	x.First, x.Last = d.optional(x.Start), d.optional(x.Start)
	x.RunStart, x.Notable, x.Named = sandglass.LSN(d.uint()), sandglass.LSN(d.uint()), sandglass.LSN(d.uint())
	x.LastEnded, x.LastCommit = sandglass.LSN(d.uint()), sandglass.LSN(d.uint())
	x.LastTime, x.HighTime = d.time(), d.time()
	x.NextXID, x.OldestXID = d.uint(), d.uint()
	x.Transactions = d.transactions(x.Start)
	x.Rows = d.rows()
	x.Relations = items(d, x.Start, func(r *RelationChange) {
		*r = RelationChange{LSN: d.lsn(), XID: uint32(d.uint()), Kind: RelationChangeKind(d.uint()), Relation: d.relation(), Blocks: uint32(d.uint())}
	})
	x.RestorePoints = items(d, x.Start, func(r *RestorePoint) {
		*r = RestorePoint{LSN: d.lsn(), End: d.lsn(), Time: d.time(), Name: d.text()}
	})
	x.BackupEnds = items(d, x.Start, func(r *BackupEnd) {
		*r = BackupEnd{LSN: d.lsn(), End: d.lsn(), Redo: sandglass.LSN(d.uint())}
	})
	x.Checkpoints = items(d, x.Start, func(r *Checkpoint) {
		*r = Checkpoint{LSN: d.lsn(), End: d.lsn(), Kind: CheckpointKind(d.uint()), Redo: sandglass.LSN(d.uint()),
			Timeline: sandglass.TimelineID(d.uint()), Previous: sandglass.TimelineID(d.uint()), Time: d.time(), NextXID: d.uint()}
	})
	x.Parameters = items(d, x.Start, func(r *ParameterChange) {
		*r = ParameterChange{LSN: d.lsn(), Values: d.parameters()}
	})
	x.Tablespaces = items(d, x.Start, func(r *TablespaceChange) {
		*r = TablespaceChange{LSN: d.lsn(), XID: uint32(d.uint()), OID: uint32(d.uint()), Dropped: d.flags()[0], Path: d.text()}
	})
	x.Databases = items(d, x.Start, func(r *DatabaseChange) {
		*r = DatabaseChange{LSN: d.lsn(), XID: uint32(d.uint()), OID: uint32(d.uint()), Tablespace: uint32(d.uint()), Dropped: d.flags()[0]}
	})
	x.ClockSteps = items(d, x.Start, func(r *ClockStep) {
		*r = ClockStep{LSN: d.lsn(), High: d.time(), Low: d.time(), Previous: sandglass.LSN(d.uint())}
	})
	x.Beats = items(d, x.Start, func(r *sandglass.Beat) {
		d.last += sandglass.LSN(d.int())
		*r = sandglass.Beat{LSN: d.last, Time: d.time()}
	})
	if d.bad || len(d.p) > 0 {
		return nil, fmt.Errorf("read index: %w", ErrIndex)
	}
	return x, nil
}

// encoder writes the elements that the package comment names.
type encoder struct {
	b    []byte
	last sandglass.LSN // what the next lsn counts from
	tick int64         // what the next time counts from, microseconds of Unix time
}

func (e *encoder) uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)   { e.b = binary.AppendVarint(e.b, v) }

func (e *encoder) lsn(l sandglass.LSN) {
	e.uint(uint64(l - e.last))
	e.last = l
}

// optional is for First and Last, which are zero or lie behind the header of the segment's first page.
func (e *encoder) optional(start, l sandglass.LSN) {
	if l == 0 {
		e.uint(0)
		return
	}
	e.uint(uint64(l-start) + 1)
}

func (e *encoder) flags(set ...bool) {
	var v uint64
	for i, s := range set {
		if s {
			v |= 1 << i
		}
	}
	e.uint(v)
}

func (e *encoder) time(t time.Time) {
	if t.IsZero() {
		e.uint(0)
		return
	}
	e.uint(1)
	e.int(t.UnixMicro() - e.tick)
	e.tick = t.UnixMicro()
}

func (e *encoder) text(s string) {
	e.uint(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) relation(r Relation) {
	e.uint(uint64(r.Database))
	e.uint(uint64(r.Tablespace))
	e.uint(uint64(r.File))
}

func (e *encoder) parameters(p sandglass.Parameters) {
	for _, v := range []int{p.MaxConnections, p.MaxWorkerProcesses, p.MaxWALSenders, p.MaxPreparedXacts, p.MaxLocksPerXact} {
		e.int(int64(v))
	}
	e.uint(uint64(slices.Index(walLevels, p.WALLevel) + 1))
	e.flags(p.WALLogHints, p.TrackCommitTimestamp)
}

// section writes a count, then each item; positions in it count on from start.
func section[T any](e *encoder, start sandglass.LSN, list []T, item func(*T)) {
	e.uint(uint64(len(list)))
	e.last, e.tick = start, 0
	for i := range list {
		item(&list[i])
	}
}

// decoder reads what an encoder wrote; after a read that fails, bad is set and all reads give zero.
type decoder struct {
	p    []byte
	bad  bool
	last sandglass.LSN
	tick int64
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.p)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.p = d.p[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.p)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.p = d.p[n:]
	return v
}

func (d *decoder) fail() { d.bad, d.p = true, nil }

func (d *decoder) lsn() sandglass.LSN {
	d.last += sandglass.LSN(d.uint())
	return d.last
}

func (d *decoder) optional(start sandglass.LSN) sandglass.LSN {
	if v := d.uint(); v > 0 {
		return start + sandglass.LSN(v-1)
	}
	return 0
}

func (d *decoder) flags() (set [8]bool) {
	v := d.uint()
	for i := range set {
		set[i] = v&(1<<i) != 0
	}
	return set
}

func (d *decoder) time() time.Time {
	if d.uint() == 0 {
		return time.Time{}
	}
	d.tick += d.int()
	return time.UnixMicro(d.tick).UTC()
}

func (d *decoder) text() string {
	n := d.uint()
	if n > uint64(len(d.p)) {
		d.fail()
		return ""
	}
	s := string(d.p[:n])
	d.p = d.p[n:]
	return s
}

func (d *decoder) relation() Relation {
	return Relation{Database: uint32(d.uint()), Tablespace: uint32(d.uint()), File: uint32(d.uint())}
}

var walLevels = []string{"minimal", "replica", "logical"}

func (d *decoder) parameters() (p sandglass.Parameters) {
	for _, v := range []*int{&p.MaxConnections, &p.MaxWorkerProcesses, &p.MaxWALSenders, &p.MaxPreparedXacts, &p.MaxLocksPerXact} {
		*v = int(d.int())
	}
	if n := d.uint(); n > uint64(len(walLevels)) {
		d.fail()
	} else if n > 0 {
		p.WALLevel = walLevels[n-1]
	}
	f := d.flags()
	p.WALLogHints, p.TrackCommitTimestamp = f[0], f[1]
	return p
}

// count reads a section's count, which can't exceed its bytes.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.p)) {
		d.fail()
		return 0
	}
	return int(n)
}

func items[T any](d *decoder, start sandglass.LSN, item func(*T)) []T {
	n := d.count()
	if n == 0 {
		return nil
	}
	d.last, d.tick = start, 0
	list := make([]T, 0, min(n, 4096))
	for range n {
		if d.bad {
			return nil
		}
		list = append(list, *new(T))
		item(&list[len(list)-1])
	}
	return list
}
