package recorder_test

// What was recorded starts again: images restored, and their WAL replayed, by PostgreSQL itself.

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/pgtest"
	"sandglass/internal/recorder"
	"sandglass/internal/repo"
)

// restored is a server on a restored image with all the WAL there is replayed.
func (g *rig) restored(i sandglass.Image) *pgx.Conn {
	g.t.Helper()
	ctx := g.t.Context()
	root, err := os.MkdirTemp("/tmp", "sgr")
	g.check(err)
	g.t.Cleanup(func() { _ = os.RemoveAll(root) })
	data, spaces, archive := filepath.Join(root, "data"), filepath.Join(root, "spaces"), filepath.Join(root, "wal")
	image, err := g.repo.OpenImage(ctx, "prod", i.Incarnation, i.ID)
	g.check(err)
	defer image.Close()
	moved := make(map[string]string)
	for oid := range i.Tablespaces {
		moved[oid] = filepath.Join(spaces, oid)
		g.check(os.MkdirAll(moved[oid], 0o755))
	}
	g.check(os.MkdirAll(data, 0o755))
	g.check(image.Restore(ctx, data, func(oid string) string { return moved[oid] }, nil))
	if len(moved) > 0 {
		g.check(os.WriteFile(filepath.Join(data, pg.TablespaceMapFile), []byte(pg.FormatTablespaceMap(moved)), 0o600))
	}
	g.check(os.MkdirAll(archive, 0o755))
	for s, err := range g.repo.Segments(ctx, "prod", i.Incarnation) {
		g.check(err)
		rc, _, err := g.repo.OpenWAL(ctx, "prod", i.Incarnation, s.Timeline, s.Segment)
		g.check(err)
		b, err := io.ReadAll(rc)
		g.check(err)
		rc.Close()
		g.check(os.WriteFile(filepath.Join(archive, sandglass.SegmentName(s.Timeline, s.Segment, 16<<20)), b, 0o644))
	}
	port, err := pgtest.FreePort()
	g.check(err)
	g.check(os.WriteFile(filepath.Join(data, "postgresql.conf"), fmt.Appendf(nil, "restore_command = 'cp %s/%%f %%p'\nport = %d\nlisten_addresses=''\nunix_socket_directories='%s'\n"+
		"max_connections = %d\nfsync=off\nlogging_collector=off\nhot_standby=off\nmax_wal_senders=0\nwal_level=replica\n", archive, port, root, i.Minimums.MaxConnections), 0o600))
	g.check(os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("local all all trust\n"), 0o600))
	g.check(os.WriteFile(filepath.Join(data, "pg_ident.conf"), nil, 0o600))
	g.check(os.WriteFile(filepath.Join(data, "recovery.signal"), nil, 0o600))
	run(g.t, "chown", "-R", "postgres", root)
	run(g.t, "chmod", "700", data)
	cmd := g.production.Command(context.Background(), "postgres", "-D", data)
	log := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = log, log
	g.check(cmd.Start())
	g.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if g.t.Failed() {
			g.t.Log(log.String())
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", root, port))
		if err == nil {
			g.t.Cleanup(func() { _ = conn.Close(context.Background()) })
			return conn
		}
		if time.Now().After(end) {
			g.t.Fatalf("the restored server does not open: %v", err)
		}
	}
}

func (g *rig) ask(c *pgx.Conn, sql string) string {
	g.t.Helper()
	text, err := pgtest.QueryText(g.t.Context(), c, sql)
	g.check(err)
	return text
}

func TestTablespacesAndRestore(t *testing.T) {
	g := newRig(t, keepWAL())
	ctx := t.Context()
	g.check(g.production.PgbenchInit(ctx, "postgres", 1))
	space := func(name string) string {
		path := filepath.Join(g.production.Dir, name)
		run(t, "install", "-d", "-o", "postgres", path)
		g.production.Exec(t, "postgres", "create tablespace "+name+" location '"+path+"'")
		return path
	}
	one := space("one")
	g.production.Exec(t, "postgres", "create table in_one tablespace one as select generate_series(1,20000) i", "create database other")
	g.start()
	load := g.production.Pgbench(ctx, "postgres", 2, 5*time.Second)
	g.check(load.Start())
	first := g.imaged().LastImage
	images := g.images(g.Status().Incarnation)
	if len(images[0].Tablespaces) != 1 || images[0].Databases["other"] == 0 {
		t.Errorf("image %+v", images[0])
	}
	for _, path := range images[0].Tablespaces {
		if path != one {
			t.Errorf("tablespace at %s, want %s", path, one)
		}
	}
	space("two") // an image follows at once
	g.production.Exec(t, "postgres", "create table in_two tablespace two as select generate_series(1,30000) i")
	g.until("an image after the new tablespace", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastImage != first })
	g.check(load.Wait())
	g.durable(g.flushed())
	want := g.production.Query(t, "postgres", "select sum(abalance), (select sum(tbalance) from pgbench_tellers), (select count(*) from pgbench_history) from pgbench_accounts")
	images = g.images(g.Status().Incarnation)
	if len(images) != 2 || len(images[1].Tablespaces) != 2 {
		t.Fatalf("images %+v", images)
	}
	c := g.restored(images[1])
	g.check(pgtest.PgbenchBalanced(ctx, c))
	if got := g.ask(c, "select sum(abalance), (select sum(tbalance) from pgbench_tellers), (select count(*) from pgbench_history) from pgbench_accounts"); got != want {
		t.Errorf("restored %s, want %s", got, want)
	}
	if got := g.ask(c, "select (select count(*) from in_one), (select count(*) from in_two)"); got != "20000|30000" {
		t.Errorf("rows %s", got)
	}
}

