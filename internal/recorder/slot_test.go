package recorder_test

// What a replication slot keeps, and what its loss costs.

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/pgtest"
	"sandglass/internal/recorder"
	"sandglass/internal/repo"
)

func TestSlotDroppedByHand(t *testing.T) {
	g := newRig(t, pgtest.Options{Settings: map[string]string{"max_wal_size": "32MB", "min_wal_size": "32MB"}})
	g.start()
	g.imaged()
	g.durable(g.flushed())
	g.stop()
	// the WAL is still there: nothing is lost, and nothing ends
	g.production.Exec(t, "postgres", "select pg_drop_replication_slot('sandglass_prod')", "create table t as select generate_series(1,1000) i")
	g.start()
	g.until("streaming again", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.State == sandglass.RecorderStreaming })
	g.code(sandglass.CodeSlotMissing)
	g.durable(g.flushed())
	if n := len(g.incarnations()); n != 1 {
		t.Errorf("%d incarnations", n)
	}
	g.stop()
	// the WAL is gone: a gap
	g.production.Exec(t, "postgres", "select pg_drop_replication_slot('sandglass_prod')")
	lose(t, g)
	g.start()
	g.gap("slot was dropped")
}

// lose makes production remove WAL that nobody keeps.
func lose(t *testing.T, g *rig) {
	t.Helper()
	for range 8 {
		g.production.Exec(t, "postgres", "create table if not exists big(i int)", "insert into big select generate_series(1,100000)", "select pg_switch_wal()", "checkpoint")
	}
}

// gap waits for a second incarnation with an image, the first one ended for a reason.
func (g *rig) gap(reason string) {
	g.t.Helper()
	g.until("a new incarnation with an image", 60*time.Second, func(s sandglass.RecorderStatus) bool {
		return s.State == sandglass.RecorderStreaming && s.LastImage != "" && len(g.images(s.Incarnation)) > 0 && len(g.incarnations()) == 2
	})
	incs := g.incarnations()
	if incs[0].Ended.IsZero() || !strings.Contains(incs[0].EndReason, reason) || !incs[1].Ended.IsZero() || len(g.images(incs[0].ID)) == 0 {
		g.t.Errorf("incarnations %+v", incs)
	}
	g.durable(g.flushed())
}

func TestSlotLost(t *testing.T) {
	g := newRig(t, pgtest.Options{Settings: map[string]string{"max_wal_size": "32MB", "min_wal_size": "32MB", "max_slot_wal_keep_size": "64MB"}})
	g.start()
	g.imaged()
	g.stop()
	lose(t, g)
	if s := g.production.Query(t, "postgres", "select wal_status from pg_replication_slots"); s != "lost" {
		t.Fatalf("slot is %s", s)
	}
	g.start()
	g.gap("removed WAL")
}

// TestSlotLostWithinAnImage is a production that removes the WAL of an image in the making: another image is not begun at
// once, and it is said why.
func TestSlotLostWithinAnImage(t *testing.T) {
	g := newRig(t, pgtest.Options{Settings: map[string]string{"max_wal_size": "32MB", "min_wal_size": "32MB", "max_slot_wal_keep_size": "64MB"}})
	g.env.Recording.MaxRate = 32 << 10 // it takes minutes
	g.start()
	s := g.until("an image in the making", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.Image != nil && s.Image.Done > 0 })
	thief, err := pg.Connect(t.Context(), pg.Target{Conninfo: g.env.Recording.Connection, Password: "secret", Application: "thief"})
	g.check(err)
	defer thief.Abort()
	var stolen *pg.Stream
	g.until("the recorder to be away", 30*time.Second, func(sandglass.RecorderStatus) bool {
		g.production.Exec(t, "postgres", "select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'sandglass-prod'")
		stolen, err = thief.StartReplication(t.Context(), "sandglass_prod", 1, s.DurableLSN)
		return err == nil
	})
	ended := make(chan error, 1)
	go func() { // it takes all and acknowledges nothing; what production says at the end must be read, or it waits
		var err error
		for err == nil {
			_, err = stolen.Receive()
		}
		ended <- err
	}()
	lose(t, g) // which ends the thief
	<-ended
	g.code(recorder.CodeSlotSmall)
	if s := g.Status(); s.State != sandglass.RecorderRefused || !strings.Contains(s.LastError.Message, "64 MiB") || !strings.Contains(s.LastError.Message, "in 30s") {
		t.Errorf("status %+v: %v", s, s.LastError)
	}
	g.until("the image to have ended", 10*time.Second, func(s sandglass.RecorderStatus) bool { return s.Image == nil })
	if s := g.Status(); s.LastError == nil || s.LastError.Code != recorder.CodeSlotSmall || len(g.incarnations()) != 1 {
		t.Errorf("status %+v, incarnations %+v", s, g.incarnations())
	}
	if n := g.production.Query(t, "postgres", "select count(*) from pg_replication_slots"); n != "0" {
		t.Errorf("%s slots are kept meanwhile", n)
	}
	g.stop()
	g.env.Recording.MaxRate = -1
	g.start()
	g.imaged()
	g.until("no error", 10*time.Second, func(s sandglass.RecorderStatus) bool { return s.LastError == nil })
}

func TestGivesUpTheSlotAtItsOwnCap(t *testing.T) {
	g := newRig(t, pgtest.Options{})
	g.env.Recording.MaxSlotWAL = 40 << 20
	g.start()
	g.imaged()
	g.stop()
	lose(t, g)
	g.start()
	g.gap("max_slot_wal")
}

// TestNothingHeldAtTheReconnect is an image in the making whose first connection ended before any of its WAL was stored: the next goes on
// where that one began, or the image could never be made consistent.
func TestNothingHeldAtTheReconnect(t *testing.T) {
	g := newRig(t, keepWAL())
	g.env.Recording.MaxRate = 4 << 20 // seconds of image
	folder, err := repo.NewFolder(g.folder)
	g.check(err)
	store := &faulty{Store: folder, only: "/00000001/"} // WAL of timeline 1
	store.set(nil, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	g.startWith(openRepo(t, store, g.key))
	g.until("an image in the making", 30*time.Second, func(s sandglass.RecorderStatus) bool { return s.Image != nil && s.Image.Done > 0 })
	g.code(sandglass.CodeRepositoryFull)
	if inc := g.incarnations()[0].ID; len(segments(g, inc)) > 0 {
		t.Fatalf("WAL is held: %v", segments(g, inc))
	}
	store.set(nil, nil)
	g.production.Exec(t, "postgres", "create table t as select generate_series(1,1000) i", "select pg_switch_wal()", "insert into t values (0)", "select pg_switch_wal()")
	s := g.imaged()
	g.durable(g.flushed())
	image := g.images(s.Incarnation)[0]
	if held := segments(g, s.Incarnation); held[0].Segment > image.Redo.Segment(16<<20) || len(g.incarnations()) != 1 {
		t.Fatalf("the image needs WAL from %s on, held is %v; %d incarnations", image.Redo, held, len(g.incarnations()))
	}
	if n := g.ask(g.restored(image), "select count(*) from t"); n != "1001" {
		t.Errorf("%s rows", n)
	}
}

func segments(g *rig, inc sandglass.IncarnationID) (held []repo.SegmentInfo) {
	g.t.Helper()
	for s, err := range g.repo.Segments(g.t.Context(), "prod", inc) {
		g.check(err)
		held = append(held, s)
	}
	return held
}
