// What each record type adds to the index.

package wal

import (
	"bytes"
	"encoding/binary"
	"time"

	"sandglass"
)

// decode adds what a record says to the current index. Types that an index does not care for are passed over.
func (x *Indexer) decode(r *Record) error {
	kind := r.Info & 0xF0
	switch r.Manager {
	case managerXLOG:
		switch kind {
		case xlogShutdownCheckpoint, xlogOnlineCheckpoint, xlogBackupEnd, xlogParameterChange, xlogRestorePoint, xlogEndOfRecovery:
		default:
			return nil // among them full-page images, which are many
		}
	case managerHeap2:
		if kind&heapMask != heap2MultiInsert {
			return nil
		}
	case managerTransaction, managerStorage, managerDatabase, managerTablespace, managerStandby, managerHeap:
	default:
		return nil
	}
	if r.Length-recordHeader > len(r.Data) {
		return nil // cut: far larger than anything below
	}
	main, rel, blocks, err := parts(x.config.Major, r.Data)
	if err != nil {
		return err
	}
	f := &fields{p: main}
	switch r.Manager {
	case managerXLOG:
		x.xlog(r, kind, f)
	case managerTransaction:
		x.transaction(r, f)
	case managerStorage:
		x.storage(r, kind, f)
	case managerDatabase:
		x.database(r, kind, f)
	case managerTablespace:
		x.tablespace(r, kind, f)
	case managerStandby:
		x.standby(kind, f)
	case managerHeap:
		x.heap(r, kind, rel, blocks, f)
	case managerHeap2: // xl_heap_multi_insert: flags, padding, ntuples
		f.take(2)
		if n := f.take(2); n != nil && blocks > 0 {
			x.count(r.XID, rel, uint64(binary.LittleEndian.Uint16(n)), 0, 0)
		}
	}
	if f.short {
		return errShort
	}
	return nil
}

// xlog reads the records of catalog/pg_control.h and access/xlog_internal.h.
func (x *Indexer) xlog(r *Record, kind uint8, f *fields) {
	c := x.current
	switch kind {
	case xlogShutdownCheckpoint, xlogOnlineCheckpoint:
		// CheckPoint: redo, this and previous timeline, full_page_writes (17: and wal_level), nextXid, 32 bytes of
		// other counters with padding, time. The offsets are the same from 14 to 18.
		k := Checkpoint{LSN: r.LSN, End: r.End, Kind: OnlineCheckpoint, Redo: sandglass.LSN(f.u64())}
		if kind == xlogShutdownCheckpoint {
			k.Kind = ShutdownCheckpoint
		}
		k.Timeline, k.Previous = sandglass.TimelineID(f.u32()), sandglass.TimelineID(f.u32())
		f.take(8)
		k.NextXID = f.u64()
		f.take(32)
		k.Time = time.Unix(int64(f.u64()), 0).UTC()
		c.NextXID = max(c.NextXID, k.NextXID)
		c.Checkpoints = append(c.Checkpoints, k)
	case xlogEndOfRecovery:
		if b := f.take(8); b != nil {
			c.Checkpoints = append(c.Checkpoints, Checkpoint{LSN: r.LSN, End: r.End, Kind: EndOfRecovery, Time: timestamp(b),
				Timeline: sandglass.TimelineID(f.u32()), Previous: sandglass.TimelineID(f.u32())})
		}
	case xlogBackupEnd:
		c.BackupEnds = append(c.BackupEnds, BackupEnd{LSN: r.LSN, End: r.End, Redo: sandglass.LSN(f.u64())})
	case xlogRestorePoint:
		if b := f.take(8); b != nil {
			name, _, _ := bytes.Cut(f.p, []byte{0})
			c.RestorePoints = append(c.RestorePoints, RestorePoint{LSN: r.LSN, End: r.End, Time: timestamp(b), Name: string(name)})
		}
	case xlogParameterChange:
		p := sandglass.Parameters{MaxConnections: int(f.u32()), MaxWorkerProcesses: int(f.u32()), MaxWALSenders: int(f.u32()),
			MaxPreparedXacts: int(f.u32()), MaxLocksPerXact: int(f.u32()), WALLevel: walLevel(f.u32())}
		if b := f.take(2); b != nil {
			p.WALLogHints, p.TrackCommitTimestamp = b[0] != 0, b[1] != 0
		}
		c.Parameters = append(c.Parameters, ParameterChange{LSN: r.LSN, Values: p})
	}
}

