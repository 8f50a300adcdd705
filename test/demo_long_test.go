//go:build long

package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sandglass/internal/pgtest"
)

// demoIn is the demo in a folder of its own, which is not there yet.
func demoIn(t *testing.T) (binary, parent, dir string) {
	t.Helper()
	binary, err := build()
	must(t, err)
	parent, err = os.MkdirTemp("/tmp", "sg")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(parent) })
	must(t, os.Chmod(parent, 0o755))
	return binary, parent, filepath.Join(parent, "d")
}

func nothingOfDemo(t *testing.T, parent, dir string) {
	t.Helper()
	if left := pgtest.ProcessesOf(parent); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the demo's folder is left: %v", err)
	}
}

// Without --once the demo is left running and says what to try next, to the command that ends it.
func TestDemoStays(t *testing.T) {
	binary, parent, dir := demoIn(t)
	down := func() ([]byte, error) {
		return exec.CommandContext(t.Context(), binary, "demo", "--down", "--dir", dir).CombinedOutput()
	}
	defer down()
	out, err := exec.CommandContext(t.Context(), binary, "demo", "--dir", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	_, next, _ := strings.Cut(string(out), "Try next:")
	for _, want := range []string{"export SANDGLASS_STATE=" + filepath.Join(dir, "state"), "window prod", "demo --down --dir " + dir} {
		if !strings.Contains(next, want) {
			t.Errorf("the demo does not say %q in the end:\n%s", want, out)
		}
	}
	show := exec.CommandContext(t.Context(), binary, "window", "prod") // as it is told
	show.Env = append(os.Environ(), "SANDGLASS_STATE="+filepath.Join(dir, "state"))
	if said, err := show.CombinedOutput(); err != nil {
		t.Errorf("window prod in the demo that was left running: %v\n%s", err, said)
	}
	if said, err := down(); err != nil {
		t.Errorf("demo --down: %v\n%s", err, said)
	}
	nothingOfDemo(t, parent, dir)
}

// Ctrl-C in the midst of the demo ends it and leaves nothing.
func TestDemoInterrupted(t *testing.T) {
	binary, parent, dir := demoIn(t)
	cmd := exec.CommandContext(t.Context(), binary, "demo", "--dir", dir)
	out := &watched{text: "A sandbox with a life of its own", seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.seen:
		must(t, cmd.Process.Signal(os.Interrupt))
	case err := <-ended:
		t.Fatalf("the demo ended by itself: %v\n%s", err, out.said.String())
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Errorf("a demo that was interrupted ended well:\n%s", out.said.String())
		}
	case <-time.After(time.Minute):
		t.Error("the demo goes on after an interrupt")
		must(t, cmd.Process.Kill())
		<-ended
	}
	nothingOfDemo(t, parent, dir)
}

// watched keeps what is written, and tells once a text was.
type watched struct {
	text string
	seen chan struct{}
	mu   sync.Mutex
	said bytes.Buffer
	told bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said.Write(p)
	if !w.told && bytes.Contains(w.said.Bytes(), []byte(w.text)) {
		w.told = true
		close(w.seen)
	}
	return len(p), nil
}
