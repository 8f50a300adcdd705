// Package systest runs the real Sandglass for the end-to-end tests and the benchmarks: the built
// binary, `serve` on a state folder of its own, and the public client. It only does what a
// person could do.
package systest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/client"
	"sandglass/internal/pgtest"
)

// System is one installation of Sandglass in a folder.
type System struct {
	Dir    string
	Binary string
	Env    []string // of `serve`, besides our own
	Client *client.Client

	productions map[string]*pgtest.Cluster // by the names under which they are recorded
	serve       *exec.Cmd
	exited      chan struct{}
}

// Build builds the binary, with build tags, into dir.
func Build(ctx context.Context, dir string, tags ...string) (string, error) {
	binary := filepath.Join(dir, "sandglass")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", strings.Join(tags, ","), "-o", binary, "sandglass/cmd/sandglass")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sandglass: %w\n%s", err, out)
	}
	return binary, nil
}

// New makes an installation that is gone at the test's end, with all its processes; `serve` does not run yet.
func New(t pgtest.TB, binary string) *System {
	t.Helper()
	s, err := Make(t.Context(), binary)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of serve:\n%s", s.Log(8000))
		}
		if err := s.Remove(); err != nil {
			t.Fatalf("%v", err)
		}
	})
	return s
}

// Make makes an installation; the caller owns it, see Remove.
func Make(ctx context.Context, binary string) (*System, error) {
	dir, err := os.MkdirTemp("/tmp", "sg")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	s := &System{Dir: dir, Binary: binary, productions: map[string]*pgtest.Cluster{}}
	if s.Client, err = client.New(client.Options{Socket: filepath.Join(s.State(), "api.sock")}); err != nil {
		return nil, err
	}
	if r := s.Run(ctx, "init", "--repository", s.Repository()); r.Exit != 0 {
		return nil, errors.Join(fmt.Errorf("init: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr), os.RemoveAll(dir))
	}
	if bin := os.Getenv("SANDGLASS_PG_BIN"); bin != "" { // where pgtest finds other majors, serve does too
		if err := s.configure(fmt.Sprintf("\nbinaries:\n  - %q\n", bin)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return s, nil
}

// configure adds lines to config.yaml.
func (s *System) configure(lines string) error {
	f, err := os.OpenFile(filepath.Join(s.State(), "config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(lines)
	return errors.Join(err, f.Close())
}

// State is the state folder, Repository the repository's.
func (s *System) State() string { return filepath.Join(s.Dir, "state") }

// Repository is the folder of the repository.
func (s *System) Repository() string { return filepath.Join(s.Dir, "repository") }

// Log is the end of what `serve` wrote.
func (s *System) Log(n int) string {
	b, err := os.ReadFile(filepath.Join(s.Dir, "serve.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// Serve starts `serve` with further environment variables and waits until it answers.
func (s *System) Serve(ctx context.Context, env ...string) error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "serve.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.Binary, "serve")
	cmd.Env = append(append(s.environ(), s.Env...), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.serve, s.exited = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(s.exited)
	}()
	return s.Await(ctx, time.Minute, "serve to answer", func() (bool, error) {
		_, err := s.Client.Environments(ctx)
		return err == nil, nil
	})
}

// Exited is closed once `serve` has ended.
func (s *System) Exited() <-chan struct{} { return s.exited }

// PID is that of `serve`.
func (s *System) PID() int { return s.serve.Process.Pid }

// Stop ends `serve` as a person does, Kill as SIGKILL does.
func (s *System) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends `serve` at this instant.
func (s *System) Kill() error { return s.end(syscall.SIGKILL) }

func (s *System) end(how syscall.Signal) error {
	if s.serve == nil {
		return nil
	}
	if err := s.serve.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		s.serve.Process.Signal(syscall.SIGQUIT) // its goroutines go to the log
		<-s.exited
		return errors.New("serve did not end within a minute")
	}
	s.serve = nil
	return nil
}

// Remove ends everything and removes the folder.
func (s *System) Remove() error {
	s.Client.Close()
	err := s.Stop()
	return errors.Join(err, pgtest.EndAll(s.Dir), os.RemoveAll(s.Dir))
}

func (s *System) environ() []string {
	return append(os.Environ(), "SANDGLASS_STATE="+s.State(), "NO_COLOR=1")
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Exit           int
}

// Run runs a sandglass command.
func (s *System) Run(ctx context.Context, args ...string) Result {
	cmd := exec.CommandContext(ctx, s.Binary, args...)
	cmd.Env = s.environ()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	if err != nil && cmd.ProcessState == nil {
		r.Stderr, r.Exit = err.Error(), -1
	}
	return r
}

// Await asks until it is so.
func (s *System) Await(ctx context.Context, patience time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := so()
		if ok {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited in vain for %s", what), last)
		case <-s.exited:
			return fmt.Errorf("waited for %s, but serve ended:\n%s", what, s.Log(2000))
		case <-tick.C:
		}
	}
}

// Record declares a production cluster, as the environment name, and waits for its first image.
func (s *System) Record(ctx context.Context, name string, c *pgtest.Cluster, edit func(*sandglass.Environment)) error {
	s.productions[name] = c
	const password = "known-to-the-recorder"
	conninfo, err := c.RecorderRole(ctx, password)
	if err != nil && pgtest.SQLState(err) != "42710" { // it is there already
		return err
	}
	file := filepath.Join(s.Dir, name+".password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	e := sandglass.Environment{Name: name, Kind: sandglass.Production,
		Recording: &sandglass.Recording{Connection: conninfo, PasswordFile: file, MaxRate: -1, FastCheckpoint: true}}
	if edit != nil {
		edit(&e)
	}
	if _, err := s.Client.Apply(ctx, e); err != nil {
		return err
	}
	if _, err := s.Client.StartRecording(ctx, name, nil); err != nil {
		return err
	}
	return s.AwaitImages(ctx, name, 1)
}

// AwaitRecorded waits until an environment's recorder streams and holds all that its server has written by now.
func (s *System) AwaitRecorded(ctx context.Context, name string) error {
	written, err := s.written(ctx, name)
	if err != nil {
		return err
	}
	return s.Await(ctx, 2*time.Minute, name+" to be recorded up to "+written.String(), func() (bool, error) {
		e, err := s.Client.Environment(ctx, name)
		if err != nil || e.Recorder == nil {
			return false, err
		}
		r := e.Recorder
		if r.LastError != nil {
			err = r.LastError
		}
		return r.State == sandglass.RecorderStreaming && r.ServerLSN > 0 && r.DurableLSN >= max(r.ServerLSN, written), err
	})
}

// written is the end of the WAL that an environment's server has made durable; 0 for a server that nobody
// here has access to but its recorder.
func (s *System) written(ctx context.Context, name string) (sandglass.LSN, error) {
	const flushed = "SELECT pg_current_wal_flush_lsn()"
	e, err := s.Client.Environment(ctx, name)
	if err != nil {
		return 0, err
	}
	var conn *pgx.Conn
	switch c := s.productions[name]; {
	case c != nil:
		conn, err = c.Connect(ctx, "postgres")
	case e.Kind == sandglass.Sandbox: // as Sandglass itself: its administrator may have a password
		var port string
		if _, port, err = net.SplitHostPort(e.Address); err == nil {
			conn, err = pgx.Connect(ctx, fmt.Sprintf("host=%s port=%s user=sandglass dbname=postgres", e.Socket, port))
		}
	default:
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	text, err := pgtest.QueryText(ctx, conn, flushed)
	if err != nil {
		return 0, err
	}
	return sandglass.ParseLSN(text)
}

// AwaitImages waits until the window of name has so many images.
func (s *System) AwaitImages(ctx context.Context, name string, n int) error {
	return s.Await(ctx, 10*time.Minute, "images of "+name, func() (bool, error) {
		w, err := s.Client.Window(ctx, name)
		if err != nil {
			return false, err
		}
		return len(w.Images) >= n, nil
	})
}

// Sandbox declares a sandbox restored from source, and gives its TCP port.
func (s *System) Sandbox(ctx context.Context, name, source string, edit func(*sandglass.Environment)) (port int, err error) {
	if port, err = pgtest.FreePort(); err != nil {
		return 0, err
	}
	e := sandglass.Environment{Name: name, Kind: sandglass.Sandbox, Server: &sandglass.Server{Listen: "127.0.0.1", Port: port, Source: source}}
	if edit != nil {
		edit(&e)
	}
	_, err = s.Client.Apply(ctx, e)
	return port, err
}

// Operate starts an operation and waits for its end, whatever that is.
func (s *System) Operate(ctx context.Context, r sandglass.Request) (sandglass.Operation, error) {
	op, err := s.Client.Start(ctx, r)
	if err != nil {
		return op, err
	}
	return s.Finish(ctx, op.ID)
}

// Finish waits for the end of an operation.
func (s *System) Finish(ctx context.Context, id string) (op sandglass.Operation, err error) {
	for op.Version = -1; ; {
		if op, err = s.Client.Wait(ctx, id, op.Version, 30*time.Second); err != nil || op.State.Finished() {
			return op, err
		}
	}
}

// Restore restores a moment and waits; anything but success is an error.
func (s *System) Restore(ctx context.Context, target string, m sandglass.Moment) (sandglass.Operation, error) {
	return s.succeed(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: target, Moment: &m})
}

// Undo goes back and waits; anything but success is an error.
func (s *System) Undo(ctx context.Context, target string) (sandglass.Operation, error) {
	return s.succeed(ctx, sandglass.Request{Kind: sandglass.KindUndo, Environment: target})
}

func (s *System) succeed(ctx context.Context, r sandglass.Request) (sandglass.Operation, error) {
	op, err := s.Operate(ctx, r)
	if err != nil {
		return op, err
	}
	if op.State != sandglass.Succeeded {
		cause := error(errors.New("no error is given"))
		if op.Error != nil {
			cause = op.Error
		}
		return op, fmt.Errorf("%s of %s ended as %s: %w", op.Kind, op.Environment, op.State, cause)
	}
	return op, nil
}

// Connect opens a session with a sandbox as its operator.
func (s *System) Connect(ctx context.Context, environment, database string) (*pgx.Conn, error) {
	c, err := s.Client.Connect(ctx, environment, database)
	if err != nil {
		return nil, err
	}
	if database == "" {
		database = c.Database
	}
	return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, database))
}

// Query is the first row of a query on a sandbox, as text.
func (s *System) Query(ctx context.Context, environment, database, sql string) (string, error) {
	conn, err := s.Connect(ctx, environment, database)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return pgtest.QueryText(ctx, conn, sql)
}

// Serving says whether `serve` runs.
func (s *System) Serving() bool { return s.serve != nil }
