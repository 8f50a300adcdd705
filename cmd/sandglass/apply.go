package main

// sandglass apply: declare environments.

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newApply(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Declare environments, new or changed", Args: takes(),
		Long: `Declare environments, new or changed, from a YAML file of one or several documents;
- reads them from the standard input. An unknown key is refused, with its line. All
documents are checked before the first is applied.

A production:

  name: prod
  kind: production
  zone: Europe/Vienna
  recording:
    connection: host=db.internal user=sandglass dbname=postgres
    password_file: /etc/sandglass/prod.password

A sandbox:

  name: uat
  kind: sandbox
  server:
    port: 5433
    source: prod`,
		RunE: func(c *cobra.Command, _ []string) error { return a.apply(c.Context(), file) },
	}
	c.Flags().StringVarP(&file, "file", "f", "", "`file` of declarations, - for the standard input")
	return c
}

func (a *app) apply(ctx context.Context, file string) error {
	if file == "" {
		return usage("Use it as `sandglass apply -f FILE`.", "The file of declarations is missing.")
	}
	declared, err := a.readDeclarations(file)
	if err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	var done []client.Applied
	for _, e := range declared {
		applied, err := cl.Apply(ctx, e)
		if err != nil {
			return err
		}
		done = append(done, applied)
		if !a.json {
			fmt.Fprintf(a.stdout, "%s (%s) is declared.\n", e.Name, e.Kind)
			findings(a.stdout, "  ", applied.Findings)
			if r := applied.Environment.Recorder; e.Kind == sandglass.Production && (r == nil || r.State == sandglass.RecorderOff) {
				fmt.Fprintf(a.stdout, "  Record it with: sandglass record start %s\n", e.Name)
			}
		}
	}
	return a.print(done, func(io.Writer) error { return nil })
}

// readDeclarations reads the file; a relative password_file is meant from the file's folder.
func (a *app) readDeclarations(file string) ([]sandglass.Environment, error) {
	name, in, dir := "The standard input", a.stdin, "."
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usage("Name a file that can be read.", "The file of declarations can't be read: %v.", err)
		}
		defer f.Close()
		name, in, dir = file, f, filepath.Dir(file)
	}
	all, err := readEnvironments(name, in)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.Recording == nil || e.Recording.PasswordFile == "" || filepath.IsAbs(e.Recording.PasswordFile) {
			continue
		}
		if e.Recording.PasswordFile, err = filepath.Abs(filepath.Join(dir, e.Recording.PasswordFile)); err != nil {
			return nil, fmt.Errorf("find password file: %w", err)
		}
	}
	return all, nil
}
