package main

// What recording costs a busy primary, against pg_receivewal, in interleaved pairs; and processor time for a gigabyte of WAL.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
		if !s.Serving() {
			err = errors.Join(err, s.Serve(context.WithoutCancel(ctx)))
		}
		err = errors.Join(err, b.remove(ctx, s))
	}()
	if err := s.Stop(); err != nil {
		return err
	}
	var ratios []float64
	var bare float64
	var ours, theirs spent
	for i := range b.pairs {
		halves := []func() (float64, error){
			func() (float64, error) { return b.withReceivewal(ctx, &theirs) },
			func() (float64, error) { return b.withSandglass(ctx, s, &ours) },
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
		fmt.Sprintf("%d pairs", b.pairs), "at least 0.95", mean >= 0.95)
	a, z := ours.perGB(), theirs.perGB()
	b.report.add("processor time for 1 GB of WAL", seconds(a), seconds(z)+" (+ zstd -1)", fmt.Sprintf("%.2f of %.1f GB", a.Seconds()/z.Seconds(), ours.wal/1e9), "", true)
	return nil
}

// spent is processor time, and the bytes of WAL that it was spent on.
type spent struct {
	cpu time.Duration
	wal float64
}

func (s spent) perGB() time.Duration { return time.Duration(float64(s.cpu) * 1e9 / max(s.wal, 1)) }

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

// withReceivewal is a run with pg_receivewal. Compressing what it received counts as processor time too: Sandglass does that on the way.
func (b *bench) withReceivewal(ctx context.Context, used *spent) (tps float64, err error) {
	dir := filepath.Join(b.dir, "receivewal")
	if err := b.prod.MakeDir(dir); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cmd := b.prod.Command(ctx, "pg_receivewal", "-D", dir, "--no-loop")
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var wal float64
	err = b.streaming(ctx, "pg_receivewal")
	if err == nil {
		tps, wal, err = b.load(ctx)
	}
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait() // its exit status says that it was interrupted
	if err != nil {
		return 0, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "0*"))
	if err != nil {
		return 0, err
	}
	zstd := exec.CommandContext(ctx, "zstd", append([]string{"-1", "-q", "-c", "--single-thread"}, files...)...)
	if err := zstd.Run(); err != nil {
		return 0, fmt.Errorf("zstd: %w", err)
	}
	for _, p := range []*os.ProcessState{cmd.ProcessState, zstd.ProcessState} {
		used.cpu += p.UserTime() + p.SystemTime()
	}
	used.wal += wal
	return tps, nil
}

// withSandglass is a run recorded by `serve`. Processor time counts until the repository holds all of it.
func (b *bench) withSandglass(ctx context.Context, s *systest.System, used *spent) (tps float64, err error) {
	if err := s.Serve(ctx); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	caughtUp := func() error { return s.AwaitRecorded(ctx, "prod") }
	if err := caughtUp(); err != nil {
		return 0, err
	}
	before, err := s.CPU()
	if err != nil {
		return 0, err
	}
	tps, wal, err := b.load(ctx)
	if err != nil {
		return 0, err
	}
	if err := caughtUp(); err != nil {
		return 0, err
	}
	after, err := s.CPU()
	b.peak(s)
	used.cpu, used.wal = used.cpu+after-before, used.wal+wal
	return tps, err
}

// load is tps with the bytes of WAL that it made.
func (b *bench) load(ctx context.Context) (tps, wal float64, err error) {
	from, err := b.lsn(ctx)
	if err != nil {
		return 0, 0, err
	}
	if tps, err = b.tps(ctx); err != nil {
		return 0, 0, err
	}
	to, err := b.lsn(ctx)
	return tps, float64(to - from), err
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
