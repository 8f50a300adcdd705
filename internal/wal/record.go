// The inside of a record: block headers, main data, and the record types that an index notes.

package wal

import (
	"encoding/binary"
	"errors"
	"time"

	"sandglass"
)

// Resource managers (access/rmgrlist.h) that an index reads.
const (
	managerXLOG        = 0
	managerTransaction = 1
	managerStorage     = 2
	managerDatabase    = 4
	managerTablespace  = 5
	managerStandby     = 8
	managerHeap2       = 9
	managerHeap        = 10
)

// Record types by resource manager: XLOG (catalog/pg_control.h), transaction (access/xact.h),
// storage (catalog/storage_xlog.h), tablespace (commands/tablespace.h), standby
// (storage/standbydefs.h), heap (access/heapam_xlog.h).
const (
	xlogShutdownCheckpoint = 0x00
	xlogOnlineCheckpoint   = 0x10
	xlogSwitch             = 0x40
	xlogBackupEnd          = 0x50
	xlogParameterChange    = 0x60
	xlogRestorePoint       = 0x70
	xlogEndOfRecovery      = 0x90
	xlogOverwrite          = 0xD0

	xactMask          = 0x70
	xactCommit        = 0x00
	xactAbort         = 0x20
	xactCommitPrepare = 0x30
	xactAbortPrepare  = 0x40
	xactHasInfo       = 0x80

	smgrCreate   = 0x10
	smgrTruncate = 0x20

	tablespaceCreate = 0x00
	tablespaceDrop   = 0x10

	standbyRunning = 0x10

	heapMask      = 0x70
	heapInsert    = 0x00
	heapDelete    = 0x10
	heapUpdate    = 0x20
	heapTruncate  = 0x30
	heapHotUpdate = 0x40
	heapConfirm   = 0x50

	heap2MultiInsert = 0x50

	insertSpeculative = 0x04 // XLH_INSERT_IS_SPECULATIVE
	deleteSuper       = 0x08 // XLH_DELETE_IS_SUPER
)

// Flags of xinfo in commit and abort records (access/xact.h).
const (
	xinfoDatabase  = 1 << 0
	xinfoSubs      = 1 << 1
	xinfoRelations = 1 << 2
	xinfoInvals    = 1 << 3
	xinfoTwoPhase  = 1 << 4
	xinfoStats     = 1 << 8 // 15 and later
)

// Block header flags (access/xlogrecord.h).
const (
	blockHasImage = 0x10
	blockHasData  = 0x20
	blockSameRel  = 0x80
	imageHasHole  = 0x01

	maxBlockID = 32
	idTopXID   = 252
	idOrigin   = 253
	idLong     = 254
	idShort    = 255
)

var errShort = errors.New("shorter than its type needs")

// parts finds a record's main data and the relation of its first block (DecodeXLogRecord in
// access/transam/xlogreader.c). blocks is the number of block references.
func parts(major int, data []byte) (main []byte, first Relation, blocks int, err error) {
	compressed := byte(0x1C) // pglz, lz4, zstd
	if major == 14 {
		compressed = 0x02
	}
	le := binary.LittleEndian
	p, body := data, 0
	for len(p) > body {
		id := p[0]
		switch {
		case id == idShort && len(p) >= 2:
			n := int(p[1])
			return tail(p[2:], body, n, first, blocks)
		case id == idLong && len(p) >= 5:
			n := int(le.Uint32(p[1:]))
			return tail(p[5:], body, n, first, blocks)
		case id == idOrigin && len(p) >= 3:
			p = p[3:]
		case id == idTopXID && len(p) >= 5:
			p = p[5:]
		case id <= maxBlockID && len(p) >= 4:
			flags := p[1]
			body += int(le.Uint16(p[2:]))
			p = p[4:]
			if flags&blockHasImage != 0 {
				if len(p) < 5 {
					return nil, first, blocks, errShort
				}
				body += int(le.Uint16(p))
				info := p[4]
				p = p[5:]
				if info&compressed != 0 && info&imageHasHole != 0 {
					if len(p) < 2 {
						return nil, first, blocks, errShort
					}
					p = p[2:]
				}
			}
			if flags&blockSameRel == 0 {
				if len(p) < 12 {
					return nil, first, blocks, errShort
				}
				if blocks == 0 {
					first = relationAt(p)
				}
				p = p[12:]
			}
			if len(p) < 4 {
				return nil, first, blocks, errShort
			}
			p = p[4:]
			blocks++
		default:
			return nil, first, blocks, errors.New("has a part of an unknown kind")
		}
	}
	return nil, first, blocks, nil
}

// tail is the main data of n bytes at the end of a record, after the blocks' data.
func tail(p []byte, body, n int, first Relation, blocks int) ([]byte, Relation, int, error) {
	if body+n > len(p) {
		return nil, first, blocks, errShort
	}
	return p[body : body+n], first, blocks, nil
}

// relationAt reads a RelFileNode, since 16 RelFileLocator: tablespace, database, relfilenumber.
func relationAt(p []byte) Relation {
	le := binary.LittleEndian
	return Relation{Tablespace: le.Uint32(p), Database: le.Uint32(p[4:]), File: le.Uint32(p[8:])}
}

// overwritten is the position that an XLOG_OVERWRITE_CONTRECORD names, or zero.
func overwritten(data []byte) sandglass.LSN {
	if len(data) < 10 || data[0] != idShort {
		return 0
	}
	return sandglass.LSN(binary.LittleEndian.Uint64(data[2:]))
}

// pgEpoch is 2000-01-01 in microseconds of Unix time; TimestampTz counts microseconds from there.
const pgEpoch = 946_684_800_000_000

func timestamp(p []byte) time.Time {
	return time.UnixMicro(int64(binary.LittleEndian.Uint64(p)) + pgEpoch).UTC()
}

// fields reads a record's main data field by field; after a read past the end, short is set and all reads give zero.
type fields struct {
	p     []byte
	short bool
}

func (f *fields) take(n int) []byte {
	if n < 0 || n > len(f.p) {
		f.short = true
		f.p = nil
		return nil
	}
	b := f.p[:n]
	f.p = f.p[n:]
	return b
}

func (f *fields) u32() uint32 {
	if b := f.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (f *fields) u64() uint64 {
	if b := f.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// list takes a count and then that many items of size bytes.
func (f *fields) list(size int) []byte {
	n := int(f.u32())
	if n > len(f.p)/size {
		f.short = true
		return nil
	}
	return f.take(n * size)
}
