package main

// sandglass restore, refresh, undo and release.

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

// asking are the flags of an operation that is planned, shown and confirmed before it starts.
type asking struct {
	waiting
	plan, yes bool
	accept    []string
	reason    string
}

func (f *asking) flags(c *cobra.Command) {
	f.waiting.flags(c)
	c.Flags().BoolVar(&f.plan, "plan", false, "print the plan and change nothing")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask for the target's name")
	c.Flags().StringVar(&f.reason, "reason", "", "`why`; kept with the operation")
	acceptFlag(c, &f.accept)
}

// acceptFlag is --accept, which may be repeated.
func acceptFlag(c *cobra.Command, to *[]string) {
	c.Flags().StringArrayVar(to, "accept", nil, "accept the warning or waivable refusal of this `code`; may be repeated")
}

func codes(texts []string) []sandglass.Code {
	var all []sandglass.Code
	for _, t := range texts {
		all = append(all, sandglass.Code(t))
	}
	return all
}

func newRestore(a *app) *cobra.Command {
	var f asking
	var m momentFlags
	var source string
	c := &cobra.Command{Use: "restore TARGET", Short: "Bring a moment of a production into a sandbox", Args: takes("TARGET"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		Long: `Bring a moment of a recorded environment into a sandbox. The plan is printed first, and
starts when the target's name is typed. The target stays online until its replacement is
proven; any failure leaves it as it was; the state before it is kept for ` + "`sandglass undo`" + `.

A time without a zone is read in the source's declared zone:

  sandglass restore uat --from prod --at "2026-11-22 10:42"
  sandglass restore uat --from prod --at "yesterday 10:42" --plan
  sandglass restore uat --from prod --xid 81236 --before --yes`,
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			return a.restore(ctx, cl, sandglass.Request{Kind: sandglass.KindRestore, Environment: args[0], Source: source}, m, f)
		})}
	a.sourceFlag(c, &source)
	m.flags(c)
	f.flags(c)
	return c
}

// sourceFlag is --from.
func (a *app) sourceFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "from", "", "`environment` to restore from (default: the target's server.source)")
	_ = c.RegisterFlagCompletionFunc("from", a.environmentFlag("")) // the flag exists
}

// restore finds the source's zone, reads the moment in it, and asks.
func (a *app) restore(ctx context.Context, cl *client.Client, r sandglass.Request, m momentFlags, f asking) error {
	if r.Source == "" {
		target, err := cl.Environment(ctx, r.Environment)
		if err != nil {
			return err
		}
		if target.Server == nil || target.Server.Source == "" {
			if target.Kind == sandglass.Production { // the refusal that matters more than the missing flag
				_, err := cl.Plan(ctx, r)
				if err != nil {
					return err
				}
			}
			return usage("Name it with --from, or declare server.source.", "%s declares no source to restore from.", r.Environment)
		}
		r.Source = target.Server.Source
	}
	zone, err := a.zoneOf(ctx, cl, r.Source)
	if err != nil {
		return err
	}
	moment, err := m.moment(zone, a.now())
	if err != nil {
		return err
	}
	r.Moment = &moment
	return a.ask(ctx, cl, r, zone, f)
}

func newRefresh(a *app) *cobra.Command {
	var f asking
	var source string
	c := &cobra.Command{Use: "refresh TARGET", Short: "Bring the newest moment of its source into a sandbox", Args: takes("TARGET"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		Long: "Bring the newest moment of its source into a sandbox: `sandglass restore TARGET --latest`.",
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			return a.restore(ctx, cl, sandglass.Request{Kind: sandglass.KindRefresh, Environment: args[0], Source: source}, momentFlags{latest: true}, f)
		})}
	a.sourceFlag(c, &source)
	f.flags(c)
	return c
}

