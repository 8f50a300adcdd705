package demo_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sandglass/internal/demo"
	"sandglass/internal/pack"
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
	const posted = "SELECT count(*) FROM vendtrans WHERE createdby = 'AP.CLERK' AND transtype = 15"
	writing, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	conn := prod.Conn(t, "business")
	_, _, digest, err := demo.ReadLost(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- demo.Write(writing, dir) }()
	for prod.Query(t, "business", posted) == "0" {
		if writing.Err() != nil {
			t.Fatal("nobody posts, or nobody pays: ", <-written)
		}
		select {
		case err := <-written:
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	vendors, transactions, lost, err := demo.Accident(ctx, prod)
	if err != nil {
		t.Fatal(err)
	}
	if vendors < 10 || transactions < 100 || lost != digest {
		t.Errorf("lost %d vendors and %d transactions with digest %s; before it was %s", vendors, transactions, lost, digest)
	}
	if left, _, _, err := demo.ReadLost(ctx, conn); err != nil || left != 0 {
		t.Errorf("%d vendors are left: %v", left, err)
	}
	conn.Close(ctx)
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

func TestOutputIsCutAndWrapped(t *testing.T) {
	var b strings.Builder
	demo.Show(&b, "Title\n\n  kept line\n  What happens\n  left out\n\n  Findings\n  "+strings.Repeat("word ", 20)+"\nlast",
		[3]string{"What happens", "Findings", "(left out)"})
	want := "    Title\n\n      kept line\n      (left out)\n      Findings\n      " + strings.TrimSpace(strings.Repeat("word ", 15)) +
		"\n        word word word word word\n    last\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// A text is found wherever it lies, also across the pieces in which files are read.
func TestSearch(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, before int, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), append(make([]byte, before), text...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 3<<20, "host.example.or")
	if files, found, err := demo.Search(dir, []byte("host.example.org")); files != 1 || found != "" || err != nil {
		t.Errorf("%d files, found in %q, %v", files, found, err)
	}
	for _, before := range []int{0, 1<<20 - 5, 1<<20 - 1, 1 << 20, 2<<20 - 20} {
		write("b", before, "host.example.org")
		if _, found, err := demo.Search(dir, []byte("host.example.org")); found != "/b" || err != nil {
			t.Errorf("at %d: found in %q, %v", before, found, err)
		}
	}
}

// A command that is to be copied breaks only before an option, behind a backslash.
func TestTypedCommandBreaksBeforeOptions(t *testing.T) {
	var b strings.Builder
	demo.Show(&b, "  psql -h /tmp/sandglass-demo-0/state/volumes/rcvqiqnr/run -p 5432 -U sandglass_peek -d business\n")
	want := "      psql -h /tmp/sandglass-demo-0/state/volumes/rcvqiqnr/run -p 5432 \\\n        -U sandglass_peek -d business\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// Each rule of the pack that changes rows is counted in exactly one line of the report.
func TestEveryRuleIsCountedOnce(t *testing.T) {
	p, err := pack.Open("", "dynamics365-finops")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Rules {
		want := 1
		if r.Keep != "" || r.Merge != "" {
			want = 0 // the sandbox's own rows
		}
		if n := demo.LinesOf(r.Name); n != want {
			t.Errorf("%s is counted in %d lines, not %d", r.Name, n, want)
		}
	}
}

// What is pasted fits a terminal of 80 columns, with the paper's margin.
func TestBackScriptFits(t *testing.T) {
	for line := range strings.Lines(demo.BackScript()) {
		if len(line) > 78 {
			t.Errorf("%d characters: %s", len(line), line)
		}
	}
}
