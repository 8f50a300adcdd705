package repo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass/internal/repo"
	"sandglass/internal/repo/storetest"
)

func TestFolder(t *testing.T) {
	storetest.Run(t, func(t *testing.T) repo.Store {
		f, err := repo.NewFolder(filepath.Join(t.TempDir(), "not", "yet"))
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

func TestFolderRemovesWhatAKilledWriterLeft(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, ".tmp", "put-1")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	f, err := repo.NewFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the temporary file is still there: %v", err)
	}
	// A put leaves no temporary file either.
	if err := f.Put(t.Context(), "x", strings.NewReader("x"), true); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(filepath.Join(dir, ".tmp")); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}
