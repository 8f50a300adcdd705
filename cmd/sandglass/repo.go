package main

// sandglass repo: what the repository holds, pruning and verifying it.

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newRepo(a *app) *cobra.Command {
	return group("repo", "Show, prune and verify the repository", newRepoInfo(a), newRepoPrune(a), newRepoVerify(a))
}

func newRepoInfo(a *app) *cobra.Command {
	return &cobra.Command{Use: "info", Short: "Show what the repository holds", Args: takes(), RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error {
		i, err := cl.Repository(ctx)
		if err != nil {
			return err
		}
		return a.print(i, func(w io.Writer) error { return showRepository(w, i) })
	})}
}

func showRepository(w io.Writer, i sandglass.RepositoryInfo) error {
	free := "not known"
	if i.FreeBytes >= 0 {
		free = sandglass.Bytes(i.FreeBytes).String()
	}
	rows := [][]string{{"Path", i.Path}, {"ID", i.ID}, {"Format", strconv.Itoa(i.Format)}, {"Created", utc(i.Created.Truncate(time.Second))},
		{"Holds", fmt.Sprintf("%s in %s objects", sandglass.Bytes(i.Bytes), thousands(int64(i.Objects)))}, {"Free", free}}
	for _, r := range i.Recipients {
		rows = append(rows, []string{"Public key", r})
	}
	if err := pairs(w, "", rows); err != nil || len(i.Environments) == 0 {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, e := range i.Environments {
		rows = append(rows, []string{e.Environment, strconv.Itoa(e.Incarnations), strconv.Itoa(e.Images), sandglass.Bytes(e.ImageBytes).String(), sandglass.Bytes(e.WALBytes).String()})
	}
	return table(w, []string{"environment", "incarnations", "images", "image data", "WAL"}, rows)
}

func newRepoPrune(a *app) *cobra.Command {
	var plan, yes bool
	c := &cobra.Command{Use: "prune", Short: "Remove what retention no longer needs", Args: takes(),
		Long: "Show what retention no longer needs, ask, and remove it. Every moment of every window stays reachable.\n--plan only shows.",
		RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error { return a.prune(ctx, cl, plan, yes) })}
	c.Flags().BoolVar(&plan, "plan", false, "print the plan and remove nothing")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) prune(ctx context.Context, cl *client.Client, onlyPlan, yes bool) error {
	if onlyPlan && yes {
		return usage("Use one of them.", "--plan removes nothing, and --yes does.")
	}
	p, err := cl.PlanPrune(ctx)
	if err != nil {
		return err
	}
	if onlyPlan || !a.json {
		if err := a.print(p, func(w io.Writer) error { return showPrune(w, p) }); err != nil {
			return err
		}
	}
	if onlyPlan || len(p.Items) == 0 {
		if a.json && !onlyPlan {
			return a.print(p, nil)
		}
		return nil
	}
	if !yes {
		if err := a.confirm(ctx, "prune"); err != nil {
			return err
		}
	}
	line := a.newLine(a.stdout)
	p, err = cl.ExecutePrune(ctx, p.ID, func(p sandglass.Progress) { line.show("  " + progressText(p)) })
	line.end()
	if err != nil {
		return err
	}
	return a.print(p, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s of %s are removed.\n", count(p.Objects, "object"), sandglass.Bytes(p.Bytes))
		return err
	})
}

// showPrune writes what a prune would remove.
func showPrune(w io.Writer, p sandglass.PrunePlan) error {
	for _, env := range slices.Sorted(maps.Keys(p.Left)) {
		if _, err := fmt.Fprintf(w, "Nothing of %s is removed: %s\n", env, p.Left[env]); err != nil {
			return err
		}
	}
	if len(p.Items) == 0 && len(p.Left) > 0 {
		return nil
	}
	if len(p.Items) == 0 {
		_, err := fmt.Fprintln(w, "Retention needs everything that the repository holds; there is nothing to remove.")
		return err
	}
	var rows [][]string
	for _, i := range p.Items {
		rows = append(rows, []string{i.Environment, i.Kind, i.Name, strconv.Itoa(i.Objects), sandglass.Bytes(i.Bytes).String(), i.Why})
	}
	if err := table(w, []string{"environment", "what", "name", "objects", "size", "why"}, rows, "objects", "what"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s, %s in all\n", count(p.Objects, "object"), sandglass.Bytes(p.Bytes))
	return err
}

func newRepoVerify(a *app) *cobra.Command {
	var again bool
	c := &cobra.Command{Use: "verify", Short: "Read the repository, and name what is damaged and what it costs", Args: takes(),
		Long: "Read everything that was not verified before, or with --all everything, and name each damaged object with the\nmoments it costs. Exit code 7 when something is damaged.",
		RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error { return a.verify(ctx, cl, again) })}
	c.Flags().BoolVar(&again, "all", false, "read also what was verified before")
	return c
}

func (a *app) verify(ctx context.Context, cl *client.Client, again bool) error {
	line := a.newLine(a.stdout)
	r, err := cl.Verify(ctx, again, func(p sandglass.Progress) { line.show("  " + progressText(p)) })
	line.end()
	if err != nil {
		return err
	}
	if err := a.print(r, func(w io.Writer) error { return showVerify(w, r, again) }); err != nil {
		return err
	}
	if n := len(r.Damaged); n > 0 {
		return &sandglass.Error{Code: sandglass.CodeRepositoryDamaged, Op: "verify", Message: count(n, "object") + " of the repository can't be read as written.",
			Remedy: "Put them back from a copy of the repository, or take a new image with `sandglass record image ENV`."}
	}
	return nil
}

func showVerify(w io.Writer, r sandglass.VerifyReport, again bool) error {
	fmt.Fprintf(w, "%s read (%s) in %s", count(r.Objects, "object"), sandglass.Bytes(r.Bytes), seconds(r.Seconds))
	if !again { // else all were read, whatever was verified before
		fmt.Fprintf(w, "; %s verified before", count(r.Skipped, "object"))
	}
	fmt.Fprintln(w, ".")
	for _, d := range r.Damaged {
		fmt.Fprintf(w, "\n%s\n  %s\n  %s\n", d.Object, d.Problem, d.Costs)
		if !d.From.IsZero() {
			fmt.Fprintf(w, "  %s to %s\n", utc(d.From), utc(d.To))
		}
	}
	if len(r.Damaged) == 0 {
		_, err := fmt.Fprintln(w, "Everything is as it was written.")
		return err
	}
	return nil
}
