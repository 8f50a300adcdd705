package repo_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/repo"
)

const chunk = 256 << 10

func someFiles() []file {
	sparse := make([]byte, 5*chunk)
	copy(sparse[3*chunk+100:], "not zero")
	noise := make([]byte, 2*chunk)
	incompressible(noise)
	files := []file{
		{"PG_VERSION", []byte("15\n")},
		{"empty", nil},
		{"base/1/100", data(1, 3*chunk+777)},
		{"base/1/101", data(2, chunk)},
		{"base/1/102", make([]byte, 2*chunk+1)},
		{"base/1/103", sparse},
		{"base/1/104", noise},
		{"pg_tblspc/16400/PG_15_202209061/5/200", data(3, 2*chunk)},
		{"pg_tblspc/16400/PG_15_202209061/5/201", data(4, 10)},
		{"global/pg_control", data(5, 8192)},
	}
	for i := range 300 {
		files = append(files, file{"base/1/small" + string(rune('a'+i%26)) + strings.Repeat("x", i/26), data(uint64(1000+i), 8192)})
	}
	return files
}

func TestImageRoundTrip(t *testing.T) {
	x := newFixture(t)
	files := someFiles()
	blind := x.reopen(t, repo.Keys{DigestKey: x.repo.DigestKey()}) // a recorder has no identity
	facts, d := x.image(t, blind, x.inc.ID, "20261101t110000-img1", epoch.Add(time.Hour), 0x200028, nil, files)
	if facts.Files != len(files) || facts.StoredBytes == 0 || facts.Bytes < 10*chunk {
		t.Errorf("facts: %+v", facts)
	}
	if got := d.Image(); got.ID != facts.ID {
		t.Errorf("digests are of %q", got.ID)
	}

	r := x.fresh(t)
	images, err := r.Images(t.Context(), env, x.inc.ID)
	if err != nil || len(images) != 1 || images[0].Redo != 0x200028 || images[0].Bytes != facts.Bytes {
		t.Fatalf("images: %+v, %v", images, err)
	}
	i, err := r.OpenImage(t.Context(), env, x.inc.ID, facts.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"PG_VERSION", "base/1/100", "base/1/103", "empty"} {
		b, err := i.ReadFile(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.path == name && !bytes.Equal(b, f.data) {
				t.Errorf("%s: other contents come back", name)
			}
		}
	}
	if _, err := i.ReadFile(t.Context(), "base/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}

	root, space := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "16400")
	var last atomic.Int64
	err = i.Restore(t.Context(), root, func(oid string) string {
		if oid != "16400" {
			t.Errorf("asked for tablespace %q", oid)
		}
		return space
	}, func(done int64) {
		if done < last.Swap(done) {
			t.Errorf("progress went back to %d", done)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, root, files)
	if last.Load() != i.Bytes() {
		t.Errorf("progress ended at %d of %d", last.Load(), i.Bytes())
	}
	if to, err := os.Readlink(filepath.Join(root, "pg_tblspc/16400")); err != nil || to != space {
		t.Errorf("link to %q, %v", to, err)
	}
	if info, err := os.Stat(filepath.Join(root, "pg_wal")); err != nil || !info.IsDir() {
		t.Errorf("pg_wal: %v", err)
	}
	if info, err := os.Stat(filepath.Join(root, "base/1/100")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("base/1/100: %v, %v", info, err)
	}
	// Again over what is there, without a mapping of tablespaces.
	root = filepath.Join(t.TempDir(), "data")
	for range 2 {
		if err := i.Restore(t.Context(), root, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	checkFiles(t, root, files)
}

func TestImageSharesWithItsParent(t *testing.T) {
	x := newFixture(t)
	files := someFiles()
	one, d1 := x.image(t, x.repo, x.inc.ID, "20261101t110000-img1", epoch.Add(time.Hour), 0x200028, nil, files)
	files[2].data = bytes.Clone(files[2].data)
	copy(files[2].data[chunk+5:], "changed") // one chunk of four
	files = append(files, file{"base/1/new", data(77, chunk/2)})
	files[3].data = files[3].data[:chunk-1] // cut by one byte

	// As after a restart: the digests come from their file.
	if err := d1.Close(); err != nil {
		t.Fatal(err)
	}
	known, err := x.repo.OpenDigests(d1.Path())
	if err != nil {
		t.Fatal(err)
	}
	two, d2 := x.image(t, x.repo, x.inc.ID, "20261102t110000-img2", epoch.Add(25*time.Hour), 0x400028, known, files)
	if two.Parent != one.ID {
		t.Errorf("parent %q", two.Parent)
	}
	if two.StoredBytes > one.StoredBytes/4 {
		t.Errorf("the second image stored %d bytes, the first %d", two.StoredBytes, one.StoredBytes)
	}
	three, _ := x.image(t, x.repo, x.inc.ID, "20261103t110000-img3", epoch.Add(49*time.Hour), 0x600028, d2, files)
	if three.StoredBytes != 0 || len(x.objects(t, "env/prod/"+string(x.inc.ID)+"/bundle/"+string(three.ID))) != 0 {
		t.Errorf("an unchanged image stored %d bytes", three.StoredBytes)
	}
	i, err := x.fresh(t).OpenImage(t.Context(), env, x.inc.ID, three.ID)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "data")
	if err := i.Restore(t.Context(), root, nil, nil); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, root, files)

	fetched, err := x.fresh(t).FetchDigests(t.Context(), env, x.inc.ID, two.ID, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer fetched.Close()
	a, _ := os.ReadFile(d2.Path())
	b, _ := os.ReadFile(fetched.Path())
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Errorf("the fetched digests differ (%d and %d bytes)", len(a), len(b))
	}
}

func TestDigestsThatWereChangedAreRefused(t *testing.T) {
	x := newFixture(t)
	_, d := x.image(t, x.repo, x.inc.ID, "20261101t110000-img1", epoch, 0x200028, nil, someFiles())
	b, err := os.ReadFile(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(d.Path(), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := x.repo.OpenDigests(d.Path()); err == nil {
		t.Error("accepted")
	}
}

func TestImageLargerThanABundle(t *testing.T) {
	x := newFixture(t)
	noise := make([]byte, 70<<20)
	incompressible(noise)
	files := []file{{"base/1/big", noise}}
	facts, _ := x.image(t, x.repo, x.inc.ID, "20261101t110000-img1", epoch, 0x200028, nil, files)
	bundles := x.objects(t, "env/prod/"+string(x.inc.ID)+"/bundle")
	if len(bundles) != 2 {
		t.Fatalf("bundles: %v", bundles)
	}
	var sum int64
	for _, n := range bundles {
		if n > 65<<20 {
			t.Errorf("a bundle of %d bytes", n)
		}
		sum += n
	}
	if sum != facts.StoredBytes {
		t.Errorf("stored %d bytes, facts say %d", sum, facts.StoredBytes)
	}
	i, err := x.fresh(t).OpenImage(t.Context(), env, x.inc.ID, facts.ID)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "data")
	if err := i.Restore(t.Context(), root, nil, nil); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, root, files)
}

func TestImageThatFails(t *testing.T) {
	x := newFixture(t)
	facts := sandglass.Image{ID: "20261101t110000-img1", Environment: env, Incarnation: x.inc.ID}
	broken := errors.New("the connection broke")
	for name, end := range map[string]func(w *repo.ImageWriter) error{
		"finish": func(w *repo.ImageWriter) error {
			_, _, err := w.Finish(t.Context(), facts)
			if !errors.Is(err, broken) {
				t.Errorf("finish: %v", err)
			}
			return w.Abort(t.Context())
		},
		"abort": func(w *repo.ImageWriter) error { return w.Abort(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			w, err := x.repo.NewImage(t.Context(), facts, repo.ImageOptions{Dir: x.state})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.File(t.Context(), "a", 0o600, epoch, 3*chunk, bytes.NewReader(data(1, 3*chunk))); err != nil {
				t.Fatal(err)
			}
			r := io.MultiReader(bytes.NewReader(data(1, chunk+5)), &failingReader{broken})
			if err := w.File(t.Context(), "b", 0o600, epoch, 9*chunk, r); !errors.Is(err, broken) {
				t.Errorf("file: %v", err)
			}
			if err := end(w); err != nil {
				t.Errorf("end: %v", err)
			}
			if left := x.objects(t, "env/prod/"+string(x.inc.ID)+"/bundle"); len(left) != 0 {
				t.Errorf("left in the repository: %v", left)
			}
			if left, _ := os.ReadDir(x.state); len(left) != 0 {
				t.Errorf("left in the state folder: %v", left)
			}
		})
	}
	if images, err := x.repo.Images(t.Context(), env, x.inc.ID); err != nil || len(images) != 0 {
		t.Errorf("images: %v, %v", images, err)
	}
}

type failingReader struct{ err error }

func (f *failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestFlippedByteInImage(t *testing.T) {
	files := someFiles()
	for name, c := range map[string]struct {
		key string
		off int64
	}{
		"bundle":          {"bundle/20261101t110000-img1/000001", -1},
		"bundle's header": {"bundle/20261101t110000-img1/000001", 40},
		"manifest":        {"image/20261101t110000-img1", -1},
		"manifest's end":  {"image/20261101t110000-img1", 300},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.image(t, x.repo, x.inc.ID, "20261101t110000-img1", epoch, 0x200028, nil, files)
			key := "env/prod/" + string(x.inc.ID) + "/" + c.key
			x.flip(t, key, c.off)
			i, err := x.fresh(t).OpenImage(t.Context(), env, x.inc.ID, "20261101t110000-img1")
			if err == nil {
				err = i.Restore(t.Context(), t.TempDir(), nil, nil)
			}
			wantCode(t, err, sandglass.CodeRepositoryDamaged)
			if err != nil && !strings.Contains(sandglass.AsError(err).Message, key) {
				t.Errorf("the message does not name %s: %v", key, err)
			}
		})
	}
	t.Run("bundle missing", func(t *testing.T) {
		x := newFixture(t)
		x.image(t, x.repo, x.inc.ID, "20261101t110000-img1", epoch, 0x200028, nil, files)
		if err := os.Remove(filepath.Join(x.dir, "env/prod/"+string(x.inc.ID)+"/bundle/20261101t110000-img1/000001")); err != nil {
			t.Fatal(err)
		}
		i, err := x.fresh(t).OpenImage(t.Context(), env, x.inc.ID, "20261101t110000-img1")
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, i.Restore(t.Context(), t.TempDir(), nil, nil), sandglass.CodeRepositoryDamaged)
	})
}
