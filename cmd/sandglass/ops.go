package main

// sandglass ops: the history of operations.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newOps(a *app) *cobra.Command {
	return group("ops", "List, show, watch and cancel operations, and fetch their logs", newOpsList(a), newOpsShow(a), newOpsWatch(a), newOpsCancel(a), newOpsRetry(a), newOpsLogs(a))
}

func newOpsList(a *app) *cobra.Command {
	var q sandglass.OperationQuery
	c := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List operations, newest first", Args: takes(), RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error {
		all, err := cl.Operations(ctx, q)
		if err != nil {
			return err
		}
		return a.print(all, func(w io.Writer) error {
			if len(all) == 0 {
				_, err := fmt.Fprintln(w, "There is no operation yet.")
				return err
			}
			var rows [][]string
			for _, o := range all {
				took := ""
				if !o.Ended.IsZero() && !o.Began.IsZero() {
					took = span(o.Ended.Sub(o.Began))
				}
				rows = append(rows, []string{o.ID, string(o.Kind), o.Environment, o.Source, string(o.State), o.Created.UTC().Format(minuteLayout), took, o.AskedBy})
			}
			return table(w, []string{"id", "kind", "target", "source", "state", "asked (UTC)", "took", "by"}, rows, "by", "source", "asked (UTC)")
		})
	})}
	c.Flags().StringVar(&q.Environment, "env", "", "only those on this `environment`")
	c.Flags().IntVar(&q.Limit, "limit", 20, "only the newest so many")
	_ = c.RegisterFlagCompletionFunc("env", a.environmentFlag("")) // the flag exists
	return c
}

// newestOperations are the newest operations, for a completion.
func newestOperations(ctx context.Context, cl *client.Client) (ids []string, err error) {
	all, err := cl.Operations(ctx, sandglass.OperationQuery{Limit: 20})
	for _, o := range all {
		ids = append(ids, fmt.Sprintf("%s\t%s %s, %s", o.ID, o.Kind, o.Environment, o.State))
	}
	return ids, err
}

// onOperation makes a command that does something with the operation of its first argument.
func (a *app) onOperation(c *cobra.Command, do func(ctx context.Context, cl *client.Client, id string) error) *cobra.Command {
	c.Args, c.ValidArgsFunction = takes("ID"), a.completes(newestOperations)
	c.RunE = a.asks(func(ctx context.Context, cl *client.Client, args []string) error { return do(ctx, cl, args[0]) })
	return c
}

func newOpsShow(a *app) *cobra.Command {
	var rules bool
	c := a.onOperation(&cobra.Command{Use: "show ID", Short: "Show one operation with its plan and steps"},
		func(ctx context.Context, cl *client.Client, id string) error {
			o, err := cl.Operation(ctx, id)
			if err != nil {
				return err
			}
			zone := a.zoneOrUTC(ctx, cl, o)
			return a.print(o, func(w io.Writer) error {
				if err := a.showOperation(w, o, zone); err != nil || !rules {
					return err
				}
				return showRules(w, o)
			})
		})
	c.Flags().BoolVar(&rules, "rules", false, "also show what each rule changed (always in --json)")
	return c
}

// showRules writes what the rules of a finished operation changed; those that changed nothing are left out.
func showRules(w io.Writer, o sandglass.Operation) error {
	var r sandglass.Result
	if len(o.Result) > 0 && json.Unmarshal(o.Result, &r) != nil {
		r = sandglass.Result{} // other kinds have other results
	}
	fmt.Fprintln(w)
	switch {
	case o.State != sandglass.Succeeded:
		_, err := fmt.Fprintln(w, "What each rule changed is told once an operation has succeeded.")
		return err
	case len(r.Rules) == 0:
		_, err := fmt.Fprintln(w, "No rule changed anything.")
		return err
	}
	var rows [][]string
	for _, l := range r.Rules {
		seen := ""
		if l.Seen > 0 {
			seen = thousands(l.Seen)
		}
		rows = append(rows, []string{l.What, seen, thousands(l.Rows), seconds(l.Seconds)})
	}
	return table(w, []string{"rule", "rows seen", "changed", "took"}, rows)
}

// zoneOrUTC is the zone in which an operation's times are told; its environment may be gone.
func (a *app) zoneOrUTC(ctx context.Context, cl *client.Client, o sandglass.Operation) *time.Location {
	for _, name := range []string{o.Source, o.Environment} {
		if name == "" {
			continue
		}
		if zone, err := a.zoneOf(ctx, cl, name); err == nil {
			return zone
		}
	}
	return time.UTC
}

