package pg

// START_REPLICATION: the stream of WAL, and the standby's answers to it
// (protocol chapter "Streaming Replication Protocol"; replication/walsender.c).

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"sandglass"
)

// Stream is running replication. Receive and Status may run at the same time, each in one goroutine.
type Stream struct {
	c    *Conn
	slot string
	ctx  context.Context
	done func(error) error

	write  sync.Mutex
	status [5 + 34]byte
}

// Message is one thing the server says.
type Message struct {
	// Data is WAL that begins at Start; valid until the next Receive. Empty for a keepalive.
	Data  []byte
	Start sandglass.LSN
	// ServerEnd is how far the server had got with its WAL at ServerTime, by its clock: in a
	// keepalive what it has sent, with WAL the end of what it has on disk.
	ServerEnd  sandglass.LSN
	ServerTime time.Time
	// Keepalive is set on one; Reply asks for a status at once.
	Keepalive bool
	Reply     bool
	// Next is set when the timeline has ended: the timeline to go on with, and where it begins.
	Next   sandglass.TimelineID
	NextAt sandglass.LSN
}

// StartReplication asks for WAL of a timeline from a position on. The stream ends with ctx.
// Errors carry a code: slot.missing, slot.taken, slot.lost, production.unreachable.
func (c *Conn) StartReplication(ctx context.Context, slot string, tli sandglass.TimelineID, from sandglass.LSN) (*Stream, error) {
	s := &Stream{c: c, slot: slot, ctx: ctx, done: c.until(ctx)}
	command := "START_REPLICATION "
	if slot != "" {
		command += "SLOT " + quoteIdentifier(slot) + " "
	}
	if err := c.query(fmt.Sprintf("%sPHYSICAL %s TIMELINE %d", command, from, tli)); err != nil {
		return nil, s.done(err)
	}
	for {
		m, err := c.receive()
		if err != nil {
			return nil, c.asError("start replication", slot, s.done(err))
		}
		switch m.(type) {
		case *pgproto3.CopyBothResponse:
			c.raw.stream = true
			return s, nil
		case *pgproto3.ReadyForQuery:
			return nil, s.done(fmt.Errorf("start replication: timeline %d ends at or before %s", tli, from))
		}
	}
}

// Receive waits for the next message; WAL that has come in several is given in one. A server that shuts down
// ends the stream with production.unreachable.
func (s *Stream) Receive() (Message, error) {
	for {
		m, err := s.c.receive()
		if err != nil {
			return Message{}, s.fail(err)
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			msg, err := parseMessage(m.Data)
			if err != nil {
				return Message{}, s.fail(err)
			}
			if msg.Keepalive || len(msg.Data) > 0 {
				msg = s.c.in.more(msg)
				s.c.raw.caughtUp = s.c.in.empty() && msg.ServerEnd <= msg.Start+sandglass.LSN(len(msg.Data))
				return msg, nil
			}
		case *pgproto3.CopyDone:
			return s.endOfTimeline()
		case *pgproto3.CommandComplete: // WalSndDone: the server shuts down
			return Message{}, s.fail(unreachable("receive WAL", s.c.where, errors.New("the server shuts down")))
		}
	}
}

// parseMessage reads the contents of a CopyData of the stream.
func parseMessage(b []byte) (Message, error) {
	be := binary.BigEndian
	switch {
	case len(b) >= 25 && b[0] == 'w': // XLogData: start, server's end, time
		return Message{Data: b[25:], Start: sandglass.LSN(be.Uint64(b[1:])), ServerEnd: sandglass.LSN(be.Uint64(b[9:])),
			ServerTime: Timestamp(int64(be.Uint64(b[17:])))}, nil
	case len(b) >= 18 && b[0] == 'k': // primary keepalive: end, time, reply requested
		return Message{Keepalive: true, ServerEnd: sandglass.LSN(be.Uint64(b[1:])),
			ServerTime: Timestamp(int64(be.Uint64(b[9:]))), Reply: b[17] != 0}, nil
	}
	return Message{}, fmt.Errorf("receive WAL: unknown message of %d bytes", len(b))
}

// more adds the WAL of the messages that are here already and go on from m. The payloads lie one after the other in one
// buffer, so each is moved down to the end of the one before.
func (in *incoming) more(m Message) Message {
	for len(m.Data) > 0 {
		kind, length, ok := in.whole()
		if !ok || kind != 'd' {
			break
		}
		next, err := parseMessage(in.buf[in.from+5 : in.from+length])
		if err != nil || len(next.Data) == 0 || next.Start != m.Start+sandglass.LSN(len(m.Data)) {
			break
		}
		in.take(length)
		m.Data = append(m.Data, next.Data...)
		m.ServerEnd, m.ServerTime = next.ServerEnd, next.ServerTime
	}
	return m
}

// endOfTimeline answers the server's CopyDone and reads which timeline is next. The
// connection then takes commands again.
func (s *Stream) endOfTimeline() (Message, error) {
	s.c.raw.stream, s.c.raw.caughtUp = false, false
	s.write.Lock()
	err := s.c.send(&pgproto3.CopyDone{})
	s.write.Unlock()
	if err != nil {
		return Message{}, s.fail(err)
	}
	var end Message
	for {
		m, err := s.c.receive()
		if err != nil {
			return Message{}, s.fail(err)
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			row := textRow(m)
			if len(row) != 2 {
				return Message{}, s.fail(fmt.Errorf("end of timeline: unexpected answer %q", row))
			}
			if end.Next, end.NextAt, err = parsePosition(row[0], row[1]); err != nil {
				return Message{}, s.fail(fmt.Errorf("end of timeline: %w", err))
			}
		case *pgproto3.ReadyForQuery:
			_ = s.done(nil)
			if end.Next == 0 {
				return Message{}, unreachable("receive WAL", s.c.where, errors.New("the server ended the stream"))
			}
			return end, nil
		}
	}
}

// Status tells the server how far WAL was written and flushed here; reply asks it for a
// keepalive. Nothing is ever applied here, and so reported.
func (s *Stream) Status(written, flushed sandglass.LSN, reply bool) error {
	s.write.Lock()
	defer s.write.Unlock()
	be := binary.BigEndian
	b := &s.status
	b[0] = 'd' // CopyData
	be.PutUint32(b[1:], uint32(len(b)-1))
	b[5] = 'r' // standby status update
	be.PutUint64(b[6:], uint64(written))
	be.PutUint64(b[14:], uint64(flushed))
	be.PutUint64(b[22:], 0)
	be.PutUint64(b[30:], uint64(time.Now().UnixMicro()-postgresEpoch.UnixMicro()))
	b[38] = 0
	if reply {
		b[38] = 1
	}
	if _, err := s.c.conn.Write(b[:]); err != nil {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		return lostError(s.c.where, err)
	}
	return nil
}

func (s *Stream) fail(err error) error {
	err = s.done(err)
	if _, ok := errors.AsType[*pgconn.PgError](err); ok {
		return s.c.asError("receive WAL", s.slot, err)
	}
	return err
}
