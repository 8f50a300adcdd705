package pg_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"sandglass/internal/pg"
)

// A server's user can put what he wants into its folders; root reads nothing else by it, and does not wait.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "volume")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(folder, "data", "real"), 0o700),
		os.WriteFile(filepath.Join(dir, "key"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(folder, "data", "real", "file"), []byte("own"), 0o600),
		os.Symlink(filepath.Join(dir, "key"), filepath.Join(folder, "data", "absolute")),
		os.Symlink("../../key", filepath.Join(folder, "data", "relative")),
		os.Symlink("..", filepath.Join(folder, "up")),
		os.Symlink("real", filepath.Join(folder, "data", "inside")),
		syscall.Mkfifo(filepath.Join(folder, "data", "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"data/absolute", "data/relative", "up/key", "../key"} {
		if b, err := pg.ReadFile(folder, name, 8); err == nil {
			t.Errorf("%s leads out of the folder, to %q", name, b)
		}
	}
	for _, name := range []string{"data/pipe", "data/real"} {
		if _, err := pg.Open(folder, name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s, which is no ordinary file: %v", name, err)
		}
	}
	for _, name := range []string{"data/real/file", "data/inside/file"} {
		if b, err := pg.ReadFile(folder, name, 8); err != nil || string(b) != "own" {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if b, err := pg.ReadFile(folder, "data/real/file", 2); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("more than may be read: %q %v", b, err)
	}
	if _, err := pg.Open(folder, "data/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}
