package main

// A restore to a promoted staging server, against pgBackRest with two processes plus the server's start.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

const stanza = "bench"

func (b *bench) restore(ctx context.Context) (err error) {
	if err := b.pgbackrestBackup(ctx); err != nil {
		return err
	}
	s, _, err := b.system(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove(context.WithoutCancel(ctx), s)) }()
	if _, err := s.Sandbox(ctx, "uat", "prod", nil); err != nil {
		return err
	}
	b.note("%d s of pgbench to replay", 2*b.seconds)
	if err := b.prod.Pgbench(ctx, "bank", 4, time.Duration(2*b.seconds)*time.Second).Run(); err != nil {
		return err
	}
	if err := b.archived(ctx); err != nil {
		return err
	}
	var ours, theirs, plans []time.Duration
	for i := range b.runs {
		took, err := b.plan(ctx, s)
		if err != nil {
			return err
		}
		plans = append(plans, took)
		var peer time.Duration
		var op sandglass.Operation
		halves := []func() error{
			func() (err error) { peer, err = b.pgbackrestRestore(ctx); return err },
			func() (err error) {
				op, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
				return err
			},
		}
		for j := range 2 { // in turn, which comes first
			if err := halves[(i+j)%2](); err != nil {
				return err
			}
		}
		promoted, ok := until(op, "recover")
		if !ok {
			return errors.New("the restore has no step recover")
		}
		ours, theirs = append(ours, promoted), append(theirs, peer)
		b.note("restore %d: Sandglass promoted after %s (all of it: %s), pgBackRest after %s", i+1, seconds(promoted), seconds(op.Ended.Sub(op.Began)), seconds(peer))
		if err := dropKept(ctx, s); err != nil {
			return err
		}
	}
	a, z := median(ours), median(theirs)
	b.report.add("restore to a promoted server", seconds(a), seconds(z)+" (pgBackRest)", fmt.Sprintf("%.2f of its time", a.Seconds()/z.Seconds()), "below 1", a < z)
	p := median(plans)
	b.report.add("plan of a restore", seconds(p), "", "", "under 1 s", p < time.Second)
	return nil
}

func (b *bench) plan(ctx context.Context, s *systest.System) (time.Duration, error) {
	begin := time.Now()
	_, err := s.Client.Plan(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	return time.Since(begin), err
}

// until is the time from an operation's begin to the end of a step.
func until(op sandglass.Operation, step string) (time.Duration, bool) {
	for _, s := range op.Steps {
		if s.Name == step {
			return s.Ended.Sub(op.Began), true
		}
	}
	return 0, false
}

func dropKept(ctx context.Context, s *systest.System) error {
	volumes, err := s.Client.Volumes(ctx, "uat")
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.State == sandglass.VolumeKept {
			if err := s.Client.DropVolume(ctx, v.ID, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) pgbackrest(ctx context.Context, args ...string) error {
	cmd := b.prod.Command(ctx, "/", append([]string{"--config=" + filepath.Join(b.dir, "pgbackrest.conf"), "--stanza=" + stanza}, args...)...)
	cmd.Path, cmd.Args[0] = "/usr/bin/pgbackrest", "pgbackrest"
	cmd.Err = nil
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgbackrest %s: %w\n%s", args[len(args)-1], err, out)
	}
	return nil
}

func (b *bench) pgbackrestBackup(ctx context.Context) error {
	home := filepath.Join(b.dir, "pgbackrest")
	if err := b.prod.MakeDir(home); err != nil {
		return err
	}
	conf := fmt.Sprintf(`[global]
repo1-path=%[1]s/repo
log-path=%[1]s
lock-path=%[1]s
spool-path=%[1]s
log-level-console=warn
log-level-file=off
compress-type=zst
start-fast=y
process-max=2
[%[2]s]
pg1-path=%[3]s
pg1-socket-path=%[4]s
pg1-port=%[5]d
pg1-user=%[6]s
`, home, stanza, b.prod.Data(), b.prod.Socket(), b.prod.Port, pgtest.Superuser)
	if err := os.WriteFile(filepath.Join(b.dir, "pgbackrest.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	if err := b.pgbackrest(ctx, "stanza-create"); err != nil {
		return err
	}
	if err := b.archive(ctx, "pgbackrest --config="+b.dir+"/pgbackrest.conf --stanza="+stanza+" archive-push %p"); err != nil {
		return err
	}
	begin := time.Now()
	if err := b.pgbackrest(ctx, "--type=full", "backup"); err != nil {
		return err
	}
	b.note("backup by pgBackRest: %s", seconds(time.Since(begin)))
	return nil
}

func (b *bench) archive(ctx context.Context, command string) error {
	return b.prod.Do(ctx, "postgres", "ALTER SYSTEM SET archive_command = '"+command+"'", "SELECT pg_reload_conf()")
}

// archived waits until pgBackRest has all WAL, then stops its archiving, so that it costs the other measurements nothing.
func (b *bench) archived(ctx context.Context) error {
	conn, err := b.prod.Connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	last, err := pgtest.QueryText(ctx, conn, "SELECT pg_walfile_name(pg_switch_wal())")
	if err != nil {
		return err
	}
	for {
		done, err := pgtest.QueryText(ctx, conn, "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")
		if err != nil {
			return err
		}
		if done >= last {
			return b.archive(ctx, "/bin/true")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// pgbackrestRestore restores to the end of the archive and waits for the promoted server.
func (b *bench) pgbackrestRestore(ctx context.Context) (took time.Duration, err error) {
	dir := filepath.Join(b.dir, "restored")
	data := filepath.Join(dir, "data")
	if err := b.prod.MakeDir(dir); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := b.prod.MakeDir(data); err != nil {
		return 0, err
	}
	port, err := pgtest.FreePort()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := b.pgbackrest(ctx, "--pg1-path="+data, "--process-max=2", "restore"); err != nil {
		return 0, err
	}
	server := b.prod.Command(ctx, "postgres", "-D", data, "-c", "port="+strconv.Itoa(port), "-c", "unix_socket_directories="+dir,
		"-c", "listen_addresses=", "-c", "archive_mode=off", "-c", "hot_standby=off")
	server.Cancel = func() error { return server.Process.Signal(os.Interrupt) }
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer func() {
		server.Process.Signal(os.Interrupt)
		server.Wait()
	}()
	for {
		conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=postgres", dir, port, pgtest.Superuser))
		if err == nil {
			return time.Since(begin), conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
