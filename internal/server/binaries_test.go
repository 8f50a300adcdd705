package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandglass/internal/server"
)

// What is installed is asked once, and again when a package's upgrade put another file there.
func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	install := func(version string) {
		t.Helper()
		next := filepath.Join(dir, "next")
		must(t, os.WriteFile(next, fmt.Appendf(nil, "#!/bin/sh\necho >>%s\necho 'postgres (PostgreSQL) %s'\n", asked, version), 0o755))
		must(t, os.Rename(next, filepath.Join(dir, "postgres")))
		must(t, os.WriteFile(filepath.Join(dir, "initdb"), nil, 0o755))
	}
	installed := server.Look(dir)
	expect := func(version string, times int) {
		t.Helper()
		found, err := installed.Find(t.Context())
		must(t, err)
		if got := found[14].Version; got != version {
			t.Errorf("found version %q, not %q", got, version)
		}
		text, err := os.ReadFile(asked)
		must(t, err)
		if got := strings.Count(string(text), "\n"); got != times {
			t.Errorf("asked %d times, not %d", got, times)
		}
	}
	install("14.1")
	expect("14.1", 1)
	expect("14.1", 1)
	install("14.2")
	expect("14.2", 2)
}
