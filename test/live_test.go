package test

// This file is promise 9: a live production is never a target, whatever it was declared as.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// A sandbox whose server turns out to be a recorded production, or a standby that follows one, or whose address is
// production's, is refused, and the server runs on. Production's system identifier alone, which every restored
// sandbox has, stops nothing.
func TestLiveProductionIsNeverATarget(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, map[string]string{"max_prepared_transactions": "0"}) // a standby needs no fewer, and a sandbox has none
	prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who", "CREATE ROLE sandglass LOGIN SUPERUSER")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	port := newSandbox(t, s, "uat", func(e *sandglass.Environment) {
		e.Server.HBA = []string{"host all,replication all 127.0.0.1/32 scram-sha-256"}
	})
	_, err := s.Restore(ctx, "uat", *latest)
	must(t, err)

	t.Run("an equal system identifier", func(t *testing.T) {
		plan, err := s.Client.Plan(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
		must(t, err)
		noticed := false
		for _, f := range plan.Findings {
			noticed = noticed || f.Code == "preflight.same_system_identifier"
		}
		if !noticed || plan.Stopped() {
			t.Errorf("it is noticed: %t; findings %+v", noticed, plan.Findings)
		}
	})
	t.Run("a recorded production", func(t *testing.T) { recordedProduction(t, s, port) })
	t.Run("what becomes one during a restore", func(t *testing.T) { becomesProduction(t, s, prod, port) })
	t.Run("a standby", func(t *testing.T) { standbyOf(t, s, prod) })
	t.Run("production's address", func(t *testing.T) { productionsAddress(t, s, prod) })
}

// neverTarget expects every cutover of uat to be refused before anything is begun, and its server to run on as it did.
func neverTarget(t *testing.T, s *systest.System) {
	t.Helper()
	before, err := s.Query(t.Context(), "uat", "postgres", "SELECT pg_postmaster_start_time()")
	must(t, err)
	for _, args := range []string{"restore uat --yes --latest", "restore uat --latest --plan", "refresh uat --yes", "undo uat --yes"} {
		r := refused(t, s, 3, sandglass.CodeEnvironmentLive, strings.Fields(args)...)
		if out := r.Stdout + r.Stderr; !strings.Contains(out, "a live production is never a target") || !strings.Contains(out, "Point the sandbox at a server of its own") {
			t.Errorf("%s: no sentence or no remedy:\n%s", args, out)
		}
	}
	after, err := s.Query(t.Context(), "uat", "postgres", "SELECT pg_postmaster_start_time()")
	if err != nil || after != before {
		t.Errorf("uat's server was started at %q, and now at %q %v", before, after, err)
	}
	volumes, err := s.Client.Volumes(t.Context(), "uat")
	must(t, err)
	for _, v := range volumes {
		if v.State == sandglass.VolumeStaging {
			t.Errorf("volume %s was begun", v.ID)
		}
	}
}

