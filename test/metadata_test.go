package test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandglass/internal/control"
)

// Without its metadata `serve` can do nothing: it ends and says why, and the next life has all that was there.
func TestServeEndsWithItsMetadata(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", production(t, nil), nil))
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	lock, err := os.ReadFile(filepath.Join(s.State(), "meta", "data", "postmaster.pid"))
	must(t, err)
	first, _, _ := strings.Cut(string(lock), "\n")
	pid, err := strconv.Atoi(first)
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	select {
	case <-s.Exited():
	case <-time.After(time.Minute):
		t.Fatal("serve goes on")
	}
	if log := s.Log(4000); !strings.Contains(log, string(control.CodeMetadataGone)) || !strings.Contains(log, "systemd") {
		t.Errorf("serve says: %s", log)
	}
	must(t, s.Serve(ctx))
	e, err := s.Client.Environment(ctx, "uat")
	if err != nil || e.Name != "uat" {
		t.Errorf("after that: %+v, %v", e, err)
	}
}
