// Starting, adopting and stopping a server.

package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sandglass"
)

// ErrNotRunning is Adopt's answer when no server runs on the data folder.
var ErrNotRunning = errors.New("no server runs on the data folder")

// StopMode is how a server is stopped.
type StopMode int

// The ways to stop: Smart waits for the sessions to end, Fast ends them and writes a checkpoint,
// Immediate leaves crash recovery to the next start.
const (
	Smart StopMode = iota
	Fast
	Immediate
)

// killAfter is how long an immediate stop may take before SIGKILL: a little more than the
// postmaster's own patience with its children (SIGKILL_CHILDREN_AFTER_SECS in postmaster/postmaster.c).
const killAfter = 7 * time.Second

// Postmaster is a running server. It lives on when we end; Close only stops watching it.
type Postmaster struct {
	config     Config
	watch      *watch
	sealed     bool
	recovering bool
	logFrom    int64 // where this run begins in the log; -1: not known
}

// Start starts a server in a session of its own and returns once the binary runs; see Ready. It
// refuses while another process works in the data folder (CodeVolumeInUse).
func Start(ctx context.Context, c Config) (*Postmaster, error) {
	if err := c.free(ctx); err != nil {
		return nil, err
	}
	if err := c.write(false, true); err != nil {
		return nil, err
	}
	log, err := c.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	p := &Postmaster{config: c, logFrom: from}
	if _, err := os.Stat(filepath.Join(c.Data, "recovery.signal")); err == nil {
		p.recovering = true
	}
	cmd, sealed, err := c.launch(ctx, log, nil, append([]string{c.Binaries.Postgres(), "-D", c.Data}, c.fixed()...))
	if err != nil {
		return nil, p.explain(err)
	}
	p.sealed = sealed
	// Nothing but watch reaps the process, so its number can't have come to mean another.
	if p.watch, err = watchProcess(cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	cmd.Process.Release()
	return p, nil
}

// free makes sure that no server works in the data folder, and that none seems to: after a reboot, or while
// a killed one is not reaped, postmaster.pid names a number that is some process's, and PostgreSQL would
// not start (CreateLockFile in utils/init/miscinit.c).
func (c Config) free(ctx context.Context) error {
	pids := c.servers()
	if len(pids) == 0 {
		if pf, err := c.readPIDFile(); err == nil && !errors.Is(syscall.Kill(pf.pid, 0), syscall.ESRCH) {
			return Discard(ctx, c)
		}
		return nil
	}
	return &sandglass.Error{Code: sandglass.CodeVolumeInUse, Op: "start server",
		Message: fmt.Sprintf("The data folder %s is in use by process %d.", c.Data, pids[0]), Remedy: "Stop the server that runs on it first."}
}

// openLog opens the server's log for appending; it is the owner's, and nobody else may read it.
func (c Config) openLog() (*os.File, error) {
	r, name, err := c.within(c.Log)
	if err != nil {
		return nil, fmt.Errorf("open server log: %w", err)
	}
	defer r.Close()
	f, err := r.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open server log: %w", err)
	}
	// The folder is the owner's, who must not be given what only has a name there.
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1) {
		err = fmt.Errorf("%s: %w: it is no ordinary file of one name", c.Log, fs.ErrInvalid)
	}
	if err == nil {
		err = f.Chown(c.Owner.UID, c.Owner.GID)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open server log: %w", err)
	}
	return f, nil
}