// walLevel names a WalLevel (access/xlog.h).
func walLevel(n uint32) string {
	switch n {
	case 0:
		return "minimal"
	case 1:
		return "replica"
	}
	return "logical"
}

// transaction reads a commit or abort (ParseCommitRecord, ParseAbortRecord in access/rmgrdesc/xactdesc.c).
func (x *Indexer) transaction(r *Record, f *fields) {
	t := Transaction{LSN: r.LSN, End: r.End, XID: r.XID}
	switch r.Info & xactMask {
	case xactCommit:
	case xactAbort:
		t.Aborted = true
	case xactCommitPrepare:
		t.Prepared = true
	case xactAbortPrepare:
		t.Aborted, t.Prepared = true, true
	default: // PREPARE, ASSIGNMENT, INVALIDATIONS
		return
	}
	b := f.take(8)
	if b == nil {
		return
	}
	t.Time = timestamp(b)
	var xinfo uint32
	if r.Info&xactHasInfo != 0 {
		xinfo = f.u32()
	}
	if xinfo&xinfoDatabase != 0 {
		t.Database = f.u32()
		f.u32()
	}
	if xinfo&xinfoSubs != 0 {
		subs := f.list(4)
		t.Subs = make([]uint32, len(subs)/4)
		for i := range t.Subs {
			t.Subs[i] = binary.LittleEndian.Uint32(subs[4*i:])
		}
	}
	var dropped []byte
	if xinfo&xinfoRelations != 0 {
		dropped = f.list(12)
	}
	if xinfo&xinfoStats != 0 && x.config.Major >= 15 {
		size := 12 // xl_xact_stats_item; its object ID grew to 64 bits in 18
		if x.config.Major >= 18 {
			size = 16
		}
		f.list(size)
	}
	if xinfo&xinfoInvals != 0 && !t.Aborted {
		f.list(16)
	}
	if xinfo&xinfoTwoPhase != 0 {
		t.XID = f.u32()
	}
	if f.short {
		return
	}
	for ; len(dropped) > 0; dropped = dropped[12:] {
		x.current.Relations = append(x.current.Relations, RelationChange{LSN: r.LSN, XID: t.XID, Kind: RelationDropped, Relation: relationAt(dropped)})
	}
	x.seeXID(t.XID)
	for _, sub := range t.Subs {
		x.seeXID(sub)
	}
	x.current.Transactions = append(x.current.Transactions, t)
	x.current.LastEnded = r.LSN
	if !t.Aborted {
		x.current.LastCommit = r.LSN
	}
	x.tick(r.LSN, t.Time)
}

// tick moves the run's clock to the time of a commit or abort, and notes where it stepped back.
func (x *Indexer) tick(lsn sandglass.LSN, t time.Time) {
	c := x.current
	c.LastTime = t
	switch {
	case c.HighTime.IsZero() || t.After(c.HighTime):
	case c.HighTime.Sub(t) > MaxDisorder:
		c.ClockSteps = append(c.ClockSteps, ClockStep{LSN: lsn, High: c.HighTime, Low: t, Previous: x.highLSN})
	default:
		return
	}
	c.HighTime, x.highLSN = t, lsn
}