func newUndo(a *app) *cobra.Command {
	var f asking
	var volume string
	c := &cobra.Command{Use: "undo TARGET", Short: "Go back to the state before the last restore", Args: takes("TARGET"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		Long: "Go back to the state before the last restore, or with --to to another kept state (`sandglass volume ls`). It\ntakes seconds, and can itself be undone.",
		RunE: a.asksOf(func(ctx context.Context, cl *client.Client, zone *time.Location, args []string) error {
			return a.ask(ctx, cl, sandglass.Request{Kind: sandglass.KindUndo, Environment: args[0], Volume: volume}, zone, f)
		})}
	c.Flags().StringVar(&volume, "to", "", "kept `volume` to go back to (default: the latest)")
	f.flags(c)
	return c
}

func newRelease(a *app) *cobra.Command {
	var wait waiting
	c := &cobra.Command{Use: "release ENV", Short: "Open a held sandbox to everybody", Args: takes("ENV"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		RunE: a.does(&sandglass.Request{Kind: sandglass.KindRelease}, &wait)}
	wait.flags(c)
	return c
}

// ask plans the request, shows the plan, has it confirmed, starts it and follows it.
func (a *app) ask(ctx context.Context, cl *client.Client, r sandglass.Request, zone *time.Location, f asking) error {
	r.Accept, r.Reason = codes(f.accept), f.reason
	if !f.plan && !f.yes && (a.json || !terminal(a.stdin)) {
		return usage("Add --yes, or --plan to see the plan first.", "There is no terminal to confirm the %s on.", r.Kind)
	}
	plan, err := cl.Plan(ctx, r)
	if err != nil {
		return err
	}
	if f.plan || !a.json {
		if err := a.print(plan, func(w io.Writer) error { return showPlan(w, r, plan, zone, a.untold(plan)) }); err != nil {
			return err
		}
	}
	if plan.Stopped() {
		return stopped(plan)
	}
	if f.plan {
		return nil
	}
	if !f.yes {
		if err := a.confirm(ctx, r.Environment); err != nil {
			return err
		}
	}
	a.say("")
	return a.startAndFollow(ctx, cl, r, f.waiting, zone, plan.Findings)
}

// does is a command that starts an operation on the environment of its first argument, without a plan or a confirmation, and follows it.
func (a *app) does(r *sandglass.Request, wait *waiting) func(*cobra.Command, []string) error {
	return a.asksOf(func(ctx context.Context, cl *client.Client, zone *time.Location, args []string) error {
		r.Environment = args[0]
		return a.startAndFollow(ctx, cl, *r, *wait, zone, nil)
	})
}

// untold are a plan's findings but for the stop that the refusal tells right after them, when both are read on one terminal.
func (a *app) untold(p sandglass.Plan) []sandglass.Finding {
	first := slices.IndexFunc(p.Findings, func(f sandglass.Finding) bool { return f.Level == sandglass.Stop })
	if first < 0 || !terminal(a.stdout) || !terminal(a.stderr) {
		return p.Findings
	}
	return slices.Delete(slices.Clone(p.Findings), first, first+1)
}

// refusedByPreflight is a refusal of a plan: its exit code is that of one, whatever the first stop's own code says.
type refusedByPreflight struct{ cause *sandglass.Error }

func (e refusedByPreflight) Error() string { return e.cause.Error() }
func (e refusedByPreflight) Unwrap() error { return e.cause }

// stopped is the refusal of a plan that preflight stopped: its first stop, with the number of further ones.
func stopped(p sandglass.Plan) error {
	var first *sandglass.Error
	more := 0
	for _, f := range p.Findings {
		switch {
		case f.Level != sandglass.Stop:
		case first == nil:
			first = &sandglass.Error{Code: f.Code, Op: "plan", Message: f.Message, Remedy: f.Remedy}
		default:
			more++
		}
	}
	if more > 0 {
		first.Message = strings.TrimSpace(first.Message) + " (And " + count(more, "more stop") + ".)"
	}
	return refusedByPreflight{first}
}
