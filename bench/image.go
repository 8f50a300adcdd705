package main

// The rate of a full base image, against pg_basebackup through zstd -1 with two threads.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func (b *bench) image(ctx context.Context) error {
	var ours, theirs []time.Duration
	for i := range b.runs {
		var took, peer time.Duration
		halves := []func() error{
			func() (err error) { peer, err = b.pgBasebackup(ctx); return err },
			func() error {
				s, image, err := b.system(ctx)
				took = image
				return errors.Join(err, b.remove(ctx, s))
			},
		}
		for j := range 2 { // in turn, which comes first
			if err := halves[(i+j)%2](); err != nil {
				return err
			}
		}
		ours, theirs = append(ours, took), append(theirs, peer)
		b.note("image %d: Sandglass %s, pg_basebackup | zstd %s", i+1, seconds(took), seconds(peer))
	}
	a, z := median(ours), median(theirs)
	ratio := z.Seconds() / a.Seconds() // of rates
	b.report.add("base image", seconds(a), seconds(z)+" (basebackup)", fmt.Sprintf("%.2f of its rate", ratio), "at least 0.7", ratio >= 0.7)
	return nil
}

func (b *bench) pgBasebackup(ctx context.Context) (time.Duration, error) {
	out, err := os.Create(filepath.Join(b.dir, "basebackup.tar.zst"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	source := b.prod.Command(ctx, "pg_basebackup", "-D", "-", "-Ft", "-X", "fetch", "-c", "fast")
	sink := exec.CommandContext(ctx, "zstd", "-1", "-T2", "-q", "-c")
	if sink.Stdin, err = source.StdoutPipe(); err != nil {
		return 0, err
	}
	sink.Stdout = out
	begin := time.Now()
	if err := sink.Start(); err != nil {
		return 0, err
	}
	if err := source.Run(); err != nil {
		return 0, errors.Join(fmt.Errorf("pg_basebackup: %w", err), sink.Wait())
	}
	if err := sink.Wait(); err != nil {
		return 0, fmt.Errorf("zstd: %w", err)
	}
	if err := out.Sync(); err != nil { // an image is durable too when it counts as taken
		return 0, err
	}
	return time.Since(begin), nil
}
