package sandglass

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the WAL: a count of bytes since the start of the log
// (XLogRecPtr in PostgreSQL's access/xlogdefs.h). Zero is "no position".
type LSN uint64

// ParseLSN reads PostgreSQL's text form, two hexadecimal halves with a slash: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: no slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// String is PostgreSQL's text form ("%X/%X").
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText makes an LSN a string in JSON and YAML.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote; the empty text is zero.
func (l *LSN) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*l = 0
		return nil
	}
	v, err := ParseLSN(string(b))
	if err == nil {
		*l = v
	}
	return err
}

// Segment is the number of the WAL segment of segmentSize bytes that holds the position.
func (l LSN) Segment(segmentSize int64) SegmentNo { return SegmentNo(uint64(l) / uint64(segmentSize)) }

// Offset is the position's distance from the start of its segment, in bytes.
func (l LSN) Offset(segmentSize int64) int64 { return int64(uint64(l) % uint64(segmentSize)) }

// SegmentNo counts WAL segments from the start of the log (XLogSegNo).
type SegmentNo uint64

// Start is the position of the segment's first byte.
func (s SegmentNo) Start(segmentSize int64) LSN { return LSN(uint64(s) * uint64(segmentSize)) }

// DefaultSegmentSize is PostgreSQL's default wal_segment_size, in bytes.
const DefaultSegmentSize int64 = 16 << 20

// SegmentName is the file name of a WAL segment: timeline, then the two halves of its
// number (XLogFileName in access/xlog_internal.h).
func SegmentName(tli TimelineID, seg SegmentNo, segmentSize int64) string {
	perID := uint64(1<<32) / uint64(segmentSize)
	return fmt.Sprintf("%08X%08X%08X", uint32(tli), uint64(seg)/perID, uint64(seg)%perID)
}

// ParseSegmentName reads a name that SegmentName wrote.
func ParseSegmentName(name string, segmentSize int64) (TimelineID, SegmentNo, error) {
	if len(name) != 24 {
		return 0, 0, fmt.Errorf("parse segment name %q: not 24 characters", name)
	}
	var part [3]uint64
	for i := range part {
		v, err := strconv.ParseUint(name[i*8:i*8+8], 16, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("parse segment name %q: %w", name, err)
		}
		part[i] = v
	}
	perID := uint64(1<<32) / uint64(segmentSize)
	if part[2] >= perID {
		return 0, 0, fmt.Errorf("parse segment name %q: no such segment of %d bytes", name, segmentSize)
	}
	return TimelineID(part[0]), SegmentNo(part[1]*perID + part[2]), nil
}
