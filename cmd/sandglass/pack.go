package main

// sandglass pack: list, show and check packs. Packs are files of this binary and of the state folder; no server is asked.

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

func newPack(a *app) *cobra.Command {
	return group("pack", "List, show and check packs: what is known of an application", newPackList(a), newPackShow(a), newPackCheck(a))
}

// packFolder is where the team's own packs are.
func (a *app) packFolder() (string, error) {
	state, err := a.stateFolder()
	return filepath.Join(state, "packs"), err
}

func (a *app) packNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if dir, err := a.packFolder(); err == nil {
		names, _ = pack.Names(dir) // a completion that can't be had is not worth a message
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newPackList(a *app) *cobra.Command {
	return &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List packs", Args: takes(), RunE: func(*cobra.Command, []string) error {
		dir, err := a.packFolder()
		if err != nil {
			return err
		}
		names, err := pack.Names(dir)
		if err != nil {
			return err
		}
		var all []pack.Pack
		for _, name := range names {
			p, err := pack.Open(dir, name)
			if err != nil {
				return err
			}
			all = append(all, p)
		}
		return a.print(all, func(w io.Writer) error {
			var rows [][]string
			for _, p := range all {
				from := filepath.Join(dir, p.Name)
				if p.Shipped {
					from = "shipped"
				}
				if p.Name == pack.Always {
					from = "built in"
				}
				rules, asserted := countsOf(p)
				rows = append(rows, []string{p.Name, strconv.Itoa(p.Version), strconv.Itoa(rules), strconv.Itoa(asserted), from, p.What})
			}
			return table(w, []string{"name", "version", "rules", "assertions", "from", "of"}, rows, "from")
		})
	}}
}

// countsOf is how many rules and assertions a pack has; those of the one that always applies are built in.
func countsOf(p pack.Pack) (rules, asserted int) {
	if p.Name == pack.Always {
		applied, proven := policy.BuiltIns()
		return len(applied), len(proven)
	}
	return len(p.Rules), len(p.Assertions)
}

func newPackShow(a *app) *cobra.Command {
	return &cobra.Command{Use: "show PACK", Short: "Show what a pack does, proves and leaves to people", Args: takes("PACK"), ValidArgsFunction: a.packNames,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.packFolder()
			if err != nil {
				return err
			}
			p, err := pack.Open(dir, args[0])
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) error { return showPack(w, p) })
		}}
}

// showPack writes a pack for people. Databases are called by their roles: no environment is meant.
func showPack(w io.Writer, p pack.Pack) error {
	fmt.Fprintf(w, "%s: %s\n", p.Policy(), p.What)
	section := func(title string, lines [][2]string) {
		if len(lines) > 0 {
			fmt.Fprintf(w, "\n%s\n", title)
		}
		for _, l := range lines {
			sentence(w, "  ", l[0])
			if l[1] != "" {
				sentence(w, "      ", l[1])
			}
		}
	}
	var rules, asserted, quiet, not, left [][2]string
	if p.Name == pack.Always {
		applied, proven := policy.BuiltIns()
		for _, r := range applied {
			why := r.Why
			for i, code := range r.Proof {
				why += []string{" Proven by ", ", "}[min(i, 1)] + string(code)
			}
			rules = append(rules, [2]string{r.Name + ": " + r.What, why})
		}
		for _, a := range proven {
			asserted = append(asserted, [2]string{a.Name + ": " + a.What, ""})
		}
	}
	for _, r := range p.Rules {
		optional := ""
		if !r.Must() {
			optional = ", where there is one"
		}
		rules = append(rules, [2]string{r.Name + ": " + policy.DescribeRule(r, r.Database+optional), r.Why})
	}
	for _, q := range p.Assertions {
		asserted = append(asserted, [2]string{q.Name + ": " + strings.Join(strings.Fields(q.Query), " ") + " gives " + q.Expect, ""})
	}
	for _, q := range p.Quiesce {
		quiet = append(quiet, [2]string{q.Name + ": " + strings.Join(strings.Fields(q.Query), " ") + " gives " + q.Expect, q.Why})
	}
	for _, t := range p.NotCopied {
		t = t.For("the source", "the sandbox")
		not = append(not, [2]string{t.What, t.Why})
	}
	for _, t := range p.Checklist {
		left = append(left, [2]string{t.For("the source", "the sandbox").What, t.Why})
	}
	section("Rules", rules)
	section("Assertions", asserted)
	section("Quiet at the moment", quiet)
	section("Not copied", not)
	section("Left to do", left)
	return nil
}
