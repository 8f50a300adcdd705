// What the operating system knows of a server: its processes, and when they end.

package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidfile is what postmaster.pid says (utils/pidfile.h).
type pidfile struct {
	pid    int
	data   string
	start  time.Time // to the second
	shmID  int       // SysV shared memory, -1: none
	status string    // "starting", "stopping", "ready" or "standby"
}

// The status line of postmaster.pid (PM_STATUS_* in utils/pidfile.h).
const statusReady = "ready"

// readPIDFile reads postmaster.pid; it is fs.ErrNotExist where there is none, or it is still being written.
func (c Config) readPIDFile() (pidfile, error) {
	f, err := c.open(c.pidFile())
	if err != nil {
		return pidfile{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return pidfile{}, err
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 4 { // pid, data folder, start time and an end of line: written at once
		return pidfile{}, fmt.Errorf("read postmaster.pid: %w: incomplete", fs.ErrNotExist)
	}
	p := pidfile{shmID: -1, data: lines[1]}
	if p.pid, err = strconv.Atoi(strings.TrimSpace(lines[0])); err != nil {
		return pidfile{}, fmt.Errorf("read postmaster.pid: %w", err)
	}
	p.pid = max(p.pid, -p.pid) // negative: single-user mode
	secs, err := strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64)
	if err != nil {
		return pidfile{}, fmt.Errorf("read postmaster.pid: %w", err)
	}
	p.start = time.Unix(secs, 0)
	if len(lines) > 6 {
		if f := strings.Fields(lines[6]); len(f) == 2 {
			if id, err := strconv.Atoi(f[1]); err == nil {
				p.shmID = id
			}
		}
	}
	if len(lines) > 7 {
		p.status = strings.TrimSpace(lines[7])
	}
	return p, nil
}

// holders gives the processes that work in the data folder: their working folder is in it, or they were
// started on it (-D) and have not got that far.
func (c Config) holders() []int {
	var pids []int
	for _, pid := range processes() {
		if c.worksIn(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// worksIn says whether a process works in the data folder, or was started on it.
func (c Config) worksIn(pid int) bool {
	if c.startedOn(pid) {
		return true
	}
	cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false
	}
	dirs := []string{c.Data} // so it is shown in a seal
	// The folder itself is its user's: a link in its place would lead to another server's.
	if top, err := filepath.EvalSymlinks(filepath.Dir(c.Data)); err == nil && top != filepath.Dir(c.Data) {
		dirs = append(dirs, filepath.Join(top, filepath.Base(c.Data)))
	}
	return within(cwd, dirs)
}

// startedOn says whether a process's command line names the data folder with -D. Anybody's may, so it must be the
// owner's, or ours on the way to become that.
func (c Config) startedOn(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || pid == os.Getpid() || !bytes.Contains(append([]byte{0}, b...), []byte("\x00-D\x00"+c.Data+"\x00")) {
		return false
	}
	ids := usersOf(pid)
	return len(ids) > 0 && (ids[0] == c.Owner.UID || ids[0] == os.Geteuid())
}

// usersOf are the user IDs of a process: the real one, the effective, the saved and that for files; none when it has ended. The
// owner of /proc/PID does not tell: it is root for a process that wants it so (PR_SET_DUMPABLE in prctl(2)).
func usersOf(pid int) (ids []int) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return nil
	}
	_, line, _ := strings.Cut(string(b), "\nUid:")
	line, _, _ = strings.Cut(line, "\n")
	for _, f := range strings.Fields(line) {
		if id, err := strconv.Atoi(f); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

func processes() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procStat is one process of /proc.
type procStat struct {
	state  byte
	parent int
	start  time.Time
}

// userHZ is the unit of /proc/PID/stat on every Linux (USER_HZ).
const userHZ = 100

func statProcess(pid int) (procStat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	// The second field is the name in parentheses, which may hold anything.
	f := strings.Fields(string(b)[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return procStat{}, fmt.Errorf("read /proc/%d/stat: too short", pid)
	}
	parent, err1 := strconv.Atoi(f[1])
	ticks, err2 := strconv.ParseInt(f[19], 10, 64)
	boot, err3 := bootTime()
	return procStat{f[0][0], parent, boot.Add(time.Duration(ticks) * time.Second / userHZ)}, errors.Join(err1, err2, err3)
}

func bootTime() (time.Time, error) {
	var now, up unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &now), unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)); err != nil {
		return time.Time{}, err
	}
	return time.Unix(now.Unix()).Add(-time.Duration(up.Nano())), nil
}

// cmdline is a process's command line; a server's children show their title there.
func cmdline(pid int) string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.TrimRight(string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})), " ")
}

// children are a process's children.
func children(parent int) []int {
	var pids []int
	for _, pid := range processes() {
		if s, err := statProcess(pid); err == nil && s.parent == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

// watch is a process held by a pidfd, so that its number can't come to mean another one.
type watch struct {
	pid    int
	file   *os.File
	exited chan struct{}
	closed chan struct{}
}

// watchProcess begins to watch a process, and reaps it at its end if it is our child.
// close ends the watching.
func watchProcess(pid int) (*watch, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	w := &watch{pid: pid, file: os.NewFile(uintptr(fd), "pidfd"), exited: make(chan struct{}), closed: make(chan struct{})}
	conn, err := w.file.SyscallConn()
	if err != nil {
		w.file.Close()
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	go func() {
		defer close(w.closed)
		err := conn.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, _ := unix.Poll(p, 0)
			return n > 0
		})
		if err == nil {
			unix.Wait4(pid, nil, 0, nil) // ECHILD where it is not ours
			close(w.exited)
		}
	}()
	return w, nil
}

func (w *watch) signal(s syscall.Signal) error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil // gone already
	}
	return sent
}

func (w *watch) close() {
	w.file.Close()
	<-w.closed
}

// netNamespace identifies the network namespace of a process ("self" is ours).
func netNamespace(pid string) (string, error) {
	return os.Readlink(filepath.Join("/proc", pid, "ns/net"))
}
