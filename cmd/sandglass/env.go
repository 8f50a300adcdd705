package main

// sandglass env: list, show, start, stop and remove environments.

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newEnv(a *app) *cobra.Command {
	return group("env", "List, show, start, stop and remove environments", newEnvList(a), newEnvShow(a), newEnvStart(a), newEnvStop(a), newEnvRemove(a))
}

func newEnvList(a *app) *cobra.Command {
	return &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List environments", Args: takes(), RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error {
		all, err := cl.Environments(ctx)
		if err != nil {
			return err
		}
		return a.print(all, func(w io.Writer) error {
			if len(all) == 0 {
				_, err := fmt.Fprintln(w, "No environment is declared yet; see `sandglass apply --help`.")
				return err
			}
			var rows [][]string
			for _, e := range all {
				rows = append(rows, []string{e.Name, string(e.Kind), string(e.State), recorderWord(e.Recorder), e.Address, withTimes(e.LastRestored, time.UTC), e.Operation})
			}
			return table(w, []string{"name", "kind", "server", "recorder", "address", "shows", "operation"}, rows, "kind", "operation")
		})
	})}
}

// recorderWord is a recorder's state in a table.
func recorderWord(r *sandglass.RecorderStatus) string {
	if r == nil {
		return ""
	}
	return string(r.State)
}

func newEnvShow(a *app) *cobra.Command {
	return &cobra.Command{Use: "show ENV", Short: "Show one environment", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			e, err := cl.Environment(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) error { return showEnvironment(w, e) })
		})}
}

// showEnvironment writes what is known of an environment, a line each.
func showEnvironment(w io.Writer, e sandglass.EnvironmentStatus) error {
	zone, err := zoneOf(e.Environment)
	if err != nil {
		return err
	}
	var rows [][]string
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	add("Name", e.Name)
	add("Kind", string(e.Kind))
	add("Tenant", e.Tenant)
	add("Region", e.Region)
	add("Hosting", e.Hosting)
	add("Zone", e.Zone)
	add("Retention", span0(e.Retention))
	add("Server", string(e.State))
	add("Address", e.Address)
	if e.Major != 0 {
		add("PostgreSQL", strconv.Itoa(e.Major))
	}
	add("Shows", withTimes(e.LastRestored, zone))
	if e.Volume != nil {
		add("Volume", e.Volume.ID+", "+sandglass.Bytes(e.Volume.Bytes).String())
	}
	if e.Server != nil {
		add("Source", e.Server.Source)
		add("Keeps", span0(e.Server.Keep))
		add("Release", e.Server.Release)
	}
	add("Operation", e.Operation)
	if r := e.Recorder; r != nil {
		add("Recorder", string(r.State))
		add("Slot", r.Slot)
		add("Last image", string(r.LastImage))
		if r.Image != nil {
			add("Image", imageText(*r.Image))
		}
		if r.ServerLSN != 0 {
			add("WAL", fmt.Sprintf("at %s, durable to %s (%s behind)", r.ServerLSN, r.DurableLSN, sandglass.Bytes(behind(r.ServerLSN, r.DurableLSN))))
		}
	}
	if err := pairs(w, "", rows); err != nil {
		return err
	}
	if e.Recorder != nil && e.Recorder.LastError != nil {
		fmt.Fprintln(w)
		return showError(w, e.Recorder.LastError)
	}
	return nil
}

func behind(to, from sandglass.LSN) int64 {
	if to < from {
		return 0
	}
	return int64(to - from)
}

func span0(d sandglass.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func newEnvStart(a *app) *cobra.Command {
	r := sandglass.Request{Kind: sandglass.KindStart}
	var wait waiting
	c := &cobra.Command{Use: "start ENV", Short: "Start a sandbox's server", Args: takes("ENV"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		Long: "Start a sandbox's server, and keep it started over reboots. With --new, first make a new, empty\ncluster in a sandbox that nothing was restored into yet.",
		RunE: a.does(&r, &wait)}
	c.Flags().BoolVar(&r.New, "new", false, "make a new, empty cluster")
	wait.flags(c)
	return c
}

func newEnvStop(a *app) *cobra.Command {
	var wait waiting
	c := &cobra.Command{Use: "stop ENV", Short: "Stop a sandbox's server", Args: takes("ENV"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		RunE: a.does(&sandglass.Request{Kind: sandglass.KindStop}, &wait)}
	wait.flags(c)
	return c
}

func newEnvRemove(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "rm ENV", Short: "Forget an environment; its history stays in the repository", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		Long: `Forget an environment. Its recording ends and its slot on production is dropped; a
sandbox's server is stopped and its volumes are removed. What was recorded stays in the
repository until its retention ends.`,
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			return a.removeEnvironment(ctx, cl, args[0], yes)
		})}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) removeEnvironment(ctx context.Context, cl *client.Client, name string, yes bool) error {
	e, err := cl.Environment(ctx, name)
	if err != nil {
		return err
	}
	if !yes {
		what := "its recording ends and its slot is dropped"
		if e.Kind == sandglass.Sandbox {
			what = "its server is stopped and its volumes are removed"
		}
		a.say("%s will be forgotten: %s.", name, what)
		if err := a.confirm(ctx, name); err != nil {
			return err
		}
	}
	found, err := cl.RemoveEnvironment(ctx, name)
	if err != nil {
		return err
	}
	return a.tellFindings(found, name+" is forgotten; what was recorded stays in the repository until its retention ends.")
}

// shellLine writes argv as a line for a shell.
func shellLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, s := range argv {
		quoted[i] = s
		if s == "" || strings.ContainsFunc(s, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,", r)
		}) {
			quoted[i] = "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
