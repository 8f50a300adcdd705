// The reader: pages in, whole and checked records out.

package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"sandglass"
)

// PageSize is XLOG_BLCKSZ, which is 8 KiB unless PostgreSQL was built otherwise; other sizes are refused.
const PageSize = 8192

// Sizes of access/xlog_internal.h and access/xlogrecord.h.
const (
	shortPageHeader = 24
	longPageHeader  = 40
	recordHeader    = 24
	maxRecord       = 1 << 30 // MaxAllocSize bounds a record in every major
	alignment       = 8       // MAXALIGN
)

// Flags of xlp_info.
const (
	pageContinues = 0x0001 // XLP_FIRST_IS_CONTRECORD
	pageLong      = 0x0002 // XLP_LONG_HEADER
)

// keptRecord is how much of a record is kept in memory: more than any record with blocks
// needs (33 page images with their headers). Of larger ones, such as logical messages,
// only the checksum is computed, but commits and aborts are kept whole.
const keptRecord = 1 << 20

// pageMagic is XLOG_PAGE_MAGIC by major.
var pageMagic = map[int]uint16{14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is one WAL record, checked.
type Record struct {
	LSN, End sandglass.LSN // End is aligned; of an XLOG_SWITCH it is its segment's end
	XID      uint32
	Manager  uint8 // xl_rmid
	Info     uint8 // xl_info
	Length   int   // xl_tot_len
	// Data is the record without its header: block headers, block data, main data. It is
	// valid during the call only, and cut at 1 MiB unless the record ends a transaction.
	Data []byte
}

// Reader reads contiguous WAL, checks it (page magic and address, continuation, previous
// record, CRC-32C of every record), and hands on whole records. It is not safe for concurrent use.
type Reader struct {
	config Config
	emit   func(*Record) error
	magic  uint16
	err    error

	position sandglass.LSN // of the next byte
	systemID uint64        // of the last long header
	header   []byte        // the page header being collected, empty outside of one
	lost     bool          // begun within a page: nothing is known before the next page header
	skip     int           // bytes left of a record that began before Start
	passing  bool          // after an XLOG_SWITCH: the rest of the segment is skipped
	ended    bool          // zeros where a record would start: the end of the WAL that was written

	record   Record
	buffer   []byte // the record being collected, header included; empty between records
	got      int    // bytes of it seen, total 0 until its length is known
	total    int
	crc      uint32        // of its data so far, when it is not kept whole
	previous sandglass.LSN // start of the last whole record, zero when not known
	broken   sandglass.LSN // start of a record that was never finished, to be named by the next one
}

// NewReader reads WAL from c.Start on and calls emit with each whole record.
// It fails for a major that it does not know.
func NewReader(c Config, emit func(*Record) error) (*Reader, error) {
	magic, ok := pageMagic[c.Major]
	if !ok {
		return nil, fmt.Errorf("read WAL: PostgreSQL %d is not known to this version of Sandglass (14 to 18 are)", c.Major)
	}
	if c.SegmentSize < 1<<20 || c.SegmentSize > 1<<30 || c.SegmentSize&(c.SegmentSize-1) != 0 {
		return nil, fmt.Errorf("read WAL: %d is not a WAL segment size", c.SegmentSize)
	}
	return &Reader{config: c, emit: emit, magic: magic, position: c.Start, lost: c.Start%PageSize != 0,
		buffer: make([]byte, 0, 64<<10), header: make([]byte, 0, longPageHeader)}, nil
}

// Position is the position of the next byte that Write wants.
func (r *Reader) Position() sandglass.LSN { return r.position }

// SystemIdentifier is the one that the last segment's first page named; zero before one was seen.
func (r *Reader) SystemIdentifier() uint64 { return r.systemID }

// Ended says whether the WAL written so far ended in zeros, as the unused rest of a segment does.
func (r *Reader) Ended() bool { return r.ended }

// open is the start of the record being collected, or zero.
func (r *Reader) open() sandglass.LSN {
	if len(r.buffer) == 0 {
		return 0
	}
	return r.record.LSN
}

// Write takes the next bytes of WAL, in slices of any size. After an error the reader is of no more use.
func (r *Reader) Write(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n := len(p)
	for len(p) > 0 {
		var used int
		if used, r.err = r.step(p); r.err != nil {
			return 0, r.err
		}
		p = p[used:]
		r.position += sandglass.LSN(used)
		if r.err = r.settle(); r.err != nil {
			return 0, r.err
		}
	}
	return n, nil
}

// step consumes some of p, never across the end of a page header, a record or a page.
func (r *Reader) step(p []byte) (int, error) {
	inPage := int(r.position % PageSize)
	if inPage == 0 || len(r.header) > 0 {
		return r.pageHeader(p)
	}
	room := p[:min(len(p), PageSize-inPage)]
	switch {
	case r.ended:
		if !allZero(room) {
			return 0, r.damagedAt(r.position, "bytes follow the end of the WAL")
		}
		return len(room), nil
	case r.lost || r.passing:
		return len(room), nil
	case r.skip > 0:
		n := min(r.skip, len(room))
		r.skip -= n
		return n, nil
	case len(r.buffer) == 0 && r.position%alignment != 0:
		return min(len(room), alignment-int(r.position%alignment)), nil
	}
	return r.collect(room)
}

// pageHeader collects a page header and, once it is whole, checks it.
func (r *Reader) pageHeader(p []byte) (int, error) {
	need := shortPageHeader
	if len(r.header) >= 4 && binary.LittleEndian.Uint16(r.header[2:])&pageLong != 0 {
		need = longPageHeader
	} else if len(r.header) < 4 {
		need = 4
	}
	n := min(need-len(r.header), len(p))
	r.header = append(r.header, p[:n]...)
	if len(r.header) < need || need == 4 {
		return n, nil
	}
	page := r.position + sandglass.LSN(n) - sandglass.LSN(len(r.header))
	err := r.enterPage(page, r.header)
	r.header = r.header[:0]
	return n, err
}

// enterPage checks a page header (XLogReaderValidatePageHeader in access/transam/xlogreader.c) and what it says of the record that crosses into the page.
func (r *Reader) enterPage(page sandglass.LSN, h []byte) error {
	magic, info := binary.LittleEndian.Uint16(h), binary.LittleEndian.Uint16(h[2:])
	address, rest := sandglass.LSN(binary.LittleEndian.Uint64(h[8:])), int(binary.LittleEndian.Uint32(h[16:]))
	first := page.Offset(r.config.SegmentSize) == 0
	if magic == 0 && allZero(h) {
		r.ended, r.lost, r.skip = true, false, 0
		r.clear()
		return nil
	}
	switch {
	case magic != r.magic:
		return r.wrongMagic(page, magic)
	case info&^0x000F != 0:
		return r.damagedAt(page, "page has unknown flags %#04x", info)
	case address != page:
		return r.damagedAt(page, "page says it belongs at %s", address)
	case first != (info&pageLong != 0):
		return r.damagedAt(page, "page header has the wrong length")
	}
	if first {
		size, block := binary.LittleEndian.Uint32(h[32:]), binary.LittleEndian.Uint32(h[36:])
		if int64(size) != r.config.SegmentSize || block != PageSize {
			return r.damagedAt(page, "segments of %d bytes with pages of %d bytes, where %d and %d were expected", size, block, r.config.SegmentSize, PageSize)
		}
		r.systemID = binary.LittleEndian.Uint64(h[24:])
	}
	if info&pageContinues == 0 {
		if len(r.buffer) > 0 {
			// The server crashed before the record was finished, and began anew at this page. The
			// next record must say so (XLOG_OVERWRITE_CONTRECORD).
			r.broken = r.record.LSN
			r.clear()
		}
		// A switch record that began before Start leaves zeros behind it, up to the next segment.
		r.ended = r.ended && !first
		r.lost, r.skip = false, 0
		return nil
	}
	switch {
	case r.lost || page == r.config.Start:
		r.lost, r.skip = false, rest
	case r.skip > 0 && rest == r.skip, r.total > 0 && rest == r.total-r.got:
	default:
		return r.damagedAt(page, "page continues a record by %d bytes, which does not fit what came before", rest)
	}
	return nil
}

// collect takes bytes of the record that starts or goes on here.
func (r *Reader) collect(p []byte) (int, error) {
	if len(r.buffer) == 0 {
		r.record.LSN = r.position
	}
	n := len(p)
	switch {
	case r.total == 0: // the length lies in the first four bytes, which never cross a page
		n = min(n, 4-len(r.buffer))
	case r.got < recordHeader:
		n = min(n, recordHeader-r.got)
	default:
		n = min(n, r.total-r.got)
	}
	p = p[:n]
	if r.large() {
		r.crc = crc32.Update(r.crc, castagnoli, p)
		p = p[:min(n, keptRecord-len(r.buffer))]
	}
	r.buffer = append(r.buffer, p...)
	r.got += n
	if r.total == 0 && r.got == 4 {
		length := binary.LittleEndian.Uint32(r.buffer)
		if length == 0 {
			r.ended = true
			r.clear()
			return n, nil
		}
		if length < recordHeader || length > maxRecord {
			return 0, r.damagedAt(r.record.LSN, "record of %d bytes", length)
		}
		r.total = int(length)
	}
	return n, nil
}

// large says whether the record being collected is too large to be kept whole.
func (r *Reader) large() bool {
	return r.total > keptRecord && r.got >= recordHeader && r.buffer[17] != managerTransaction
}

// settle hands on the record that has just become whole.
func (r *Reader) settle() error {
	if r.passing && r.position.Offset(r.config.SegmentSize) == 0 {
		r.passing = false
	}
	if r.total == 0 || r.got < r.total {
		return nil
	}
	b := r.buffer
	crc := r.crc
	if !r.large() {
		crc = crc32.Update(0, castagnoli, b[recordHeader:])
	}
	if crc32.Update(crc, castagnoli, b[:20]) != binary.LittleEndian.Uint32(b[20:]) {
		return r.damagedAt(r.record.LSN, "record does not match its checksum")
	}
	previous := sandglass.LSN(binary.LittleEndian.Uint64(b[8:]))
	if r.previous != 0 && previous != r.previous {
		return r.damagedAt(r.record.LSN, "record says that the one before it is at %s, but that is at %s", previous, r.previous)
	}
	e := &r.record
	e.XID, e.Info, e.Manager, e.Length = binary.LittleEndian.Uint32(b[4:]), b[16], b[17], r.total
	e.Data = b[recordHeader:]
	e.End = (r.position + alignment - 1) &^ (alignment - 1)
	if e.Manager == managerXLOG && e.Info&0xF0 == xlogSwitch {
		if off := e.End.Offset(r.config.SegmentSize); off != 0 {
			e.End += sandglass.LSN(r.config.SegmentSize - off)
			r.passing = r.position < e.End
		}
	}
	if r.broken != 0 {
		if e.Manager != managerXLOG || e.Info&0xF0 != xlogOverwrite || overwritten(e.Data) != r.broken {
			return r.damagedAt(r.broken, "record is not finished")
		}
		r.broken = 0
	}
	r.previous = e.LSN
	err := r.emit(e)
	r.clear()
	return err
}

// clear forgets the record being collected, and a buffer that one large record made large.
func (r *Reader) clear() {
	if cap(r.buffer) > 4*keptRecord {
		r.buffer = make([]byte, 0, 64<<10)
	}
	r.buffer, r.got, r.total, r.crc = r.buffer[:0], 0, 0, 0
}

// DamageError is WAL that is not as PostgreSQL writes it.
type DamageError struct {
	LSN     sandglass.LSN // of the page or record
	Problem string
}

// Error names the position and the problem.
func (e *DamageError) Error() string {
	return fmt.Sprintf("read WAL: damaged at %s: %s", e.LSN, e.Problem)
}

func (r *Reader) damagedAt(lsn sandglass.LSN, format string, a ...any) error {
	return &DamageError{LSN: lsn, Problem: fmt.Sprintf(format, a...)}
}

func (r *Reader) wrongMagic(page sandglass.LSN, magic uint16) error {
	for _, major := range slices.Sorted(maps.Keys(pageMagic)) {
		if pageMagic[major] == magic {
			return r.damagedAt(page, "page magic %#04x is that of PostgreSQL %d, where %d was expected", magic, major, r.config.Major)
		}
	}
	return r.damagedAt(page, "page magic %#04x is not known to this version of Sandglass", magic)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
