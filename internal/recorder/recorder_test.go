package recorder_test

// Against real servers: what is recorded is what the server wrote, and no more is acknowledged than is kept.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/recorder"
	"sandglass/internal/repo"
)

// rig is a production and what records it.
type rig struct {
	t          testing.TB
	production *pgtest.Cluster
	env        sandglass.Environment
	folder     string // of the repository
	dir        string // of the recorder
	key        string
	repo       *repo.Repository
	*recorder.Recorder
	stop   func()
	config func(*recorder.Config) // changes what the next recorder is told
}

func newRig(t testing.TB, o pgtest.Options) *rig {
	t.Helper()
	o.Major, _ = strconv.Atoi(os.Getenv("SANDGLASS_TEST_MAJOR")) // with SANDGLASS_PG_BIN: another than the newest installed
	g := &rig{t: t, production: pgtest.New(t, o), folder: t.TempDir(), dir: t.TempDir()}
	conninfo, err := g.production.RecorderRole(t.Context(), "secret")
	g.check(err)
	password := filepath.Join(g.dir, "password")
	g.check(os.WriteFile(password, []byte("secret\n"), 0o600))
	g.env = sandglass.Environment{Name: "prod", Kind: sandglass.Production, Recording: &sandglass.Recording{
		Connection: conninfo, PasswordFile: password, FastCheckpoint: true, MaxRate: -1}}
	identity, err := age.GenerateX25519Identity()
	g.check(err)
	g.key = identity.String()
	folder, err := repo.NewFolder(g.folder)
	g.check(err)
	_, err = repo.Create(t.Context(), folder, repo.CreateOptions{Recipients: []string{identity.Recipient().String()}, Identities: []age.Identity{identity}})
	g.check(err)
	g.repo = openRepo(t, folder, g.key)
	return g
}

func openRepo(t testing.TB, s repo.Store, key string) *repo.Repository {
	t.Helper()
	identity, err := age.ParseX25519Identity(key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), s, repo.Keys{Identities: []age.Identity{identity}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (g *rig) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// start runs a recorder until stop is called or the test ends.
func (g *rig) start() {
	g.t.Helper()
	g.startWith(g.repo)
}

func (g *rig) startWith(r *repo.Repository) {
	g.t.Helper()
	config := recorder.Config{Environment: g.env, Repository: r, Dir: g.dir, Log: slog.New(slog.NewTextHandler(testLog{g.t}, nil))}
	if g.config != nil {
		g.config(&config)
	}
	g.Recorder = recorder.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	rec := g.Recorder
	go func() { done <- rec.Run(ctx) }()
	stopped := false
	g.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				g.t.Errorf("recorder ended with %v", err)
			}
		}
	}
	g.t.Cleanup(g.stop)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// until waits for a status.
func (g *rig) until(what string, limit time.Duration, ok func(sandglass.RecorderStatus) bool) sandglass.RecorderStatus {
	g.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		var s sandglass.RecorderStatus
		if g.Recorder != nil {
			s = g.Status()
		}
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			g.t.Fatalf("%s: not within %s: %+v (%v)", what, limit, s, s.LastError)
		}
	}
}

// await waits until a query of production has an answer.
func (g *rig) await(what, query string) {
	g.t.Helper()
	g.until(what, 60*time.Second, func(sandglass.RecorderStatus) bool { return g.production.Query(g.t, "postgres", query) != "" })
}

func (g *rig) imaged() sandglass.RecorderStatus {
	g.t.Helper()
	return g.until("first image", 60*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastImage != "" })
}

func (g *rig) code(code sandglass.Code) sandglass.RecorderStatus {
	g.t.Helper()
	s := g.until(string(code), 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastError != nil && s.LastError.Code == code })
	if s.LastError.Message == "" || s.LastError.Remedy == "" {
		g.t.Errorf("%s: no sentence or no remedy: %+v", code, s.LastError)
	}
	return s
}

// flushed is the end of production's WAL.
func (g *rig) flushed() sandglass.LSN {
	g.t.Helper()
	g.production.Exec(g.t, "postgres", "select pg_switch_wal()", "create temp table x as select 1", "checkpoint")
	lsn, err := sandglass.ParseLSN(g.production.Query(g.t, "postgres", "select pg_current_wal_flush_lsn()"))
	g.check(err)
	return lsn
}

func (g *rig) durable(lsn sandglass.LSN) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	if err := g.WaitDurable(ctx, lsn); err != nil {
		s := g.Status()
		g.t.Fatalf("WAL up to %s is not in the repository: %+v (%v)", lsn, s, s.LastError)
	}
}

