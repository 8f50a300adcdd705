package main

// sandglass pack check: a pack by itself, or against databases as they are now.

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

// codePackUnfit is a pack whose rules would fail in the databases it was checked against.
const codePackUnfit sandglass.Code = "pack.unfit"

func newPackCheck(a *app) *cobra.Command {
	var environment string
	var databases []string
	cmd := &cobra.Command{Use: "check PACK|FOLDER", Short: "Say what is wrong with a pack, by itself or in a live database", Args: takes("PACK|FOLDER"),
		Long: "Reads a pack, or a folder that is to become one, and says what is wrong with it.\n\n" +
			"With --environment, each rule and question is looked at in the environment's databases as they are now: whether its table\n" +
			"and columns are there, whether the server takes its SQL, and how many rows it would touch. With --database the same is\n" +
			"done over a connection of your own. Nothing is changed, and no rule is run.",
		Example: "  sandglass pack check ./shop\n  sandglass pack check shop --environment prod\n  sandglass pack check ./shop --database business=\"host=db dbname=shop user=reader\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if environment != "" {
				if len(databases) > 0 || strings.ContainsAny(args[0], "/.") {
					return &sandglass.Error{Code: sandglass.CodeUsage, Op: "check pack", Message: "--environment goes with the name of a pack of the control plane, and without --database.",
						Remedy: "Check a folder with --database ROLE=CONNECTION."}
				}
				cl, err := a.client()
				if err != nil {
					return err
				}
				checks, err := cl.CheckPack(ctx, environment, args[0])
				if err != nil {
					return err
				}
				return a.packChecked(args[0], checks)
			}
			p, err := a.openPack(args[0])
			if err != nil {
				return err
			}
			if len(databases) > 0 {
				checks, err := checkDirectly(ctx, p, databases)
				if err != nil {
					return err
				}
				return a.packChecked(p.Name, checks)
			}
			return a.print(p, func(w io.Writer) error {
				rules, asserted := countsOf(p)
				_, err := fmt.Fprintf(w, "%s is well-formed: %d rules, %d assertions, %d quiesce checks.\n", p.Policy(), rules, asserted, len(p.Quiesce))
				return err
			})
		}}
	cmd.Flags().StringVar(&environment, "environment", "", "check in the databases of this `ENVIRONMENT`")
	cmd.Flags().StringArrayVar(&databases, "database", nil, "check in a database: `ROLE=CONNECTION`; may be repeated")
	return cmd
}

// openPack reads a pack by its name, or from a folder.
func (a *app) openPack(name string) (pack.Pack, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() && strings.ContainsAny(name, "/.") {
		full, err := filepath.Abs(name)
		if err != nil {
			return pack.Pack{}, fmt.Errorf("find %s: %w", name, err)
		}
		return pack.Read(os.DirFS(full), filepath.Base(full))
	}
	dir, err := a.packFolder()
	if err != nil {
		return pack.Pack{}, err
	}
	return pack.Open(dir, name)
}

// checkDirectly checks a pack over connections of the person's own.
func checkDirectly(ctx context.Context, p pack.Pack, databases []string) ([]sandglass.RuleCheck, error) {
	all := []sandglass.RuleCheck{}
	for _, d := range databases {
		role, conninfo, _ := strings.Cut(d, "=")
		if _, ok := p.Databases[role]; !ok || conninfo == "" {
			return nil, &sandglass.Error{Code: sandglass.CodeUsage, Op: "check pack", Message: fmt.Sprintf("The pack %s has no role of databases called %q, or no connection follows it.", p.Name, role),
				Remedy: "Write --database ROLE=CONNECTION, as business=\"host=db dbname=shop\"."}
		}
		conn, err := pgx.Connect(ctx, conninfo)
		if err != nil {
			return nil, &sandglass.Error{Code: sandglass.CodeProductionUnreachable, Op: "check pack", Err: err, Message: fmt.Sprintf("The database for the role %s can't be entered: %v.", role, err),
				Remedy: "Correct the connection, which is a libpq connection string or URL."}
		}
		found, err := policy.Check(ctx, conn, p, role)
		conn.Close(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// packChecked writes what was found; anything that would fail a restore is an error.
func (a *app) packChecked(name string, checks []sandglass.RuleCheck) error {
	failing := 0
	for _, c := range checks {
		if c.Level == sandglass.Stop {
			failing++
		}
	}
	err := a.print(checks, func(w io.Writer) error {
		var rows [][]string
		own := func(text string) string { return strings.TrimPrefix(text, filepath.Base(name)+"/") } // what all lines have in common
		var uncounted []sandglass.RuleCheck
		for _, c := range checks {
			n := ""
			if c.Rows >= 0 {
				n = thousands(c.Rows)
			}
			rows = append(rows, []string{string(c.Level), own(c.Rule), c.Kind, c.Database, c.Table, n, own(c.At)})
			if c.Code == policy.CodeNotCounted {
				uncounted = append(uncounted, c)
			}
		}
		if err := table(w, []string{"level", "rule", "kind", "database", "table", "rows", "at"}, rows, "database", "kind"); err != nil {
			return err
		}
		for _, c := range checks {
			if c.Message != "" && c.Code != policy.CodeNotCounted {
				fmt.Fprintln(w)
				paragraph(w, fmt.Sprintf("%-7s  ", c.Level), strings.Repeat(" ", 9), fmt.Sprintf("%s: %s [%s]", c.At, c.Message, c.Code))
			}
		}
		if n := len(uncounted); n > 0 {
			fmt.Fprintln(w)
			text := uncounted[0].Message
			if n > 1 {
				text += fmt.Sprintf(" So it is with %d more.", n-1)
			}
			sentence(w, "", text)
		}
		return nil
	})
	if err != nil || failing == 0 {
		return err
	}
	return &sandglass.Error{Code: codePackUnfit, Op: "check pack", Message: fmt.Sprintf("%s of the pack %s would fail a restore.", count(failing, "item"), name),
		Remedy: "Correct the lines named above, or say required: false where a table or column may be missing."}
}
