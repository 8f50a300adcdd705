package pgtest

// This file is the life of one cluster: start, stop, kill, adopt, remove.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cluster is one data folder and, while it runs, its postmaster. Its methods are not for several goroutines at once.
type Cluster struct {
	Dir   string // holds data, run (the Unix socket) and server.log
	Bin   string // folder of the PostgreSQL programs
	Major int
	Port  int

	owner    owner
	detached bool
	pid      int
	exited   chan struct{} // closed when our child is gone; nil for an adopted server
}

// Open finds the cluster that Start made in dir, running or not, in whatever process that was.
func Open(dir string) (*Cluster, error) {
	version, err := os.ReadFile(filepath.Join(dir, "data", "PG_VERSION"))
	if err != nil {
		return nil, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(version)))
	if err != nil {
		return nil, fmt.Errorf("read PG_VERSION: %w", err)
	}
	c := &Cluster{Dir: dir, Major: major, detached: true}
	if c.Bin, _, err = Binaries(major); err != nil {
		return nil, err
	}
	if c.owner, err = serverOwner(); err != nil {
		return nil, err
	}
	conf, err := os.ReadFile(filepath.Join(c.Data(), "postgresql.conf"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(conf)) {
		if v, ok := strings.CutPrefix(line, "port = '"); ok {
			c.Port, _ = strconv.Atoi(strings.TrimRight(v, "'\n"))
		}
	}
	if pid, _, err := c.postmasterPID(); err == nil && syscall.Kill(pid, 0) == nil {
		c.pid = pid
	}
	return c, nil
}

// Data is the data folder.
func (c *Cluster) Data() string { return filepath.Join(c.Dir, "data") }

// Socket is the folder of the Unix socket.
func (c *Cluster) Socket() string { return filepath.Join(c.Dir, "run") }

// Log is what the server has written to its log.
func (c *Cluster) Log() string {
	b, err := os.ReadFile(filepath.Join(c.Dir, "server.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// PID is the postmaster's, 0 when it does not run.
func (c *Cluster) PID() int { return c.pid }

// program is where a program lies: beside the server or, since some packages have the server's alone, among the host's, whose
// clients speak with all majors.
func (c *Cluster) program(name string) string {
	path := filepath.Join(c.Bin, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if others, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); err == nil && len(others) > 0 {
		return others[len(others)-1]
	}
	return path
}

// Command is a PostgreSQL program, run as the OS user that owns the server.
func (c *Cluster) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.program(program), args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PGHOST="+c.Socket(), "PGPORT="+strconv.Itoa(c.Port), "PGUSER="+Superuser)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.owner.credential()}
	return cmd
}

// Start starts the postmaster and waits until it takes connections.
func (c *Cluster) Start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(c.Dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.Command(context.WithoutCancel(ctx), "postgres", "-D", c.Data())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setsid = true
	if !c.detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	}
	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the parent *thread* ends, so this one stays until the server is gone.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	c.pid, c.exited = cmd.Process.Pid, exited
	return c.ready(ctx)
}

// ready waits for the line that the postmaster writes into its pid file once it takes connections (PM_STATUS_READY in utils/pidfile.h).
func (c *Cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if pid, status, err := c.postmasterPID(); err == nil && pid == c.pid && (status == "ready" || status == "standby") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for postgres: %w", ctx.Err())
		case <-c.exited:
			c.pid = 0
			return errors.New("postgres ended while it started")
		case <-tick.C:
		}
	}
}

// postmasterPID reads the pid and the status from postmaster.pid.
func (c *Cluster) postmasterPID() (pid int, status string, err error) {
	f, err := os.Open(filepath.Join(c.Data(), "postmaster.pid"))
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for line := 1; sc.Scan(); line++ {
		switch line {
		case 1:
			if pid, err = strconv.Atoi(strings.TrimSpace(sc.Text())); err != nil {
				return 0, "", err
			}
		case 8:
			status = strings.TrimSpace(sc.Text())
		}
	}
	return pid, status, sc.Err()
}

// Stop ends the server as `pg_ctl stop -m fast` does: sessions are cut, the data folder is left clean.
func (c *Cluster) Stop() error { return c.end(syscall.SIGINT) }

// Kill ends the server as a crash does: recovery comes at the next start.
func (c *Cluster) Kill() error { return c.end(syscall.SIGQUIT) }

// Restart stops and starts the server.
func (c *Cluster) Restart(ctx context.Context) error {
	if err := c.Stop(); err != nil {
		return err
	}
	return c.Start(ctx)
}

// Reload has the server read its configuration files again.
func (c *Cluster) Reload() error { return syscall.Kill(c.pid, syscall.SIGHUP) }

func (c *Cluster) end(how syscall.Signal) error {
	if c.pid == 0 {
		return nil
	}
	if err := endProcess(c.pid, c.exited, how); err != nil {
		return err
	}
	c.pid = 0
	return nil
}

// MakeDir makes a folder that belongs to the server's user, for a tablespace.
func (c *Cluster) MakeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return c.owner.own(path)
}

// Remove ends the server at once and removes its folder.
func (c *Cluster) Remove() error {
	if err := c.Kill(); err != nil {
		return err
	}
	return os.RemoveAll(c.Dir)
}
