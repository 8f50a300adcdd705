// Command bench measures Sandglass against what people use today, on the same machine in the same run, and
// says whether the project's own targets are met. Everything is a ratio, or a time that a person feels.
//
//	go run ./bench -sandglass bin/sandglass -size 4GB -runs 5
//	go run ./bench -sandglass bin/sandglass -size 200MB -runs 1 -pairs 2 -seconds 3    # a quick look
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// bench is one run.
type bench struct {
	binary  string
	size    sandglass.Bytes
	runs    int
	pairs   int
	seconds int
	only    string

	dir    string
	prod   *pgtest.Cluster
	report report
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx)
	stop()
	os.Exit(code)
}

func run(ctx context.Context) int {
	b := &bench{size: 4e9}
	flag.StringVar(&b.binary, "sandglass", "bin/sandglass", "the binary to measure")
	flag.TextVar(&b.size, "size", b.size, "of the pgbench database")
	flag.IntVar(&b.runs, "runs", 5, "of each measurement; the median counts")
	flag.IntVar(&b.pairs, "pairs", 0, "of the recording cost, interleaved with pg_receivewal; 0: four times -runs")
	flag.IntVar(&b.seconds, "seconds", 10, "of pgbench in each half of a pair, and twice that of WAL to replay")
	flag.StringVar(&b.only, "only", "image,restore,cutover,neutralize,cost", "what to measure")
	flag.Parse()
	if b.pairs == 0 {
		b.pairs = 4 * b.runs
	}
	if err := b.all(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func (b *bench) all(ctx context.Context) (err error) {
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("/tmp", "sgb"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o777); err != nil { // the peers' files belong to PostgreSQL's user
		return err
	}
	if strings.Trim(b.only, ", ") != "neutralize" {
		if err := b.production(ctx); err != nil {
			return err
		}
		defer b.prod.Remove()
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"image", b.image}, {"restore", b.restore}, {"cutover", b.cutover}, {"neutralize", b.neutralize}, {"cost", b.cost}} {
		if !strings.Contains(b.only, part.name) {
			continue
		}
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.report.print(os.Stdout)
	return nil
}

// production is the cluster that is recorded, with pgbench's tables.
func (b *bench) production(ctx context.Context) (err error) {
	if b.prod, err = pgtest.Start(ctx, pgtest.Options{Dir: filepath.Join(b.dir, "production"), Durable: true, Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min", "archive_mode": "on", "archive_command": "/bin/true",
		"max_slot_wal_keep_size": "20GB"}}); err != nil {
		return err
	}
	scale := max(1, int(b.size/15_800_000))
	b.note("pgbench of scale %d, about %s; %d runs, medians", scale, b.size, b.runs)
	if err = b.prod.Do(ctx, "postgres", "CREATE DATABASE bank"); err == nil {
		err = b.prod.PgbenchInit(ctx, "bank", scale)
	}
	if err != nil {
		return errors.Join(err, b.prod.Remove())
	}
	return nil
}

func (b *bench) note(format string, args ...any) {
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// system is a fresh installation that records production; the first image is taken while it is made.
func (b *bench) system(ctx context.Context) (s *systest.System, image time.Duration, err error) {
	if s, err = systest.Make(ctx, b.binary); err != nil {
		return nil, 0, err
	}
	if err = s.Serve(ctx); err != nil {
		return s, 0, err
	}
	begin := time.Now()
	err = s.Record(ctx, "prod", b.prod, nil)
	return s, time.Since(begin), err
}

// remove ends an installation and drops its slot, also after the run was interrupted.
func (b *bench) remove(ctx context.Context, s *systest.System) error {
	if s == nil {
		return nil
	}
	var err error
	if s.Serving() {
		b.peak(s)
		if r := s.Run(context.WithoutCancel(ctx), "record", "stop", "prod", "--yes"); r.Exit != 0 {
			err = fmt.Errorf("record stop: %s%s", r.Stdout, r.Stderr)
		}
	}
	return errors.Join(err, s.Remove())
}

// peak keeps the most memory that any `serve` of the run had resident.
func (b *bench) peak(s *systest.System) {
	if rss, err := s.PeakRSS(); err == nil {
		b.report.peakRSS = max(b.report.peakRSS, rss)
	}
}
