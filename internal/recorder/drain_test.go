package recorder_test

// The last WAL of a server that went on after its recorder had gone.

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/recorder"
)

// drain brings what the stopped production has left into the repository.
func (g *rig) drain(inc sandglass.IncarnationID) (sandglass.LSN, error) {
	g.t.Helper()
	r := recorder.New(recorder.Config{Environment: g.env, Repository: g.repo, Dir: g.t.TempDir(), Incarnation: inc, Log: slog.New(slog.NewTextHandler(testLog{g.t}, nil))})
	return r.Drain(g.t.Context(), g.production.Data())
}

func TestDrain(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(*pgtest.Cluster) error
		script []string // after the recorder has gone
		clean  bool
	}{
		"a clean stop": {(*pgtest.Cluster).Stop, []string{"insert into t values (2)", "select pg_switch_wal()",
			"create table big as select i, repeat('x', 500) from generate_series(1, 60000) i", "checkpoint"}, true},
		"a crash": {(*pgtest.Cluster).Kill, []string{"insert into t values (2)", "select pg_switch_wal()", "insert into t values (3)"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, keepWAL())
			ctx := t.Context()
			g.production.Exec(t, "postgres", "create table t (i int)")
			g.start()
			inc := g.imaged().Incarnation
			g.production.Exec(t, "postgres", "insert into t values (1)")
			g.durable(g.flushed())
			g.stop()
			g.production.Exec(t, "postgres", c.script...)
			flushed, err := sandglass.ParseLSN(g.production.Query(t, "postgres", "select pg_current_wal_flush_lsn()"))
			g.check(err)
			want := g.production.Query(t, "postgres", "select count(*), sum(i) from t")
			g.check(c.end(g.production))
			stopped, err := recorder.StoppedAt(g.production.Data())
			g.check(err)
			if c.clean != (stopped > flushed) || !c.clean && stopped != 0 {
				t.Errorf("stopped at %s, flushed %s", stopped, flushed)
			}
			end, err := g.drain(inc)
			g.check(err)
			if _, held := g.compare(inc); held < flushed || held != end || c.clean && held != stopped {
				t.Errorf("held up to %s; drained to %s, stopped at %s, flushed %s", held, end, stopped, flushed)
			}
			if again, err := g.drain(inc); err != nil || again != end {
				t.Errorf("a second time: %s, %v", again, err)
			}
			if got := g.ask(g.restored(g.images(inc)[0]), "select count(*), sum(i) from t"); got != want {
				t.Errorf("restored %s, want %s", got, want)
			}
			// The recorder goes on where the volume's WAL does.
			g.check(g.production.Start(ctx))
			g.start()
			g.production.Exec(t, "postgres", "insert into t values (4)")
			g.durable(g.flushed())
			if s := g.Status(); s.Incarnation != inc {
				t.Errorf("recorded in %s, want %s", s.Incarnation, inc)
			}
			g.compare(inc)
		})
	}
}

func TestDrainOfWhatIsGone(t *testing.T) {
	g := newRig(t, keepWAL())
	g.start()
	inc := g.imaged().Incarnation
	g.durable(g.flushed())
	g.stop()
	g.production.Exec(t, "postgres", "create table t as select 1", "select pg_switch_wal()", "insert into t select 1", "select pg_switch_wal()", "checkpoint")
	held := sandglass.LSN(0)
	for s, err := range g.repo.Segments(t.Context(), "prod", inc) {
		g.check(err)
		held = s.End
	}
	g.check(g.production.Stop())
	g.check(os.Remove(filepath.Join(g.production.Data(), "pg_wal", sandglass.SegmentName(1, held.Segment(16<<20)+1, 16<<20))))
	_, err := g.drain(inc)
	if e := sandglass.AsError(err); e.Code != recorder.CodeWALLost || e.Message == "" || e.Remedy == "" {
		t.Errorf("%v", err)
	}
}
