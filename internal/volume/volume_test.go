// The suite every driver passes, and what is special about full volumes.

package volume_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/volume"
)

const nobody = 65534

// image is a small data folder with two tablespaces, one of them known from tablespace_map alone.
type image struct {
	fail error // after some files
	runs *int
}

func (i image) Bytes() int64 { return 11 }

func (i image) Restore(ctx context.Context, root string, tablespace func(string) string, progress func(int64)) error {
	if i.runs != nil {
		*i.runs++
	}
	files := map[string]string{
		filepath.Join(root, "PG_VERSION"):                         "15\n",
		filepath.Join(root, "base/1/1259"):                        "rows",
		filepath.Join(root, "tablespace_map"):                     "16384 /srv/fast\n16385 /srv/odd\\\nname\n",
		filepath.Join(tablespace("16384"), "PG_15_202209061/1/2"): "more",
	}
	var done int64
	for _, path := range []string{filepath.Join(root, "PG_VERSION"), filepath.Join(root, "base/1/1259"), filepath.Join(root, "tablespace_map"), filepath.Join(tablespace("16384"), "PG_15_202209061/1/2")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(files[path]), 0o640)); err != nil {
			return err
		}
		done += int64(len(files[path]))
		progress(done)
		if i.fail != nil {
			return i.fail
		}
	}
	return os.Mkdir(filepath.Join(root, "pg_tblspc"), 0o700)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// conform is what every driver must do.
