// Commands beside a sealed server: the sandbox's own migrations. A command has namespaces of its own (processes,
// network, mounts), in which nothing but the system, its own folders and the server's socket is there.

package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sandglass"
)

// Where a command finds the server, whatever the server's own folder and port are: at the folder that libpq
// looks in by default, and, in a closed network, at 127.0.0.1.
const (
	GuestSocket = "/run/postgresql"
	GuestHost   = "127.0.0.1"
	GuestPort   = 5432
)

// Command is a program that is run beside a sealed server.
type Command struct {
	// Args are the program and its arguments. A program without a slash is looked for in Dir, then in the PATH of Env.
	Args []string
	// Dir is the working folder, Show are further files and folders; it sees them read-only, besides the system. Dir may be "".
	Dir  string
	Show []string
	// Hidden are folders that it never sees, whatever is shown.
	Hidden []string
	Env    []string
	User   Owner // who it runs as; of no effect unless we are root
	// OpenNetwork leaves it in the host's network; then the server is reached over the Unix socket alone.
	OpenNetwork bool
	// Line takes each line of its output, both streams together, as it comes; lines are cut at 4 KiB.
	Line func(string)
}

// guest is what the helper is told of a Command.
type guest struct {
	Socket      string   `json:"socket"`
	OpenNetwork bool     `json:"open_network"`
	Hidden      []string `json:"hidden"`
}

// optional folders of the host that commands see, read-only, where they are there.
const optional = "/opt"

// errProgram is a program that can't be started; programPrefix begins what the helper says then.
var errProgram = errors.New("the program can't be run")

const programPrefix = "program: "

// DefaultPath is where programs are looked for.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// FindUser is the operating system user of that name, who must not be root.
func FindUser(name string) (Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Owner{}, fmt.Errorf("find user %q: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return Owner{}, fmt.Errorf("read user %q: %w", name, err)
	}
	if uid == 0 {
		return Owner{}, fmt.Errorf("user %q is root", name)
	}
	return Owner{Name: name, UID: uid, GID: gid}, nil
}

// RunBeside runs a command that can reach the sealed server of the configuration, and nothing else of the host, and
// waits for its end: exit is its status, 128 and the signal's number if one ended it. When ctx ends, or this process
// does, the command and all it has started are killed. The server must let the command's user in over its socket.
func RunBeside(ctx context.Context, c Config, command Command) (exit int, err error) {
	if err := c.chmod(c.socket(), 0o777); err != nil { // the folder is the owner's alone; the command is shown the socket, not the folder
		return 0, fmt.Errorf("show the server's socket: %w", err)
	}
	defer c.chmod(c.socket(), 0o700)
	out, theirs, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("run command: %w", err)
	}
	defer out.Close()
	life, ours, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return 0, fmt.Errorf("run command: %w", err)
	}
	defer ours.Close()
	cmd, err := c.seal(ctx, command.spec(c), func(cmd *exec.Cmd) {
		cmd.Env = wrapped(command.Env)
		cmd.Stdout, cmd.Stderr = theirs, theirs
		cmd.ExtraFiles = []*os.File{life}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	})
	theirs.Close()
	life.Close()
	if errors.Is(err, errProgram) {
		return 0, &sandglass.Error{Code: CodeCommandMissing, Op: "run command", Err: err,
			Message: fmt.Sprintf("%q can't be run: %s.", command.Args[0], strings.TrimPrefix(err.Error(), errProgram.Error()+": ")),
			Remedy:  "A command sees the system's programs, its own folder and what it is shown, as its own user."}
	}
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() }) // the first process of its namespace takes all others along
	readLines(out, command.Line)
	err = cmd.Wait()
	if !stop() {
		return 0, context.Cause(ctx)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return 0, fmt.Errorf("wait for command: %w", err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// CodeCommandMissing is a command that can't be run: there is no such program, or its user may not run it.
const CodeCommandMissing sandglass.Code = "synchronize.no_command"

// guestVariable begins the names of the command's variables while the helper holds them: the helper still has our rights and
// sees the host, so that none of them, as LD_PRELOAD, may mean anything to it. They are no argument, which everybody could read.
const guestVariable = "SANDGLASS_GUEST_"

func wrapped(env []string) []string {
	all := make([]string, len(env))
	for i, v := range env {
		all[i] = guestVariable + v
	}
	return all
}

// unwrapped is the environment that the command gets.
func unwrapped(env []string) []string {
	all := []string{}
	for _, v := range env {
		if name, ok := strings.CutPrefix(v, guestVariable); ok {
			all = append(all, name)
		}
	}
	return all
}

// spec is what the helper is told.
func (c Command) spec(server Config) sealSpec {
	s := sealSpec{UID: server.Owner.UID, GID: server.Owner.GID, Loopback: !c.OpenNetwork, Dir: c.Dir, Args: c.Args, ReadOnly: slices.Clone(c.Show),
		Guest: &guest{Socket: server.socket(), OpenNetwork: c.OpenNetwork, Hidden: c.Hidden}}
	if os.Geteuid() == 0 {
		s.UID, s.GID = c.User.UID, c.User.GID
	}
	if c.Dir == "" {
		s.Dir = "/tmp"
	} else {
		s.ReadOnly = append(s.ReadOnly, c.Dir)
	}
	if _, err := os.Stat(optional); err == nil {
		s.ReadOnly = append(s.ReadOnly, optional)
	}
	// Names are resolved by a file that is often a link to where nothing of the host is shown.
	if real, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && c.OpenNetwork && !within(real, system) {
		s.ReadOnly = append(s.ReadOnly, real)
	}
	return s
}

// maxLine bounds a line of output, bytes.
const maxLine = 4 << 10

// readLines gives each line, without its end, until the last writer has gone. A longer one comes in pieces.
func readLines(r io.Reader, line func(string)) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		text, _, err := b.ReadLine()
		if err != nil {
			return
		}
		if line != nil {
			line(strings.ToValidUTF8(strings.ReplaceAll(string(text), "\x00", ""), "\uFFFD"))
		}
	}
}

// namespaces are those a command gets besides that of users.
func (g guest) namespaces() uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC)
	if !g.OpenNetwork {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}
