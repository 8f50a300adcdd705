// Package walserve answers PostgreSQL's restore_command: a server in the worker, over a Unix socket in
// the volume, and the tiny client that PostgreSQL calls from inside its seal.
//
// The client asks for one file by name, a line of text; the answer is one line: "found PATH", "absent" or "error
// TEXT". PATH is a file in a folder both can see, which the client renames to where PostgreSQL wants it: the file's
// bytes never pass through the socket.
package walserve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sandglass"
)

// Source gives WAL segments and timeline history files by name. It writes the file dst anew; a segment
// may be shorter than a whole one. found false with no error says the name is certainly absent.
// It is called for several names at once.
type Source interface {
	Fetch(ctx context.Context, name, dst string) (found bool, err error)
}

// DefaultPrefetch is how many segments are fetched ahead.
const DefaultPrefetch = 4

// Options of a Server.
type Options struct {
	Socket      string // path of the Unix socket; its folder keeps others out
	Dir         string // folder of fetched files, on the file system of the data folder, visible in the seal
	SegmentSize int64  // bytes; default 16 MiB
	UID, GID    int    // the PostgreSQL server's user, who alone may ask, besides ourselves and root
	Prefetch    int    // how many segments ahead; default DefaultPrefetch, negative: none
	Last        string // name of the last segment that replay needs: none is prefetched beyond it
	Log         *slog.Logger
}

// Server answers restore_command.
type Server struct {
	o        Options
	source   Source
	listener *net.UnixListener
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup

	mu      sync.Mutex
	fetches map[string]*fetch // under way, or done and not yet asked for
	latest  string            // segment last asked for
}

// fetch is one file on its way to the folder.
type fetch struct {
	name  string
	path  string
	done  chan struct{}
	found bool
	err   error
}

var (
	segmentName = regexp.MustCompile(`^[0-9A-F]{24}$`)
	historyName = regexp.MustCompile(`^[0-9A-F]{8}\.history$`)
)

// Listen begins to answer, until Close. A socket and files left by an earlier life are replaced.
func Listen(source Source, o Options) (*Server, error) {
	if o.SegmentSize == 0 {
		o.SegmentSize = sandglass.DefaultSegmentSize
	}
	if o.Prefetch == 0 {
		o.Prefetch = DefaultPrefetch
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, fmt.Errorf("listen for restore_command: %w", err)
	}
	if err := errors.Join(os.MkdirAll(o.Dir, 0o700), os.Lchown(o.Dir, o.UID, o.GID)); err != nil {
		return nil, fmt.Errorf("listen for restore_command: %w", err)
	}
	// A name of its own first: whoever sees the socket must find it ready and private.
	tmp := o.Socket + ".new"
	os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for restore_command: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Lchown(tmp, o.UID, o.GID), os.Rename(tmp, o.Socket)); err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("listen for restore_command: %w", err)
	}
	s := &Server{o: o, source: source, listener: l, fetches: map[string]*fetch{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.Go(s.accept)
	return s, nil
}

// Close ends the server, waits for what it has under way, and removes its socket and files.
func (s *Server) Close() error {
	s.cancel()
	err := s.listener.Close()
	s.work.Wait()
	if e := os.Remove(s.o.Socket); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, os.RemoveAll(s.o.Dir))
}

func (s *Server) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, say
			s.o.Log.Warn("restore_command: accept", "error", err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		s.work.Go(func() {
			stop := context.AfterFunc(s.ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			if err := s.answer(c); err != nil && s.ctx.Err() == nil {
				s.o.Log.Warn("restore_command", "error", err)
			}
		})
	}
}

// answer serves one connection: one question.
func (s *Server) answer(c *net.UnixConn) error {
	if err := s.admit(c); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the question: %w", err)
	}
	name := strings.TrimSuffix(line, "\n")
	began := time.Now()
	f, err := s.get(name)
	if err != nil && s.ctx.Err() != nil {
		return nil // no answer: the client asks whoever comes after us
	}
	reply := "absent"
	switch {
	case err != nil:
		reply = "error " + strings.ReplaceAll(err.Error(), "\n", "; ")
		s.o.Log.Error("restore_command", "name", name, "error", err)
	case f.found:
		reply = "found " + f.path
	}
	s.o.Log.Debug("restore_command", "name", name, "reply", reply, "waited", time.Since(began))
	if _, err := io.WriteString(c, reply+"\n"); err != nil {
		return fmt.Errorf("answer for %s: %w", name, err)
	}
	return nil
}