func conform(t *testing.T, d volume.Driver, o volume.Owner) {
	ctx := t.Context()
	want := func(id string, complete bool) {
		t.Helper()
		if got, err := d.Complete(ctx, id); err != nil || got != complete {
			t.Errorf("volume %s complete: %t, %v; want %t", id, got, err, complete)
		}
	}
	t.Run("life", func(t *testing.T) {
		want("life0001", false)
		must(t, d.Destroy(ctx, "life0001")) // nothing there
		var last int64
		runs := 0
		must(t, d.Create(ctx, "life0001", o, image{runs: &runs}, func(n int64) { last = n }))
		must(t, d.Create(ctx, "life0001", o, image{runs: &runs}, func(int64) {}))
		if runs != 1 || last == 0 {
			t.Errorf("restored %d times with %d bytes of progress; want once", runs, last)
		}
		want("life0001", true)
		ids, err := d.List(ctx)
		if diff := cmp.Diff([]string{"life0001"}, ids); err != nil || diff != "" {
			t.Errorf("list: %v %s", err, diff)
		}
		if n, err := d.Usage(ctx, "life0001"); err != nil || n <= 0 {
			t.Errorf("usage: %d, %v", n, err)
		}
		if n, err := d.Free(ctx); err != nil || n <= 0 {
			t.Errorf("free: %d, %v", n, err)
		}
		must(t, d.Destroy(ctx, "life0001"))
		want("life0001", false)
		if ids, err := d.List(ctx); err != nil || len(ids) != 0 {
			t.Errorf("list: %v %v", ids, err)
		}
		if _, err := d.Usage(ctx, "life0001"); sandglass.CodeOf(err) != sandglass.CodeVolumeUnknown {
			t.Errorf("usage of a destroyed volume: %v", err)
		}
	})
	t.Run("private", func(t *testing.T) {
		must(t, d.Create(ctx, "priv0001", o, image{}, func(int64) {}))
		l := d.Layout("priv0001")
		for _, dir := range []string{l.Data, l.Tablespaces, l.Run, l.Log} {
			info, err := os.Stat(dir)
			must(t, err)
			if info.Mode().Perm() != 0o700 {
				t.Errorf("%s has mode %v", dir, info.Mode())
			}
		}
		// In the folder around them nobody but us puts anything in the place of one.
		if info, err := os.Stat(l.Root); err != nil || info.Mode().Perm() != 0o711 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
			t.Errorf("%s: %v %v", l.Root, info.Mode(), err)
		}
		foreign := func(root string, o volume.Owner) {
			t.Helper()
			out, err := exec.CommandContext(ctx, "find", root, "-mindepth", "1", "(", "!", "-uid", fmt.Sprint(o.UID), "-o", "!", "-gid", fmt.Sprint(o.GID), ")").CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("not its owner's: %v %s", err, out)
			}
		}
		foreign(l.Root, o)
		must(t, d.Destroy(ctx, "priv0001"))
		if os.Geteuid() != 0 {
			return // nobody else can be its owner
		}
		other := volume.Owner{UID: o.UID - 1, GID: o.GID - 2} // beside one another, and of numbers that no account has
		must(t, d.CreateEmpty(ctx, "priv0001", o))
		must(t, d.Create(ctx, "priv0002", other, image{}, func(int64) {}))
		must(t, d.CreateEmpty(ctx, "priv0003", other))
		must(t, d.CreateEmpty(ctx, "priv0001", other)) // a complete one stays as it is
		foreign(d.Layout("priv0001").Root, o)
		foreign(d.Layout("priv0002").Root, other)
		foreign(d.Layout("priv0003").Root, other)
		for _, id := range []string{"priv0001", "priv0002", "priv0003"} {
			must(t, d.Destroy(ctx, id))
		}
	})
	t.Run("tablespaces", func(t *testing.T) {
		must(t, d.Create(ctx, "tabl0001", o, image{}, func(int64) {}))
		l := d.Layout("tabl0001")
		b, err := os.ReadFile(filepath.Join(l.Data, "tablespace_map"))
		must(t, err)
		if diff := cmp.Diff(fmt.Sprintf("16384 %[1]s/16384\n16385 %[1]s/16385\n", l.Tablespaces), string(b)); diff != "" {
			t.Errorf("tablespace_map: %s", diff)
		}
		for _, oid := range []string{"16384", "16385"} {
			to, err := os.Readlink(filepath.Join(l.Data, "pg_tblspc", oid))
			if err != nil || to != filepath.Join(l.Tablespaces, oid) {
				t.Errorf("tablespace %s leads to %s, %v", oid, to, err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(l.Data, "pg_tblspc/16384/PG_15_202209061/1/2")); string(b) != "more" {
			t.Errorf("tablespace's file: %q, %v", b, err)
		}
		must(t, d.Destroy(ctx, "tabl0001"))
	})
	t.Run("half-made", func(t *testing.T) {
		err := d.Create(ctx, "half0001", o, image{fail: fmt.Errorf("write chunk: %w", unix.ENOSPC)}, func(int64) {})
		if sandglass.CodeOf(err) != sandglass.CodeDiskFull {
			t.Errorf("a full disk said %v", err)
		}
		if ids, err := d.List(ctx); err != nil || len(ids) != 0 {
			t.Errorf("a failure left %v, %v", ids, err)
		}
		// A maker that was killed leaves a half-made one: it is never taken for whole, and made anew.
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			defer func() { recover() }()
			d.Create(ctx, "half0001", o, panicking{}, func(int64) {})
		}()
		<-killed
		must(t, d.Create(ctx, "half0001", o, image{}, func(int64) {}))
		want("half0001", true)
		must(t, d.Destroy(ctx, "half0001"))
	})
	t.Run("in use", func(t *testing.T) {
		must(t, d.CreateEmpty(ctx, "used0001", o))
		l := d.Layout("used0001")
		// A process that looks like a server's: it works in the data folder, by that name.
		fake := filepath.Join(t.TempDir(), "postgres")
		must(t, os.Symlink("/bin/sleep", fake))
		cmd := exec.Command(fake, "60")
		cmd.Dir = l.Data
		must(t, cmd.Start())
		if err := d.Destroy(ctx, "used0001"); sandglass.CodeOf(err) != sandglass.CodeVolumeInUse {
			t.Errorf("destroying a volume in use said %v", err)
		}
		want("used0001", true)
		cmd.Process.Kill()
		cmd.Wait()
		must(t, d.Destroy(ctx, "used0001"))
	})
	t.Run("names", func(t *testing.T) {
		for _, id := range []string{"", "..", "a/b", "A", strings.Repeat("a", 40)} {
			if err := d.Destroy(ctx, id); sandglass.CodeOf(err) != sandglass.CodeVolumeUnknown {
				t.Errorf("destroying %q said %v", id, err)
			}
			if err := d.CreateEmpty(ctx, id, o); sandglass.CodeOf(err) != sandglass.CodeVolumeUnknown {
				t.Errorf("creating %q said %v", id, err)
			}
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		err := d.Create(ctx, "canc0001", o, image{}, func(int64) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled creation said %v", err)
		}
		if ids, _ := d.List(t.Context()); len(ids) != 0 {
			t.Errorf("it left %v", ids)
		}
	})
}

// panicking is an image whose restoring ends as by SIGKILL.
type panicking struct{}

func (panicking) Bytes() int64 { return 0 }
func (panicking) Restore(ctx context.Context, root string, tablespace func(string) string, progress func(int64)) error {
	os.WriteFile(filepath.Join(root, "PG_VERSION"), []byte("15\n"), 0o600)
	panic("killed")
}

func TestFull(t *testing.T) {
	o := volume.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	if o.UID == 0 {
		o = volume.Owner{UID: nobody, GID: nobody}
	}
	conform(t, volume.NewFull(t.TempDir(), slog.New(slog.DiscardHandler)), o)
}

// TestFullDisk fills a real, tiny disk.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a tiny disk")
	}
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d, o := volume.NewFull(dir, slog.New(slog.DiscardHandler)), volume.Owner{UID: nobody, GID: nobody}
	err := d.Create(t.Context(), "full0001", o, big{}, func(int64) {})
	if sandglass.CodeOf(err) != sandglass.CodeDiskFull {
		t.Errorf("a full disk said %v", err)
	}
	if n, err := d.Free(t.Context()); err != nil || n < 60<<10 {
		t.Errorf("%d bytes are free again, %v", n, err)
	}
}

// big does not fit.
type big struct{}

func (big) Bytes() int64 { return 1 << 20 }
func (big) Restore(ctx context.Context, root string, tablespace func(string) string, progress func(int64)) error {
	return os.WriteFile(filepath.Join(root, "big"), make([]byte, 1<<20), 0o600)
}