// recordedProduction: people have begun to work for real in uat, and somebody declares and records it as what it now is.
func recordedProduction(t *testing.T, s *systest.System, port int) {
	ctx := t.Context()
	identify(t, s, "uat", "the new production")
	do(t, s, "uat", "postgres", "CREATE ROLE follower LOGIN REPLICATION PASSWORD 'f'", "GRANT pg_monitor TO follower")
	file := filepath.Join(s.Dir, "erp.password")
	must(t, os.WriteFile(file, []byte("f"), 0o600))
	_, err := s.Client.Apply(ctx, sandglass.Environment{Name: "erp", Kind: sandglass.Production, Recording: &sandglass.Recording{
		Connection: fmt.Sprintf("host=127.0.0.1 port=%d user=follower dbname=postgres", port), PasswordFile: file, MaxRate: -1, FastCheckpoint: true}})
	must(t, err)
	_, err = s.Client.StartRecording(ctx, "erp", nil)
	must(t, err)
	streaming(t, s, "erp")
	neverTarget(t, s)
	shows(t, s, "uat", "the new production")

	// Also while its recorder can't get in.
	do(t, s, "uat", "postgres", "ALTER ROLE follower PASSWORD 'g'", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'sandglass-erp'")
	must(t, s.Await(ctx, 20*time.Second, "the recorder to be cut off", func() (bool, error) {
		n, err := s.Query(ctx, "uat", "postgres", "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'sandglass-erp'")
		return n == "0", err
	}))
	neverTarget(t, s)
	do(t, s, "uat", "postgres", "ALTER ROLE follower PASSWORD 'f'")
	streaming(t, s, "erp")

	// No longer recorded, it is a sandbox like any other.
	ran(t, s, "record", "stop", "erp", "--yes")
	_, err = s.Undo(ctx, "uat")
	must(t, err)
	shows(t, s, "uat", "the sandbox")
}

// becomesProduction: a recorder is connected to uat only after the preflight of a restore, which goes back.
func becomesProduction(t *testing.T, s *systest.System, prod *pgtest.Cluster, port int) {
	ctx := t.Context()
	do(t, s, "uat", "postgres", "CREATE ROLE follower LOGIN REPLICATION PASSWORD 'f'")
	must(t, s.Stop())
	must(t, s.Serve(ctx, "SANDGLASS_CRASH=restore/rehearse:after"))
	op, err := s.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
	must(t, err)
	<-s.Exited()
	must(t, s.Kill())
	dir := filepath.Join(prod.Dir, "followed")
	must(t, prod.MakeDir(dir))
	following, stop := context.WithCancel(ctx)
	follower := prod.Command(following, "pg_receivewal", "-D", dir, "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-U", "follower")
	follower.Env = append(follower.Env, "PGAPPNAME=sandglass-erp", "PGPASSWORD=f")
	must(t, follower.Start())
	defer func() { stop(); follower.Wait() }()
	must(t, wait(ctx, 20*time.Second, "uat to be followed", func() bool {
		files, err := os.ReadDir(dir)
		return err == nil && len(files) > 0
	}))
	must(t, s.Serve(ctx))
	op, err = s.Finish(ctx, op.ID)
	must(t, err)
	if op.State != sandglass.Failed || op.Error == nil || op.Error.Code != sandglass.CodeEnvironmentLive || op.Error.Remedy == "" {
		t.Errorf("the restore ended as %s: %+v", op.State, op.Error)
	}
	shows(t, s, "uat", "the sandbox")
}

// standbyOf puts a standby of production in the place of uat's data.
func standbyOf(t *testing.T, s *systest.System, prod *pgtest.Cluster) {
	ctx := t.Context()
	volumes, err := s.Client.Volumes(ctx, "uat")
	must(t, err)
	data := ""
	for _, v := range volumes {
		if v.State == sandglass.VolumeCurrent {
			data = filepath.Join(v.Path, "data")
		}
	}
	ran(t, s, "env", "stop", "uat")
	before, err := os.Stat(data)
	must(t, err)
	must(t, os.RemoveAll(data))
	copied := prod.Command(ctx, "pg_basebackup", "-D", filepath.Join(prod.Dir, "standby"), "-R", "-c", "fast", "-X", "stream")
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	must(t, os.Rename(filepath.Join(prod.Dir, "standby"), data))
	whose := before.Sys().(*syscall.Stat_t)
	must(t, filepath.WalkDir(data, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(whose.Uid), int(whose.Gid)))
	}))
	ran(t, s, "env", "start", "uat")
	follows := func() bool {
		return prod.Query(t, "postgres", "SELECT count(*) FROM pg_stat_replication WHERE application_name NOT LIKE 'sandglass%' AND state = 'streaming'") == "1"
	}
	must(t, wait(ctx, 20*time.Second, "uat to follow production", follows))
	neverTarget(t, s)
	if !follows() {
		t.Error("uat follows production no more")
	}
	prod.Exec(t, "postgres", "UPDATE identity SET who = 'still followed'")
	must(t, s.Await(ctx, 20*time.Second, "the standby to replay", func() (bool, error) {
		got, err := s.Query(ctx, "uat", "postgres", whoAmI)
		return got == "still followed", err
	}))
}

// productionsAddress declares a sandbox at production's port: preflight refuses, and a server that is started there fails alone.
func productionsAddress(t *testing.T, s *systest.System, prod *pgtest.Cluster) {
	ctx := t.Context()
	started := prod.Query(t, "postgres", "SELECT pg_postmaster_start_time()")
	servers := len(pgtest.Postmasters(s.Dir))
	_, err := s.Sandbox(ctx, "clash", "prod", func(e *sandglass.Environment) { e.Server.Port = prod.Port })
	must(t, err)
	refused(t, s, 3, "preflight.port_taken", "restore", "clash", "--latest", "--plan")
	refused(t, s, 3, "preflight.port_taken", "restore", "clash", "--yes", "--latest")
	refused(t, s, 1, sandglass.CodeServerFailed, "env", "start", "clash", "--new")
	if e, err := s.Client.Environment(ctx, "clash"); err != nil || e.State != sandglass.SandboxEmpty {
		t.Errorf("clash is %s %v, want empty", e.State, err)
	}
	if n := len(pgtest.Postmasters(s.Dir)); n != servers {
		t.Errorf("%d servers run, before %d", n, servers)
	}
	if got := prod.Query(t, "postgres", "SELECT pg_postmaster_start_time()"); got != started {
		t.Errorf("production was started anew: %s, before %s", got, started)
	}
}
