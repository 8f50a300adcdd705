package sandglass

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
)

// TimelineID names a branch of WAL, counted from 1.
type TimelineID uint32

// HistoryFileName is the name of the timeline's history file ("00000002.history").
func (t TimelineID) HistoryFileName() string { return fmt.Sprintf("%08X.history", uint32(t)) }

// HistoryEntry says that Timeline was left for the next one at Switch.
type HistoryEntry struct {
	Timeline TimelineID `json:"timeline"`
	Switch   LSN        `json:"switch"`
}

// History is the ancestry of a timeline, oldest first, without the timeline itself.
type History []HistoryEntry

// ParseHistory reads the contents of a timeline history file
// (readTimeLineHistory in access/transam/timeline.c).
func ParseHistory(content string) (History, error) {
	var h History
	sc := bufio.NewScanner(strings.NewReader(content))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			return nil, fmt.Errorf("parse timeline history: line %q: no switch position", line)
		}
		tli, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("parse timeline history: line %q: %w", line, err)
		}
		lsn, err := ParseLSN(f[1])
		if err != nil {
			return nil, fmt.Errorf("parse timeline history: line %q: %w", line, err)
		}
		if n := len(h); n > 0 && (TimelineID(tli) <= h[n-1].Timeline || lsn < h[n-1].Switch) {
			return nil, fmt.Errorf("parse timeline history: line %q: timelines and switch positions must increase", line)
		}
		h = append(h, HistoryEntry{TimelineID(tli), lsn})
	}
	return h, sc.Err()
}

// TimelineAt is the timeline that a position belongs to, for a history whose newest timeline is tip.
func (h History) TimelineAt(lsn LSN, tip TimelineID) TimelineID {
	for _, e := range h {
		if lsn < e.Switch {
			return e.Timeline
		}
	}
	return tip
}