// TestStoppedVolume is the beginning of a sandbox's history: an image of the stopped server,
// then its recording over the Unix socket, in the incarnation that began with the image.
func TestStoppedVolume(t *testing.T) {
	g := newRig(t, keepWAL())
	ctx := t.Context()
	g.check(g.production.PgbenchInit(ctx, "postgres", 1))
	if _, _, err := recorder.ImageStopped(ctx, g.repo, sandglass.Image{ID: "20260101t000000-aaaa", Environment: "prod", Incarnation: "none"},
		g.production.Data(), nil, repo.ImageOptions{Dir: g.dir}); err == nil {
		t.Error("an image of a running server")
	}
	g.check(g.production.Stop())
	raw, err := os.ReadFile(filepath.Join(g.production.Data(), pg.ControlFile))
	g.check(err)
	control, err := pg.ParseControl(raw)
	g.check(err)
	// another incarnation goes on besides, as a kept volume's does
	for _, id := range []sandglass.IncarnationID{"20260101t000000-kept", "20260101t000001-mine", "20260101t000002-next"} {
		g.check(g.repo.BeginIncarnation(ctx, sandglass.Incarnation{ID: id, Environment: "prod", SystemIdentifier: control.SystemIdentifier,
			Major: control.Major, SegmentSize: control.SegmentSize, Began: time.Now()}))
	}
	image, digests, err := recorder.ImageStopped(ctx, g.repo, sandglass.Image{ID: "20260101t000001-imag", Environment: "prod", Incarnation: "20260101t000001-mine"},
		g.production.Data(), nil, repo.ImageOptions{Dir: g.dir})
	g.check(err)
	g.check(digests.Close())
	if image.Redo != control.CheckpointLSN || image.Consistent != image.Redo || image.End <= image.Consistent || image.End > image.Redo+200 || image.Minimums.MaxConnections == 0 {
		t.Errorf("image %+v", image)
	}
	next, digests, err := recorder.ImageStopped(ctx, g.repo, sandglass.Image{ID: "20260101t000002-imag", Environment: "prod", Incarnation: "20260101t000002-next"},
		g.production.Data(), nil, repo.ImageOptions{Dir: g.dir})
	g.check(err)
	g.check(digests.Close())
	if next.Parent != image.ID || next.StoredBytes > image.StoredBytes/20 {
		t.Errorf("an image of another incarnation does not share chunks: %+v", next)
	}
	g.check(g.production.Start(ctx))
	target := pg.Target{Conninfo: g.production.ConnString("postgres")}
	g.env = sandglass.Environment{Name: "prod", Kind: sandglass.Sandbox, Recording: &sandglass.Recording{MaxRate: -1, FastCheckpoint: true}, Server: &sandglass.Server{Port: 1}}
	g.config = func(c *recorder.Config) { c.Target, c.Incarnation = &target, "20260101t000001-mine" }
	g.start()
	g.until("streaming", 20*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,12345) i")
	g.durable(g.flushed())
	s := g.Status()
	if s.LastImage != image.ID || s.Incarnation != image.Incarnation {
		t.Errorf("status %+v", s)
	}
	g.compare(image.Incarnation)
	if got := g.ask(g.restored(image), "select count(*) from t"); got != "12345" {
		t.Errorf("rows %s", got)
	}
	g.check(g.TakeImage(ctx)) // shares its chunks with the last image of the stopped volume
	images := g.images(image.Incarnation)
	if len(images) != 2 || images[1].Parent != next.ID {
		t.Errorf("images %+v", images)
	}
	if n := len(g.images("20260101t000000-kept")); n != 0 {
		t.Errorf("%d images in the other incarnation", n)
	}
	g.stop()
	if err := g.DropSlot(ctx); err != nil {
		t.Error(err)
	}
}
