package recorder_test

// A recorder that is killed under load, again and again, in a process of its own.

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"sandglass"
	"sandglass/internal/recorder"
	"sandglass/internal/repo"
)

// TestMain lets the test binary be the recorder that is killed.
func TestMain(m *testing.M) {
	if os.Getenv("RECORDER_CHILD") != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child records as its environment variables say, until it is interrupted.
func child() error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	identity, err := age.ParseX25519Identity(os.Getenv("RECORDER_KEY"))
	if err != nil {
		return err
	}
	folder, err := repo.NewFolder(os.Getenv("RECORDER_REPO"))
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, folder, repo.Keys{Identities: []age.Identity{identity}})
	if err != nil {
		return err
	}
	env := sandglass.Environment{Name: "prod", Kind: sandglass.Production, Recording: &sandglass.Recording{
		Connection: os.Getenv("RECORDER_CONNECTION"), PasswordFile: os.Getenv("RECORDER_PASSWORD"), FastCheckpoint: true, MaxRate: -1}}
	return recorder.New(recorder.Config{Environment: env, Repository: r, Dir: os.Getenv("RECORDER_DIR"),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}).Run(ctx)
}

// spawn starts a child recorder.
func (g *rig) spawn() *exec.Cmd {
	g.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RECORDER_CHILD=1", "RECORDER_KEY="+g.key, "RECORDER_REPO="+g.folder, "RECORDER_DIR="+g.dir,
		"RECORDER_CONNECTION="+g.env.Recording.Connection, "RECORDER_PASSWORD="+g.env.Recording.PasswordFile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = testLog{g.t}, testLog{g.t}
	g.check(cmd.Start())
	return cmd
}

// held is how far the repository's WAL reaches, as it lies on disk.
func (g *rig) held(inc sandglass.IncarnationID) sandglass.LSN {
	g.t.Helper()
	var end sandglass.LSN
	for s, err := range g.repo.Segments(g.t.Context(), "prod", inc) {
		g.check(err)
		end = s.End
	}
	return end
}

func TestKilledUnderLoad(t *testing.T) {
	g := newRig(t, keepWAL())
	ctx := t.Context()
	g.check(g.production.PgbenchInit(ctx, "postgres", 2))
	g.start()
	s := g.imaged()
	g.stop()
	kills := 20
	load := g.production.Pgbench(ctx, "postgres", 4, 90*time.Second)
	g.check(load.Start())
	defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
	for i := range kills {
		cmd := g.spawn()
		g.await("the stream to be some way on", fmt.Sprintf(`select 1 from pg_stat_replication where application_name='sandglass-prod' and sent_lsn >= '%s'`,
			g.flushedTo()+sandglass.LSN(rand.IntN(2<<20))))
		// what production believes to be safe, before the kill, must be held after it
		flush := g.production.Query(t, "postgres", `select greatest((select restart_lsn from pg_replication_slots where slot_name='sandglass_prod'),
			(select max(flush_lsn) from pg_stat_replication where application_name='sandglass-prod'))`)
		g.check(cmd.Process.Kill())
		_ = cmd.Wait()
		acknowledged, err := sandglass.ParseLSN(flush)
		g.check(err)
		if held := g.held(s.Incarnation); held < acknowledged {
			t.Errorf("kill %d: acknowledged %s, held %s", i, acknowledged, held)
		}
		if i == kills/2 { // the spool is lost too
			g.check(os.RemoveAll(g.dir + "/spool"))
		}
	}
	_ = load.Process.Signal(os.Interrupt)
	_ = load.Wait()
	g.start()
	end := g.flushed()
	g.durable(end)
	segments, held := g.compare(s.Incarnation)
	if segments < 3 || held < end {
		t.Errorf("%d segments up to %s, want %s", segments, held, end)
	}
	if incs := g.incarnations(); len(incs) != 1 {
		t.Errorf("incarnations %+v", incs)
	}
	if s := g.Status(); s.LastError != nil {
		t.Errorf("status %+v", s)
	}
	entries, err := os.ReadDir(g.dir + "/spool/" + string(s.Incarnation))
	g.check(err)
	if len(entries) > 3 {
		t.Errorf("%d files left in the spool", len(entries))
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "tmp") {
			t.Errorf("left: %s", e.Name())
		}
	}
}
