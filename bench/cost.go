package main

// What recording costs a busy primary, against pg_receivewal, in interleaved pairs; and processor time for a gigabyte of WAL.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

func (b *bench) cost(ctx context.Context) (err error) {
	s, _, err := b.system(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if s.Serving() || s.Serve(context.WithoutCancel(ctx)) == nil {
			err = errors.Join(err, b.remove(context.WithoutCancel(ctx), s))
		}
	}()
	if err := s.Stop(); err != nil {
		return err
	}
	var ratios []float64
	var wal, bare float64
	var cpu time.Duration
	for i := range b.pairs {
		halves := []func() (float64, error){
			func() (float64, error) { return b.withReceivewal(ctx) },
			func() (tps float64, err error) {
				tps, used, bytes, err := b.withSandglass(ctx, s)
				cpu, wal = cpu+used, wal+bytes
				return tps, err
			},
		}
		var tps [2]float64
		for j := range 2 { // in turn, which comes first
			k := (i + j) % 2
			if tps[k], err = halves[k](); err != nil {
				return err
			}
		}
		bare += tps[0]
		ratios = append(ratios, tps[1]/tps[0])
		b.note("pair %d: with pg_receivewal %.0f tps, with Sandglass %.0f", i+1, tps[0], tps[1])
	}
	mean, half := interval(ratios)
	b.report.add("pgbench while recorded", fmt.Sprintf("%.3f ± %.3f", mean, half), fmt.Sprintf("%.0f tps (receivewal)", bare/float64(b.pairs)),
		fmt.Sprintf("%d pairs", b.pairs), "at least 0.95", mean+half >= 0.95)
	if wal > 0 {
		b.report.add("processor time for 1 GB of WAL", seconds(time.Duration(float64(cpu)*1e9/wal)), "", fmt.Sprintf("%.1f GB seen", wal/1e9), "", true)
	}
	return nil
}

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+)`)

// tps is a run of pgbench, after a checkpoint, so that no half pays for the other's.
func (b *bench) tps(ctx context.Context) (float64, error) {
	if err := b.prod.Do(ctx, "postgres", "CHECKPOINT"); err != nil {
		return 0, err
	}
	out, err := b.prod.Pgbench(ctx, "bank", 4, time.Duration(b.seconds)*time.Second, "-M", "prepared").Output()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w", err)
	}
	m := tpsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench says no tps: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func (b *bench) withReceivewal(ctx context.Context) (float64, error) {
	dir := filepath.Join(b.dir, "receivewal")
	if err := b.prod.MakeDir(dir); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cmd := b.prod.Command(ctx, "pg_receivewal", "-D", dir, "--no-loop")
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}()
	if err := b.streaming(ctx, "pg_receivewal"); err != nil {
		return 0, err
	}
	return b.tps(ctx)
}

func (b *bench) withSandglass(ctx context.Context, s *systest.System) (tps float64, cpu time.Duration, wal float64, err error) {
	if err := s.Serve(ctx); err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	caughtUp := func() error {
		return s.Await(ctx, 5*time.Minute, "the recorder to catch up", func() (bool, error) {
			e, err := s.Client.Environment(ctx, "prod")
			if err != nil || e.Recorder == nil {
				return false, err
			}
			r := e.Recorder
			return r.State == sandglass.RecorderStreaming && r.ServerLSN > 0 && r.DurableLSN >= r.ServerLSN, nil
		})
	}
	if err := caughtUp(); err != nil {
		return 0, 0, 0, err
	}
	before, err := s.CPU()
	if err != nil {
		return 0, 0, 0, err
	}
	from, err := b.lsn(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	if tps, err = b.tps(ctx); err != nil {
		return 0, 0, 0, err
	}
	to, err := b.lsn(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := caughtUp(); err != nil {
		return 0, 0, 0, err
	}
	after, err := s.CPU()
	b.peak(s)
	return tps, after - before, float64(to - from), err
}

func (b *bench) lsn(ctx context.Context) (sandglass.LSN, error) {
	conn, err := b.prod.Connect(ctx, "postgres")
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	text, err := pgtest.QueryText(ctx, conn, "SELECT pg_current_wal_lsn()")
	if err != nil {
		return 0, err
	}
	return sandglass.ParseLSN(text)
}

// streaming waits until a receiver of that name streams.
func (b *bench) streaming(ctx context.Context, name string) error {
	conn, err := b.prod.Connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		n, err := pgtest.QueryText(ctx, conn, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '"+name+"'")
		if err != nil || n == "1" {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
