package main

// How long a sandbox does not answer at a cutover, and at an undo.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
)

func (b *bench) cutover(ctx context.Context) (err error) {
	s, _, err := b.system(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove(context.WithoutCancel(ctx), s)) }()
	port, err := s.Sandbox(ctx, "uat", "prod", nil)
	if err != nil {
		return err
	}
	if op, err := s.Operate(ctx, sandglass.Request{Kind: sandglass.KindStart, Environment: "uat", New: true}); err != nil || op.State != sandglass.Succeeded {
		return errors.Join(err, fmt.Errorf("start of uat: %s", op.State))
	}
	conn, err := s.Connect(ctx, "uat", "postgres")
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE ROLE asker LOGIN PASSWORD 'asker'")
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	probe := pgtest.StartProbe(ctx, fmt.Sprintf("postgres://asker:asker@127.0.0.1:%d/postgres?sslmode=disable", port), "SELECT 1")
	defer probe.Stop()
	var gaps, undoGaps, undos []time.Duration
	for i := range b.runs {
		probe.Reset()
		if _, err := s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest}); err != nil {
			return err
		}
		gap, _ := probe.Longest()
		probe.Reset()
		begin := time.Now()
		if _, err := s.Undo(ctx, "uat"); err != nil {
			return err
		}
		took := time.Since(begin)
		undoGap, _ := probe.Longest()
		gaps, undoGaps, undos = append(gaps, gap), append(undoGaps, undoGap), append(undos, took)
		b.note("cutover %d: unreachable %s; undo %s, unreachable %s", i+1, seconds(gap), seconds(took), seconds(undoGap))
		if err := dropKept(ctx, s); err != nil {
			return err
		}
	}
	b.report.add("unreachable at a cutover", seconds(median(gaps)), "", "", "under 2 s", median(gaps) < 2*time.Second)
	b.report.add("undo, as asked", seconds(median(undos)), "", "", "under 3 s", median(undos) < 3*time.Second)
	b.report.add("unreachable at an undo", seconds(median(undoGaps)), "", "", "", true)
	return nil
}
