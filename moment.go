package sandglass

import (
	"fmt"
	"time"
)

// MomentKind says how a moment was named.
type MomentKind string

// The ways to name a moment.
const (
	AtTime   MomentKind = "time"
	AtLSN    MomentKind = "lsn"
	AtXID    MomentKind = "xid"
	AtName   MomentKind = "name"
	AtLatest MomentKind = "latest"
)

// Moment is what the user asked for, before it is resolved to a Range.
type Moment struct {
	Kind MomentKind `json:"kind" enum:"time,lsn,xid,name,latest"`
	// Time is the moment of AtTime: everything committed at or before it is included,
	// by the timestamps of the commit records as recovery_target_time compares them.
	Time time.Time `json:"time,omitzero"`
	// LSN is the position of AtLSN: records that start before it are included.
	LSN LSN `json:"lsn,omitempty"`
	// XID is the transaction of AtXID, with its epoch (as txid_current() shows it) or
	// without (then the newest transaction of that number is meant).
	XID uint64 `json:"xid,omitempty"`
	// Name is the named restore point of AtName (pg_create_restore_point).
	Name string `json:"name,omitempty"`
	// Before leaves the named transaction out, where XID alone would bring it in.
	Before bool `json:"before,omitempty"`
}

// String is the moment as a person would say it; times in UTC.
func (m Moment) String() string {
	switch m.Kind {
	case AtTime:
		return m.Time.UTC().Format("2006-01-02T15:04:05.999999Z07:00")
	case AtLSN:
		return "LSN " + m.LSN.String()
	case AtXID:
		if m.Before {
			return fmt.Sprintf("just before transaction %d", m.XID)
		}
		return fmt.Sprintf("just after transaction %d", m.XID)
	case AtName:
		return fmt.Sprintf("restore point %q", m.Name)
	case AtLatest:
		return "latest"
	}
	return "no moment"
}

// Range is a resolved moment: every stopping position in it gives the same committed state.
type Range struct {
	Environment string        `json:"environment"`
	Incarnation IncarnationID `json:"incarnation"`
	Timeline    TimelineID    `json:"timeline"`
	// From is the start of the last included commit (or of the record that makes the image
	// consistent, when no commit follows it); Until is the start of the first excluded
	// commit or abort, zero when none is known yet.
	From  LSN `json:"from"`
	Until LSN `json:"until,omitempty"`
	// Stop is the start of a record in [From, Until) that is not before the image's
	// consistency: the recovery_target_lsn, inclusive.
	Stop LSN `json:"stop"`
	// Image is the newest image that can reach Stop.
	Image ImageID `json:"image"`
	// CommitTime is the timestamp of the last included commit; zero when the image itself is the moment.
	CommitTime time.Time `json:"commit_time,omitzero"`
	// NextTime is the timestamp of the first excluded commit or abort; zero when none is known.
	NextTime time.Time `json:"next_time,omitzero"`
	// ReplayBytes is the WAL between the image's redo position and Stop.
	ReplayBytes int64 `json:"replay_bytes"`
	// Minimums are the parameter minimums that replay up to Stop demands.
	Minimums Parameters `json:"minimums"`
}

// Contains says whether a server that stopped after reaching lsn has exactly this state.
func (r Range) Contains(lsn LSN) bool { return lsn >= r.From && (r.Until == 0 || lsn < r.Until) }

// Parameters are the settings that a server in recovery must have at least as high as the
// primary had (xl_parameter_change in catalog/pg_control.h), with its WAL level.
type Parameters struct {
	MaxConnections       int    `json:"max_connections"`
	MaxWorkerProcesses   int    `json:"max_worker_processes"`
	MaxWALSenders        int    `json:"max_wal_senders"`
	MaxPreparedXacts     int    `json:"max_prepared_transactions"`
	MaxLocksPerXact      int    `json:"max_locks_per_transaction"`
	WALLevel             string `json:"wal_level"` // minimal, replica or logical
	TrackCommitTimestamp bool   `json:"track_commit_timestamp"`
	WALLogHints          bool   `json:"wal_log_hints"`
}

// AtLeast is the larger of each minimum; the WAL level and flags are those of p.
func (p Parameters) AtLeast(q Parameters) Parameters {
	p.MaxConnections = max(p.MaxConnections, q.MaxConnections)
	p.MaxWorkerProcesses = max(p.MaxWorkerProcesses, q.MaxWorkerProcesses)
	p.MaxWALSenders = max(p.MaxWALSenders, q.MaxWALSenders)
	p.MaxPreparedXacts = max(p.MaxPreparedXacts, q.MaxPreparedXacts)
	p.MaxLocksPerXact = max(p.MaxLocksPerXact, q.MaxLocksPerXact)
	return p
}
