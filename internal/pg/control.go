package pg

// The control file global/pg_control, whose layout (ControlFileData in
// catalog/pg_control.h) is the same from 14 to 17 but for its version number, and one
// byte longer before the nonce in 18.

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"sandglass"
)

// ControlFile is the path of the control file in a data folder.
const ControlFile = "global/pg_control"

// ControlFileSize is its size in bytes (PG_CONTROL_FILE_SIZE in catalog/pg_control.h).
const ControlFileSize = 8192

// ControlState is a DBState: what the server was doing when the file was written.
type ControlState uint32

// The states (DBState in catalog/pg_control.h).
const (
	StateStartup            ControlState = 0
	StateShutDown           ControlState = 1
	StateShutDownInRecovery ControlState = 2
	StateShuttingDown       ControlState = 3
	StateInCrashRecovery    ControlState = 4
	StateInArchiveRecovery  ControlState = 5
	StateInProduction       ControlState = 6
)

// String is the state as pg_controldata prints it.
func (s ControlState) String() string {
	names := [...]string{"starting up", "shut down", "shut down in recovery", "shutting down",
		"in crash recovery", "in archive recovery", "in production"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("unknown state %d", uint32(s))
}

// Control is what Sandglass needs of a control file.
type Control struct {
	SystemIdentifier uint64
	Version          uint32 // PG_CONTROL_VERSION: 1300 (14 to 16), 1700, 1800
	CatalogVersion   uint32
	Major            int // by the catalog version; 0 for a version that no release has
	State            ControlState
	Modified         time.Time

	CheckpointLSN  sandglass.LSN // of the last checkpoint record
	RedoLSN        sandglass.LSN // where replay from that checkpoint starts
	Timeline       sandglass.TimelineID
	PrevTimeline   sandglass.TimelineID
	FullPageWrites bool
	NextXID        uint64 // with its epoch
	CheckpointTime time.Time

	MinRecoveryPoint    sandglass.LSN
	MinRecoveryTimeline sandglass.TimelineID
	BackupStart         sandglass.LSN
	BackupEnd           sandglass.LSN
	BackupEndRequired   bool

	Minimums         sandglass.Parameters
	BlockSize        int
	RelationSegment  int64 // bytes of one file of a relation
	WALBlockSize     int
	SegmentSize      int64 // bytes of one WAL segment
	DataChecksums    bool
	CharsAreUnsigned bool // 18 and later; false before
}

// catalogMajor is CATALOG_VERSION_NO (catalog/catversion.h) of each released major.
var catalogMajor = map[uint32]int{202107181: 14, 202209061: 15, 202307071: 16, 202406281: 17, 202506291: 18}

var walLevels = [...]string{"minimal", "replica", "logical"}

// ParseControl reads a control file of a 64-bit little-endian server of majors 14 to 18
// and checks its CRC-32C. The file is written in place, so a reader beside a running
// server may meet a torn one; it should read again.
func ParseControl(b []byte) (Control, error) {
	if len(b) < 296 {
		return Control{}, fmt.Errorf("parse pg_control: %d bytes are too few", len(b))
	}
	le := binary.LittleEndian
	u32 := func(off int) uint32 { return le.Uint32(b[off:]) }
	lsn := func(off int) sandglass.LSN { return sandglass.LSN(le.Uint64(b[off:])) }
	seconds := func(off int) time.Time { return time.Unix(int64(le.Uint64(b[off:])), 0).UTC() }

	crcAt := 288
	switch v := u32(8); v {
	case 1300, 1700:
	case 1800:
		crcAt = 292 // default_char_signedness stands before the nonce
	default:
		return Control{}, fmt.Errorf("parse pg_control: version %d is not of PostgreSQL %d to %d on a little-endian machine", v, MinMajor, MaxMajor)
	}
	if sum := crc32.Checksum(b[:crcAt], crc32.MakeTable(crc32.Castagnoli)); sum != u32(crcAt) {
		return Control{}, fmt.Errorf("parse pg_control: checksum %08x, want %08x", sum, u32(crcAt))
	}
	c := Control{
		SystemIdentifier: le.Uint64(b[0:]),
		Version:          u32(8),
		CatalogVersion:   u32(12),
		Major:            catalogMajor[u32(12)],
		State:            ControlState(u32(16)),
		Modified:         seconds(24),
		CheckpointLSN:    lsn(32),
		// checkPointCopy, a CheckPoint of 88 bytes
		RedoLSN:        lsn(40),
		Timeline:       sandglass.TimelineID(u32(48)),
		PrevTimeline:   sandglass.TimelineID(u32(52)),
		FullPageWrites: b[56] != 0,
		NextXID:        le.Uint64(b[64:]),
		CheckpointTime: seconds(104),
		// unloggedLSN stands at 128
		MinRecoveryPoint:    lsn(136),
		MinRecoveryTimeline: sandglass.TimelineID(u32(144)),
		BackupStart:         lsn(152),
		BackupEnd:           lsn(160),
		BackupEndRequired:   b[168] != 0,
		Minimums: sandglass.Parameters{
			WALLogHints:          b[176] != 0,
			MaxConnections:       int(u32(180)),
			MaxWorkerProcesses:   int(u32(184)),
			MaxWALSenders:        int(u32(188)),
			MaxPreparedXacts:     int(u32(192)),
			MaxLocksPerXact:      int(u32(196)),
			TrackCommitTimestamp: b[200] != 0,
		},
		BlockSize:       int(u32(216)),
		RelationSegment: int64(u32(220)) * int64(u32(216)),
		WALBlockSize:    int(u32(224)),
		SegmentSize:     int64(u32(228)),
		DataChecksums:   u32(252) != 0,
	}
	if crcAt == 292 {
		c.CharsAreUnsigned = b[256] == 0
	}
	level := u32(172)
	if int(level) >= len(walLevels) {
		return Control{}, fmt.Errorf("parse pg_control: wal_level %d is not known", level)
	}
	c.Minimums.WALLevel = walLevels[level]
	if s := c.SegmentSize; s < 1<<20 || s > 1<<30 || s&(s-1) != 0 {
		return Control{}, fmt.Errorf("parse pg_control: WAL segments of %d bytes are not possible", s)
	}
	return c, nil
}
