package pg

// A physical replication connection, and the commands that answer with a few rows.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"sandglass"
)

// Target says which server to connect to and how.
type Target struct {
	Conninfo    string // libpq connection string or URL
	Password    string // overrides the one in Conninfo, if any
	Application string // application_name
}

// connectTimeout bounds one attempt to reach a server, unless the connection string says otherwise.
const connectTimeout = 10 * time.Second

// config reads the connection string.
func (t Target) config() (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(t.Conninfo)
	if err != nil {
		// pgconn hides the password in its text, but the sentence shows none of the string at all
		return nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "read connection string", Err: err,
			Message: "The connection string can't be read.",
			Remedy:  `Write it as "host=... port=... user=... dbname=..." or as a postgres:// URL.`}
	}
	if t.Password != "" {
		cfg.Password = t.Password
	}
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > time.Minute {
		cfg.ConnectTimeout = connectTimeout
	}
	if t.Application != "" {
		cfg.RuntimeParams["application_name"] = t.Application
	}
	return cfg, nil
}

// String names the server without any secret, for messages: "user@host:port".
func (t Target) String() string {
	cfg, err := t.config()
	if err != nil {
		return "(unreadable connection string)"
	}
	return describe(cfg)
}

func describe(cfg *pgconn.Config) string {
	return cfg.User + "@" + net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
}

// Conn is a physical replication connection. It runs one command at a time. A context
// that ends while a command runs leaves the connection unusable.
type Conn struct {
	conn  net.Conn
	raw   *gathering // conn itself, or what is below its TLS
	in    *incoming
	where string // for messages
	major int
}

