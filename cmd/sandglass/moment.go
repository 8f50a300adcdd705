package main

// sandglass moment, and the flags that name a moment.

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

// momentFlags name a moment.
type momentFlags struct {
	at, lsn, name string
	xid           uint64
	before        bool
	latest        bool
}

func (f *momentFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.at, "at", "", "`time`: everything committed at or before it")
	c.Flags().StringVar(&f.lsn, "lsn", "", "WAL `position`: everything that starts before it")
	c.Flags().Uint64Var(&f.xid, "xid", 0, "`transaction`: just after it, or with --before just before it")
	c.Flags().BoolVar(&f.before, "before", false, "with --xid: leave the transaction out")
	c.Flags().StringVar(&f.name, "name", "", "named restore `point` (pg_create_restore_point)")
	c.Flags().BoolVar(&f.latest, "latest", false, "the newest moment")
}

const momentRemedy = "Name it by one of --at TIME, --lsn POSITION, --xid N [--before], --name POINT, --latest."

// moment reads the flags; times without a zone are read in zone.
func (f *momentFlags) moment(zone *time.Location, now time.Time) (sandglass.Moment, error) {
	named := 0
	for _, given := range []bool{f.at != "", f.lsn != "", f.xid != 0, f.name != "", f.latest} {
		if given {
			named++
		}
	}
	if named > 1 {
		return sandglass.Moment{}, usage(momentRemedy, "The moment is named twice.")
	}
	if f.before && f.xid == 0 {
		return sandglass.Moment{}, usage("Name the transaction with --xid.", "--before belongs to --xid.")
	}
	switch {
	case f.at != "":
		t, err := parseWhen(f.at, zone, now)
		return sandglass.Moment{Kind: sandglass.AtTime, Time: t}, err
	case f.lsn != "":
		l, err := sandglass.ParseLSN(f.lsn)
		if err != nil || l == 0 {
			return sandglass.Moment{}, usage("Write it as PostgreSQL does, such as 16/B374D848.", "%q is not a WAL position.", f.lsn)
		}
		return sandglass.Moment{Kind: sandglass.AtLSN, LSN: l}, nil
	case f.xid != 0:
		return sandglass.Moment{Kind: sandglass.AtXID, XID: f.xid, Before: f.before}, nil
	case f.name != "":
		return sandglass.Moment{Kind: sandglass.AtName, Name: f.name}, nil
	case f.latest:
		return sandglass.Moment{Kind: sandglass.AtLatest}, nil
	}
	return sandglass.Moment{}, usage(momentRemedy, "The moment is missing.")
}

// momentText is a moment for people, times in UTC and in zone.
func momentText(m sandglass.Moment, zone *time.Location) string {
	if m.Kind == sandglass.AtTime {
		return both(m.Time, zone)
	}
	return m.String()
}

func newMoment(a *app) *cobra.Command {
	var f momentFlags
	c := &cobra.Command{Use: "moment ENV [WHEN]", Short: "Say whether a moment can be restored, and what exactly it is", Args: takes("ENV", "[WHEN]"), ValidArgsFunction: a.environments(""),
		Long: "Resolve a moment to the exact range of WAL positions that has its state, without restoring anything; or say\nwhy it can't be had, and the nearest moments before and after that can. WHEN is a time, as with --at.",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				if f != (momentFlags{}) {
					return usage(momentRemedy, "The moment is named twice.")
				}
				f.at = args[1]
			}
			return a.asksOf(func(ctx context.Context, cl *client.Client, zone *time.Location, args []string) error {
				return a.moment(ctx, cl, args[0], zone, f)
			})(c, args)
		}}
	f.flags(c)
	return c
}

func (a *app) moment(ctx context.Context, cl *client.Client, name string, zone *time.Location, f momentFlags) error {
	m, err := f.moment(zone, a.now())
	if err != nil {
		return err
	}
	r, err := cl.Resolve(ctx, name, m)
	if err != nil {
		return err
	}
	return a.print(r, func(w io.Writer) error {
		subject := upperFirst(momentText(m, zone))
		if m.Kind == sandglass.AtLatest {
			subject = "The latest moment"
		}
		fmt.Fprintf(w, "%s of %s can be restored.\n\n", subject, name)
		return pairs(w, "  ", rangeRows(r, zone))
	})
}

// rangeRows says what a resolved moment is.
func rangeRows(r sandglass.Range, zone *time.Location) [][]string {
	included, excluded := "the image itself: no commit follows it", "none is known yet"
	if !r.CommitTime.IsZero() {
		included = both(r.CommitTime, zone) + " at LSN " + r.From.String()
	}
	if !r.NextTime.IsZero() {
		excluded = both(r.NextTime, zone) + " at LSN " + r.Until.String()
	}
	return [][]string{
		{"last commit in it", included},
		{"first one left out", excluded},
		{"recovery stops at", strings.TrimSpace(fmt.Sprintf("LSN %s, timeline %d, incarnation %s", r.Stop, r.Timeline, r.Incarnation))},
		{"from image", fmt.Sprintf("%s, replaying %s", r.Image, sandglass.Bytes(r.ReplayBytes))},
	}
}
