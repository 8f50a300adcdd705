package demo

// This file starts the demo's background processes, and ends everything: Down finds what belongs to
// a demo by its folder alone, so that it also works after the demo itself was killed.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// background starts a process that outlives this one, in a session of its own, and keeps its pid in the demo's folder.
func background(dir, name string, cmd *exec.Cmd) error {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go cmd.Wait() // reaps it, if it ends before us; it belongs to the folder, not to this process
	return writePid(dir, name, cmd.Process.Pid)
}

func writePid(dir, name string, pid int) error {
	return os.WriteFile(filepath.Join(dir, name+".pid"), []byte(strconv.Itoa(pid)), 0o600)
}

// Down ends every process that belongs to the demo in dir and removes the folder. The
// error says what is left, if anything is.
func Down(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return fmt.Errorf("%s is not a demo's folder; nothing was touched", dir)
	}
	// First those who would mind the others' going: a demo still in its story (it takes all down itself), the writers, then serve, which ends its metadata server; then every
	// PostgreSQL server, fast; at last whatever is left.
	for _, name := range []string{"demo", "writers", "serve"} {
		if err := endByPidFile(ctx, dir, name); err != nil {
			return err
		}
	}
	for _, pid := range postmasters(dir) {
		if err := end(ctx, pid, syscall.SIGINT); err != nil {
			return err
		}
	}
	for _, p := range processesOf(dir) {
		if err := end(ctx, p.pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	if m := mountsOf(dir); len(m) > 0 {
		return fmt.Errorf("still mounted: %s", strings.Join(m, ", "))
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if left := processesOf(dir); len(left) > 0 {
		return fmt.Errorf("still running: %v", left)
	}
	return nil
}

func endByPidFile(ctx context.Context, dir, name string) error {
	b, err := os.ReadFile(filepath.Join(dir, name+".pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("read %s.pid: %w", name, err)
	}
	program, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if pid == os.Getpid() || err != nil || !strings.HasPrefix(filepath.Base(program), "sandglass") {
		return nil // ourselves; or gone, and its number may be another's by now
	}
	return end(ctx, pid, syscall.SIGTERM)
}

// postmasters are the servers whose data folder lies in dir.
func postmasters(dir string) (pids []int) {
	for _, p := range processesOf(dir) {
		if slices.Contains(p.argv, "-D") && filepath.Base(p.argv[0]) == "postgres" {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

type process struct {
	pid  int
	argv []string
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, strings.Join(p.argv, " ")) }

// processesOf are the processes, but us, that name the folder in their arguments, work in it, or were told of it as their state.
func processesOf(dir string) (found []process) {
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
		if within(cwd, dir) || slices.ContainsFunc(argv, func(a string) bool { return strings.Contains(a+"/", dir+"/") }) && ours(argv[0], dir) {
			found = append(found, process{pid, argv})
		}
	}
	return found
}

// ours leaves out an editor or a pager that merely shows a file of the demo.
func ours(program, dir string) bool {
	name := filepath.Base(program)
	return within(program, dir) || name == "sandglass" || strings.HasPrefix(name, "postgres") || name == "postmaster"
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func mountsOf(dir string) (mounts []string) {
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

// end signals a process and waits until it is gone; after half a minute it is killed.
func end(ctx context.Context, pid int, how syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pid %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, sig := range []syscall.Signal{how, syscall.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("end pid %d: %w", pid, err)
		}
		for until := time.Now().Add(30 * time.Second); time.Now().Before(until) && ctx.Err() == nil; {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for pid %d: %w", pid, err)
			}
			if n > 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("pid %d does not end", pid)
}
