package main

// Waiting for an operation: what every command that starts one does afterwards.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

// waiting are the flags of commands that start an operation.
type waiting struct{ noWait bool }

func (w *waiting) flags(c *cobra.Command) {
	c.Flags().BoolVar(&w.noWait, "no-wait", false, "start it and do not wait for its end")
}

// startAndFollow starts the operation and follows it to its end; told are the findings that its plan has told.
func (a *app) startAndFollow(ctx context.Context, cl *client.Client, r sandglass.Request, wait waiting, zone *time.Location, told []sandglass.Finding) error {
	o, err := cl.Start(ctx, r)
	if err != nil {
		return err
	}
	if wait.noWait {
		return a.print(o, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "Operation %s has begun. Watch it with: sandglass ops watch %s\n", o.ID, o.ID)
			return err
		})
	}
	return a.follow(cl, o, zone, told)
}

// The patience of following: how long one question may wait, and how long a control plane may be away (it restarts).
const (
	longPoll   = 25 * time.Second
	patience   = 2 * time.Minute
	retryEvery = time.Second
)

// follow shows an operation until it has finished. Ctrl-C asks whether to cancel; a second one leaves it running.
func (a *app) follow(cl *client.Client, o sandglass.Operation, zone *time.Location, told []sandglass.Finding) error {
	o, err := a.followSteps(cl, o)
	if err != nil {
		return err
	}
	if err := a.print(o, func(w io.Writer) error { return showEnd(w, o, zone, told) }); err != nil {
		return err
	}
	return operationError(o)
}

// followSteps is follow without the end's summary.
func (a *app) followSteps(cl *client.Client, o sandglass.Operation) (sandglass.Operation, error) {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	view := a.newView()
	defer view.line.end()
	updates, stop := a.updates(cl, o)
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		view.show(o, a.now())
		if o.State.Finished() {
			return o, nil
		}
		select {
		case u := <-updates:
			switch {
			case u.err != nil:
				return o, u.err
			case u.away:
				view.note("The control plane is away; the operation goes on when it is back.")
			default:
				o = u.operation
			}
		case <-tick.C:
		case <-interrupts:
			view.line.end()
			if err := a.interrupted(cl, o, interrupts); err != nil {
				return o, err
			}
		}
	}
}

// update is what is newly known of an operation.
type update struct {
	operation sandglass.Operation
	away      bool
	err       error
}

// updates asks for the operation again and again until it has finished; stop ends and awaits the asking.
func (a *app) updates(cl *client.Client, o sandglass.Operation) (<-chan update, func()) {
	ctx, cancel := context.WithCancel(a.base)
	out, done := make(chan update), make(chan struct{})
	send := func(u update) bool {
		select {
		case out <- u:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		defer close(done)
		var away time.Time // since when nobody answers
		for version := o.Version; ; {
			next, err := cl.Wait(ctx, o.ID, version, longPoll)
			switch {
			case err == nil:
				away, version = time.Time{}, next.Version
				if !send(update{operation: next}) || next.State.Finished() {
					return
				}
			case sandglass.CodeOf(err) == sandglass.CodeServeUnreachable && (away.IsZero() || time.Since(away) < patience):
				if away.IsZero() {
					away = time.Now()
				}
				if !send(update{away: true}) {
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(retryEvery):
				}
			default:
				send(update{err: err})
				return
			}
		}
	}()
	return out, func() { cancel(); <-done }
}

// interrupted is Ctrl-C: ask whether to cancel. The error ends the following.
func (a *app) interrupted(cl *client.Client, o sandglass.Operation, interrupts <-chan os.Signal) error {
	leave := func() error {
		fmt.Fprintf(a.stderr, "It goes on. Watch it with: sandglass ops watch %s\n", o.ID)
		return exitCode(sandglass.ExitCancelled)
	}
	if !terminal(a.stdin) || a.json {
		return leave()
	}
	fmt.Fprintf(a.stderr, "Cancel the %s and go back? y cancels, n goes on watching, Ctrl-C leaves it running: ", o.Kind)
	answer, err := a.readAnswer(a.base, interrupts)
	if errors.Is(err, errInterrupted) {
		fmt.Fprintln(a.stderr)
		return leave()
	}
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return nil
	}
	if _, err := cl.Cancel(a.base, o.ID); err != nil {
		a.tell("", sandglass.AsError(err))
	}
	return nil
}

