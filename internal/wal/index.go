// What is known of one WAL segment: the types of an index.

package wal

import (
	"time"

	"sandglass"
)

// Index is what one WAL segment holds, as far as Sandglass cares: the records that start in
// it. All lists are in WAL order unless they say otherwise.
type Index struct {
	Major       int
	Timeline    sandglass.TimelineID // of the stream and the segment's name
	SegmentSize int64                // bytes
	Start       sandglass.LSN        // the segment's first byte
	// From is where the indexer began in this segment: Start, or later when it began in mid-stream.
	From sandglass.LSN
	// End is where the last complete record known ends (aligned to 8 bytes), or From when there is none. Of a
	// Whole index it lies in a later segment, or is this segment's end.
	End sandglass.LSN
	// Whole says that every record which starts in the segment is in the index.
	Whole bool
	// First and Last are the starts of the first and the last record that start here; zero when none does.
	First, Last sandglass.LSN

	// The run is the unbroken work of one Indexer, so what an index says of its run can be
	// relied on from RunStart on and says nothing of what lies before.
	RunStart sandglass.LSN
	// Notable is the start of the newest earlier segment of the run whose index IsNotable, Named that of the newest one with a restore point; zero when none is.
	Notable, Named sandglass.LSN
	// LastEnded and LastTime are the start and time of the run's last commit or abort up to the end of this segment,
	// LastCommit is the start of its last commit; zero when there was none.
	LastEnded, LastCommit sandglass.LSN
	LastTime              time.Time
	// HighTime is the run's highest time of a commit or abort since the clock last stepped back, up to the end of this segment.
	HighTime time.Time
	// NextXID is the lowest transaction number, with its epoch, above all that the run has seen in use; zero
	// until the run's first checkpoint. OldestXID is the oldest one that was running when the
	// run's last xl_running_xacts record was written; every lower one had ended. Zero when not known.
	NextXID, OldestXID uint64

	Transactions  []Transaction
	Rows          []Rows // by Relation and transaction, sorted
	Relations     []RelationChange
	RestorePoints []RestorePoint
	BackupEnds    []BackupEnd
	Checkpoints   []Checkpoint
	Parameters    []ParameterChange
	Tablespaces   []TablespaceChange
	Databases     []DatabaseChange
	ClockSteps    []ClockStep
	// Beats are keepalives that the recorder heard while the segment was written; the indexer leaves them empty.
	Beats []sandglass.Beat
}

// IsNotable says whether the segment holds something other than transactions that a restore across it
// must know of: a parameter or tablespace change, or a step of the clock.
func (x *Index) IsNotable() bool { return len(x.Parameters)+len(x.Tablespaces)+len(x.ClockSteps) > 0 }

// Transaction is the end of one: a commit or abort record, also of a prepared transaction or a subtransaction's abort.
type Transaction struct {
	LSN, End sandglass.LSN // start and end of the record
	// XID is the transaction that ended: twophase_xid of the prepared forms, else the record's own.
	// Zero for a commit that had no transaction number.
	XID      uint32
	Time     time.Time // of the record, to the microsecond
	Aborted  bool
	Prepared bool     // COMMIT PREPARED or ROLLBACK PREPARED
	Database uint32   // OID, where the record names it
	Subs     []uint32 // subtransactions that ended with it
}

// Relation is the physical name of a relation's file: OID of database and tablespace, relfilenumber.
type Relation struct {
	Tablespace, Database, File uint32
}

// Rows are the rows that a transaction changed in one heap, in this segment.
type Rows struct {
	// XID is the record's own, so maybe a subtransaction's: the Subs of a Transaction say whose it
	// was, and that it was not rolled back by itself. Zero where a segment has too many to tell apart.
	XID                        uint32
	Relation                   Relation
	Inserted, Updated, Deleted uint64
}

// RelationChangeKind says what happened to a relation's files.
type RelationChangeKind uint8

// What happens to a relation's files. A TRUNCATE of a table is a create and, at commit, a
// drop; RelationTruncated is logged for logical decoding only, RelationShortened is vacuum's or a
// TRUNCATE's in the transaction that made the table.
const (
	RelationCreated   RelationChangeKind = 1
	RelationDropped   RelationChangeKind = 2
	RelationShortened RelationChangeKind = 3
	RelationTruncated RelationChangeKind = 4
)

// RelationChange is a relation's file created, dropped (by a commit or abort record), cut
// short, or a table truncated.
type RelationChange struct {
	LSN  sandglass.LSN
	XID  uint32
	Kind RelationChangeKind
	// Relation is the file; of RelationTruncated, File is the table's OID and Tablespace is zero.
	Relation Relation
	Blocks   uint32 // what is left, of RelationShortened
}

// RestorePoint is a named one (pg_create_restore_point).
type RestorePoint struct {
	LSN, End sandglass.LSN
	Time     time.Time
	Name     string
}

// BackupEnd is the XLOG_BACKUP_END of the backup whose redo position is Redo.
type BackupEnd struct {
	LSN, End sandglass.LSN
	Redo     sandglass.LSN
}

// CheckpointKind tells checkpoints apart.
type CheckpointKind uint8

// The kinds. EndOfRecovery is the record that ends a crash or archive recovery without a checkpoint.
const (
	OnlineCheckpoint   CheckpointKind = 1
	ShutdownCheckpoint CheckpointKind = 2
	EndOfRecovery      CheckpointKind = 3
)

// Checkpoint is a checkpoint record, or an end-of-recovery record.
type Checkpoint struct {
	LSN, End sandglass.LSN
	Kind     CheckpointKind
	Redo     sandglass.LSN        // zero for EndOfRecovery
	Timeline sandglass.TimelineID // and the one before it, equal when no switch happened
	Previous sandglass.TimelineID
	Time     time.Time
	NextXID  uint64 // with epoch; zero for EndOfRecovery
}

// ParameterChange is an XLOG_PARAMETER_CHANGE.
type ParameterChange struct {
	LSN    sandglass.LSN
	Values sandglass.Parameters
}

// TablespaceChange is a tablespace created at a path, or dropped.
type TablespaceChange struct {
	LSN     sandglass.LSN
	XID     uint32
	OID     uint32
	Path    string // empty when dropped, or when created in place (allow_in_place_tablespaces)
	Dropped bool
}

// DatabaseChange is a database created from a template, or dropped from a tablespace.
type DatabaseChange struct {
	LSN        sandglass.LSN
	XID        uint32
	OID        uint32
	Tablespace uint32
	Dropped    bool
}

// ClockStep is a commit or abort whose time is more than MaxDisorder below the highest before it.
type ClockStep struct {
	LSN      sandglass.LSN // of the first record after the step
	High     time.Time     // the highest time before it
	Low      time.Time     // its own time
	Previous sandglass.LSN // the record that had the highest time
}

// MaxDisorder is how far the time of a commit may lie below an earlier one's in WAL order
// without the clock being at fault: the time is taken before the record is inserted.
const MaxDisorder = time.Second