// storage reads smgr records; forks other than the main one are left out.
func (x *Indexer) storage(r *Record, kind uint8, f *fields) {
	switch kind {
	case smgrCreate: // xl_smgr_create: relation, fork
		if b := f.take(12); b != nil && f.u32() == 0 {
			x.current.Relations = append(x.current.Relations, RelationChange{LSN: r.LSN, XID: r.XID, Kind: RelationCreated, Relation: relationAt(b)})
		}
	case smgrTruncate: // xl_smgr_truncate: blocks, relation, flags
		blocks := f.u32()
		if b := f.take(12); b != nil && f.u32()&1 != 0 {
			x.current.Relations = append(x.current.Relations, RelationChange{LSN: r.LSN, XID: r.XID, Kind: RelationShortened, Relation: relationAt(b), Blocks: blocks})
		}
	}
}

// database reads commands/dbcommands_xlog.h, whose types changed in 15.
func (x *Indexer) database(r *Record, kind uint8, f *fields) {
	drop := uint8(0x20)
	if x.config.Major == 14 {
		drop = 0x10
	}
	d := DatabaseChange{LSN: r.LSN, XID: r.XID, OID: f.u32(), Dropped: kind == drop}
	if d.Dropped {
		f.u32() // how many tablespaces; the first is noted
	}
	d.Tablespace = f.u32()
	x.current.Databases = append(x.current.Databases, d)
}

// tablespace reads commands/tablespace.h.
func (x *Indexer) tablespace(r *Record, kind uint8, f *fields) {
	switch kind {
	case tablespaceCreate:
		oid := f.u32()
		path, _, _ := bytes.Cut(f.p, []byte{0})
		x.current.Tablespaces = append(x.current.Tablespaces, TablespaceChange{LSN: r.LSN, XID: r.XID, OID: oid, Path: string(path)})
	case tablespaceDrop:
		x.current.Tablespaces = append(x.current.Tablespaces, TablespaceChange{LSN: r.LSN, XID: r.XID, OID: f.u32(), Dropped: true})
	}
}

// standby reads xl_running_xacts (storage/standbydefs.h): two counts, a flag, nextXid, oldestRunningXid.
func (x *Indexer) standby(kind uint8, f *fields) {
	if kind != standbyRunning {
		return
	}
	f.take(12)
	next, oldest := f.u32(), f.u32()
	if next > 0 {
		x.seeXID(next - 1)
	}
	if c := x.current; c.NextXID != 0 && oldest != 0 {
		full := c.NextXID - uint64(uint32(c.NextXID)-oldest)
		c.OldestXID = max(c.OldestXID, full)
	}
}

// heap counts rows. An insert ON CONFLICT is counted when it is confirmed, and taking one back is not a delete.
func (x *Indexer) heap(r *Record, kind uint8, rel Relation, blocks int, f *fields) {
	if kind&heapMask == heapTruncate { // xl_heap_truncate: database, count, flags, OIDs
		database := f.u32()
		n := int(f.u32())
		f.take(4)
		if n < 0 || n > len(f.p)/4 {
			f.short = true
			return
		}
		for range n {
			x.current.Relations = append(x.current.Relations, RelationChange{LSN: r.LSN, XID: r.XID, Kind: RelationTruncated,
				Relation: Relation{Database: database, File: f.u32()}})
		}
		return
	}
	if blocks == 0 {
		return
	}
	switch kind & heapMask {
	case heapInsert: // xl_heap_insert: offnum, flags
		if b := f.take(3); b != nil && b[2]&insertSpeculative == 0 {
			x.count(r.XID, rel, 1, 0, 0)
		}
	case heapConfirm:
		x.count(r.XID, rel, 1, 0, 0)
	case heapUpdate, heapHotUpdate:
		x.count(r.XID, rel, 0, 1, 0)
	case heapDelete: // xl_heap_delete: xmax, offnum, infobits, flags
		if b := f.take(8); b != nil && b[7]&deleteSuper == 0 {
			x.count(r.XID, rel, 0, 0, 1)
		}
	}
}
