// A command beside a server, seen from inside: the first process of its namespaces starts it, relays TCP to the
// server's socket, and ends with it.

package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lifeFD is a pipe whose other end serve holds: it ends when serve does, however that came.
const lifeFD = 4

// guestSources is what is shown to a command at another path than the host's.
func (s sealSpec) guestSources() []string {
	if s.Guest == nil {
		return nil
	}
	return []string{s.Guest.Socket}
}

// showSocket shows a command the server's socket, and covers what it must never see.
func (v view) showSocket() error {
	if v.Guest == nil {
		return nil
	}
	for _, dir := range v.Guest.Hidden {
		if info, err := os.Stat(newRoot + dir); err != nil || !info.IsDir() {
			continue
		}
		if err := unix.Mount("tmpfs", newRoot+dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, "mode=0555,size=4k"); err != nil {
			return fmt.Errorf("cover %s: %w", dir, err)
		}
	}
	return v.showAs(v.Guest.Socket, GuestSocket+"/.s.PGSQL."+strconv.Itoa(GuestPort), unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// ownProc shows the processes of the command's own namespace. Where the host hides parts of its own /proc, the
// kernel allows no new one in a user namespace; then there is none.
func (v view) ownProc() error {
	err := unix.Mount("proc", newRoot+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("show /proc: %w", err)
	}
	return nil
}

// superviseGuest runs the command and ends with its status. It is the first process of its namespace: with its
// end, all the others are killed. It is the command's user itself, because the server believes who connects.
func (s sealSpec) superviseGuest() error {
	unix.CloseOnExec(lifeFD)
	go func() {
		io.Copy(io.Discard, os.NewFile(lifeFD, "life")) // nothing is ever written
		os.Exit(128 + int(unix.SIGKILL))
	}()
	if !s.Guest.OpenNetwork {
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("bring up lo: %w", err)
		}
	}
	if err := s.dropPrivileges(); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	if err := s.lookAround(); err != nil {
		return err
	}
	if !s.Guest.OpenNetwork {
		l, err := net.Listen("tcp", net.JoinHostPort(GuestHost, strconv.Itoa(GuestPort)))
		if err != nil {
			return fmt.Errorf("listen for the command: %w", err)
		}
		go relay(l, GuestSocket+"/.s.PGSQL."+strconv.Itoa(GuestPort))
	}
	env := unwrapped(os.Environ())
	program, err := findProgram(s.Args[0], s.Dir, env)
	if err != nil {
		return fmt.Errorf("%s%w", programPrefix, err)
	}
	cmd := exec.Command(program, s.Args[1:]...)
	cmd.Args[0] = s.Args[0]
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = append(env, "PWD="+s.Dir), s.Dir, os.Stdout, os.Stderr
	unix.Umask(0o077)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s%w", programPrefix, errors.Unwrap(err))
	}
	unix.Close(statusFD) // it runs
	cmd.Wait()           // its status says how it ended
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(status.ExitStatus())
	return nil
}

// findProgram finds a program: a name in the folder, then in PATH; a path as it is, from the folder.
func findProgram(name, dir string, env []string) (string, error) {
	if strings.ContainsRune(name, '/') {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executableFile(name)
	}
	folders := []string{dir}
	for _, v := range env {
		if list, ok := strings.CutPrefix(v, "PATH="); ok {
			folders = append(folders, filepath.SplitList(list)...)
		}
	}
	for _, folder := range folders {
		if path := filepath.Join(folder, name); filepath.IsAbs(path) && executableFile(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no such program in %s and PATH", dir)
}

func executableFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no such program where the command can see it")
	case err != nil:
		return errors.Unwrap(err)
	case info.IsDir():
		return errors.New("it is a folder")
	case unix.Access(path, unix.X_OK) != nil:
		return errors.New("its user may not execute it")
	}
	return nil
}

// relay gives tools that know no Unix sockets a way to the server. It ends with the process.
func relay(l net.Listener, socket string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := net.Dial("unix", socket)
			if err != nil {
				return
			}
			defer to.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				io.Copy(to, from)
				to.(*net.UnixConn).CloseWrite()
			}()
			io.Copy(from, to)
			from.(*net.TCPConn).CloseWrite()
			<-done
		}()
	}
}
