// Package test is the end-to-end tests: the promises of Sandglass, on the built binary, with a real
// `serve` and real PostgreSQL servers. What each test shows is its name.
package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/tmp", "sgbin")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var (
	binaries string // folder of the built binary
	build    = sync.OnceValues(func() (string, error) {
		// With crash points: they do nothing unless the environment names one.
		return systest.Build(context.Background(), binaries, "crashpoints")
	})
)

// metadataOnce is where the metadata of a first `serve` lies, with which the systems of all tests begin; tests of the demo and of hosts make their own.
var metadataOnce = sync.OnceValues(func() (kept string, err error) {
	binary, err := build()
	if err != nil {
		return "", err
	}
	s, err := systest.Make(context.Background(), binary)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Remove()) }()
	if err := s.Serve(context.Background()); err != nil {
		return "", err
	}
	kept = filepath.Join(binaries, "metadata")
	return kept, s.KeepMetadata(kept)
})

// newSystem is an installation with a running `serve`.
func newSystem(t *testing.T) *systest.System {
	t.Helper()
	binary, err := build()
	must(t, err)
	s := systest.New(t, binary)
	template, err := metadataOnce()
	must(t, err)
	must(t, s.BeginWith(t.Context(), template))
	must(t, s.Serve(t.Context()))
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		if e := sandglass.AsError(err); e.Code != sandglass.CodeInternal {
			t.Fatalf("%s: %s %s", e.Code, e.Message, e.Remedy)
		}
		t.Fatal(err)
	}
}

// production is a cluster fit for the tests of exactness.
func production(t *testing.T, settings map[string]string) *pgtest.Cluster {
	t.Helper()
	all := map[string]string{"track_commit_timestamp": "on", "max_prepared_transactions": "5"}
	for k, v := range settings {
		all[k] = v
	}
	return pgtest.New(t, pgtest.Options{Settings: all})
}
