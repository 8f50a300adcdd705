// Step 9: what the operation came to.

package operation

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"sandglass"
	"sandglass/internal/engine"

	"sandglass/internal/policy"
)

// finish writes what the operation came to. The new server is open, so nothing that goes wrong here
// is a reason to go back: it is logged, and the result says less.
func (h *Host) finish(ctx context.Context, run *engine.Run) error {
	err := errors.Join(forgetSecrets(run), h.sumUp(ctx, run))
	if err == nil {
		return nil
	}
	if _, late := errors.AsType[*sandglass.Error](context.Cause(ctx)); ctx.Err() != nil && !late {
		return err // this process stops; the step is done again by the next
	}
	run.Log.Warn("the result is not complete", "error", err)
	return nil
}

func (h *Host) sumUp(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	h.drainKept(ctx, run, m.Previous)
	h.measure(ctx, run, m.Volume, m.Previous)
	result := sandglass.Result{Volume: m.Volume, Kept: m.Previous, UnreachableSeconds: m.Opened.Sub(m.Fenced).Seconds()}
	if m.Opened.IsZero() {
		result.UnreachableSeconds = 0
	}
	if m.Previous != "" {
		v, err := h.DB.Volume(ctx, m.Previous)
		if err != nil {
			return err
		}
		result.KeptUntil = v.KeptUntil
	}
	if m.Volume != "" {
		v, err := h.DB.Volume(ctx, m.Volume)
		if err != nil {
			return err
		}
		result.Moment = v.Moment
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	result.Held = target.Held
	report := readJSON[policy.Report](run.Dir, "neutralize.json")
	for _, r := range report.Rules {
		if r.Rows > 0 && !r.Carried {
			result.Rules = append(result.Rules, sandglass.PlanLine{Step: "neutralize", What: strings.TrimSpace(r.Rule + " " + r.Database), Why: r.Why, Rows: r.Rows, Seen: r.Seen, Seconds: r.Seconds})
		}
	}
	result.Carried = carried(report)
	result.NotReapplied = report.NotReapplied
	if run.Request.Kind == sandglass.KindRestore || run.Request.Kind == sandglass.KindRefresh {
		_, source, err := h.environments(ctx, run.Request)
		if err != nil {
			return err
		}
		packs, err := h.packsOf(target.Declaration)
		if err != nil {
			return err
		}
		result.Checklist = checklist(packs, source.Declaration.Name, target.Declaration.Name)
	}
	if run.Operation.Plan != nil {
		result.Findings = run.Operation.Plan.Findings
	}
	if m.Volume != "" {
		l := h.Volumes.Layout(m.Volume)
		keepLog(l.Root, filepath.Join(l.Log, "postgresql.log"), run.Dir)
	}
	return run.SetResult(ctx, result)
}

// measure notes what volumes take on the disk.
func (h *Host) measure(ctx context.Context, run *engine.Run, ids ...string) {
	for _, id := range ids {
		if id == "" {
			continue
		}
		bytes, err := h.Volumes.Usage(ctx, id)
		if err == nil {
			err = h.DB.SetVolumeBytes(ctx, id, bytes)
		}
		if err != nil {
			run.Log.Warn("a volume was not measured", "volume", id, "error", err)
		}
	}
}
