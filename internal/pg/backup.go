package pg

// BASE_BACKUP: a copy of the running server as tar streams, one for the data folder and
// one for each tablespace (replication/basebackup.c, since 15 in backup/).

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"sandglass"
)

// BackupOptions says how production makes the copy.
type BackupOptions struct {
	Label   string
	Fast    bool  // an immediate checkpoint instead of a spread one
	MaxRate int64 // bytes a second; 0: unlimited. PostgreSQL takes 32 kB to 1 GB
	// SkipChecksums leaves out the check of page checksums (which data_checksums makes possible).
	SkipChecksums bool
}

// Tablespace is one folder of the copy; the data folder itself has no OID and no path.
type Tablespace struct {
	OID  string
	Path string
	Size int64 // bytes, an estimate
}

// Backup is a running BASE_BACKUP. The connection is its own until it ends.
type Backup struct {
	Start       sandglass.LSN // redo of the checkpoint it began with
	Timeline    sandglass.TimelineID
	Tablespaces []Tablespace // the data folder too
	Total       int64        // estimate of all bytes
	// End and EndTimeline are known once Next has returned io.EOF: the copy is consistent
	// when WAL is replayed up to End, where the XLOG_BACKUP_END record ends.
	End         sandglass.LSN
	EndTimeline sandglass.TimelineID

	c       *Conn
	done    func(error) error
	archive int      // number of archives begun
	next    *Archive // begun, not yet given out
	data    []byte   // received, not yet read
	inside  bool     // an archive is open
	err     error    // sticky; io.EOF at the end
}

// Archive is one tar stream.
type Archive struct {
	OID  string // of the tablespace; "" for the data folder
	Path string // of the tablespace on production
	b    *Backup
}

// ErrChecksum means that production found pages with wrong checksums while it made the copy.
var ErrChecksum = errors.New("production has pages with wrong checksums")

// command writes the command in the syntax of the major (repl_gram.y).
func (o BackupOptions) command(major int) string {
	rate := ""
	if o.MaxRate > 0 {
		rate = strconv.FormatInt(min(max(o.MaxRate>>10, 32), 1<<20), 10) // kilobytes
	}
	var words []string
	add := func(old, new string) {
		if major < 15 {
			words = append(words, old)
		} else if new != "" {
			words = append(words, new)
		}
	}
	label := "LABEL " + quoteLiteral(o.Label)
	add(label, label)
	add("PROGRESS", "PROGRESS")
	if o.Fast {
		add("FAST", "CHECKPOINT 'fast'")
	} else {
		add("", "CHECKPOINT 'spread'")
	}
	add("NOWAIT", "WAIT false") // the WAL comes by the slot, not by production's archive
	if rate != "" {
		add("MAX_RATE "+rate, "MAX_RATE "+rate)
	}
	add("TABLESPACE_MAP", "TABLESPACE_MAP")
	if o.SkipChecksums {
		add("NOVERIFY_CHECKSUMS", "VERIFY_CHECKSUMS false")
	}
	add("MANIFEST 'no'", "MANIFEST 'no'")
	if major < 15 {
		return "BASE_BACKUP " + strings.Join(words, " ")
	}
	return "BASE_BACKUP (" + strings.Join(words, ", ") + ")"
}

// BaseBackup begins a base backup and returns once its checkpoint is done, which with a
// spread checkpoint takes up to checkpoint_timeout * checkpoint_completion_target.
func (c *Conn) BaseBackup(ctx context.Context, o BackupOptions) (*Backup, error) {
	b := &Backup{c: c, done: c.until(ctx)}
	err := c.query(o.command(c.major))
	if err == nil {
		err = b.begin()
	}
	if err != nil {
		return nil, b.fail(err)
	}
	return b, nil
}