// keepWAL makes production keep all its WAL, for comparison.
func keepWAL(extra ...string) pgtest.Options {
	o := pgtest.Options{Settings: map[string]string{"wal_keep_size": "4GB", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}}
	for i := 0; i+1 < len(extra); i += 2 {
		o.Settings[extra[i]] = extra[i+1]
	}
	return o
}

// compare checks that the repository's WAL of an incarnation has no hole and is what production has, and runs pg_waldump over it.
func (g *rig) compare(inc sandglass.IncarnationID) (segments int, end sandglass.LSN) {
	g.t.Helper()
	ctx := g.t.Context()
	out := g.t.TempDir()
	first, last := map[sandglass.TimelineID]string{}, map[sandglass.TimelineID]string{}
	for s, err := range g.repo.Segments(ctx, "prod", inc) {
		g.check(err)
		name := sandglass.SegmentName(s.Timeline, s.Segment, 16<<20)
		if s.End == s.From {
			continue
		}
		if end != 0 && s.From != end && s.From != s.Segment.Start(16<<20) {
			g.t.Errorf("%s begins at %s, the one before ends at %s", name, s.From, end)
		}
		end = s.End
		rc, valid, err := g.repo.OpenWAL(ctx, "prod", inc, s.Timeline, s.Segment)
		g.check(err)
		got, err := io.ReadAll(rc)
		g.check(err)
		rc.Close()
		want, err := os.ReadFile(filepath.Join(g.production.Data(), "pg_wal", name))
		g.check(err)
		if !bytes.Equal(got[:valid], want[:valid]) {
			g.t.Errorf("%s differs from production's", name)
		}
		if s.Whole && (!s.Indexed || s.Parts > 0) {
			g.t.Errorf("%s: indexed %v, %d parts left", name, s.Indexed, s.Parts)
		}
		g.check(os.WriteFile(filepath.Join(out, name), got, 0o644))
		if first[s.Timeline] == "" {
			first[s.Timeline] = name
		}
		last[s.Timeline] = name
		segments++
	}
	for tli, from := range first {
		if _, err := os.Stat(filepath.Join(g.production.Bin, "pg_waldump")); err != nil {
			break // server binaries alone
		}
		dump, err := exec.Command(filepath.Join(g.production.Bin, "pg_waldump"), "-q", filepath.Join(out, from), filepath.Join(out, last[tli])).CombinedOutput()
		if err != nil && !strings.Contains(string(dump), "invalid record length") { // what the end of WAL looks like
			g.t.Errorf("pg_waldump: %v %s", err, dump)
		}
	}
	return segments, end
}

func (g *rig) incarnations() []sandglass.Incarnation {
	g.t.Helper()
	incs, err := g.repo.Incarnations(g.t.Context(), "prod")
	g.check(err)
	return incs
}

func (g *rig) images(inc sandglass.IncarnationID) []sandglass.Image {
	g.t.Helper()
	images, err := g.repo.Images(g.t.Context(), "prod", inc)
	g.check(err)
	return images
}

