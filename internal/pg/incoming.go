package pg

// What the server sends, read in large pieces: a busy server sends a message for each commit, and
// neither a system call nor a wake-up of ours should be its price.

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	readAhead   = 256 << 10
	gatherEvery = 50 * time.Millisecond // between two looks at a stream that has caught up
	maxMessage  = 16 << 20              // a stream's have 128 KiB of WAL at most (MAX_SEND_SIZE in replication/walsender.c)
)

// gathering is a connection below TLS. When all that the server had has come, it lets the messages of gatherEvery
// gather, which the socket holds meanwhile.
type gathering struct {
	net.Conn
	ahead    *bufio.Reader // for TLS, which reads a stream in small pieces; nil as long as it does not
	stream   bool
	caughtUp bool
	last     time.Time // that something came
}

// gather makes every connection of a configuration a gathering one; the last one made is the one in use.
func gather(cfg *pgconn.Config) (last func() *gathering) {
	var g *gathering
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		g = &gathering{Conn: conn}
		return g, nil
	}
	return func() *gathering { return g }
}

// fill reads from the socket.
type fill struct{ *gathering }

func (f fill) Read(p []byte) (int, error) {
	if f.caughtUp {
		time.Sleep(gatherEvery - time.Since(f.last)) // not at all, if nothing came for longer than that
		f.caughtUp = false
	}
	n, err := f.Conn.Read(p)
	f.last = time.Now()
	return n, err
}

func (g *gathering) Read(p []byte) (int, error) {
	switch {
	case g.ahead != nil && g.ahead.Buffered() > 0:
	case !g.stream || len(p) >= readAhead/2:
		return fill{g}.Read(p)
	case g.ahead == nil:
		g.ahead = bufio.NewReaderSize(fill{g}, readAhead)
	}
	return g.ahead.Read(p)
}

// incoming cuts what a connection brings into messages.
type incoming struct {
	r    io.Reader
	buf  []byte
	from int // of what is in buf and not yet taken,
	to   int // and its end
	data pgproto3.CopyData
}

func newIncoming(r io.Reader) *incoming { return &incoming{r: r, buf: make([]byte, readAhead)} }

func (in *incoming) empty() bool { return in.from == in.to }

// whole gives the kind and length of the next message, header included, if all of it is here.
func (in *incoming) whole() (kind byte, length int, ok bool) {
	if in.to-in.from < 5 {
		return 0, 0, false
	}
	length = 1 + int(binary.BigEndian.Uint32(in.buf[in.from+1:]))
	return in.buf[in.from], length, length >= 5 && in.to-in.from >= length
}

// take takes a message that is whole. Its body is valid until the next read; what follows it in the buffer may be
// overwritten once that has been taken too.
func (in *incoming) take(length int) (body []byte) {
	body = in.buf[in.from+5 : in.from+length]
	in.from += length
	return body
}

// next waits for a message and takes it.
func (in *incoming) next() (kind byte, body []byte, err error) {
	for {
		kind, length, ok := in.whole()
		switch {
		case ok:
			return kind, in.take(length), nil
		case length != 0 && (length < 5 || length > maxMessage):
			return 0, nil, fmt.Errorf("a message of %d bytes", length)
		case in.from > 0:
			in.to = copy(in.buf, in.buf[in.from:in.to])
			in.from = 0
		}
		if length > len(in.buf) {
			in.buf = append(in.buf, make([]byte, length-len(in.buf))...)
		}
		n, err := in.r.Read(in.buf[in.to:])
		in.to += n
		if n == 0 && err != nil {
			return 0, nil, err
		}
	}
}

// receive waits for a message of those that answer a replication command.
func (in *incoming) receive() (pgproto3.BackendMessage, error) {
	var m pgproto3.BackendMessage
	kind, body, err := in.next()
	for err == nil && (kind == 'N' || kind == 'A' || kind == 'S') { // NoticeResponse, NotificationResponse, ParameterStatus
		kind, body, err = in.next()
	}
	if err != nil {
		return nil, err
	}
	switch kind {
	case 'd':
		m = &in.data
	case 'c':
		m = &pgproto3.CopyDone{}
	case 'C':
		m = &pgproto3.CommandComplete{}
	case 'D':
		m = &pgproto3.DataRow{}
	case 'E':
		m = &pgproto3.ErrorResponse{}
	case 'H':
		m = &pgproto3.CopyOutResponse{}
	case 'T':
		m = &pgproto3.RowDescription{}
	case 'W':
		m = &pgproto3.CopyBothResponse{}
	case 'Z':
		m = &pgproto3.ReadyForQuery{}
	default:
		return nil, fmt.Errorf("a message of unknown kind %q", kind)
	}
	if err := m.Decode(body); err != nil {
		return nil, fmt.Errorf("a message of kind %q: %w", kind, err)
	}
	return m, nil
}
