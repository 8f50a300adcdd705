package web

// Listening: the Unix socket always, TCP when asked for; limits; a graceful end.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sandglass"
)

// Config says where the API listens and for what it speaks.
type Config struct {
	Socket    string // path of the Unix socket; made with mode 0600
	Listen    string // host:port for TCP; "" listens on the socket only
	TokenFile string // lines of NAME TOKEN, of mode 0600; needed with Listen
	Version   string
	Parts     Parts
	Log       *slog.Logger
}

// Server is the listening API.
type Server struct {
	config    Config
	http      *http.Server
	listeners []net.Listener
	stopping  context.CancelFunc
	tcp       net.Addr
}

// The limits of a request, and how long requests may go on once the server stops.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	answerTimeout = 3 * time.Minute
	graceful      = 10 * time.Second
)

// Listen opens the socket, and TCP when asked for; nothing is answered before Serve. Another control
// plane on the same socket, and TCP without a token, are refused.
func Listen(c Config) (*Server, error) {
	stopping, stop := context.WithCancel(context.Background())
	s := &Server{config: c, stopping: stop}
	mux := newAPI(stopping, c.Parts, c.Version, c.Log)
	var tokens tokens
	if c.Listen != "" {
		var err error
		if tokens, err = readTokens(c.TokenFile); err != nil {
			stop()
			return nil, err
		}
	}
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, &sandglass.Error{Code: sandglass.CodeUnauthorized, Message: "A page of another site may not change anything here.", Remedy: "Use the command line, or a page of this control plane."})
	}))
	s.http = &http.Server{
		Handler:           sameOrigin.Handler(authenticate(tokens, readBody(mux), c.Log)),
		ConnContext:       withPeer,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      answerTimeout, // streams give themselves more
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	if err := s.listen(); err != nil {
		stop()
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *Server) listen() error {
	l, err := listenUnix(s.config.Socket)
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, l)
	if s.config.Listen == "" {
		return nil
	}
	t, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return &sandglass.Error{Code: sandglass.CodeConfig, Op: "listen", Message: "The API can't listen on " + s.config.Listen + ".",
			Remedy: "Choose another address for listen in config.yaml, or free this one.", Err: err}
	}
	s.tcp = t.Addr()
	s.listeners = append(s.listeners, t)
	if a, ok := s.tcp.(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		s.config.Log.Warn("the API listens beyond this host without encryption; put a TLS proxy in front of it", "address", s.tcp)
	}
	return nil
}

// Address is where TCP listens, "" when it does not.
func (s *Server) Address() string {
	if s.tcp == nil {
		return ""
	}
	return s.tcp.String()
}

// Serve answers until ctx ends, then lets running requests finish for some seconds. Long polls and streams end at once.
func (s *Server) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		g.Go(func() error {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve API on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		s.stopping()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
		defer cancel()
		if err := s.http.Shutdown(last); err != nil {
			s.config.Log.Warn("requests were cut off", "error", err)
		}
		return s.close()
	})
	return g.Wait()
}

// close closes what is open and removes the socket.
func (s *Server) close() error {
	var errs []error
	if err := s.http.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		errs = append(errs, err)
	}
	for _, l := range s.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if len(s.listeners) > 0 {
		if err := os.Remove(s.config.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listenUnix makes the socket with mode 0600 from its first instant: in a private folder, then moved into its
// place, where it also replaces what a killed server left.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > len(unix.RawSockaddrUnix{}.Path)-1 {
		return nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "listen", Message: "The path of the API's socket, " + path + ", is longer than a Unix socket's may be.",
			Remedy: "Use a state folder with a shorter path."}
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, &sandglass.Error{Code: sandglass.CodeServeRunning, Op: "listen", Message: "Another `sandglass serve` already runs on " + path + ".",
			Remedy: "Use it, or stop it first."}
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("make folder for the API's socket: %w", err)
	}
	defer os.RemoveAll(private)
	// The private name may be too long where the final one just fits: bind through the open folder.
	dir, err := os.Open(private)
	if err != nil {
		return nil, fmt.Errorf("open folder for the API's socket: %w", err)
	}
	defer dir.Close()
	address := fmt.Sprintf("/proc/self/fd/%d/s", dir.Fd())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on the API's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(address, 0o600), os.Rename(filepath.Join(private, "s"), path)); err != nil {
		return nil, errors.Join(fmt.Errorf("place the API's socket: %w", err), l.Close())
	}
	return l, nil
}

// readBody reads a request's body whole before its handler runs, bounded in size and time: so a slow client
// holds no handler, and no read deadline is left that would end a long answer's context.
func readBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
			writeProblem(w, fmt.Errorf("bound the reading of a request: %w", err))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeProblem(w, &sandglass.Error{Code: sandglass.CodeUsage, Op: "read request", Message: "The request's body is too large, or did not arrive.",
				Remedy: "Send at most 1 MiB.", Err: err})
			return
		}
		if err := control.SetReadDeadline(time.Time{}); err != nil {
			writeProblem(w, fmt.Errorf("bound the reading of a request: %w", err))
			return
		}
		r.Body = &readAlready{rest: body}
		next.ServeHTTP(w, r)
	})
}

// readAlready is a body that is in memory.
type readAlready struct{ rest []byte }

func (b *readAlready) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *readAlready) Close() error { return nil }