// begin reads the two result sets before the data: the start position and the tablespaces.
func (b *Backup) begin() error {
	set := 0
	for {
		m, err := b.c.receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
			set++
		case *pgproto3.DataRow:
			row := textRow(m)
			switch {
			case set == 1 && len(row) == 2:
				if b.Timeline, b.Start, err = parsePosition(row[1], row[0]); err != nil {
					return err
				}
			case set == 2 && len(row) == 3:
				kilobytes, _ := strconv.ParseInt(row[2], 10, 64)
				b.Tablespaces = append(b.Tablespaces, Tablespace{row[0], row[1], kilobytes << 10})
				b.Total += kilobytes << 10
			}
		case *pgproto3.CommandComplete:
			if set == 2 {
				return nil
			}
		case *pgproto3.ReadyForQuery:
			return fmt.Errorf("base backup ended before its data")
		}
	}
}

// Next goes to the next archive, skipping what is left of the present one; io.EOF after the last.
func (b *Backup) Next() (*Archive, error) {
	for b.next == nil {
		if b.err != nil {
			return nil, b.err
		}
		b.data = nil
		if err := b.step(); err != nil {
			return nil, b.fail(err)
		}
	}
	a := b.next
	b.next, b.inside, b.data = nil, true, nil
	return a, nil
}

// Read reads the tar stream.
func (a *Archive) Read(p []byte) (int, error) {
	b := a.b
	for len(b.data) == 0 {
		if b.err != nil && b.err != io.EOF {
			return 0, b.err
		}
		if !b.inside || b.next != nil || b.err != nil {
			return 0, io.EOF
		}
		if err := b.step(); err != nil {
			return 0, b.fail(err)
		}
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

// step receives one message. In 14 each archive is a COPY of its own, in the order of the
// tablespace list; since 15 one COPY holds them all, each message with a type byte.
func (b *Backup) step() error {
	m, err := b.c.receive()
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *pgproto3.CopyOutResponse:
		if b.c.major < 15 {
			if b.archive >= len(b.Tablespaces) {
				return fmt.Errorf("base backup sends more archives than tablespaces")
			}
			t := b.Tablespaces[b.archive]
			b.begun(t.OID, t.Path)
		}
	case *pgproto3.CopyData:
		if b.c.major < 15 {
			b.data = m.Data
			return nil
		}
		return b.typed(m.Data)
	case *pgproto3.CopyDone:
		b.inside = false
	case *pgproto3.DataRow:
		if row := textRow(m); len(row) == 2 {
			b.EndTimeline, b.End, err = parsePosition(row[1], row[0])
		}
	case *pgproto3.ReadyForQuery:
		if b.End == 0 {
			return fmt.Errorf("base backup gave no end position")
		}
		return io.EOF
	}
	return err
}

// typed reads one CopyData of 15 and later (basebackup_copy.c).
func (b *Backup) typed(data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("base backup sends an empty message")
	}
	switch data[0] {
	case 'n':
		parts := bytes.SplitN(data[1:], []byte{0}, 3)
		if len(parts) < 3 {
			return fmt.Errorf("base backup sends an archive without name")
		}
		oid := strings.TrimSuffix(string(parts[0]), ".tar")
		if oid == "base" {
			oid = ""
		}
		b.begun(oid, string(parts[1]))
	case 'd':
		b.data = data[1:]
	case 'm', 'p': // manifest (not asked for), progress (counted here)
	default:
		return fmt.Errorf("base backup sends an unknown message %q", data[0])
	}
	return nil
}

func (b *Backup) begun(oid, path string) {
	b.archive++
	b.inside = false
	b.next = &Archive{OID: oid, Path: path, b: b}
}

// fail remembers how the backup ended.
func (b *Backup) fail(err error) error {
	err = b.done(err)
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "XX001" { // data_corrupted
		err = fmt.Errorf("base backup: %w: %w", ErrChecksum, err)
	} else if err != io.EOF {
		err = b.c.asError("base backup", "", err)
	}
	b.err = err
	return err
}
