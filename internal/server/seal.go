// Sealing, seen from outside: starting the helper in new namespaces.

package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sandglass"
)

// SealCommand is the hidden command whose body is SealMain.
const SealCommand = "seal-exec"

// sealSpec is what the helper is told, as one argument in JSON.
type sealSpec struct {
	UID      int      `json:"uid"`
	GID      int      `json:"gid"`
	User     bool     `json:"user"` // a user namespace was made
	Volume   string   `json:"volume,omitempty"`
	ReadOnly []string `json:"read_only"`
	Masked   []string `json:"masked"` // folders of other servers' sockets
	Loopback bool     `json:"loopback,omitempty"`
	Account  string   `json:"account,omitempty"` // name that UID is to have in the view's /etc/passwd
	Dir      string   `json:"dir,omitempty"`     // working folder
	// Args is the program and its arguments. None: check the seal from inside and end.
	Args []string `json:"args"`
	// Guest is given for a command beside a server; Args are then the command's.
	Guest *guest `json:"guest,omitempty"`
}

// helper is the binary that is re-executed to seal.
func (c Config) helper() string {
	if c.Helper != "" {
		return c.Helper
	}
	// Not os.Executable's "(deleted)" form: after an upgrade the path names the new binary, which seals as well.
	path, err := os.Executable()
	if err != nil {
		return "/proc/self/exe"
	}
	return strings.TrimSuffix(path, " (deleted)")
}

// launchSealed starts postgres, or initdb, in namespaces: network, mounts and, where possible, users. A user
// namespace is tried first, also by root: in it a process can't reach, by way of /proc, another one of
// the same user outside. There is no PID or IPC namespace, because postmaster.pid and the shared memory
// it names, PostgreSQL's guard against two servers on one folder, work only across one of each.
func (c Config) launchSealed(ctx context.Context, log, stdin *os.File, args []string) (*exec.Cmd, error) {
	spec := sealSpec{UID: c.Owner.UID, GID: c.Owner.GID, Volume: c.Seal.Volume, Loopback: c.Seal.Loopback, Dir: c.Data,
		ReadOnly: append([]string{c.Binaries.prefix(), c.helper()}, c.Seal.ReadOnly...),
		Args:     args}
	if c.Owner.NoAccount {
		spec.Account = c.Owner.Name
	}
	return c.seal(ctx, spec, func(cmd *exec.Cmd) { c.prepare(cmd, log, stdin) })
}

// seal runs the helper with a spec, first with a user namespace, then, as root, without.
func (c Config) seal(ctx context.Context, spec sealSpec, prepare func(*exec.Cmd)) (*exec.Cmd, error) {
	var err error
	if spec.Masked, err = socketFolders(slices.Concat(system, spec.ReadOnly)); err != nil {
		return nil, err
	}
	spec.User = true
	cmd, err := c.runHelper(ctx, spec, prepare)
	if errors.Is(err, errProgram) {
		return nil, err
	}
	if err != nil && os.Geteuid() == 0 {
		spec.User = false
		var again error
		if cmd, again = c.runHelper(ctx, spec, prepare); again == nil {
			return cmd, nil
		}
		err = errors.Join(err, again)
	}
	if err != nil {
		return nil, &sandglass.Error{Code: sandglass.CodeSealNamespace, Op: "seal server", Err: err,
			Message: "A server can't be closed off from network and file system here: this host doesn't let us make namespaces.",
			Remedy: "Run Sandglass as root, or allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; " +
				"Linux 5.12 or newer is needed). The environment can accept a server closed by configuration alone with seal: config-only."}
	}
	return cmd, nil
}

// runHelper starts the helper and waits until it has become the program, or says why not.
func (c Config) runHelper(ctx context.Context, spec sealSpec, prepare func(*exec.Cmd)) (*exec.Cmd, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("seal server: %w", err)
	}
	defer r.Close()
	// The data folder is named again, as startedOn looks for it.
	cmd := exec.Command(c.helper(), SealCommand, string(b), "-D", spec.Dir)
	prepare(cmd)
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{w}, cmd.ExtraFiles...)
	if err := spec.namespaces(cmd.SysProcAttr); err != nil {
		w.Close()
		return nil, err
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	said, err := io.ReadAll(io.LimitReader(r, 64<<10))
	killed := !stop()
	if err == nil && len(said) == 0 && !killed && len(spec.Args) > 0 {
		return cmd, nil // the pipe was closed by exec
	}
	cmd.Process.Kill()
	err = errors.Join(err, cmd.Wait(), context.Cause(ctx))
	if string(said) == checked {
		return nil, nil
	}
	if why, ok := strings.CutPrefix(string(said), programPrefix); ok {
		return nil, fmt.Errorf("%w: %s", errProgram, why)
	}
	if len(said) > 0 {
		err = errors.New(string(said))
	}
	return nil, fmt.Errorf("seal: %w", err)
}

// namespaces asks for the namespaces at clone.
func (s sealSpec) namespaces(a *syscall.SysProcAttr) error {
	a.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWNS
	if s.Guest != nil {
		a.Cloneflags = s.Guest.namespaces()
	}
	if !s.User {
		return nil
	}
	a.Cloneflags |= unix.CLONE_NEWUSER
	if os.Geteuid() != 0 {
		// The only map an unprivileged user may write: itself. It keeps its capabilities in the
		// namespace over exec only as ambient ones.
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: s.UID, HostID: s.UID, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: s.GID, HostID: s.GID, Size: 1}}
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}
		return nil
	}
	// All users keep their numbers, so that files look the same inside and outside.
	var err1, err2 error
	a.UidMappings, err1 = identityMap("/proc/self/uid_map")
	a.GidMappings, err2 = identityMap("/proc/self/gid_map")
	a.GidMappingsEnableSetgroups = true
	return errors.Join(err1, err2)
}

// identityMap is the map that gives every ID of our own user namespace the same number in a child of it.
func identityMap(path string) ([]syscall.SysProcIDMap, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	var ids []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.Atoi(f[0])
		size, err2 := strconv.Atoi(f[2])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: size})
	}
	return ids, nil
}

// socketFolders are the folders, of those that are shown in a seal, that hold Unix sockets. They are covered: a socket can be reached
// from another network namespace, and over a read-only mount.
func socketFolders(shown []string) ([]string, error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer f.Close()
	var dirs []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path; the path is missing or begins with @ for others.
		if _, path, ok := strings.Cut(sc.Text(), " /"); ok {
			dirs = append(dirs, filepath.Dir("/"+path))
		}
	}
	slices.Sort(dirs)
	// What stands there is anybody's to say, blanks and line ends too, and is the name at the socket's making. What counts is that one is there.
	return slices.DeleteFunc(slices.Compact(dirs), func(dir string) bool { return !within(dir, shown) || !holdsSocket(dir) }), nil
}

func holdsSocket(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Type()&os.ModeSocket != 0 })
}

// CheckSeal makes a seal for real and looks around in it. It is CodeSealNamespace where none can be had.
func CheckSeal(ctx context.Context, o Owner, helper string) error {
	c := Config{Owner: o, Helper: helper}
	_, err := c.seal(ctx, sealSpec{UID: o.UID, GID: o.GID, ReadOnly: []string{c.helper()}}, func(cmd *exec.Cmd) {
		cmd.Env = []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	})
	return err
}
