package main

// sandglass doctor and version.

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sandglass"
)

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Examine the installation", Args: takes(),
		Long: "Examine the installation: the state folder and its key, then what the control plane says of itself. Works\nalso while nothing runs. Exit code 1 when something must be put right.",
		RunE: func(c *cobra.Command, _ []string) error { return a.doctor(c.Context()) }}
}

func (a *app) doctor(ctx context.Context) error {
	var all []sandglass.Finding
	if a.server == "" && a.getenv("SANDGLASS_SERVER") == "" {
		local, err := a.examineState()
		if err != nil {
			return err
		}
		all = local
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	remote, err := cl.Doctor(ctx)
	if err != nil {
		e := sandglass.AsError(err)
		remote = []sandglass.Finding{{Code: e.Code, Level: sandglass.Stop, Message: e.Message, Remedy: e.Remedy}}
	}
	all = append(all, remote...)
	stops := 0
	for _, f := range all {
		if f.Level == sandglass.Stop {
			stops++
		}
	}
	err = a.print(all, func(w io.Writer) error {
		for _, f := range all {
			hanging := strings.Repeat(" ", 9)
			paragraph(w, fmt.Sprintf("%-7s  ", f.Level), hanging, f.Message)
			if f.Level != sandglass.OK && f.Remedy != "" {
				paragraph(w, hanging, hanging, fmt.Sprintf("%s [%s]", f.Remedy, f.Code))
			}
		}
		return nil
	})
	if err != nil || stops == 0 {
		return err
	}
	return exitCode(sandglass.ExitFailed)
}

// examineState looks at what can be seen without a control plane.
func (a *app) examineState() ([]sandglass.Finding, error) {
	state, err := a.stateFolder()
	if err != nil {
		return nil, err
	}
	c, err := readConfig(state)
	if err != nil {
		e := sandglass.AsError(err)
		return []sandglass.Finding{{Code: e.Code, Level: sandglass.Stop, Message: e.Message, Remedy: e.Remedy}}, nil
	}
	all := []sandglass.Finding{{Code: sandglass.CodeConfig, Level: sandglass.OK, Message: "The configuration " + filepath.Join(state, configFile) + " can be read."}}
	key := filepath.Join(state, keyFile)
	switch info, err := os.Stat(key); {
	case err != nil:
		all = append(all, sandglass.Finding{Code: sandglass.CodeKeyMissing, Level: sandglass.Stop, Message: "The key " + key + " is missing.",
			Remedy: "Put the copy of the repository's key there, mode 0600."})
	case info.Mode().Perm()&0o077 != 0:
		all = append(all, sandglass.Finding{Code: "key.open_to_others", Level: sandglass.Stop, Message: "The key " + key + " is open to others.", Remedy: "chmod 600 " + key})
	default:
		all = append(all, sandglass.Finding{Code: sandglass.CodeKeyMissing, Level: sandglass.OK, Message: "The key " + key + " is there, and closed to others."})
	}
	if _, err := os.Stat(c.Repository.Path); err != nil {
		return append(all, sandglass.Finding{Code: sandglass.CodeRepositoryMissing, Level: sandglass.Stop, Message: "The repository " + c.Repository.Path + " can't be seen.",
			Remedy: "Mount it, or correct repository.path in config.yaml."}), nil
	}
	return append(all, sandglass.Finding{Code: sandglass.CodeRepositoryMissing, Level: sandglass.OK, Message: "The repository " + c.Repository.Path + " is there."}), nil
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the versions of the command and of the control plane", Args: takes(), RunE: func(c *cobra.Command, _ []string) error {
		v := struct {
			Version string `json:"version"`
			Serve   string `json:"serve,omitempty"` // "" when none answers
		}{Version: version}
		if cl, err := a.client(); err == nil {
			defer cl.Close()
			ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
			defer cancel()
			v.Serve, _ = cl.Version(ctx) // none answers: that is no error here
		}
		return a.print(v, func(w io.Writer) error {
			fmt.Fprintln(w, "sandglass "+v.Version)
			if v.Serve != "" && v.Serve != v.Version {
				fmt.Fprintln(w, "serve     "+v.Serve)
			}
			return nil
		})
	}}
}
