// What the tests of the engine share: a real PostgreSQL, engines, and waiting for events.

package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/pgtest"
)

var cluster *pgtest.Cluster

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(func() int {
		var err error
		if cluster, err = pgtest.Start(context.Background(), pgtest.Options{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer cluster.Remove()
		code := m.Run()
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// open gives the tests' database, without what the test before left in it.
func open(t *testing.T) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), cluster.ConnString("postgres"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	cluster.Exec(t, "postgres", "DELETE FROM sandglass.operation", "DELETE FROM sandglass.river_job")
	return d
}

// testLog shows the log with the test that it belongs to.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func newEngine(t *testing.T, d *db.DB, c engine.Config, workflows ...engine.Workflow) *engine.Engine {
	t.Helper()
	c.DB, c.Workflows = d, workflows
	if c.Log == nil {
		c.Log = testLog(t)
	}
	if c.Host == "" {
		c.Host = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	}
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.UndoBackoff == 0 {
		c.UndoBackoff = time.Millisecond
	}
	e, err := engine.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// run runs e until the returned function, or the test's end, stops it.
func run(t *testing.T, e *engine.Engine) (stop func()) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		end()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func start(t *testing.T, e *engine.Engine, kind sandglass.OperationKind) sandglass.Operation {
	t.Helper()
	o, err := e.Start(t.Context(), sandglass.Request{Kind: kind, Environment: t.Name(), Reason: "test"}, "tester", nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// await waits until ok says yes, and checks on the way that versions only grow.
func await(t *testing.T, e *engine.Engine, id string, ok func(sandglass.Operation) bool) sandglass.Operation {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), 30*time.Second)
	defer end()
	var version int64
	for {
		o, err := e.Wait(ctx, id, version)
		if err != nil {
			t.Fatalf("waiting: %v; operation is %s", err, show(o))
		}
		if ok(o) {
			return o
		}
		if o.State.Finished() {
			t.Fatalf("finished: %s", show(o))
		}
		if o.Version <= version {
			t.Fatalf("Wait(%d) gave version %d", version, o.Version)
		}
		version = o.Version
	}
}

func finished(o sandglass.Operation) bool { return o.State.Finished() }

func stepIs(name string, state sandglass.State) func(sandglass.Operation) bool {
	return func(o sandglass.Operation) bool {
		for _, s := range o.Steps {
			if s.Name == name && s.State == state {
				return true
			}
		}
		return false
	}
}

// show is an operation in one line: its state, code, and each step's state.
func show(o sandglass.Operation) string {
	s := string(o.State)
	if o.Error != nil {
		s += " " + string(o.Error.Code)
	}
	for _, step := range o.Steps {
		s += fmt.Sprintf(" %s=%s", step.Name, step.State)
	}
	return s
}

// journal is what steps did, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if d := cmp.Diff(lines, j.lines); d != "" {
		t.Errorf("what steps did (-want +got):\n%s", d)
	}
}

// step writes its acts to the journal.
func (j *journal) step(name string) engine.Step {
	return engine.Step{Name: name,
		Do:   func(context.Context, *engine.Run) error { j.add("do " + name); return nil },
		Undo: func(context.Context, *engine.Run) error { j.add("undo " + name); return nil },
	}
}

// steps are toy steps by name.
func (j *journal) steps(names ...string) []engine.Step {
	var all []engine.Step
	for _, n := range names {
		all = append(all, j.step(n))
	}
	return all
}
