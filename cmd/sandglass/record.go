package main

// sandglass record: start and stop recordings, take images.

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

func newRecord(a *app) *cobra.Command {
	return group("record", "Start and stop recordings, take images", newRecordStart(a), newRecordStop(a), newRecordList(a), newRecordImage(a))
}

func newRecordStart(a *app) *cobra.Command {
	var accept []string
	c := &cobra.Command{Use: "start ENV", Short: "Begin to record an environment", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		Long: `Begin to record an environment. What would endanger production is refused: no limit on
what a slot keeps back (max_slot_wal_keep_size), or synchronous_standby_names that could
match. A refusal is waived by its code: --accept CODE.`,
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			found, err := cl.StartRecording(ctx, args[0], codes(accept))
			if err != nil {
				return err
			}
			return a.tellFindings(found, args[0]+" is being recorded; the first image makes its window begin.\n"+
				"It begins with a checkpoint, which production may spread over minutes. See how far it is: sandglass record ls")
		})}
	acceptFlag(c, &accept)
	return c
}

func newRecordStop(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "stop ENV", Short: "End a recording and drop its slot", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		Long: "End a recording and drop its slot on production. What was recorded stays in the repository; a later\nstart begins with a new image, and what lies between is a gap.",
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			if !yes {
				a.say("The recording of %s ends, and its slot is dropped.", args[0])
				if err := a.confirm(ctx, args[0]); err != nil {
					return err
				}
			}
			found, err := cl.StopRecording(ctx, args[0])
			if err != nil {
				return err
			}
			return a.tellFindings(found, args[0]+" is no longer recorded.")
		})}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// tellFindings prints what was done with the findings it gave.
func (a *app) tellFindings(found []sandglass.Finding, done string) error {
	return a.print(found, func(w io.Writer) error {
		for line := range strings.Lines(done) {
			sentence(w, "", strings.TrimSpace(line))
		}
		findings(w, "  ", found)
		return nil
	})
}

func newRecordList(a *app) *cobra.Command {
	return &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List recorders", Args: takes(), RunE: a.asks(func(ctx context.Context, cl *client.Client, _ []string) error {
		all, err := cl.Environments(ctx)
		if err != nil {
			return err
		}
		recorders := map[string]*sandglass.RecorderStatus{}
		var rows [][]string
		for _, e := range all {
			r := e.Recorder
			if r == nil {
				continue
			}
			recorders[e.Name] = r
			note := ""
			switch {
			case r.Image != nil:
				note = "image: " + imageText(*r.Image)
			case r.LastError != nil:
				note = string(r.LastError.Code)
			}
			durable, lag := "", ""
			if r.ServerLSN != 0 {
				durable, lag = r.DurableLSN.String(), sandglass.Bytes(behind(r.ServerLSN, r.DurableLSN)).String()
			}
			rows = append(rows, []string{e.Name, string(r.State), r.Slot, durable, lag, string(r.LastImage), note})
		}
		return a.print(recorders, func(w io.Writer) error {
			return table(w, []string{"environment", "state", "slot", "durable", "behind", "last image", "note"}, rows, "slot", "durable")
		})
	})}
}

func newRecordImage(a *app) *cobra.Command {
	var noWait bool
	c := &cobra.Command{Use: "image ENV", Short: "Take an image now", Args: takes("ENV"), ValidArgsFunction: a.environments(""),
		Long: "Take an image now, and wait until it is complete. Ctrl-C stops waiting; the image goes on.",
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			return a.takeImage(ctx, cl, args[0], noWait)
		})}
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for it")
	return c
}

// imagePoll is how often the recorder is asked how far its image is.
const imagePoll = time.Second

func (a *app) takeImage(ctx context.Context, cl *client.Client, name string, noWait bool) error {
	before, err := cl.Environment(ctx, name)
	if err != nil {
		return err
	}
	if err := cl.TakeImage(ctx, name); err != nil {
		return err
	}
	if noWait {
		a.say("An image of %s is being taken; `sandglass record ls` shows it.", name)
		return nil
	}
	var last sandglass.RecorderStatus
	if before.Recorder != nil {
		last = *before.Recorder
	}
	return a.watchImage(ctx, cl, name, last)
}

// imageText is how far an image is. It has a size from the moment on at which production has made its checkpoint.
func imageText(p sandglass.Progress) string {
	if p.Done == 0 && p.Total <= 0 {
		return "waiting for production's checkpoint"
	}
	return progressText(p)
}

// watchImage shows an image's progress until the recorder has a newer one than last, or says why it took none.
func (a *app) watchImage(ctx context.Context, cl *client.Client, name string, last sandglass.RecorderStatus) error {
	line := a.newLine(a.stdout)
	defer line.end()
	for tick := time.NewTicker(imagePoll); ; {
		e, err := cl.Environment(ctx, name)
		if err != nil {
			return err
		}
		r := e.Recorder
		switch {
		case r == nil || r.State == sandglass.RecorderOff:
			return &sandglass.Error{Code: "image.not_taken", Op: "take image", Message: name + " is not being recorded.", Remedy: "Begin with `sandglass record start " + name + "`."}
		case r.State == sandglass.RecorderRefused && r.LastError != nil:
			return r.LastError
		case r.LastImage != last.LastImage:
			line.end()
			return a.print(map[string]sandglass.ImageID{"image": r.LastImage}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Image %s of %s is complete.\n", r.LastImage, name)
				return err
			})
		case r.Image != nil:
			line.show("image  " + imageText(*r.Image))
		case r.State == sandglass.RecorderStreaming && r.LastError != nil && last.LastError == nil:
			return r.LastError
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return ctx.Err()
		case <-tick.C:
		}
	}
}
