package main

// The tree of commands, and the checks of arguments they share.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

const rootHelp = `Sandglass records production PostgreSQL servers, and brings any moment of them
into a sandbox: recovered sealed, cut over in a second or two, and undoable for
days.

Begin with ` + "`sandglass init`, `sandglass serve` and `sandglass apply -f FILE`" + `.

Exit codes:
  0    done
  1    failed and rolled back
  2    usage: the command or a file is not right
  3    refused before anything was changed
  4    not found
  5    the control plane or production can't be reached
  6    not allowed
  7    the repository or its key is missing, foreign or damaged
  8    somebody else is at it; try again later
  9    a fault of Sandglass itself
  130  cancelled

Environment:
  SANDGLASS_STATE       the state folder, as --state
  SANDGLASS_SERVER      the control plane's address over TCP, as --server
  SANDGLASS_TOKEN_FILE  the file with the token for it, as --token-file`

// newRoot builds the tree.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "sandglass", Short: "Restore any moment of a production PostgreSQL into a sandbox", Long: rootHelp,
		SilenceErrors: true, SilenceUsage: true, Args: noSuchCommand, RunE: showHelp,
		PersistentPreRun: func(*cobra.Command, []string) { a.began = true },
	}
	// cobra knows flags of any width only by its template.
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", widthOf(a.stdout))))
	f := root.PersistentFlags()
	f.StringVar(&a.state, "state", "", "state `folder` of the control plane (default /var/lib/sandglass for root)")
	f.StringVar(&a.server, "server", "", "`address` of a control plane over TCP, such as http://host:7411")
	f.StringVar(&a.tokenFile, "token-file", "", "`file` with the token for --server")
	f.BoolVar(&a.json, "json", false, "print JSON, in the API's types")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		a.json = a.json || slices.Contains(a.args, "--json") // it may stand behind what was not understood
		return usage("See `"+c.CommandPath()+" --help`.", "%s.", upperFirst(err.Error()))
	})
	root.AddCommand(newInit(a), newServe(a), newApply(a), newEnv(a), newConnect(a), newRecord(a), newWindow(a), newMoment(a), newCommits(a),
		newRestore(a), newRefresh(a), newUndo(a), newRelease(a), newPeek(a), newVolume(a), newOps(a), newPack(a), newRepo(a), newDoctor(a), newDemo(a), newVersion(a))
	a.fitHelp(root)
	return root
}

// fitHelp makes the help of a command and of those below it fit the terminal.
func (a *app) fitHelp(c *cobra.Command) {
	c.Long = flow(c.Long, widthOf(a.stdout))
	for _, below := range c.Commands() {
		a.fitHelp(below)
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: noSuchCommand, RunE: showHelp}
	g.AddCommand(commands...)
	return g
}

func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

// noSuchCommand refuses words that name no command below c.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	remedy := "See `" + c.CommandPath() + " --help`."
	c.SuggestionsMinimumDistance = 2
	if s := c.SuggestionsFor(args[0]); len(s) > 0 {
		likest := slices.MaxFunc(s, func(x, y string) int { return alike(x, args[0]) - alike(y, args[0]) })
		remedy = "Did you mean `" + c.CommandPath() + " " + likest + "`?"
	}
	return usage(remedy, "There is no command `%s %s`.", c.CommandPath(), args[0])
}

// alike is how many letters two words have in common from their beginning.
func alike(x, y string) int {
	n := 0
	for n < min(len(x), len(y)) && x[n] == y[n] {
		n++
	}
	return n
}

// takes checks that the named arguments are there; those in brackets may be left out.
func takes(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= len(names) {
			return nil
		}
		use := strings.TrimSpace(c.CommandPath() + " " + strings.Join(names, " "))
		if len(args) < least {
			return usage("Use it as `"+use+"`.", "%s is missing.", names[len(args)])
		}
		return usage("Use it as `"+use+"`.", "%q is one argument too many.", args[len(names)])
	}
}

// completionTime is how long a shell completion may ask the control plane.
const completionTime = time.Second

// completes completes the first argument with what the control plane lists. A list that can't be had is not worth a message.
func (a *app) completes(list func(ctx context.Context, cl *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		cl, err := a.client()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(c.Context(), completionTime)
		defer cancel()
		names, err := list(ctx, cl)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// environments completes the first argument with the names of environments of a kind, "" for all.
func (a *app) environments(kind sandglass.Kind) cobra.CompletionFunc {
	return a.completes(func(ctx context.Context, cl *client.Client) (names []string, err error) {
		all, err := cl.Environments(ctx)
		for _, e := range all {
			if kind == "" || e.Kind == kind {
				names = append(names, fmt.Sprintf("%s\t%s", e.Name, e.Kind))
			}
		}
		return names, err
	})
}

// environmentFlag is environments for a flag, whatever arguments there are.
func (a *app) environmentFlag(kind sandglass.Kind) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.environments(kind)(c, nil, typed)
	}
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