// admit lets in the server's user, ourselves and root.
func (s *Server) admit(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if uid := int(cred.Uid); uid != s.o.UID && uid != os.Geteuid() && uid != 0 {
		return fmt.Errorf("user %d may not ask", uid)
	}
	return nil
}

// get gives a file that was asked for, and begins to fetch those that will be next.
func (s *Server) get(name string) (*fetch, error) {
	if !segmentName.MatchString(name) && !historyName.MatchString(name) {
		return nil, fmt.Errorf("%q is not the name of a segment or a history file", name)
	}
	f, ahead := s.ask(name)
	if err := s.wait(f); err != nil {
		return nil, err
	}
	if ahead && (f.err != nil || !f.found) { // fetched in vain when nobody asked; now it counts
		s.drop(f)
		f, _ = s.ask(name)
		if err := s.wait(f); err != nil {
			return nil, err
		}
	}
	s.drop(f) // the file is the client's now; if it asks again, it is fetched again
	if f.err == nil && f.found {
		s.ahead(name)
	}
	return f, f.err
}

// ask begins to fetch what is asked for, or finds it fetched ahead.
func (s *Server) ask(name string) (f *fetch, ahead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ahead = s.fetches[name]
	if segmentName.MatchString(name) {
		s.latest = name
		s.prune()
	}
	return s.begin(name), ahead
}

func (s *Server) wait(f *fetch) error {
	select {
	case <-f.done:
		return nil
	case <-s.ctx.Done():
		return errors.New("the worker is shutting down")
	}
}

// drop forgets a fetch.
func (s *Server) drop(f *fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetches[f.name] == f {
		delete(s.fetches, f.name)
	}
}

// begin starts to fetch a file, unless it is on its way. The caller holds mu.
func (s *Server) begin(name string) *fetch {
	if f, ok := s.fetches[name]; ok {
		return f
	}
	f := &fetch{name: name, path: filepath.Join(s.o.Dir, name), done: make(chan struct{})}
	s.fetches[name] = f
	s.work.Go(func() {
		defer close(f.done)
		if f.found, f.err = s.fetch(name, f.path); f.err != nil || !f.found {
			os.Remove(f.path)
		}
	})
	return f
}

// fetch brings a file to the folder, whole, and the server's own.
func (s *Server) fetch(name, path string) (bool, error) {
	// The folder is the server's user's: a link of its is removed or refused, never followed.
	tmp := path + ".part"
	os.Remove(tmp)
	found, err := s.source.Fetch(s.ctx, name, tmp)
	if err != nil || !found {
		os.Remove(tmp)
		return false, err
	}
	if segmentName.MatchString(name) {
		// PostgreSQL takes only whole segments; zeroes are where WAL ends.
		info, err := os.Stat(tmp)
		if err != nil {
			return false, err
		}
		if info.Size() > s.o.SegmentSize {
			return false, fmt.Errorf("segment %s has %d bytes, more than %d", name, info.Size(), s.o.SegmentSize)
		}
		if err := os.Truncate(tmp, s.o.SegmentSize); err != nil {
			return false, err
		}
	}
	return true, errors.Join(os.Lchown(tmp, s.o.UID, s.o.GID), os.Rename(tmp, path))
}

// ahead begins to fetch the segments after one.
func (s *Server) ahead(name string) {
	tli, seg, err := sandglass.ParseSegmentName(name, s.o.SegmentSize)
	if err != nil {
		return // a history file
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest != name || s.ctx.Err() != nil {
		return
	}
	for i := range s.o.Prefetch {
		next := sandglass.SegmentName(tli, seg+1+sandglass.SegmentNo(i), s.o.SegmentSize)
		if s.o.Last != "" && position(next) > position(s.o.Last) {
			return
		}
		s.begin(next)
	}
}

// position is the part of a segment's name that grows along the log, whatever the timeline.
func position(name string) string { return name[8:] }

// prune lets go of fetched segments that are no longer ahead. The caller holds mu.
func (s *Server) prune() {
	for name, f := range s.fetches {
		select {
		case <-f.done:
		default:
			continue
		}
		if segmentName.MatchString(name) && (position(name) < position(s.latest) || name[:8] != s.latest[:8]) {
			delete(s.fetches, name)
			os.Remove(f.path)
		}
	}
}
