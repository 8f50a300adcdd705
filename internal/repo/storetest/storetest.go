// Package storetest is what every repo.Store must pass.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sandglass/internal/repo"
)

// Run proves a kind of Store; open makes an empty one.
func Run(t *testing.T, open func(t *testing.T) repo.Store) {
	for name, test := range map[string]func(*testing.T, repo.Store){
		"put and open": putAndOpen, "put if absent": putIfAbsent, "ranges": ranges, "list": list, "delete": remove,
		"a failed put leaves nothing": failedPut, "bad keys": badKeys, "one of many wins": race,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, s repo.Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(content), true); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func read(t *testing.T, s repo.Store, key string, off, n int64) string {
	t.Helper()
	rc, err := s.Open(t.Context(), key, off, n)
	if err != nil {
		t.Fatalf("open %s: %v", key, err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return string(b)
}

func putAndOpen(t *testing.T, s repo.Store) {
	big := make([]byte, 3<<20+17)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	put(t, s, "a/b/big", string(big))
	put(t, s, "empty", "")
	if got := read(t, s, "a/b/big", 0, -1); got != string(big) {
		t.Errorf("big: other contents come back")
	}
	if got := read(t, s, "empty", 0, -1); got != "" {
		t.Errorf("empty: got %q", got)
	}
	obj, err := s.Stat(t.Context(), "a/b/big")
	if err != nil || obj.Key != "a/b/big" || obj.Size != int64(len(big)) || obj.ModTime.IsZero() {
		t.Errorf("stat: %+v, %v", obj, err)
	}
	if err := s.Put(t.Context(), "a/b/big", strings.NewReader("new"), false); err != nil {
		t.Errorf("put over: %v", err)
	}
	if got := read(t, s, "a/b/big", 0, -1); got != "new" {
		t.Errorf("put over: got %q", got)
	}
	for _, key := range []string{"a/b/none", "none", "a/b"} {
		if _, err := s.Open(t.Context(), key, 0, -1); err == nil && key != "a/b" || key != "a/b" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v, want fs.ErrNotExist", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v, want fs.ErrNotExist", key, err)
		}
	}
}

func putIfAbsent(t *testing.T, s repo.Store) {
	put(t, s, "x/y", "first")
	if err := s.Put(t.Context(), "x/y", strings.NewReader("second"), true); !errors.Is(err, fs.ErrExist) {
		t.Errorf("put again: %v, want fs.ErrExist", err)
	}
	if got := read(t, s, "x/y", 0, -1); got != "first" {
		t.Errorf("got %q", got)
	}
}

func ranges(t *testing.T, s repo.Store) {
	put(t, s, "r", "0123456789")
	for _, c := range []struct {
		off, n int64
		want   string
	}{{0, 3, "012"}, {4, 2, "45"}, {8, 5, "89"}, {3, -1, "3456789"}, {10, 4, ""}, {0, 0, ""}} {
		if got := read(t, s, "r", c.off, c.n); got != c.want {
			t.Errorf("%d, %d: got %q, want %q", c.off, c.n, got, c.want)
		}
	}
}

func keys(t *testing.T, s repo.Store, prefix, after string) []string {
	t.Helper()
	var out []string
	for obj, err := range s.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		out = append(out, obj.Key)
	}
	return out
}

func list(t *testing.T, s repo.Store) {
	all := []string{"a-b/1", "a.b", "a/1", "a/2/x", "a/2.x", "a0", "b/x/y/z", "b/x/y0"}
	for _, k := range all {
		put(t, s, k, k)
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/2", "a/2/", "b/x/y", "none", "none/"} {
		for _, after := range append([]string{"", "a/2", "a/2/", "a/2/zz", "b/x/y/\xff", "zz"}, all...) {
			var want []string
			for _, k := range all {
				if strings.HasPrefix(k, prefix) && k > after {
					want = append(want, k)
				}
			}
			if got := keys(t, s, prefix, after); !slices.Equal(got, want) {
				t.Errorf("list %q after %q: got %q, want %q", prefix, after, got, want)
			}
		}
	}
	for range s.List(t.Context(), "", "") {
		break // a listing may be left
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.List(ctx, "", "") {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled listing gives %v", err)
		}
		break
	}
}

func remove(t *testing.T, s repo.Store) {
	put(t, s, "d/e/f", "x")
	put(t, s, "d/g", "x")
	for range 2 {
		if err := s.Delete(t.Context(), "d/e/f"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if got := keys(t, s, "", ""); !slices.Equal(got, []string{"d/g"}) {
		t.Errorf("left: %q", got)
	}
	put(t, s, "d/e/f", "again")
}

func failedPut(t *testing.T, s repo.Store) {
	broken := io.MultiReader(strings.NewReader("half"), brokenReader{})
	if err := s.Put(t.Context(), "broken", broken, true); !errors.Is(err, errBroken) {
		t.Errorf("put: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "cancelled", bytes.NewReader(make([]byte, 1<<20)), true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled put: %v", err)
	}
	if got := keys(t, s, "", ""); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

var errBroken = errors.New("broken on purpose")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func badKeys(t *testing.T, s repo.Store) {
	for _, key := range []string{"", "../x", "/x", "a/../../x", ".hidden", "a/.hidden"} {
		if err := s.Put(t.Context(), key, strings.NewReader("x"), true); err == nil {
			t.Errorf("put %q was accepted", key)
		}
	}
}

func race(t *testing.T, s repo.Store) {
	var won atomic.Int32
	var winner atomic.Value
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			content := fmt.Sprint("writer ", i)
			switch err := s.Put(t.Context(), "race/key", strings.NewReader(content), true); {
			case err == nil:
				won.Add(1)
				winner.Store(content)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("put: %v", err)
			}
		})
	}
	wait.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d writers won", won.Load())
	}
	if got := read(t, s, "race/key", 0, -1); got != winner.Load() {
		t.Errorf("got %q, want %q", got, winner.Load())
	}
}
