package server_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/server"
)

// Programs of a server's user may call themselves anything. They pass for another user's server neither while that is down nor
// when it starts; of its own user's, nobody can tell.
func TestOthersPretend(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run programs of two users")
	}
	c, p := newCluster(t, filepath.Join(tempDir(t), "v"), nil)
	must(t, p.Stop(testContext(t), server.Fast))
	pretend := func(uid int) int {
		t.Helper()
		cmd := exec.Command("sh", "-c", "read line", "postgres", "-D", c.Data)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		in, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Wait()
		})
		return cmd.Process.Pid
	}
	pretend(65534)
	if p, err := server.Adopt(testContext(t), c); !errors.Is(err, server.ErrNotRunning) {
		t.Fatalf("another's program was adopted: %+v %v", p, err)
	}
	p = start(t, c)
	must(t, p.Stop(testContext(t), server.Fast))
	own := pretend(c.Owner.UID)
	p, err := server.Adopt(testContext(t), c)
	must(t, err)
	defer p.Close()
	if p.PID() != own {
		t.Errorf("adopted %d, not %d", p.PID(), own)
	}
}

// Whatever the server's user makes of postmaster.pid, the server is found, and can be stopped.
func TestLockFileOfAnyKind(t *testing.T) {
	c, p := newCluster(t, filepath.Join(tempDir(t), "v"), nil)
	path := filepath.Join(c.Data, "postmaster.pid")
	for what, put := range map[string]func() error{
		"a pipe":   func() error { return unix.Mkfifo(path, 0o666) },
		"a folder": func() error { return os.Mkdir(path, 0o755) },
		"a link":   func() error { return os.Symlink("/etc/passwd", path) },
		"prose":    func() error { return os.WriteFile(path, []byte("one\ntwo\nthree\nfour\n"), 0o644) },
		"a hole":   func() error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<34)) },
	} {
		must(t, os.RemoveAll(path))
		must(t, put())
		again, err := server.Adopt(testContext(t), c)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if again.PID() != p.PID() {
			t.Errorf("%s: found %d, not %d", what, again.PID(), p.PID())
		}
		again.Close()
	}
	must(t, p.Stop(testContext(t), server.Fast))
}

// The kernel's list of sockets shows relative names as they were given: one must not pass for a folder of the system, which a seal
// would then cover.
func TestSocketOfAnyName(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, filepath.Join(dir, "v"), nil)
	must(t, p.Stop(testContext(t), server.Fast))
	t.Chdir(dir)
	name := "a " + c.Binaries.Dir + "/s"
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	l, err := net.Listen("unix", name)
	must(t, err)
	defer l.Close()
	c.Seal, c.Helper = &server.Seal{Volume: filepath.Join(dir, "v"), Loopback: true}, helper(t, dir)
	c.Settings = server.StagingSettings(c.Binaries.Major, sandglass.Parameters{}, nil)
	if p := start(t, c); !p.Sealed() {
		t.Error("not sealed")
	}
}

// A log that has another name somewhere is not given to the server's user.
func TestLogOfAnotherName(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, filepath.Join(dir, "v"), nil)
	must(t, p.Stop(testContext(t), server.Fast))
	other := filepath.Join(dir, "v", "precious")
	must(t, os.WriteFile(other, []byte("ours"), 0o600))
	must(t, os.Remove(c.Log))
	must(t, os.Link(other, c.Log))
	if p, err := server.Start(testContext(t), c); err == nil {
		p.Close()
		t.Error("a server was started with it")
	}
	info, err := os.Stat(other)
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || info.Size() != 4 {
		t.Errorf("it has %d bytes, and is of user %d", info.Size(), st.Uid)
	}
}
