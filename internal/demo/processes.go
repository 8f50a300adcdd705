package demo

// This file starts the demo's background processes, and ends everything: Down finds what belongs to
// a demo by its folder alone, so that it also works after the demo itself was killed.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"sandglass/internal/pgtest"
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
func Down(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return fmt.Errorf("%s is not a demo's folder; nothing was touched", dir)
	}
	// First those who would mind the others' going: a demo still in its story (it takes all down itself), the writers, then serve, which ends its metadata server; then every
	// PostgreSQL server, fast; at last whatever is left.
	for _, name := range []string{"demo", "writers", "serve"} {
		if err := endByPidFile(dir, name); err != nil {
			return err
		}
	}
	if err := pgtest.EndAll(dir); err != nil {
		return err
	}
	if m := pgtest.MountsOf(dir); len(m) > 0 {
		return fmt.Errorf("still mounted: %s", strings.Join(m, ", "))
	}
	if err := removeAll(dir); err != nil {
		return err
	}
	if left := pgtest.ProcessesOf(dir); len(left) > 0 {
		return fmt.Errorf("still running: %v", left)
	}
	return nil
}

// removeAll removes the folder, and last of all what tells that it is a demo's: whoever is interrupted can begin again.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func endByPidFile(dir, name string) error {
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
	return pgtest.End(pid, syscall.SIGTERM)
}