// Connect opens a physical replication connection. Errors carry a code: production.unreachable,
// production.wrong_password, production.missing_grants, production.no_wal_senders,
// production.major_unsupported, config.invalid.
func Connect(ctx context.Context, t Target) (*Conn, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "true"
	raw := gather(cfg)
	pc, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, connectError("connect for replication", describe(cfg), err)
	}
	h, err := pc.Hijack() // the replication protocol is spoken here, not by pgconn
	if err != nil {
		_ = pc.Close(ctx)
		return nil, fmt.Errorf("take over connection: %w", err)
	}
	c := &Conn{conn: h.Conn, raw: raw(), in: newIncoming(h.Conn), where: describe(cfg)}
	if h.Frontend.ReadBufferLen() > 0 { // a change of a setting, say; it comes rarely between two commands
		c.Abort()
		return nil, unreachable("connect for replication", c.where, errors.New("the server said something unasked"))
	}
	c.major, err = parseMajor(h.ParameterStatuses["server_version"])
	if err == nil && !Supported(c.major) {
		err = majorError(c.where, c.major)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// parseMajor reads server_version: "15.18 (Debian ...)", "18beta1", "17devel".
func parseMajor(version string) (int, error) {
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	n, err := strconv.Atoi(version[:digits])
	if err != nil {
		return 0, fmt.Errorf("read server version %q: %w", version, err)
	}
	return n, nil
}

func majorError(where string, major int) error {
	return &sandglass.Error{Code: sandglass.CodeProductionMajor, Op: "connect",
		Message: fmt.Sprintf("The server %s is PostgreSQL %d, which Sandglass does not know.", where, major),
		Remedy:  fmt.Sprintf("Record a server of PostgreSQL %d to %d.", MinMajor, MaxMajor)}
}

// Major is the server's major version.
func (c *Conn) Major() int { return c.major }

// Close ends the connection, politely if the server still listens.
func (c *Conn) Close() error {
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	_ = c.send(&pgproto3.Terminate{})
	return c.conn.Close()
}

// Abort closes the connection at once. It may be called while another goroutine uses it.
func (c *Conn) Abort() { _ = c.conn.Close() }

// until makes reads and writes end with the context; the returned function gives the
// context's error precedence over what the connection then says.
func (c *Conn) until(ctx context.Context) func(error) error {
	_ = c.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	return func(err error) error {
		stop()
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
}

// send sends one message.
func (c *Conn) send(m pgproto3.FrontendMessage) error {
	b, err := m.Encode(nil)
	if err == nil {
		_, err = c.conn.Write(b)
	}
	if err != nil {
		return lostError(c.where, err)
	}
	return nil
}

// query sends one command of the simple query protocol.
func (c *Conn) query(command string) error { return c.send(&pgproto3.Query{String: command}) }

// receive reads one message, skipping notices. A server's error is returned as *pgconn.PgError,
// with the connection ready for the next command unless the error was fatal.
func (c *Conn) receive() (pgproto3.BackendMessage, error) {
	m, err := c.in.receive()
	if err != nil {
		return nil, lostError(c.where, err)
	}
	if m, ok := m.(*pgproto3.ErrorResponse); ok {
		return nil, c.drain(pgconn.ErrorResponseToPgError(m))
	}
	return m, nil
}

// drain reads on to the end of a failed command, and returns its error.
func (c *Conn) drain(failed *pgconn.PgError) error {
	for failed.Severity != "FATAL" && failed.SeverityUnlocalized != "FATAL" {
		m, err := c.in.receive()
		if err != nil {
			break
		}
		if _, ok := m.(*pgproto3.ReadyForQuery); ok {
			break
		}
	}
	return failed
}

// command runs a command and gives its rows as text; NULL is "".
func (c *Conn) command(ctx context.Context, command string) (rows [][]string, err error) {
	done := c.until(ctx)
	defer func() { err = done(err) }()
	if err := c.query(command); err != nil {
		return nil, err
	}
	for {
		m, err := c.receive()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			rows = append(rows, textRow(m))
		case *pgproto3.ReadyForQuery:
			return rows, nil
		}
	}
}

func textRow(m *pgproto3.DataRow) []string {
	row := make([]string, len(m.Values))
	for i, v := range m.Values {
		row[i] = string(v)
	}
	return row
}

// System is the answer of IDENTIFY_SYSTEM.
type System struct {
	Identifier uint64
	Timeline   sandglass.TimelineID
	Flushed    sandglass.LSN // the end of the WAL that the server has on disk
}

// IdentifySystem asks who the server is and where its WAL ends.
func (c *Conn) IdentifySystem(ctx context.Context) (System, error) {
	rows, err := c.command(ctx, "IDENTIFY_SYSTEM")
	if err != nil {
		return System{}, c.asError("identify system", "", err)
	}
	if len(rows) != 1 || len(rows[0]) < 3 {
		return System{}, fmt.Errorf("identify system: unexpected answer %q", rows)
	}
	var s System
	if s.Identifier, err = strconv.ParseUint(rows[0][0], 10, 64); err != nil {
		return System{}, fmt.Errorf("identify system: %w", err)
	}
	if s.Timeline, s.Flushed, err = parsePosition(rows[0][1], rows[0][2]); err != nil {
		return System{}, fmt.Errorf("identify system: %w", err)
	}
	return s, nil
}

func parsePosition(tli, lsn string) (sandglass.TimelineID, sandglass.LSN, error) {
	n, err := strconv.ParseUint(tli, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("timeline %q: %w", tli, err)
	}
	at, err := sandglass.ParseLSN(lsn)
	return sandglass.TimelineID(n), at, err
}

// Show gives the value of a setting, as SHOW prints it.
func (c *Conn) Show(ctx context.Context, name string) (string, error) {
	rows, err := c.command(ctx, "SHOW "+quoteIdentifier(name))
	if err != nil {
		return "", c.asError("show "+name, "", err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", fmt.Errorf("show %s: unexpected answer %q", name, rows)
	}
	return rows[0][0], nil
}

// SegmentSize asks for wal_segment_size, in bytes.
func (c *Conn) SegmentSize(ctx context.Context) (int64, error) {
	text, err := c.Show(ctx, "wal_segment_size")
	if err != nil {
		return 0, err
	}
	digits := strings.TrimRight(text, "kMGB")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read wal_segment_size %q: %w", text, err)
	}
	unit, ok := map[string]int64{"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}[text[len(digits):]]
	if !ok {
		return 0, fmt.Errorf("read wal_segment_size %q: unknown unit", text)
	}
	return n * unit, nil
}

// TimelineHistory fetches a timeline's history file, as it lies in pg_wal; production.no_history_file if it is gone
// from there. Timeline 1 has none.
func (c *Conn) TimelineHistory(ctx context.Context, tli sandglass.TimelineID) (string, error) {
	rows, err := c.command(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli))
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "58P01" { // undefined_file
		file := fmt.Sprintf("%08X.history", uint32(tli))
		return "", &sandglass.Error{Code: CodeHistoryFile, Op: "fetch timeline history", Err: err,
			Message: fmt.Sprintf("The server %s has lost the history file of its timeline %d.", c.where, tli),
			Remedy:  fmt.Sprintf("Put %s back into pg_wal on the server, from its WAL archive or a standby; recording goes on by itself then.", file)}
	}
	if err != nil {
		return "", c.asError("fetch timeline history", "", err)
	}
	if len(rows) != 1 || len(rows[0]) != 2 {
		return "", fmt.Errorf("fetch timeline history: unexpected answer")
	}
	return rows[0][1], nil
}

// quoteIdentifier and quoteLiteral quote as repl_scanner.l reads it (standard strings).
func quoteIdentifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteLiteral(s string) string    { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