// rolledBack is the error of an operation that had begun to change things, and went back: its exit code is that of a
// failure, whatever the code says of a refusal.
type rolledBack struct{ cause *sandglass.Error }

func (e rolledBack) Error() string { return e.cause.Error() }
func (e rolledBack) Unwrap() error { return e.cause }

// operationError is the error of an operation that did not succeed.
func operationError(o sandglass.Operation) error {
	switch {
	case o.State == sandglass.Succeeded || !o.State.Finished():
		return nil
	case o.State == sandglass.Cancelled:
		return &sandglass.Error{Code: sandglass.CodeCancelled, Message: fmt.Sprintf("The %s was cancelled; %s is as it was.", o.Kind, o.Environment)}
	case o.Error != nil && len(o.Steps) > 0 && o.Steps[0].State == sandglass.Failed:
		return o.Error // the first step is preflight: nothing was changed
	case o.Error != nil:
		return rolledBack{o.Error}
	}
	return &sandglass.Error{Code: sandglass.CodeInternal, Message: fmt.Sprintf("The %s failed without saying why.", o.Kind),
		Remedy: "Look at its logs: sandglass ops logs " + o.ID}
}

// showEnd writes the summary of a finished operation, without the findings that were told before.
func showEnd(w io.Writer, o sandglass.Operation, zone *time.Location, told []sandglass.Finding) error {
	took := ""
	if !o.Began.IsZero() && !o.Ended.IsZero() {
		took = " in " + span(o.Ended.Sub(o.Began))
	}
	switch o.State {
	case sandglass.Succeeded:
		fmt.Fprintf(w, "\nDone%s.\n", took)
	case sandglass.Failed:
		fmt.Fprintln(w)
		sentence(w, "", fmt.Sprintf("Failed%s; %s is as it was. Logs: sandglass ops logs %s", took, o.Environment, o.ID))
	default:
		return nil
	}
	var r sandglass.Result
	if o.State != sandglass.Succeeded || len(o.Result) == 0 || json.Unmarshal(o.Result, &r) != nil {
		return nil // other kinds have other results
	}
	emptied := o.Kind == sandglass.KindUndo && r.Volume == ""
	switch {
	case r.Moment != "":
		shows := "shows"
		if o.Kind == sandglass.KindUndo {
			shows = "again shows"
		}
		sentence(w, "", fmt.Sprintf("%s %s %s.", o.Environment, shows, withTimes(r.Moment, zone)))
	case emptied:
		fmt.Fprintf(w, "%s is empty, as it was before its first restore.\n", o.Environment)
	}
	if r.UnreachableSeconds > 0 && r.Kept != "" && !emptied { // from one state to another
		fmt.Fprintf(w, "%s could not be reached for %s.\n", o.Environment, seconds(r.UnreachableSeconds))
	}
	if r.Kept != "" {
		until := ""
		if !r.KeptUntil.IsZero() {
			until = ", until " + both(r.KeptUntil.Truncate(time.Second), zone)
		}
		sentence(w, "", fmt.Sprintf("Back to the state before: sandglass undo %s%s", o.Environment, until))
	}
	if r.Held {
		fmt.Fprintf(w, "Only the administrator may connect until: sandglass release %s\n", o.Environment)
	}
	var own []string
	for _, l := range r.Carried {
		if l.Rows > 0 {
			own = append(own, fmt.Sprintf("%s (%s)", l.What, thousands(l.Rows)))
		}
	}
	if len(own) > 0 {
		sentence(w, "", fmt.Sprintf("%s kept its own: %s", o.Environment, strings.Join(own, ", ")))
	}
	if len(r.NotReapplied) > 0 {
		list(w, "What of "+o.Environment+" could not be given to the copy", r.NotReapplied)
	}
	if len(r.Checklist) > 0 {
		list(w, "Left to do", r.Checklist)
	}
	untold := slices.DeleteFunc(slices.Clone(r.Findings), func(f sandglass.Finding) bool {
		return f.Level == sandglass.OK || slices.ContainsFunc(told, func(t sandglass.Finding) bool { return t.Code == f.Code && t.Message == f.Message })
	})
	if len(untold) > 0 {
		fmt.Fprintln(w, "\nFindings")
		findings(w, "  ", untold)
	}
	return nil
}
