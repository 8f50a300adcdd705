package main

// sandglass commits: the transactions of the window, to find an accident.

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

// commitFlags choose commits.
type commitFlags struct {
	from, to, relation string
	minRows            int64
	limit              int
}

func (f *commitFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.from, "from", "", "earliest `time`")
	c.Flags().StringVar(&f.to, "to", "", "latest `time`")
	c.Flags().StringVar(&f.relation, "relation", "", "only those that changed this `table`, such as orders or sales.orders")
	c.Flags().Int64Var(&f.minRows, "min-rows", 0, "only those that changed so many rows; truncations always")
	c.Flags().IntVar(&f.limit, "limit", 100, "only the newest so many")
}

// given says whether any of the flags was typed.
func (f *commitFlags) given(c *cobra.Command) bool {
	for _, name := range []string{"from", "to", "relation", "min-rows", "limit"} {
		if c.Flags().Changed(name) {
			return true
		}
	}
	return false
}

func (f *commitFlags) query(zone *time.Location, now time.Time) (q sandglass.CommitQuery, err error) {
	q = sandglass.CommitQuery{Relation: f.relation, MinRows: f.minRows, Limit: f.limit}
	if f.minRows < 0 || f.limit < 1 || f.limit > 10000 {
		return q, usage("--min-rows is not negative, --limit is from 1 to 10000.", "That many commits can't be asked for.")
	}
	for _, typed := range []struct {
		text string
		into *time.Time
	}{{f.from, &q.From}, {f.to, &q.To}} {
		if typed.text == "" {
			continue
		}
		if *typed.into, err = parseWhen(typed.text, zone, now); err != nil {
			return q, err
		}
	}
	if !q.To.IsZero() && q.To.Before(q.From) {
		return q, usage("Swap --from and --to.", "The times are the wrong way round.")
	}
	return q, nil
}

func newCommits(a *app) *cobra.Command {
	var f commitFlags
	c := &cobra.Command{Use: "commits ENV", Aliases: []string{"activity"}, Short: "Show transactions with the rows they changed, to find an accident", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		Long: `Show the committed transactions of the window with the rows they inserted, updated and
deleted, by table, oldest first. The accident is mostly the largest:

  sandglass commits prod --from "10 minutes ago" --min-rows 1000
  sandglass restore uat --from prod --xid 81236 --before`,
		RunE: a.asksOf(func(ctx context.Context, cl *client.Client, zone *time.Location, args []string) error {
			all, err := f.ask(ctx, cl, args[0], zone, a.now())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) error { return showCommits(w, args[0], all, zone) })
		})}
	f.flags(c)
	return c
}

// ask asks for the commits of an environment that the flags choose.
func (f *commitFlags) ask(ctx context.Context, cl *client.Client, name string, zone *time.Location, now time.Time) ([]sandglass.Commit, error) {
	q, err := f.query(zone, now)
	if err != nil {
		return nil, err
	}
	return cl.Commits(ctx, name, q)
}

// showCommits writes transactions, a line for each relation.
func showCommits(w io.Writer, name string, all []sandglass.Commit, zone *time.Location) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "No such transaction is in the window.")
		return err
	}
	head := []string{"committed (UTC)", "transaction", "LSN", "table", "rows"}
	isUTC := zone == nil || zone.String() == "UTC"
	if !isUTC {
		head = append([]string{head[0], "committed (" + zone.String() + ")"}, head[1:]...)
	}
	var rows [][]string
	for _, c := range all {
		first := []string{c.Time.UTC().Format(timeLayout)}
		if !isUTC {
			first = append(first, c.Time.In(zone).Format(timeLayout))
		}
		first = append(first, strconv.FormatUint(c.XID, 10), c.LSN.String())
		if len(c.Rows) == 0 {
			rows = append(rows, append(first, "", ""))
		}
		for i, r := range c.Rows {
			if i > 0 {
				first = slices.Repeat([]string{" "}, len(first))
			}
			rows = append(rows, append(first[:len(first):len(first)], r.Database+" "+r.Relation, rowsText(r)))
		}
	}
	if err := table(w, head, rows, "LSN", "committed (UTC)"); err != nil {
		return err
	}
	fmt.Fprintln(w)
	sentence(w, "", "Just before one of them: sandglass restore TARGET --from "+name+" --xid TRANSACTION --before")
	return nil
}

// rowsText is what was done to a relation's rows, in words.
func rowsText(r sandglass.RelationRows) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{r.Deleted, "deleted"}, {r.Updated, "updated"}, {r.Inserted, "inserted"}} {
		if p.n > 0 {
			parts = append(parts, thousands(p.n)+" "+p.what)
		}
	}
	if r.Truncated {
		parts = append([]string{"truncated"}, parts...)
	}
	return strings.Join(parts, ", ")
}
