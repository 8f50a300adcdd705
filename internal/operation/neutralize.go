// Steps 4 to 6 of a restore: what only the recovered copy can answer, the policy, and its proof.

package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/policy"
	"sandglass/internal/preflight"
)

// copyOf is the staging server of an operation with what the policy is told about it.
func (h *Host) copyOf(ctx context.Context, run *engine.Run) (policy.Staging, policy.Input, db.Environment, error) {
	m, err := engine.Load[memory](run)
	if err != nil {
		return policy.Staging{}, policy.Input{}, db.Environment{}, err
	}
	e, img, err := h.sealedFor(ctx, run, m)
	if err != nil {
		return policy.Staging{}, policy.Input{}, db.Environment{}, err
	}
	c, err := h.stagingConfig(ctx, m, e, img)
	if err != nil {
		return policy.Staging{}, policy.Input{}, db.Environment{}, err
	}
	p, err := ensureRunning(ctx, c) // it may have died with a reboot
	if err != nil {
		return policy.Staging{}, policy.Input{}, db.Environment{}, err
	}
	p.Close()
	target, origin, err := h.environments(ctx, run.Request)
	if err != nil {
		return policy.Staging{}, policy.Input{}, db.Environment{}, err
	}
	packs, err := h.packsOf(target.Declaration)
	in := policy.Input{Run: run.Operation.ID, Source: origin.Declaration, Environment: target.Declaration, Packs: packs, Moment: momentText(run.Operation), Progress: run.Progress,
		Synchronized: m.Synchronized}
	return policyServer(c, run.Log), in, target, err
}

// inspect asks the copy. A stop discards it; a warning is recorded.
func (h *Host) inspect(ctx context.Context, run *engine.Run) error {
	st, in, target, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	if in.Target, err = h.readTarget(ctx, target, run.Request.Accept); err != nil {
		return err
	}
	if in.FromTarget, err = h.fromTarget(ctx, target, in.Target); err != nil {
		return err
	}
	findings, facts, err := policy.Inspect(ctx, st, in)
	if err != nil {
		return err
	}
	if err := writeJSON(run.Dir, "inspect.json", map[string]any{"findings": findings, "facts": facts}); err != nil {
		return err
	}
	if err := h.judge(ctx, run, findings, slices.Concat(run.Request.Accept, in.Environment.Accept)); err != nil {
		return err
	}
	return h.keepSecrets(ctx, run, st, in)
}

// judge adds findings to the plan and fails with the first stop.
func (h *Host) judge(ctx context.Context, run *engine.Run, findings []sandglass.Finding, accepted []sandglass.Code) error {
	plan := run.Operation.Plan
	if plan == nil {
		plan = &sandglass.Plan{}
	}
	var stop *sandglass.Error
	for _, f := range findings {
		f.Accepted = f.Level == sandglass.Warning && slices.Contains(accepted, f.Code)
		run.Log.Info("finding", "code", f.Code, "level", f.Level, "accepted", f.Accepted, "message", f.Message)
		if f.Level != sandglass.OK && !slices.Contains(plan.Findings, f) {
			plan.Findings = append(plan.Findings, f)
		}
		if f.Level == sandglass.Stop && stop == nil {
			stop = &sandglass.Error{Code: f.Code, Op: run.Step, Message: f.Message, Remedy: f.Remedy}
		}
	}
	if err := run.SetPlan(ctx, plan); err != nil {
		return err
	}
	if stop != nil {
		return stop
	}
	return nil
}

// neutralize applies the policy, with what the target keeps read from its running server.
func (h *Host) neutralize(ctx context.Context, run *engine.Run) error {
	st, in, target, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	if in.Target, err = h.readTarget(ctx, target, run.Request.Accept); err != nil {
		return err
	}
	if in.FromTarget, err = h.fromTarget(ctx, target, in.Target); err != nil {
		return err
	}
	report, err := policy.Neutralize(ctx, st, in)
	if err != nil {
		return err
	}
	for _, r := range report.Rules {
		run.Log.Info("rule", "rule", r.Rule, "database", r.Database, "rows", r.Rows, "seen", r.Seen, "seconds", r.Seconds, "notes", strings.Join(r.Notes, "; "))
	}
	for _, what := range report.NotReapplied {
		run.Log.Warn("not given to the copy", "what", what)
	}
	return writeJSON(run.Dir, "neutralize.json", report)
}

// readTarget reads what the sandbox keeps of its own; nil when it is empty, or down and that was accepted.
func (h *Host) readTarget(ctx context.Context, target db.Environment, accepted []sandglass.Code) (*policy.Target, error) {
	if target.Volume == "" {
		return nil, nil
	}
	c, err := h.Sandbox(ctx, target)
	if err != nil {
		return nil, err
	}
	p, err := running(ctx, c)
	if err != nil {
		return nil, err
	}
	if p == nil && slices.Contains(slices.Concat(accepted, target.Declaration.Accept), preflight.CodeDown) {
		return nil, nil
	}
	if p == nil { // it was up at the preflight: without its roles nobody could log in
		return nil, &sandglass.Error{Code: preflight.CodeDown, Op: "read target",
			Message: fmt.Sprintf("%s has stopped running, so its roles and settings can't be read.", target.Declaration.Name),
			Remedy:  fmt.Sprintf("Start it (sandglass env start %s) and restore again.", target.Declaration.Name)}
	}
	defer p.Close()
	return policy.ReadTarget(ctx, connector(c))
}

// prove asks every assertion; anything red is a failure.
func (h *Host) prove(ctx context.Context, run *engine.Run) error {
	st, in, target, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	if in.Target, err = h.readTarget(ctx, target, run.Request.Accept); err != nil {
		return err
	}
	findings, err := h.proveNow(ctx, st, in, target)
	if err != nil {
		return err
	}
	if err := writeJSON(run.Dir, "prove.json", findings); err != nil {
		return err
	}
	return h.judge(ctx, run, findings, nil)
}

// proveNow proves a copy against the sandbox as it is now, after it was given what the sandbox's people have changed of their roles and
// rights since it was neutralized: a new password is no password of production's.
func (h *Host) proveNow(ctx context.Context, st policy.Staging, in policy.Input, target db.Environment) ([]sandglass.Finding, error) {
	applied, err := policy.Applied(ctx, st, in)
	if err == nil && !applied {
		if in.FromTarget, err = h.fromTarget(ctx, target, in.Target); err == nil {
			_, err = policy.Neutralize(ctx, st, in) // reported by the rehearsal, which asks once more
		}
	}
	if err != nil {
		return nil, err
	}
	return policy.Prove(ctx, st, in)
}

// writeJSON puts a document among the operation's logs.
func writeJSON(dir, name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(append(text, '\n'))
		err = errors.Join(err, f.Sync(), f.Close()) // some are what a later attempt goes on from
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func readJSON[T any](dir, name string) (v T) {
	if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
		_ = json.Unmarshal(text, &v) // a report that can't be read is left out of the result
	}
	return v
}
