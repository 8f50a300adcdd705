package pg

// backup_label and tablespace_map, the two files that BASE_BACKUP adds to a copy.

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"sandglass"
)

// The names of the two files in a data folder.
const (
	BackupLabelFile   = "backup_label"
	TablespaceMapFile = "tablespace_map"
)

// BackupLabel is what a backup_label says (build_backup_content in access/transam/xlogbackup.c).
type BackupLabel struct {
	Redo       sandglass.LSN // START WAL LOCATION
	Checkpoint sandglass.LSN // CHECKPOINT LOCATION, the record
	Method     string        // "streamed"
	From       string        // "primary" or "standby"
	StartText  string        // START TIME as written, in production's log_timezone
	Label      string
	Timeline   sandglass.TimelineID
}

// ParseBackupLabel reads a backup_label.
func ParseBackupLabel(s string) (BackupLabel, error) {
	var l BackupLabel
	var err error
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		if !ok {
			continue
		}
		switch key {
		case "START WAL LOCATION", "CHECKPOINT LOCATION":
			at := &l.Redo
			if key[0] == 'C' {
				at = &l.Checkpoint
			}
			value, _, _ = strings.Cut(value, " ")
			*at, err = sandglass.ParseLSN(value)
		case "BACKUP METHOD":
			l.Method = value
		case "BACKUP FROM":
			l.From = value
		case "START TIME":
			l.StartText = value
		case "LABEL":
			l.Label = value
		case "START TIMELINE":
			var n uint64
			n, err = strconv.ParseUint(value, 10, 32)
			l.Timeline = sandglass.TimelineID(n)
		}
		if err != nil {
			return BackupLabel{}, fmt.Errorf("parse backup_label: line %q: %w", line, err)
		}
	}
	if l.Redo == 0 || l.Checkpoint == 0 {
		return BackupLabel{}, fmt.Errorf("parse backup_label: no start or checkpoint location")
	}
	return l, nil
}

// ParseTablespaceMap reads a tablespace_map: the path of each tablespace by its OID. A
// backslash in the file guards a line end or a backslash of the path (do_pg_backup_start
// writes it, read_tablespace_map in access/transam/xlogrecovery.c reads it).
func ParseTablespaceMap(s string) (map[string]string, error) {
	m := make(map[string]string)
	var line strings.Builder
	escaped := false
	end := func() error {
		oid, path, ok := strings.Cut(line.String(), " ")
		line.Reset()
		if oid == "" && !ok {
			return nil
		}
		if _, err := strconv.ParseUint(oid, 10, 32); err != nil || path == "" {
			return fmt.Errorf("parse tablespace_map: line %q is not an OID and a path", oid+" "+path)
		}
		m[oid] = path
		return nil
	}
	for i := range len(s) {
		switch c := s[i]; {
		case escaped:
			line.WriteByte(c)
			escaped = false
		case c == '\\':
			escaped = true
		case c == '\n' || c == '\r':
			if err := end(); err != nil {
				return nil, err
			}
		default:
			line.WriteByte(c)
		}
	}
	return m, end()
}

// FormatTablespaceMap writes a tablespace_map that ParseTablespaceMap and PostgreSQL read.
func FormatTablespaceMap(m map[string]string) string {
	var b strings.Builder
	for _, oid := range sortedKeys(m) {
		b.WriteString(oid + " ")
		for i := range len(m[oid]) {
			if c := m[oid][i]; c == '\n' || c == '\r' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(m[oid][i])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// postgresEpoch is where PostgreSQL's timestamps count from, in microseconds (datatype/timestamp.h).
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Timestamp is a TimestampTz (microseconds since 2000) as a time in UTC.
func Timestamp(micros int64) time.Time {
	return time.UnixMicro(postgresEpoch.UnixMicro() + micros).UTC()
}
