package pgtest

// This file finds and ends processes: those of a cluster, and all that belong to a folder.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Postmasters are the servers whose data folder lies in dir.
func Postmasters(dir string) (pids []int) {
	for _, p := range ProcessesOf(dir) {
		if slices.Contains(p.Argv, "-D") && filepath.Base(p.Argv[0]) == "postgres" {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// Process is a running process.
type Process struct {
	PID  int
	Argv []string
}

// String is the pid and the arguments.
func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Argv, " ")) }

// ProcessesOf are the processes, but us, that name the folder in their arguments, work in it, or were told of it as their state.
func ProcessesOf(dir string) (found []Process) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		base := filepath.Join("/proc", e.Name())
		line, err := os.ReadFile(filepath.Join(base, "cmdline"))
		if err != nil || len(line) == 0 { // gone, a kernel thread or a zombie
			continue
		}
		argv := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		cwd, _ := os.Readlink(filepath.Join(base, "cwd"))
		named := slices.ContainsFunc(argv, func(a string) bool { return strings.Contains(a+"/", dir+"/") })
		if within(cwd, dir) || (named || within(stateOf(base), dir)) && (ours(argv[0], dir) || sameBinary(base)) {
			found = append(found, Process{pid, argv})
		}
	}
	return found
}

// ours leaves out an editor or a pager that merely shows a file of the demo.
func ours(program, dir string) bool {
	name := filepath.Base(program)
	return within(program, dir) || name == "sandglass" || strings.HasPrefix(name, "postgres") || name == "postmaster"
}

// sameBinary says whether a process runs our own binary, whatever that is called.
func sameBinary(proc string) bool {
	theirs, err := os.Readlink(filepath.Join(proc, "exe"))
	own, err2 := os.Executable()
	return err == nil && err2 == nil && theirs == own
}

// stateOf is the state folder that a process was told of in its environment; "" for none.
func stateOf(proc string) string {
	environ, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		return ""
	}
	for v := range strings.SplitSeq(string(environ), "\x00") {
		if state, ok := strings.CutPrefix(v, "SANDGLASS_STATE="); ok {
			return state
		}
	}
	return ""
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// MountsOf are the mount points in the folder, as this process sees them.
func MountsOf(dir string) (mounts []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 4 && within(f[4], dir) {
			mounts = append(mounts, f[4])
		}
	}
	return mounts
}

// EndAll ends every process that belongs to the folder: PostgreSQL servers fast, what is left then by SIGKILL.
func EndAll(dir string) error {
	for _, pid := range Postmasters(dir) {
		if err := End(pid, syscall.SIGINT); err != nil {
			return err
		}
	}
	for _, p := range ProcessesOf(dir) {
		if err := End(p.PID, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// End signals a process and waits until it is gone; at the end of our patience it is killed.
func End(pid int, how syscall.Signal) error { return endProcess(pid, nil, how) }

// endProcess signals a process, our child or not, and waits until it is gone; at the end of its patience it is killed.
func endProcess(pid int, exited <-chan struct{}, how syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pid %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, sig := range []syscall.Signal{how, syscall.SIGQUIT, syscall.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal pid %d: %w", pid, err)
		}
		gone, err := waitPidfd(fd, stopTimeout)
		if err != nil {
			return err
		}
		if gone {
			if exited != nil {
				<-exited // reaped
			}
			return nil
		}
	}
	return fmt.Errorf("pid %d does not end", pid)
}

func waitPidfd(fd int, patience time.Duration) (bool, error) {
	until := time.Now().Add(patience)
	for {
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("wait for process: %w", err)
		}
		if n > 0 {
			return true, nil
		}
	}
}
