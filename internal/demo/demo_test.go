package demo_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass/internal/demo"
)

// The demo's production lives, loses exactly the rows it says it lost, and goes without a trace.
func TestProductionAndDown(t *testing.T) {
	ctx := t.Context()
	parent, err := os.MkdirTemp("/tmp", "sg")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "d")
	if err := demo.PrepareDir(ctx, dir); err != nil {
		t.Fatal(err)
	}
	defer demo.Down(dir)
	prod, err := demo.NewProduction(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	before := prod.Query(t, "erp", "SELECT count(*) FROM orders")
	writing, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if err := demo.Write(writing, dir); err != nil {
		t.Fatal(err)
	}
	if after := prod.Query(t, "erp", "SELECT count(*) FROM orders"); after == before {
		t.Errorf("nobody writes: %s orders before and after", after)
	}
	digest := prod.Query(t, "erp", demo.LostDigest)
	orders, payments, lost, err := demo.Accident(ctx, prod)
	if err != nil {
		t.Fatal(err)
	}
	if orders < 2000 || payments < 2000 || !strings.HasSuffix(digest, lost) {
		t.Errorf("lost %d orders and %d payments with digest %s; before it was %s", orders, payments, lost, digest)
	}
	if err := demo.Down(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestForeignFolderIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := demo.Down(dir); err == nil {
		t.Error("Down took a folder that is no demo's")
	}
	if err := demo.PrepareDir(t.Context(), dir); err == nil {
		t.Error("a folder with other things was taken for the demo")
	}
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Error(err)
	}
}
