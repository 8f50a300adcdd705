// Package walserve answers PostgreSQL's restore_command: a server in the worker, over a Unix socket in
// the volume, and the tiny client that PostgreSQL calls from inside its seal.
package walserve

import (
	"context"
	"log/slog"
)

// Source gives WAL segments and timeline history files by name. It writes the file dst anew; a segment
// may be shorter than a whole one. found false with no error says the name is certainly absent.
type Source interface {
	Fetch(ctx context.Context, name, dst string) (found bool, err error)
}

// Options of a Server.
type Options struct {
	Socket      string // path of the Unix socket
	Dir         string // folder of prefetched files, on the file system of the data folder
	SegmentSize int64
	UID, GID    int    // the server's owner, who alone may ask
	Prefetch    int    // how many segments ahead; default 4
	Last        string // name of the last segment that is needed; none is prefetched beyond it
	Log         *slog.Logger
}

// Server answers restore_command.
type Server struct{}

// Listen begins to answer.
func Listen(ctx context.Context, source Source, o Options) (*Server, error) { return nil, nil }

// Close ends it.
func (s *Server) Close() error { return nil }

// RestoreCommand is the restore_command that asks the server at socket by way of the sandglass binary.
func RestoreCommand(binary, socket string) string { return "" }

// ClientMain is the body of the hidden command wal-get: SOCKET %f %p.
func ClientMain(args []string) int { return 255 }
