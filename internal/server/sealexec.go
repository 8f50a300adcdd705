// Sealing, seen from inside: the helper builds the view, gives up its privileges and becomes the server.

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// statusFD is the pipe on which the helper says what went wrong; exec closes it.
const statusFD = 3

// checked is what the helper says when it was only to check.
const checked = "sealed"

// SealMain is the body of the hidden command seal-exec: its first argument is a sealSpec. It returns only on failure,
// or when it was only to check.
func SealMain(args []string) int {
	// Capabilities and no_new_privs are of a thread; exec keeps those of the thread that calls it.
	runtime.LockOSThread()
	status := os.NewFile(statusFD, "status")
	unix.CloseOnExec(statusFD)
	said := checked
	if err := sealAndExec(args); err != nil {
		said = err.Error()
	}
	fmt.Fprint(status, said)
	if said != checked {
		return 126
	}
	return 0
}

func sealAndExec(args []string) error {
	var s sealSpec
	if len(args) == 0 {
		return errors.New("seal-exec is run by Sandglass itself")
	}
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("read what to seal: %w", err)
	}
	if err := s.buildView(); err != nil {
		return err
	}
	if s.Guest != nil {
		return s.superviseGuest()
	}
	if s.Loopback {
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
	if len(s.Args) == 0 {
		return nil
	}
	if err := os.Chdir(s.Dir); err != nil {
		return err
	}
	unix.Umask(0o077)
	return fmt.Errorf("run %s: %w", s.Args[0], syscall.Exec(s.Args[0], s.Args, os.Environ()))
}

// Where things are while the view is being built, after the first pivot: the tree to be, and the host's.
const (
	newRoot = "/new"
	oldRoot = "/old"
)

// system is what of the host every sealed server sees, read-only. Not /run, /var, /tmp nor /home: there other
// servers have their sockets and files.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"}

// devices are the harmless ones.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// view is the file system being built.
type view struct {
	sealSpec
	sources map[string]source // what of the host is shown, by the path it has in both
}

// source is a file or folder of the host, opened while its path, symbolic links and all, still has its meaning.
type source struct {
	fd  int
	dir bool
}

// buildView makes the file system the server sees, and leaves the host's.
func (s sealSpec) buildView() error {
	v := view{s, map[string]source{}}
	for _, step := range []func() error{v.openSources, v.enterStage, v.showDevices, v.showSystem, v.showAccount, v.showVolume, v.showSocket, v.leaveHost} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, src := range v.sources {
		unix.Close(src.fd)
	}
	return nil
}

