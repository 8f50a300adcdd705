package main

// sandglass serve: flags and configuration; what it is lives in internal/control.

import (
	"log/slog"

	"github.com/spf13/cobra"
)

func newServe(a *app) *cobra.Command {
	var level, format string
	c := &cobra.Command{Use: "serve", Short: "Run the control plane: API, recorders and worker", Args: takes(),
		Long: `Run the control plane: the API on the Unix socket of the state folder, the recorders, and
the worker. Sandboxes go on running when it ends, and are found again when it starts.`,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := a.logger(level, format)
			if err != nil {
				return err
			}
			state, err := a.stateFolder()
			if err != nil {
				return err
			}
			config, err := readConfig(state)
			if err != nil {
				return err
			}
			return runControl(c.Context(), state, config, log)
		}}
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	return c
}

// logger writes to the standard error.
func (a *app) logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usage("Use debug, info, warn or error.", "%q is not a log level.", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, o)), nil
	}
	return nil, usage("Use text or json.", "%q is not a log format.", format)
}
