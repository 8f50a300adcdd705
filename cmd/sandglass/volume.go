package main

// sandglass volume: the copies on the host, kept states among them.

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

func newVolume(a *app) *cobra.Command {
	return group("volume", "List and drop kept states", newVolumeList(a), newVolumeDrop(a))
}

func newVolumeList(a *app) *cobra.Command {
	return &cobra.Command{Use: "ls [ENV]", Aliases: []string{"list"}, Short: "List volumes with their sizes", Args: takes("[ENV]"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			all, err := cl.Volumes(ctx, strings.Join(args, ""))
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) error { return showVolumes(w, all) })
		})}
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
			until = v.KeptUntil.UTC().Format(minuteLayout)
		}
		sum += v.Bytes
		rows = append(rows, []string{v.ID, v.Environment, string(v.State), sandglass.Bytes(v.Bytes).String(), strconv.Itoa(v.Major), v.Created.UTC().Format(minuteLayout), until, withTimes(v.Moment, time.UTC)})
	}
	if err := table(w, []string{"id", "sandbox", "state", "size", "major", "made (UTC)", "kept until (UTC)", "shows"}, rows, "major", "made (UTC)"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s, %s in all\n", count(len(all), "volume"), sandglass.Bytes(sum))
	return err
}

func newVolumeDrop(a *app) *cobra.Command {
	var yes, force bool
	c := &cobra.Command{Use: "drop ID", Short: "Remove a kept state; it can then no longer be gone back to", Args: takes("ID"), ValidArgsFunction: a.completes(keptVolumes),
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			return a.dropVolume(ctx, cl, args[0], yes, force)
		})}
	c.Flags().BoolVar(&force, "force", false, "also when its last WAL can't be brought into the repository: moments are lost with it")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// keptVolumes are the kept states, for a completion.
func keptVolumes(ctx context.Context, cl *client.Client) (ids []string, err error) {
	all, err := cl.Volumes(ctx, "")
	for _, v := range all {
		if v.State == sandglass.VolumeKept {
			ids = append(ids, fmt.Sprintf("%s\t%s, %s", v.ID, v.Environment, sandglass.Bytes(v.Bytes)))
		}
	}
	return ids, err
}

func (a *app) dropVolume(ctx context.Context, cl *client.Client, id string, yes, force bool) error {
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
	if err := cl.DropVolume(ctx, id, force); err != nil {
		return err
	}
	a.say("%s is removed.", id)
	return nil
}