// openSources opens all that will be shown. System folders may be missing.
func (v view) openSources() error {
	for _, path := range slices.Concat(system, devices, v.ReadOnly, []string{"/proc", v.Volume}, v.guestSources()) {
		if _, ok := v.sources[path]; ok || path == "" {
			continue
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && slices.Contains(system, path) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		v.sources[path] = source{fd, st.Mode&unix.S_IFMT == unix.S_IFDIR}
	}
	return nil
}

// enterStage makes an empty tree on a tmpfs for the root to be, with the host's tree at oldRoot.
func (v view) enterStage() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Any folder will do; it is hidden only in here.
	const base = "/tmp"
	if err := mountTmpfs(base, "mode=0755,size=1m"); err != nil {
		return err
	}
	for _, dir := range []string{newRoot, oldRoot} {
		if err := os.Mkdir(base+dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.PivotRoot(base, base+oldRoot); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return mountTmpfs(newRoot, "mode=0755,size=1m")
}

func mountTmpfs(path, options string) error {
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", path, err)
	}
	return nil
}

// showSystem shows the system and the read-only extras, and covers folders in them that hold sockets.
func (v view) showSystem() error {
	var shown []string
	for _, path := range slices.Concat(system, v.ReadOnly) {
		if _, ok := v.sources[path]; !ok || within(path, shown) {
			continue
		}
		// /bin -> usr/bin and the like
		if target, err := os.Readlink(oldRoot + path); err == nil && slices.Contains(system, path) {
			if err := os.Symlink(target, newRoot+path); err != nil {
				return err
			}
			continue
		}
		if err := v.show(path, readOnly); err != nil {
			return err
		}
		shown = append(shown, path)
	}
	for _, dir := range v.Masked {
		if _, err := os.Stat(newRoot + dir); err != nil || !within(dir, shown) {
			continue
		}
		if err := unix.Mount("tmpfs", newRoot+dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, "mode=0555,size=4k"); err != nil {
			return fmt.Errorf("cover %s: %w", dir, err)
		}
	}
	return nil
}

// showAccount gives the server's user, which the host does not know, a line in an /etc/passwd of the view's own: initdb and
// single-user mode start only as somebody with a name (get_user_name_or_exit in common/username.c).
func (v view) showAccount() error {
	if v.Account == "" {
		return nil
	}
	const host, own = "/etc/passwd", "/passwd" // own lies on the stage, which stays for as long as it is shown
	text, err := os.ReadFile(oldRoot + host)
	if err != nil {
		return fmt.Errorf("read the accounts: %w", err)
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "%s:x:%d:%d:Sandglass:/:/usr/sbin/nologin\n", v.Account, v.UID, v.GID)
	if err := errors.Join(os.WriteFile(own, text, 0o644), os.Chmod(own, 0o644)); err != nil { // whatever the umask
		return fmt.Errorf("write the accounts: %w", err)
	}
	if err := unix.Mount(own, newRoot+host, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show the accounts: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, newRoot+host, 0, &unix.MountAttr{Attr_set: readOnly}); err != nil {
		return fmt.Errorf("protect the accounts: %w", err)
	}
	return nil
}

// showDevices gives the server devices, folders of its own for temporary files, and, with a user namespace
// around it, /proc: without one, /proc/PID/root would lead to the files of other servers of its user.
func (v view) showDevices() error {
	for _, path := range devices {
		if err := v.show(path, unix.MOUNT_ATTR_NOSUID); err != nil {
			return err
		}
	}
	for _, m := range [][2]string{{"/dev/shm", "mode=1777,size=64m"}, {"/tmp", "mode=1777,size=256m"}} {
		if err := os.MkdirAll(newRoot+m[0], 0o755); err != nil {
			return err
		}
		if err := mountTmpfs(newRoot+m[0], m[1]); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"fd", ""}, {"stdin", "/0"}, {"stdout", "/1"}, {"stderr", "/2"}} {
		if err := os.Symlink("/proc/self/fd"+l[1], newRoot+"/dev/"+l[0]); err != nil {
			return err
		}
	}
	if !v.User || v.Guest != nil {
		if err := os.Mkdir(newRoot+"/proc", 0o555); err != nil || v.Guest == nil {
			return err
		}
		return v.ownProc()
	}
	return v.show("/proc", readOnly)
}

// showVolume shows the one folder that can be written to.
func (v view) showVolume() error {
	if v.Volume == "" {
		return nil
	}
	return v.show(v.Volume, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// readOnly are the attributes of what can't be changed.
const readOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// show binds a file or folder of the host, with all that is mounted below it, to the same path.
func (v view) show(path string, attributes uint64) error { return v.showAs(path, path, attributes) }

// showAs is show with another path in the view.
func (v view) showAs(path, as string, attributes uint64) error {
	src, target := v.sources[path], newRoot+as
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if src.dir {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	} else if f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644); err != nil {
		return err
	} else {
		f.Close()
	}
	if err := unix.Mount(fmt.Sprintf("%s/proc/self/fd/%d", oldRoot, src.fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return fmt.Errorf("protect %s: %w", path, err)
	}
	return nil
}

// leaveHost makes the new tree the root, read-only, and lets go of the host's.
func (v view) leaveHost() error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one, then detached.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's file system: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// dropPrivileges becomes the server's user, for good: no capability, and none to be had by exec.
func (s sealSpec) dropPrivileges() error {
	if os.Getuid() == 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(s.GID, s.GID, s.GID), syscall.Setresuid(s.UID, s.UID, s.UID)); err != nil {
			return err
		}
	}
	return errors.Join(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// lookAround makes sure that the seal is one, as the server's user.
func (s sealSpec) lookAround() error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	for _, l := range links {
		if s.Guest != nil && s.Guest.OpenNetwork {
			break
		}
		if l.Flags&net.FlagLoopback == 0 && l.Flags&net.FlagUp != 0 || l.Flags&net.FlagUp != 0 && !s.Loopback {
			return fmt.Errorf("the network interface %s is up", l.Name)
		}
	}
	for _, dir := range []string{"/run", "/var", "/home", oldRoot} {
		if _, err := os.Lstat(dir); err == nil && !slices.ContainsFunc(append(s.ReadOnly, s.Volume), func(p string) bool { return within(p, []string{dir}) }) && !(s.Guest != nil && dir == "/run") {
			return fmt.Errorf("%s of the host is visible", dir)
		}
	}
	if f, err := os.Create("/sealed"); err == nil {
		f.Close()
		return errors.New("the root can be written to")
	}
	return nil
}

// raiseLoopback brings up lo of the network namespace.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// within says whether path is one of dirs or below one.
func within(path string, dirs []string) bool {
	for _, dir := range dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}
