package main

// sandglass volume: the copies on the host, kept states among them.

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
)

func newVolume(a *app) *cobra.Command {
	return group("volume", "List and drop kept states", newVolumeList(a), newVolumeDrop(a))
}

func newVolumeList(a *app) *cobra.Command {
	return &cobra.Command{Use: "ls [ENV]", Aliases: []string{"list"}, Short: "List volumes with their sizes", Args: takes("[ENV]"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			all, err := cl.Volumes(c.Context(), name)
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) error { return showVolumes(w, all) })
		}}
}

// showVolumes writes volumes as a table, with their sum.
func showVolumes(w io.Writer, all []sandglass.Volume) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "There is no volume.")
		return err
	}
	var rows [][]string
	var sum int64
	for _, v := range all {
		until := ""
		if v.State == sandglass.VolumeKept && !v.KeptUntil.IsZero() {
			until = v.KeptUntil.UTC().Format(time.DateTime)
		}
		sum += v.Bytes
		rows = append(rows, []string{v.ID, v.Environment, string(v.State), sandglass.Bytes(v.Bytes).String(), strconv.Itoa(v.Major), v.Created.UTC().Format(time.DateTime), until, stateText(v.Moment, time.UTC)})
	}
	if err := table(w, []string{"id", "environment", "state", "size", "major", "made (UTC)", "kept until (UTC)", "shows"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s, %s in all\n", count(len(all), "volume"), sandglass.Bytes(sum))
	return err
}

func newVolumeDrop(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "drop ID", Short: "Remove a kept state; it can then no longer be gone back to", Args: takes("ID"), ValidArgsFunction: a.keptVolumes,
		RunE: func(c *cobra.Command, args []string) error { return a.dropVolume(c.Context(), args[0], yes) }}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) keptVolumes(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cl, err := a.client()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.Context(), completionTime)
	defer cancel()
	all, err := cl.Volumes(ctx, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, v := range all {
		if v.State == sandglass.VolumeKept {
			ids = append(ids, fmt.Sprintf("%s\t%s, %s", v.ID, v.Environment, sandglass.Bytes(v.Bytes)))
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) dropVolume(ctx context.Context, id string, yes bool) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if !yes {
		all, err := cl.Volumes(ctx, "")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(v sandglass.Volume) bool { return v.ID == id })
		if i < 0 {
			return &sandglass.Error{Code: sandglass.CodeVolumeUnknown, Op: "drop volume", Message: "There is no volume " + id + ".", Remedy: "See `sandglass volume ls`."}
		}
		a.say("The kept state %s of %s (%s) will be removed; undo can't go back to it any more.", id, all[i].Environment, sandglass.Bytes(all[i].Bytes))
		if err := a.confirm(ctx, id); err != nil {
			return err
		}
	}
	if err := cl.DropVolume(ctx, id); err != nil {
		return err
	}
	a.say("%s is removed.", id)
	return nil
}
