// Ending a server by force, and what SIGKILL leaves behind.

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Discard ends whatever PostgreSQL process works in the data folder, within seconds and without a
// checkpoint, and removes the shared memory and the lock file a killed server leaves behind. It may be
// repeated; a folder without a server, or no folder, is fine.
func Discard(ctx context.Context, c Config) error {
	pf, pidErr := c.readPIDFile()
	if pid, err := c.findPostmaster(ctx); err == nil {
		if err := c.quit(ctx, pid); err != nil {
			return err
		}
	}
	for {
		pids := append(c.servers(), c.clients()...)
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			if err := c.killAndWait(ctx, pid); err != nil {
				return err
			}
		}
	}
	if pidErr == nil {
		if err := removeSharedMemory(ctx, pf.shmID, c.Owner.UID); err != nil {
			return fmt.Errorf("discard server: %w", err)
		}
	}
	for _, path := range []string{c.pidFile(), c.socket(), c.socket() + ".lock"} {
		if err := os.RemoveAll(path); err != nil { // whatever the server's user made of it
			return fmt.Errorf("discard server: %w", err)
		}
	}
	return nil
}

func (c Config) socket() string {
	return filepath.Join(c.Run, ".s.PGSQL."+strconv.Itoa(c.port()))
}

// servers are the PostgreSQL processes that work in the data folder. Others only happen to stand there,
// such as somebody's shell. A process that is just ending has no program any more, but may still hold memory.
func (c Config) servers() []int {
	return slices.DeleteFunc(c.holders(), func(pid int) bool {
		path := executable(pid)
		name := filepath.Base(path)
		return path != "" && name != "postgres" && name != "initdb" && !c.startedOn(pid)
	})
}

// clients are the processes of restore_command, which may outlive their server for a while.
func (c Config) clients() []int {
	return slices.DeleteFunc(c.holders(), func(pid int) bool { return executable(pid) != c.helper() || c.startedOn(pid) })
}

// executable is the path of a process's program.
func executable(pid int) string {
	path, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	return strings.TrimSuffix(path, " (deleted)")
}

// quit asks a postmaster for an immediate shutdown and gives it a few seconds.
func (c Config) quit(ctx context.Context, pid int) error {
	w, err := watchProcess(pid)
	if err != nil {
		return nil // gone
	}
	defer w.close()
	if !c.startedOn(pid) {
		return nil
	}
	if err := w.signal(unix.SIGQUIT); err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	t := time.NewTimer(killAfter)
	defer t.Stop()
	select {
	case <-w.exited:
	case <-t.C:
	case <-ctx.Done():
		return fmt.Errorf("stop server: %w", context.Cause(ctx))
	}
	return nil
}

// killAndWait ends one process of the data folder.
func (c Config) killAndWait(ctx context.Context, pid int) error {
	w, err := watchProcess(pid)
	if err != nil {
		return nil // gone
	}
	defer w.close()
	if !c.worksIn(pid) {
		return nil // the number is somebody else's by now
	}
	if err := w.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill server process %d: %w", pid, err)
	}
	select {
	case <-w.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill server process %d: %w", pid, context.Cause(ctx))
	}
}

// removeSharedMemory removes the SysV segment that postmaster.pid names, if it is the owner's and no process is
// attached to it. A segment that is gone is fine; one that stays attached belongs to somebody who was given the number since.
func removeSharedMemory(ctx context.Context, id, uid int) error {
	if id < 0 {
		return nil
	}
	var d unix.SysvShmDesc
	// Whoever looks at a process in /proc can hold its memory for a moment longer than the process lives.
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &d); err != nil || int(d.Perm.Uid) != uid {
			return nil
		}
		if d.Nattch == 0 {
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if d.Nattch != 0 {
		return nil
	}
	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIDRM) {
		return fmt.Errorf("remove shared memory %d: %w", id, err)
	}
	return nil
}
