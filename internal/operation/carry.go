// What of the running sandbox stays its own, on the way: where its rows are read from, 8c, and
// what the plan and the result say of it.

package operation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
	"sandglass/internal/preflight"
	"sandglass/internal/server"
)

// fromTarget opens sessions in the running sandbox whose roles were read; nil where none were.
func (h *Host) fromTarget(ctx context.Context, target db.Environment, own *policy.Target) (policy.Connect, error) {
	if own == nil {
		return nil, nil
	}
	c, err := h.Sandbox(ctx, target)
	if err != nil {
		return nil, err
	}
	return connector(c), nil
}

// settle is 8c: nobody can change the fenced sandbox any more. Its roles must be what the copy was
// given; rows that stay its own are carried again where they have changed. It ends within the
// budget, or goes back. That it was done is remembered before the old server is stopped.
func (h *Host) settle(ctx context.Context, run *engine.Run, old server.Config, m *memory, target db.Environment) error {
	if m.Carried == "" || m.Settled {
		return nil
	}
	budget := time.Duration(target.Declaration.Server.CarryBudget)
	within, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	began := time.Now()
	both, asking := errgroup.WithContext(within)
	both.Go(func() error { return h.sameRoles(asking, old, *m, target.Declaration.Databases) })
	both.Go(func() error { return h.carryAgain(asking, run, old, *m, target) })
	err := both.Wait()
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		return &sandglass.Error{Code: CodeCarryChanged, Op: "carry over", Message: fmt.Sprintf("What of the sandbox stays its own could not be compared and carried again within %s.", budget),
			Remedy: "The sandbox is as it was. Restore when less is changed there, or give it more time (server.carry_budget).", Err: err}
	}
	if err != nil {
		return err
	}
	run.Log.Info("what stays the sandbox's own is settled", "seconds", time.Since(began).Seconds())
	m.Settled = true
	return run.Save(ctx, *m)
}

// carryAgain gives the sealed copy, which runs as the sandbox will, the rows that have changed.
func (h *Host) carryAgain(ctx context.Context, run *engine.Run, old server.Config, m memory, target db.Environment) error {
	_, origin, err := h.environments(ctx, run.Request)
	if err != nil {
		return err
	}
	packs, err := h.packsOf(target.Declaration)
	if err != nil || !carriesRows(packs) {
		return err
	}
	c, err := h.sandboxConfig(ctx, m.Volume, m.Major, target.Declaration)
	if err != nil {
		return err
	}
	c = h.seal(c, m.Volume, target.Declaration)
	p, err := ensureRunning(ctx, c) // it may have died with a reboot
	if err != nil {
		return err
	}
	defer p.Close()
	again, err := policy.CarryAgain(ctx, policyServer(c, run.Log), policy.Input{Run: run.Operation.ID, Source: origin.Declaration, Environment: target.Declaration,
		Packs: packs, Moment: momentText(run.Operation), FromTarget: connector(old)})
	if err != nil || len(again.Rules) == 0 {
		return err
	}
	return writeJSON(run.Dir, "neutralize.json", renewed(readJSON[policy.Report](run.Dir, "neutralize.json"), again))
}

// renewed is the report of the work that was done first, with what was done again since. The rows of a rule that was
// skipped come from its record, so they are those of the time at which it was done, however often it was asked for.
func renewed(first, again policy.Report) policy.Report {
	for _, r := range again.Rules {
		n := slices.IndexFunc(first.Rules, func(f policy.RuleReport) bool { return f.Rule == r.Rule && f.Database == r.Database })
		if n < 0 {
			first.Rules = append(first.Rules, r)
			continue
		}
		r.Skipped = r.Skipped && first.Rules[n].Skipped
		first.Rules[n] = r
	}
	first.Seconds = cmp.Or(first.Seconds, again.Seconds)
	return first
}

func carriesRows(packs []pack.Pack) bool {
	return slices.ContainsFunc(packs, func(p pack.Pack) bool { return slices.ContainsFunc(p.Rules, pack.Rule.Carries) })
}

// wentDown is the error of a sandbox that stopped running after it was read and before it could be
// compared: what its people changed meanwhile would be lost.
func wentDown(name string) error {
	return &sandglass.Error{Code: preflight.CodeDown, Op: "carry over", Message: fmt.Sprintf("%s has stopped running during the restore, so it can't be seen what was changed in it since.", name),
		Remedy: "It is started again as it was. Start the restore again."}
}

// countCarried counts the sandbox's rows that rules of packs would carry.
func (h *Host) countCarried(ctx context.Context, target db.Environment, f preflight.Facts, packs []pack.Pack) map[string]int64 {
	if !f.Running || target.Volume == "" || !carriesRows(packs) {
		return nil
	}
	c, err := h.Sandbox(ctx, target)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return policy.CountCarried(ctx, policy.Input{Environment: f.Target, Packs: packs, FromTarget: connector(c)})
}

// carried is what of the sandbox stayed its own, for the result.
func carried(report policy.Report) (lines []sandglass.PlanLine) {
	for _, r := range report.Rules {
		if r.Carried {
			_, name, _ := strings.Cut(r.Rule, "/")
			lines = append(lines, sandglass.PlanLine{Step: "neutralize", What: strings.ReplaceAll(name, "-", " "), Why: r.Why, Rows: r.Rows, Seen: r.Seen, Seconds: r.Seconds})
		}
	}
	return lines
}
