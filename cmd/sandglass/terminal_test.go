package main

// What happens on a terminal: confirmation, the live line, Ctrl-C. The binary runs on a real pseudo-terminal.

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/web"
)

// keyboard is the other side of a terminal on which a command runs.
type keyboard struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu    sync.Mutex
	seen  strings.Builder
	from  int           // what was before has been waited for
	newly chan struct{} // something was written
	ended chan struct{} // everything was read
}

// onTerminal starts a command on a pseudo-terminal of its own (pts(4)).
func onTerminal(t *testing.T, state string, args ...string) *keyboard {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo-terminals here: ", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &keyboard{t: t, master: master, newly: make(chan struct{}, 1), ended: make(chan struct{})}
	k.cmd = exec.CommandContext(t.Context(), self, append([]string{"--state", state}, args...)...)
	k.cmd.Env = append(os.Environ(), "SANDGLASS_TEST_MAIN=1", "TERM=xterm")
	k.cmd.Stdin, k.cmd.Stdout, k.cmd.Stderr = tty, tty, tty
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go k.read()
	t.Cleanup(func() {
		_ = k.cmd.Process.Kill() // it has ended already, when the test went well
		<-k.ended
		_ = master.Close()
	})
	return k
}

func (k *keyboard) read() {
	defer close(k.ended)
	b := make([]byte, 4096)
	for {
		n, err := k.master.Read(b)
		if err != nil { // EIO: the command has ended
			return
		}
		k.mu.Lock()
		k.seen.Write(b[:n])
		k.mu.Unlock()
		select {
		case k.newly <- struct{}{}:
		default:
		}
	}
}

func (k *keyboard) text() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen.String()
}

// patienceOfTest bounds what a test waits for.
const patienceOfTest = 20 * time.Second

// sees waits until the terminal shows the text, after what was waited for before.
func (k *keyboard) sees(text string) {
	k.t.Helper()
	for deadline := time.After(patienceOfTest); ; {
		all := k.text()
		if i := strings.Index(all[k.from:], text); i >= 0 {
			k.from += i + len(text)
			return
		}
		select {
		case <-k.newly:
		case <-deadline:
			k.t.Fatalf("never saw %q after %q", text, all[k.from:])
		}
	}
}

func (k *keyboard) types(text string) {
	k.t.Helper()
	if _, err := k.master.WriteString(text); err != nil {
		k.t.Fatal(err)
	}
}

// exits waits for the command's end and checks its exit code.
func (k *keyboard) exits(want int) {
	k.t.Helper()
	late := time.AfterFunc(patienceOfTest, func() { _ = k.cmd.Process.Kill() }) // it may have ended just now
	defer late.Stop()
	_ = k.cmd.Wait() // the code says it
	<-k.ended
	if got := k.cmd.ProcessState.ExitCode(); got != want {
		k.t.Errorf("exit code %d, want %d:\n%s", got, want, k.text())
	}
}

const ctrlC = "\x03"

// slowControl serves operations that run until somebody cancels them.
func slowControl(t *testing.T, outcome sandglass.State) string {
	t.Helper()
	state, err := os.MkdirTemp("/tmp", "sg")
	if err != nil {
		t.Fatal(err)
	}
	c := sampleControl(outcome)
	c.Script = []sandglass.Operation{sampleOperation(sandglass.Running)}
	server, err := web.Listen(web.Config{Socket: filepath.Join(state, socketFile), Version: "dev", Parts: c.Parts(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(t.Context()) }()
	go func() {
		for !c.Next() && t.Context().Err() == nil { // as soon as there is an operation, it runs
			time.Sleep(10 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	return state
}

func TestConfirmation(t *testing.T) {
	state := slowControl(t, sandglass.Succeeded)
	k := onTerminal(t, state, "restore", "uat", "--latest")
	k.sees("Type uat to go on: ")
	k.types("prod\n")
	k.exits(sandglass.ExitCancelled)
	if !strings.Contains(k.text(), "nothing was changed") {
		t.Error(k.text())
	}
	k = onTerminal(t, state, "restore", "uat", "--latest")
	k.sees("Type uat to go on: ")
	k.types(ctrlC)
	k.exits(sandglass.ExitCancelled)
	k = onTerminal(t, state, "ops", "ls")
	k.exits(sandglass.ExitDone)
	if !strings.Contains(k.text(), "no operation") {
		t.Errorf("something was started: %s", k.text())
	}
}

func TestCtrlC(t *testing.T) {
	state := slowControl(t, sandglass.Succeeded)
	k := onTerminal(t, state, "restore", "uat", "--latest")
	k.sees("Type uat to go on: ")
	k.types("uat\n")
	k.sees("3 MiB of 12 MiB  25 %  about 9 s left")
	k.types(ctrlC)
	k.sees("leaves it running: ")
	k.types("n\n")
	k.sees("cut over     3 MiB")
	k.types(ctrlC)
	k.sees("leaves it running: ")
	k.types(ctrlC)
	k.exits(sandglass.ExitCancelled)
	if !strings.Contains(k.text(), "It goes on. Watch it with: sandglass ops watch 20261122t104307-0001") {
		t.Error(k.text())
	}

	k = onTerminal(t, state, "ops", "watch", "20261122t104307-0001")
	k.sees("cut over     3 MiB")
	k.types(ctrlC)
	k.sees("leaves it running: ")
	k.types("y\n")
	k.exits(sandglass.ExitCancelled)
	if !strings.Contains(k.text(), "The restore was cancelled; uat is as it was.") {
		t.Error(k.text())
	}
}

// A refused plan tells its sentence once on a terminal, and nothing of what would have happened.
func TestRefusedOnce(t *testing.T) {
	state := slowControl(t, "stopped")
	k := onTerminal(t, state, "restore", "uat", "--latest", "--yes")
	k.exits(sandglass.ExitRefused)
	if n := strings.Count(k.text(), "The disk has room for 1 GiB."); n != 1 || !strings.Contains(k.text(), "Make room for 5 GiB.") || strings.Contains(k.text(), "What happens") {
		t.Errorf("told %d times:\n%s", n, k.text())
	}
}
