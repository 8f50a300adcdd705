package main

// sandglass peek: a sealed, read-only copy of a moment, for reading lost rows.

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newPeek(a *app) *cobra.Command {
	var m momentFlags
	var f peekFlags
	c := &cobra.Command{Use: "peek SOURCE", Short: "Open a moment read-only, to read lost rows from it", Args: takes("SOURCE"), ValidArgsFunction: a.environments(""),
		Long: `Open a sealed, read-only copy of a moment, with production's data as it was, and print the
psql line for it. It is for reading lost rows: nothing in it was neutralized, so a reason
is asked for and kept. Ctrl-C or the end of its time closes it and leaves nothing behind.

  sandglass peek prod --at "yesterday 10:42" --reason "orders deleted by mistake"`,
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			return a.peek(ctx, cl, args[0], m, f)
		})}
	m.flags(c)
	c.Flags().StringVar(&f.reason, "reason", "", "`why` it is opened; kept with it")
	c.Flags().DurationVar(&f.ttl, "ttl", time.Hour, "how long it stays open at most")
	c.Flags().BoolVar(&f.detach, "no-wait", false, "leave it open and return; 'sandglass peek end' closes it")
	acceptFlag(c, &f.accept)
	c.AddCommand(newPeekList(a), newPeekEnd(a))
	return c
}

type peekFlags struct {
	reason string
	ttl    time.Duration
	detach bool
	accept []string
}

func (a *app) peek(ctx context.Context, cl *client.Client, source string, m momentFlags, f peekFlags) error {
	if f.reason == "" {
		return usage("Say why with --reason; it is kept with the peek.", "The reason is missing.")
	}
	if f.ttl < time.Minute {
		return usage("Use at least 1m.", "A peek of %s is too short.", f.ttl)
	}
	zone, err := a.zoneOf(ctx, cl, source)
	if err != nil {
		return err
	}
	moment, err := m.moment(zone, a.now())
	if err != nil {
		return err
	}
	r := sandglass.Request{Kind: sandglass.KindPeek, Environment: source, Moment: &moment, Reason: f.reason, TTL: sandglass.Duration(f.ttl), Accept: codes(f.accept)}
	plan, err := cl.Plan(ctx, r)
	if err != nil {
		return err
	}
	if plan.Stopped() {
		if !a.json {
			findings(a.stdout, "", a.untold(plan))
		}
		return stopped(plan)
	}
	a.say("%s", planTitle(r, plan, zone))
	o, err := cl.Start(ctx, r)
	if err != nil {
		return err
	}
	if o, err = a.followSteps(cl, o); err != nil {
		return err
	}
	if err := operationError(o); err != nil {
		return err
	}
	return a.holdPeek(cl, o.ID, zone, f.detach)
}

// holdPeek tells how to connect, and holds the peek open until Ctrl-C or its end.
func (a *app) holdPeek(cl *client.Client, id string, zone *time.Location, detach bool) error {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	p, err := cl.Peek(a.base, id)
	if err != nil {
		return err
	}
	err = a.print(p, func(w io.Writer) error {
		fmt.Fprintf(w, "\nOpen, read-only, until %s:\n\n  %s\n\n", both(p.Connection.Until.Truncate(time.Second), zone), shellLine(p.Connection.PSQL))
		if detach {
			fmt.Fprintf(w, "Close it with: sandglass peek end %s\n", p.ID)
		} else {
			fmt.Fprintln(w, "Ctrl-C closes it.")
		}
		return nil
	})
	if err != nil || detach {
		return err
	}
	if gone := a.awaitPeek(cl, p, interrupts); gone {
		a.say("Closed from elsewhere; nothing is left of it.")
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.base), time.Minute)
	defer cancel()
	if err = cl.EndPeek(ctx, id); sandglass.CodeOf(err) == sandglass.CodeOperationUnknown {
		err = nil // its time was over, and serve has closed it
	}
	if err == nil {
		a.say("Closed; nothing is left of it.")
	}
	return err
}

// How often a held peek is looked after, and how long a look may take.
const (
	lookEvery    = 5 * time.Second
	lookPatience = 2 * time.Second
)

// awaitPeek returns when the peek is to be closed, or, with true, when somebody else has closed it. A control plane that
// does not answer has not: it may be starting again.
func (a *app) awaitPeek(cl *client.Client, p sandglass.Peek, interrupts <-chan os.Signal) (gone bool) {
	left := time.NewTimer(p.Connection.Until.Sub(a.now()))
	defer left.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-interrupts:
			a.say("")
			return false
		case <-a.base.Done():
			return false
		case <-left.C:
			return false
		case <-look.C:
			ctx, cancel := context.WithTimeout(a.base, lookPatience)
			_, err := cl.Peek(ctx, p.ID)
			cancel()
			if sandglass.CodeOf(err) == sandglass.CodeOperationUnknown {
				return true
			}
		}
	}
}

func newPeekList(a *app) *cobra.Command {
	return &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List open peeks", Args: takes(), RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error {
		all, err := cl.Peeks(ctx)
		if err != nil {
			return err
		}
		return a.print(all, func(w io.Writer) error {
			if len(all) == 0 {
				_, err := fmt.Fprintln(w, "No peek is open.")
				return err
			}
			var rows [][]string
			for _, p := range all {
				rows = append(rows, []string{p.ID, p.Environment, withTimes(p.Moment, time.UTC), p.AskedBy, p.Connection.Until.UTC().Format(time.DateTime), p.Reason})
			}
			return table(w, []string{"id", "source", "moment", "by", "until (UTC)", "reason"}, rows, "by")
		})
	})}
}

func newPeekEnd(a *app) *cobra.Command {
	return &cobra.Command{Use: "end ID", Short: "Close a peek", Args: takes("ID"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			if err := cl.EndPeek(ctx, args[0]); err != nil {
				return err
			}
			a.say("Closed; nothing is left of it.")
			return nil
		})}
}
