package main

// sandglass window: the moments that can be restored.

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newWindow(a *app) *cobra.Command {
	var commits bool
	var q commitFlags
	c := &cobra.Command{Use: "window ENV", Short: "Show the moments that can be restored, with their gaps", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		Long: "Show the moments that can be restored: earliest, latest, gaps with their cause, images, and how far the\nrepository is behind, in UTC and in the environment's zone. --commits adds the transactions, as\n`sandglass commits` shows them.",
		RunE: func(c *cobra.Command, args []string) error {
			if !commits && q.given(c) {
				return usage("Add --commits.", "These flags choose commits, which were not asked for.")
			}
			return a.asksOf(func(ctx context.Context, cl *client.Client, zone *time.Location, args []string) error {
				return a.window(ctx, cl, args[0], zone, commits, q)
			})(c, args)
		}}
	c.Flags().BoolVar(&commits, "commits", false, "show transactions with the rows they changed")
	q.flags(c)
	return c
}

// windowAnswer is what window prints with --json when commits are asked for too.
type windowAnswer struct {
	sandglass.Window
	Commits []sandglass.Commit `json:"commits"`
}

func (a *app) window(ctx context.Context, cl *client.Client, name string, zone *time.Location, withCommits bool, q commitFlags) error {
	w, err := cl.Window(ctx, name)
	if err != nil {
		return err
	}
	show := func(out io.Writer) error { return showWindow(out, w, zone, a.utf8()) }
	if !withCommits {
		return a.print(w, show)
	}
	commits, err := q.ask(ctx, cl, name, zone, a.now())
	if err != nil {
		return err
	}
	return a.print(windowAnswer{w, commits}, func(out io.Writer) error {
		if err := show(out); err != nil {
			return err
		}
		fmt.Fprintln(out)
		return showCommits(out, name, commits, zone)
	})
}

// zoneOf is the declared zone of an environment.
func (a *app) zoneOf(ctx context.Context, cl *client.Client, name string) (*time.Location, error) {
	e, err := cl.Environment(ctx, name)
	if err != nil {
		return nil, err
	}
	return zoneOf(e.Environment)
}

func zoneOf(e sandglass.Environment) (*time.Location, error) {
	zone, err := time.LoadLocation(e.WithDefaults().Zone)
	if err != nil {
		return nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "load zone", Message: "The zone " + e.Zone + " of " + e.Name + " is not known on this machine.",
			Remedy: "Install tzdata, or write times with their offset from UTC.", Err: err}
	}
	return zone, nil
}

// showWindow writes a window for people.
func showWindow(out io.Writer, w sandglass.Window, zone *time.Location, utf8 bool) error {
	if w.Earliest.IsZero() {
		sentence(out, "", "Nothing of "+w.Environment+" can be restored yet: its window begins with the first complete image.")
		return nil
	}
	fmt.Fprintf(out, "Window of %s\n\n", w.Environment)
	narrow := widthOf(out) < textWidth
	instant := func(name string, t time.Time, at sandglass.LSN) [][]string {
		if narrow {
			return [][]string{{name, both(t, zone)}, {"", "LSN " + at.String()}}
		}
		return [][]string{{name, utc(t), local(t, zone), "LSN " + at.String()}}
	}
	rows := instant("earliest", w.Earliest, w.EarliestLSN)
	settled := !w.Latest.Before(w.Earliest)
	if settled {
		rows = append(rows, instant("latest", w.Latest, w.LatestLSN)...)
		rows = append(rows, []string{"length", span(w.Latest.Sub(w.Earliest))})
	} else {
		rows = append(rows, []string{"latest", "none is settled yet"})
	}
	switch {
	case w.LagBytes < 0:
		rows = append(rows, []string{"behind", "not recording"})
	default:
		rows = append(rows, []string{"behind", fmt.Sprintf("%s, %s", seconds(w.LagSeconds), sandglass.Bytes(w.LagBytes))})
	}
	if err := columns(out, "  ", rows); err != nil {
		return err
	}
	if settled {
		fmt.Fprintln(out)
		timeline(out, w, utf8)
	}
	if len(w.Gaps) > 0 {
		fmt.Fprintf(out, "\nGaps\n")
		for _, g := range w.Gaps {
			sentence(out, "  ", fmt.Sprintf("%s to %s, %s", both(g.From, zone), both(g.To, zone), span(g.To.Sub(g.From))))
			sentence(out, "    ", fmt.Sprintf("%s [%s]", g.Reason, g.Code))
		}
	}
	fmt.Fprintf(out, "\nImages\n")
	rows = nil
	for _, i := range w.Images {
		what := []string{sandglass.Bytes(i.Bytes).String(), "stored " + sandglass.Bytes(i.StoredBytes).String(), "timeline " + strconv.Itoa(int(i.Timeline)), string(i.ID)}
		if narrow {
			fmt.Fprintf(out, "  %s\n", both(i.Ended, zone))
			sentence(out, "    ", strings.Join(what, ", "))
			continue
		}
		rows = append(rows, append([]string{utc(i.Ended), local(i.Ended, zone)}, what...))
	}
	return columns(out, "  ", rows)
}

// local shows an instant in the zone; "" for UTC, which is shown beside it anyway.
func local(t time.Time, zone *time.Location) string {
	if zone == nil || zone.String() == "UTC" || t.IsZero() {
		return ""
	}
	l := t.In(zone)
	return l.Format(timeLayout) + " " + zoneName(l, zone)
}

// timelineWidth is how wide the bar is, in characters.
const timelineWidth = 64

// timeline draws the window as a bar, gaps left blank, with the images below it.
func timeline(out io.Writer, w sandglass.Window, utf8 bool) {
	held, gap, mark := '=', '.', '^'
	if utf8 {
		held, gap, mark = '━', '╌', '▲'
	}
	length := w.Latest.Sub(w.Earliest)
	column := func(t time.Time) int {
		if length <= 0 {
			return 0
		}
		return min(max(int(float64(timelineWidth)*t.Sub(w.Earliest).Seconds()/length.Seconds()), 0), timelineWidth-1)
	}
	bar := slices.Repeat([]rune{held}, timelineWidth)
	marks := slices.Repeat([]rune{' '}, timelineWidth)
	for _, g := range w.Gaps {
		for i := column(g.From); i <= column(g.To) && g.To.After(w.Earliest) && g.From.Before(w.Latest); i++ {
			bar[i] = gap
		}
	}
	for _, i := range w.Images {
		marks[column(i.Ended)] = mark
	}
	note := count(len(w.Images), "image")
	if len(w.Gaps) > 0 {
		note += ", " + count(len(w.Gaps), "gap")
	}
	fmt.Fprintf(out, "  %s\n  %s  %s\n", string(bar), string(marks), note)
}
