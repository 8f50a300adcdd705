package repo_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"sandglass"
	"sandglass/internal/repo"
)

// fixture is a repository in a folder, with one running incarnation.
type fixture struct {
	dir      string
	env      string // whose history it makes
	state    string // a recorder's folder
	identity *age.X25519Identity
	repo     *repo.Repository
	inc      sandglass.Incarnation
}

const env = "prod"

var epoch = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

func newFixture(t testing.TB) *fixture {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	x := &fixture{dir: filepath.Join(t.TempDir(), "repo"), env: env, state: t.TempDir(), identity: identity}
	store, err := repo.NewFolder(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	x.repo, err = repo.Create(t.Context(), store, repo.CreateOptions{Recipients: []string{identity.Recipient().String()}, Identities: []age.Identity{identity}})
	if err != nil {
		t.Fatal(err)
	}
	x.inc = x.begin(t, "20261101t100000-aaaa", epoch)
	return x
}

func (x *fixture) begin(t testing.TB, id sandglass.IncarnationID, at time.Time) sandglass.Incarnation {
	t.Helper()
	inc := sandglass.Incarnation{ID: id, Environment: x.env, SystemIdentifier: 7300000000000000001, Major: 15, SegmentSize: 1 << 20, Began: at}
	if err := x.repo.BeginIncarnation(t.Context(), inc); err != nil {
		t.Fatal(err)
	}
	return inc
}

// reopen opens the repository anew, so that nothing is remembered in memory.
func (x *fixture) reopen(t testing.TB, k repo.Keys) *repo.Repository {
	t.Helper()
	store, err := repo.NewFolder(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (x *fixture) fresh(t testing.TB) *repo.Repository {
	return x.reopen(t, repo.Keys{Identities: []age.Identity{x.identity}})
}

// file is a file of a test image.
type file struct {
	path string
	data []byte
}

// image writes files as an image that ended at a time and begins replay at redo.
func (x *fixture) image(t testing.TB, r *repo.Repository, inc sandglass.IncarnationID, id sandglass.ImageID, ended time.Time, redo sandglass.LSN, known *repo.Digests, files []file) (sandglass.Image, *repo.Digests) {
	t.Helper()
	facts := sandglass.Image{ID: id, Environment: x.env, Incarnation: inc, Timeline: 1, Redo: redo, Consistent: redo + 100, End: redo + 200, Began: ended.Add(-time.Minute), Ended: ended}
	w, err := r.NewImage(t.Context(), facts, repo.ImageOptions{Dir: x.state, Known: known})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"base", "base/1", "pg_wal", "pg_tblspc"} {
		if err := w.Dir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		if err := w.File(t.Context(), f.path, 0o600, epoch, int64(len(f.data)), bytes.NewReader(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	facts, d, err := w.Finish(t.Context(), facts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return facts, d
}

// compressible data as a heap might be; seed makes it different.
func data(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+64)
	for len(b) < n {
		b = fmt.Appendf(b, "row %d of a table, with %x in it and some more text;", len(b), rnd.Uint32())
	}
	return b[:n]
}

func checkFiles(t testing.TB, root string, files []file) {
	t.Helper()
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(root, f.path))
		if err != nil {
			t.Errorf("%v", err)
		} else if !bytes.Equal(got, f.data) {
			t.Errorf("%s: other contents come back (%d bytes, want %d)", f.path, len(got), len(f.data))
		}
	}
}

// flip changes one byte of an object in the middle, or at off when that is not negative.
func (x *fixture) flip(t testing.TB, key string, off int64) {
	t.Helper()
	name := filepath.Join(x.dir, key)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if off < 0 {
		off = int64(len(b) / 2)
	}
	b[off] ^= 0x10
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// objects are the keys below a prefix, with their sizes.
func (x *fixture) objects(t testing.TB, prefix string) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	err := filepath.WalkDir(filepath.Join(x.dir, prefix), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		key, _ := filepath.Rel(x.dir, path)
		out[key] = info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantCode(t testing.TB, err error, want sandglass.Code) {
	t.Helper()
	if got := sandglass.CodeOf(err); got != want {
		t.Errorf("got code %q (%v), want %q", got, err, want)
	}
}

func readAll(t testing.TB, rc io.ReadCloser, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// incompressible overwrites b with noise.
func incompressible(b []byte) {
	src := rand.NewChaCha8([32]byte{1})
	src.Read(b)
}