// launch starts `postgres` or `initdb`, which args begin with, sealed or in the open, with output to log.
// It returns after exec: a seal that can't be made is an error here.
func (c Config) launch(ctx context.Context, log, stdin *os.File, args []string) (cmd *exec.Cmd, sealed bool, err error) {
	if c.Seal != nil {
		cmd, err := c.launchSealed(ctx, log, stdin, args)
		if err == nil {
			return cmd, true, nil
		}
		if !c.Seal.ConfigOnly || sandglass.CodeOf(err) != sandglass.CodeSealNamespace {
			return nil, false, err
		}
	}
	cmd = exec.Command(args[0], args[1:]...)
	c.prepare(cmd, log, stdin)
	cmd.SysProcAttr.Credential = c.Owner.credential()
	start := cmd.Start
	if c.Owner.NoAccount {
		start = func() error { return startNoNewPrivileges(cmd) }
	}
	if err := start(); err != nil {
		return nil, false, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return cmd, false, nil
}

// startNoNewPrivileges starts a command that gains no rights by any program it runs (PR_SET_NO_NEW_PRIVS in prctl(2)): a setuid
// file that somebody left on the host can't make a server's user another volume's, as the seal can't either.
func startNoNewPrivileges(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which has given up its rights, ends with this goroutine
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// prepare gives a command what every process of a server has: a session of its own, so that it
// outlives us, the data folder as working folder, and nothing of our environment.
func (c Config) prepare(cmd *exec.Cmd, log, stdin *os.File) {
	cmd.Dir = c.Data
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = log, log
	if stdin != nil {
		cmd.Stdin = stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// credential makes root's child the owner; anybody else's is the owner already.
func (o Owner) credential() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}
}

// Adopt finds the running server of a data folder, started by us before or by an earlier life of
// ours. It is ErrNotRunning where there is none. A server that should be sealed and is not, or the other
// way round, is CodeServerFailed; but a Config without Settings, with which no server can be started, only one
// stopped, adopts either.
func Adopt(ctx context.Context, c Config) (*Postmaster, error) {
	pid, err := c.findPostmaster(ctx)
	if err != nil {
		return nil, err
	}
	w, err := watchProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	// The number is pinned now; make sure it is still the one we found.
	if !c.startedOn(pid) {
		w.close()
		return nil, ErrNotRunning
	}
	p := &Postmaster{config: c, watch: w, logFrom: -1}
	if _, err := os.Stat(filepath.Join(c.Data, "recovery.signal")); err == nil {
		p.recovering = true
	}
	theirs, err1 := netNamespace(strconv.Itoa(pid))
	ours, err2 := netNamespace("self")
	if err := errors.Join(err1, err2); err != nil {
		w.close()
		return nil, fmt.Errorf("adopt server: %w", err)
	}
	p.sealed = theirs != ours
	if want := c.Seal != nil; c.Settings != nil && want != p.sealed && !(want && c.Seal.ConfigOnly) {
		w.close()
		return nil, &sandglass.Error{Code: sandglass.CodeServerFailed, Op: "adopt server",
			Message: fmt.Sprintf("The server on %s runs sealed: %t, but should be: %t.", c.Data, p.sealed, want),
			Remedy:  "Stop it; Sandglass starts it again as it should be."}
	}
	return p, nil
}

// findPostmaster gives the postmaster of the data folder: the process that postmaster.pid names, if it
// is that process still, or one that was started on the folder and has not written the file yet.
func (c Config) findPostmaster(ctx context.Context) (int, error) {
	// A file that can't be read, whatever the server's user made of it, says no more than none.
	if pf, err := c.readPIDFile(); err == nil && pf.data == c.Data && c.startedOn(pf.pid) {
		// The file is written within moments of the process's start; a stale one names another time.
		if st, err := statProcess(pf.pid); err == nil && st.state != 'Z' && !pf.start.Before(st.start.Add(-2*time.Second)) {
			return pf.pid, nil
		}
	}
	for _, pid := range c.holders() {
		// The postmaster and what becomes it (seal-exec) name the folder; its children show a title instead.
		if st, err := statProcess(pid); err == nil && st.state != 'Z' && c.startedOn(pid) && !c.startedOn(st.parent) {
			return pid, nil
		}
	}
	return 0, ErrNotRunning
}

// PID is the postmaster's process.
func (p *Postmaster) PID() int { return p.watch.pid }

// Sealed says whether the server runs in namespaces of its own.
func (p *Postmaster) Sealed() bool { return p.sealed }

// Exited is closed once the postmaster has ended.
func (p *Postmaster) Exited() <-chan struct{} { return p.watch.exited }

// Close ends the watching; the server runs on.
func (p *Postmaster) Close() { p.watch.close() }

// Ready waits until the server takes sessions: at the end of recovery, if it recovers, since hot standby is
// off. A server that ends before is an error with what its log says (CodeServerFailed or CodeRecoveryFailed).
func (p *Postmaster) Ready(ctx context.Context) error {
	n, err := notify(p.config.Data)
	if err != nil {
		return err
	}
	defer n.close()
	for {
		if pf, err := p.config.readPIDFile(); err == nil && pf.pid == p.PID() && pf.status == statusReady {
			return nil
		}
		select {
		case <-p.Exited():
			return p.explain(nil)
		case <-ctx.Done():
			return fmt.Errorf("wait for the server: %w", context.Cause(ctx))
		case <-n.changed:
		}
	}
}

// Stop stops the server and waits until it has ended, or until ctx ends. An immediate stop that takes
// too long becomes SIGKILL for all its processes.
func (p *Postmaster) Stop(ctx context.Context, mode StopMode) error {
	s := map[StopMode]syscall.Signal{Smart: syscall.SIGTERM, Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT}[mode]
	if err := p.watch.signal(s); err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	var kill <-chan time.Time
	if mode == Immediate {
		t := time.NewTimer(killAfter)
		defer t.Stop()
		kill = t.C
	}
	select {
	case <-p.Exited():
		return nil
	case <-kill:
		return Discard(ctx, p.config)
	case <-ctx.Done():
		return fmt.Errorf("stop server: %w", context.Cause(ctx))
	}
}

// signal sends a signal to the postmaster, whoever holds its number now.
func (p *Postmaster) signal(s syscall.Signal) error { return p.watch.signal(s) }