func TestRecordUnderLoad(t *testing.T) {
	g := newRig(t, keepWAL())
	ctx := t.Context()
	g.check(g.production.PgbenchInit(ctx, "postgres", 2))
	g.start()
	load := g.production.Pgbench(ctx, "postgres", 4, 6*time.Second)
	g.check(load.Start())
	s := g.imaged()
	g.check(load.Wait())
	end := g.flushed()
	g.durable(end)
	segments, held := g.compare(s.Incarnation)
	if segments < 2 || held < end {
		t.Errorf("%d segments up to %s, want %s", segments, held, end)
	}
	images := g.images(s.Incarnation)
	if len(images) != 1 {
		t.Fatalf("%d images", len(images))
	}
	i := images[0]
	if i.Redo == 0 || i.Consistent <= i.Redo || i.End <= i.Consistent || i.Timeline != 1 || i.Minimums.MaxConnections == 0 ||
		i.Databases["postgres"] == 0 || i.Settings["port"] == "" || i.Bytes < 20<<20 {
		t.Errorf("image %+v", i)
	}
	// the tail is made durable within about a second, and acknowledged
	g.production.Exec(t, "postgres", "create table t as select 1")
	end, err := sandglass.ParseLSN(g.production.Query(t, "postgres", "select pg_current_wal_flush_lsn()"))
	g.check(err)
	begun := time.Now()
	g.durable(end)
	if d := time.Since(begun); d > 3*time.Second {
		t.Errorf("the tail took %s", d)
	}
	var tail recorder.Tail
	var ok bool
	g.until("keepalives after it", 20*time.Second, func(sandglass.RecorderStatus) bool {
		tail, ok = g.Tail()
		return ok && len(tail.Beats) > 0 && tail.Beats[len(tail.Beats)-1].LSN >= end
	})
	if !ok || len(tail.Beats) == 0 || len(tail.Indexes) == 0 || tail.Durable < end {
		t.Fatalf("tail %+v", tail)
	}
	if b := tail.Beats[len(tail.Beats)-1]; b.LSN < end || time.Since(b.Time) > 5*time.Second {
		t.Errorf("newest beat %+v", b)
	}
	flush, err := sandglass.ParseLSN(g.production.Query(t, "postgres", "select flush_lsn from pg_stat_replication where application_name='sandglass-prod'"))
	g.check(err)
	if flush > g.Status().DurableLSN || flush < end {
		t.Errorf("acknowledged %s, durable %s, want %s", flush, g.Status().DurableLSN, end)
	}
	g.stop()
	if err := recorder.DropSlot(ctx, g.env); err != nil {
		t.Error(err)
	}
	if n := g.production.Query(t, "postgres", "select count(*) from pg_replication_slots"); n != "0" {
		t.Errorf("%s slots left", n)
	}
	if err := recorder.DropSlot(ctx, g.env); err != nil {
		t.Error(err)
	}
	g.check(g.production.Stop())
	var e *sandglass.Error
	if err := recorder.DropSlot(ctx, g.env); !errors.As(err, &e) || !strings.Contains(e.Remedy, "SELECT pg_drop_replication_slot('sandglass_prod')") {
		t.Errorf("drop without server: %v", err)
	}
}

// TestImagesByThemselves: the next image comes by itself, after as much time or WAL as was declared, and not before.
func TestImagesByThemselves(t *testing.T) {
	const every, after = 3 * time.Second, 2 * 16 << 20
	for _, row := range []struct {
		name    string
		declare func(*sandglass.Recording)
		early   func(first, second sandglass.Image) bool
	}{
		{"after a time", func(r *sandglass.Recording) { r.ImageEvery = sandglass.Duration(every) },
			func(first, second sandglass.Image) bool { return second.Began.Sub(first.Began) < every }},
		{"after WAL", func(r *sandglass.Recording) { r.ImageAfterWAL = after },
			func(first, second sandglass.Image) bool { return second.Redo-first.End < after }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := newRig(t, pgtest.Options{})
			row.declare(g.env.Recording)
			g.start()
			first := g.imaged()
			for range 3 { // a segment each
				g.durable(g.flushed())
			}
			g.until("a second image", 60*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastImage != first.LastImage })
			g.stop()
			images := g.images(first.Incarnation)
			if len(images) < 2 || row.early(images[0], images[1]) {
				t.Errorf("images: %+v", images)
			}
		})
	}
}

// TestNothingOfAnotherState: a recorder that is told to go on with a history which its environment does not show records nothing.
func TestNothingOfAnotherState(t *testing.T) {
	g := newRig(t, keepWAL())
	g.start()
	inc := g.imaged().Incarnation
	g.stop()
	away := time.Now()
	g.check(g.repo.LeaveIncarnation(t.Context(), "prod", inc, sandglass.Absence{From: away}))
	g.config = func(c *recorder.Config) { c.Incarnation = inc }
	g.start()
	g.code(recorder.CodeNotShown)
	if n := len(g.incarnations()); n != 1 {
		t.Errorf("%d incarnations", n)
	}
	g.check(g.repo.ReturnIncarnation(t.Context(), "prod", inc, away))
	s := g.until("streaming", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })
	if s.Incarnation != inc {
		t.Errorf("recorded in %s, want %s", s.Incarnation, inc)
	}
}

// TestAwaitedWALIsStoredAtOnce waits for WAL again and again, which takes no tick of a second each time.
func TestAwaitedWALIsStoredAtOnce(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	g.start()
	g.imaged()
	g.production.Exec(t, "postgres", "create table t(i int)")
	const times = 8
	begun := time.Now()
	for range times {
		g.production.Exec(t, "postgres", "insert into t values (1)")
		g.durable(g.flushedTo())
	}
	if d := time.Since(begun); d > times/2*time.Second {
		t.Errorf("%d times took %s", times, d)
	}
}
