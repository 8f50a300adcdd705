package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sandglass/internal/pgtest"
)

// The demo does the main job, checks it, and leaves nothing. How long it took is told.
func TestDemoOnce(t *testing.T) {
	t.Parallel()
	binary, err := build()
	must(t, err)
	parent, err := os.MkdirTemp("/tmp", "sg")
	must(t, err)
	defer os.RemoveAll(parent)
	must(t, os.Chmod(parent, 0o755))
	dir := filepath.Join(parent, "d")

	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, "demo", "--once", "--dir", dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err = cmd.Run()
	t.Logf("%s\n%s", time.Since(begin), &out)
	if err != nil {
		t.Fatalf("demo --once: %v", err)
	}
	if left := pgtest.ProcessesOf(parent); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the demo's folder is left: %v", err)
	}
}
