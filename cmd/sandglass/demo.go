package main

// sandglass demo: the main job, told in two minutes on servers of its own.

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/internal/demo"
)

func newDemo(a *app) *cobra.Command {
	var once, down, writers bool
	dir := demo.DefaultDir()
	c := &cobra.Command{
		Use: "demo", Short: "Show the main job in two minutes, on a production of its own", Args: takes(),
		Long: `Show the main job in two minutes: an ERP with people at work is recorded, vendors are deleted by mistake,
and the moment before that is restored into a sandbox, neutralized and proven, while a client keeps
using it; then undone; and the lost rows are put back into production from a sealed copy.

Everything lies in one folder and uses nothing of an installation that is there. At its end it is left running,
to be tried; --down takes it down, and so does Ctrl-C before the end: no process and no file is left.
With --once it is always taken down, and the exit code is 0 only if every check held.`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case writers:
				return demo.Write(c.Context(), dir)
			case down:
				return a.demoDown(dir)
			}
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find our own binary: %w", err)
			}
			err = demo.Run(c.Context(), demo.Options{Binary: binary, Dir: dir, Out: a.stdout, Color: terminal(a.stdout) && a.getenv("NO_COLOR") == "", Once: once})
			if errors.Is(err, demo.ErrChecks) {
				return exitCode(sandglass.ExitFailed) // told already
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&once, "once", false, "take everything down at the end")
	f.BoolVar(&down, "down", false, "take down a demo that was left running")
	f.StringVar(&dir, "dir", dir, "`folder` of the demo; it must be short and not exist")
	f.BoolVar(&writers, "writers", false, "")
	_ = f.MarkHidden("writers") // exists: the line above made it
	return c
}

func (a *app) demoDown(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		a.say("No demo is there.")
		return nil
	}
	if err := demo.Down(dir); err != nil {
		return err
	}
	a.say("The demo is down; nothing of it is left.")
	return nil
}