// showOperation writes an operation for people.
func (a *app) showOperation(w io.Writer, o sandglass.Operation, zone *time.Location) error {
	rows := [][]string{{"Operation", o.ID}, {"Kind", string(o.Kind)}, {"Target", o.Environment}}
	if o.Source != "" {
		rows = append(rows, []string{"Source", o.Source})
	}
	state := string(o.State)
	if o.Cancelling && !o.State.Finished() {
		state += ", to be cancelled"
	}
	rows = append(rows, []string{"State", state}, []string{"Asked", both(o.Created.Truncate(time.Second), zone) + " by " + o.AskedBy})
	if o.Reason != "" {
		rows = append(rows, []string{"Reason", o.Reason})
	}
	if err := pairs(w, "", rows); err != nil {
		return err
	}
	var told []sandglass.Finding
	if o.Plan != nil {
		told = o.Plan.Findings
		fmt.Fprintln(w)
		r := sandglass.Request{Kind: o.Kind, Environment: o.Environment, Source: o.Source}
		if o.Kind == sandglass.KindPeek {
			r.Source = ""
		}
		if err := showPlan(w, r, *o.Plan, zone, told); err != nil {
			return err
		}
	}
	if len(o.Steps) > 0 {
		fmt.Fprintln(w, "\nSteps")
	}
	v := &view{out: w, line: &line{w: w}, told: map[string]sandglass.State{}}
	for _, s := range o.Steps {
		v.widest = max(v.widest, len(s.Name))
	}
	for _, s := range o.Steps {
		if s.State == sandglass.Running || s.State == sandglass.Undoing {
			fmt.Fprintln(w, v.liveText(s, a.now()))
		} else {
			fmt.Fprintln(w, v.endText(s))
		}
	}
	if err := showEnd(w, o, zone, told); err != nil || o.Error == nil {
		return err
	}
	return showError(w, o.Error)
}

func newOpsWatch(a *app) *cobra.Command {
	return a.onOperation(&cobra.Command{Use: "watch ID", Short: "Follow an operation to its end",
		Long: "Follow an operation to its end, and exit with its outcome. Ctrl-C asks whether to cancel it; a second one leaves it running."},
		func(ctx context.Context, cl *client.Client, id string) error {
			o, err := cl.Operation(ctx, id)
			if err != nil {
				return err
			}
			return a.follow(cl, o, a.zoneOrUTC(ctx, cl, o), nil)
		})
}

func newOpsRetry(a *app) *cobra.Command {
	return a.onOperation(&cobra.Command{Use: "retry ID", Short: "Go on with a way back that was given up",
		Long: "Go on with the way back of an operation that ended with operation.undo_incomplete, once its cause is gone."},
		func(ctx context.Context, cl *client.Client, id string) error {
			o, err := cl.Retry(ctx, id)
			if err != nil {
				return err
			}
			if o, err = a.followSteps(cl, o); err != nil {
				return err
			}
			if sandglass.CodeOf(o.Error) == codeUndoIncomplete {
				return o.Error
			}
			return a.print(o, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "The %s is taken back; %s is as it was.\n", o.Kind, o.Environment)
				return err
			})
		})
}

// codeUndoIncomplete is an operation whose way back was given up.
const codeUndoIncomplete sandglass.Code = "operation.undo_incomplete"

func newOpsCancel(a *app) *cobra.Command {
	var noWait bool
	c := a.onOperation(&cobra.Command{Use: "cancel ID", Short: "Stop an operation and go back",
		Long: "Stop an operation and go back to how it was before. Possible until the old server is fenced at the cutover."},
		func(ctx context.Context, cl *client.Client, id string) error {
			o, err := cl.Cancel(ctx, id)
			if err != nil {
				return err
			}
			if !noWait {
				if o, err = a.followSteps(cl, o); err != nil {
					return err
				}
			}
			if o.State == sandglass.Succeeded {
				return &sandglass.Error{Code: sandglass.CodeOperationTooLate, Op: "cancel", Message: "The " + string(o.Kind) + " was done before it could be cancelled.",
					Remedy: "Go back with `sandglass undo " + o.Environment + "`."}
			}
			return a.print(o, func(w io.Writer) error {
				text := "is cancelled; " + o.Environment + " is as it was"
				if !o.State.Finished() {
					text = "is being cancelled"
				}
				_, err := fmt.Fprintf(w, "The %s %s.\n", o.Kind, text)
				return err
			})
		})
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it has gone back")
	return c
}

func newOpsLogs(a *app) *cobra.Command {
	var out string
	c := a.onOperation(&cobra.Command{Use: "logs ID", Short: "Fetch a zip of an operation's plan, findings and logs",
		Long: "Fetch a zip of the plan, the findings, each step's log, PostgreSQL's logs and the timings. -o - writes it to the standard output."},
		func(ctx context.Context, cl *client.Client, id string) error { return a.fetchLogs(ctx, cl, id, out) })
	c.Flags().StringVarP(&out, "output", "o", "", "`file` to write (default: sandglass-ID.zip)")
	return c
}

// fetchLogs writes the zip whole or not at all.
func (a *app) fetchLogs(ctx context.Context, cl *client.Client, id, out string) error {
	if out == "-" {
		return cl.Logs(ctx, id, a.stdout)
	}
	if out == "" {
		out = "sandglass-" + id + ".zip"
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".sandglass-*.zip")
	if err != nil {
		return usage("Name a file that can be written with -o.", "The logs can't be written: %v.", err)
	}
	err = cl.Logs(ctx, id, f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	a.say("%s", out)
	return nil
}
