package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/systest"
)

// Retention takes what is too old, by a plan that is read first, and every moment that stays in the window can still be restored.
// Damage to a manifest or to WAL is named with what it costs.
func TestRepository(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE TABLE ticks (n int)", "CREATE TABLE identity AS SELECT 'production' AS who")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	begin := time.Now()
	for n := range 4 {
		prod.Exec(t, "postgres", "INSERT INTO ticks VALUES (1)", "SELECT pg_switch_wal()")
		if n > 0 {
			must(t, s.Client.TakeImage(ctx, "prod"))
			must(t, s.AwaitImages(ctx, "prod", n+1))
		}
	}
	streaming(t, s, "prod")
	before, err := s.Client.Window(ctx, "prod")
	must(t, err)
	all, err := s.Client.Repository(ctx)
	must(t, err)

	t.Run("a prune that no image is due for", func(t *testing.T) {
		out := ran(t, s, "repo", "prune", "--plan").Stdout
		for _, i := range before.Images {
			if strings.Contains(out, string(i.ID)) {
				t.Errorf("the plan names image %s:\n%s", i.ID, out)
			}
		}
	})
	t.Run("prune", func(t *testing.T) {
		// Moments since the third image stay.
		third := before.Images[2].Ended
		e, err := s.Client.Environment(ctx, "prod")
		must(t, err)
		retain := time.Since(third)
		e.Retention = sandglass.Duration(retain)
		_, err = s.Client.Apply(ctx, e.Environment)
		must(t, err)
		out := ran(t, s, "repo", "prune", "--plan").Stdout
		for _, gone := range before.Images[:1] {
			if !strings.Contains(out, string(gone.ID)) {
				t.Errorf("the plan does not name image %s, ended %s before the limit:\n%s", gone.ID, third.Sub(gone.Ended), out)
			}
		}
		if now, err := s.Client.Repository(ctx); err != nil || now.Objects < all.Objects {
			t.Errorf("--plan removed something: %d objects of %d, %v", now.Objects, all.Objects, err)
		}
		ran(t, s, "repo", "prune", "--yes")
		after, err := s.Client.Repository(ctx)
		must(t, err)
		if after.Bytes >= all.Bytes {
			t.Errorf("the repository had %d bytes and has %d", all.Bytes, after.Bytes)
		}
		ran(t, s, "repo", "verify", "--all")
		w, err := s.Client.Window(ctx, "prod")
		must(t, err)
		if len(w.Gaps) > 0 || w.Earliest.Before(before.Earliest) {
			t.Errorf("the window after the prune: earliest %s, gaps %+v", w.Earliest, w.Gaps)
		}
		for name, at := range map[string]time.Time{"the earliest moment": w.Earliest, "the limit of retention": third.Add(time.Millisecond)} {
			op, err := s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtTime, Time: at.Truncate(time.Microsecond)})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			t.Logf("%s: %s, ticks %s", name, op.Plan.Moment, ticks(t, s))
		}
		_, err = s.Client.Resolve(ctx, "prod", sandglass.Moment{Kind: sandglass.AtTime, Time: begin.Add(-time.Hour)})
		if sandglass.CodeOf(err) != sandglass.CodeMomentBefore {
			t.Errorf("a moment before the window: %v", err)
		}
	})

	succeeds(t, s, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	do(t, s, "uat", "postgres", "UPDATE identity SET who = 'the sandbox'")
	prod.Exec(t, "postgres", "INSERT INTO ticks VALUES (1)", "SELECT pg_switch_wal()", "INSERT INTO ticks VALUES (1)")
	streaming(t, s, "prod")
	w, err := s.Client.Window(ctx, "prod")
	must(t, err)
	newest := w.Images[len(w.Images)-1]
	for _, row := range []struct {
		what, part string
		spared     bool // an image before it reaches the moment as well
	}{
		{"a manifest", string(newest.ID), true},
		{"a WAL segment", sandglass.SegmentName(newest.Timeline, newest.Redo.Segment(16<<20), 16<<20), false},
	} {
		t.Run("a flipped byte in "+row.what, func(t *testing.T) { flipped(t, s, row.part, row.spared) })
	}
}

func ticks(t *testing.T, s *systest.System) string {
	t.Helper()
	got, err := s.Query(t.Context(), "uat", "postgres", "SELECT count(*) FROM ticks")
	must(t, err)
	return got
}

// flipped flips a byte in the largest object with part in its name that is neither index nor bundle, and puts it back at the end.
func flipped(t *testing.T, s *systest.System, part string, spared bool) {
	ctx := t.Context()
	object, size := "", int64(0)
	must(t, filepath.WalkDir(s.Repository(), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(p, part) || strings.Contains(p, "bundle") || strings.Contains(p, "index") {
			return err
		}
		if i, err := d.Info(); err == nil && i.Size() > size {
			object, size = p, i.Size()
		}
		return nil
	}))
	if object == "" {
		t.Fatalf("no object named %s", part)
	}
	t.Logf("flipped: %s", object)
	right, err := os.ReadFile(object)
	must(t, err)
	wrong := append([]byte{}, right...)
	wrong[len(wrong)/2] ^= 1
	must(t, os.Chmod(object, 0o600))
	must(t, s.Stop())
	must(t, os.WriteFile(object, wrong, 0o600))
	must(t, s.Serve(ctx))
	streaming(t, s, "prod")

	report, err := s.Client.Verify(ctx, true, nil)
	must(t, err)
	if len(report.Damaged) != 1 || !strings.HasSuffix(object, report.Damaged[0].Object) || report.Damaged[0].Costs == "" || report.Damaged[0].Problem == "" {
		t.Errorf("verify names %+v, want %s with its costs", report.Damaged, object)
	}
	if r := s.Run(ctx, "repo", "verify", "--all"); r.Exit != sandglass.ExitDamaged || len(report.Damaged) > 0 && !strings.Contains(r.Stdout, report.Damaged[0].Costs) {
		t.Errorf("repo verify: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
	}
	op, err := s.Operate(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	if err == nil && op.Error != nil {
		err = op.Error
	}
	switch {
	case spared && err != nil:
		t.Errorf("a restore that can do without it ended as %s: %v", op.State, err)
	case spared:
		if got := ticks(t, s); got != "6" {
			t.Errorf("restored: %s ticks, want 6", got)
		}
		_, err = s.Undo(ctx, "uat")
		must(t, err)
	default:
		saysDamaged(t, err)
	}
	if got, err := s.Query(ctx, "uat", "postgres", whoAmI); err != nil || got != "the sandbox" {
		t.Errorf("uat shows %q %v", got, err)
	}
	if got := metadata(t, s, "SELECT count(*) FROM sandglass.volume WHERE state = 'staging'"); got != "0" {
		t.Errorf("%s volumes are staging", got)
	}
	must(t, os.WriteFile(object, right, 0o600))
}
