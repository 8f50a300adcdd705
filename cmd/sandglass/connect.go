package main

// sandglass connect: psql on an environment.

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/client"
)

func newConnect(a *app) *cobra.Command {
	var print bool
	c := &cobra.Command{Use: "connect ENV [DATABASE]", Short: "Open psql on a sandbox, or print its line", Args: takes("ENV", "[DATABASE]"), ValidArgsFunction: a.environments(sandglass.Sandbox),
		Long: "Open psql on a sandbox. Without a terminal or without psql, and with --print, the line is printed instead.",
		RunE: a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
			conn, err := cl.Connect(ctx, args[0], strings.Join(args[1:], ""))
			if err != nil {
				return err
			}
			return a.connect(conn, print)
		})}
	c.Flags().BoolVar(&print, "print", false, "print the line only")
	return c
}

// connect becomes psql on a terminal that has it, and prints its line elsewhere.
func (a *app) connect(conn sandglass.Connection, print bool) error {
	if !a.json && !print && terminal(a.stdin) && terminal(a.stdout) && len(conn.PSQL) > 0 {
		if psql, err := exec.LookPath(conn.PSQL[0]); err == nil {
			if err := syscall.Exec(psql, conn.PSQL, os.Environ()); err != nil {
				return fmt.Errorf("run %s: %w", psql, err)
			}
		}
	}
	return a.print(conn, func(w io.Writer) error { return showConnection(w, conn) })
}

// showConnection writes the line that connects.
func showConnection(w io.Writer, c sandglass.Connection) error {
	_, err := fmt.Fprintln(w, shellLine(c.PSQL))
	return err
}
