package main

// What all commands share: the streams, the clock, the global flags, the client, and how errors end.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sandglass"
	"sandglass/client"
)

// app is one run of the command line.
type app struct {
	base           context.Context // ended by SIGTERM; a command's own context ends by Ctrl-C too
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	local          *time.Location

	state     string // folder
	server    string // URL, when not over the state folder's socket
	tokenFile string
	json      bool

	args  []string // as typed
	began bool     // a command runs: what was typed is understood
}

// exitCode is an error that has been told already, or needs no telling: only the code is left.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run runs the command line and returns the exit code.
func (a *app) run(args []string) int {
	ctx, stop := signal.NotifyContext(a.base, os.Interrupt)
	defer stop()
	a.args = args
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	return a.fail(root.ExecuteContext(ctx))
}

// fail tells an error and returns its exit code.
func (a *app) fail(err error) int {
	if err == nil {
		return sandglass.ExitDone
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.stderr)
		return sandglass.ExitCancelled
	}
	e, ours := errors.AsType[*sandglass.Error](err)
	switch {
	case !ours && !a.began: // cobra's own
		e = &sandglass.Error{Code: sandglass.CodeUsage, Message: upperFirst(strings.TrimSuffix(err.Error(), ".")) + ".", Remedy: "See `sandglass --help`."}
	case !ours: // of this process itself: its cause is the best that can be said
		e = &sandglass.Error{Code: sandglass.CodeInternal, Message: strings.TrimSuffix(err.Error(), ".") + "."}
	}
	_, exit := sandglass.Outcome(e.Code)
	if _, ok := errors.AsType[rolledBack](err); ok {
		exit = sandglass.ExitFailed
	}
	if _, ok := errors.AsType[refusedByPreflight](err); ok {
		exit = sandglass.ExitRefused
	}
	if a.json {
		shown := *e
		shown.Op = ""
		_ = json.NewEncoder(a.stderr).Encode(&shown) // there is nowhere else to say it
		return exit
	}
	a.tell("sandglass: ", e)
	if !e.Before.IsZero() {
		fmt.Fprintf(a.stderr, "  nearest before: %s\n", both(e.Before, a.local))
	}
	if !e.After.IsZero() {
		fmt.Fprintf(a.stderr, "  nearest after:  %s\n", both(e.After, a.local))
	}
	return exit
}

// tell writes an error's sentence, code and remedy to the standard error. A sentence of several lines quotes a file, and stays as it is.
func (a *app) tell(head string, e *sandglass.Error) {
	text := fmt.Sprintf("%s%s [%s]", head, e.Message, e.Code)
	if strings.Contains(text, "\n") {
		fmt.Fprintln(a.stderr, text)
	} else {
		sentence(a.stderr, "", text)
	}
	if e.Remedy != "" {
		sentence(a.stderr, "  ", e.Remedy)
	}
}

// usage is a refusal of what was typed.
func usage(remedy, format string, args ...any) error {
	return &sandglass.Error{Code: sandglass.CodeUsage, Op: "read command", Message: fmt.Sprintf(format, args...), Remedy: remedy}
}

// stateFolder is where the state is: --state, SANDGLASS_STATE, or the default of the user.
func (a *app) stateFolder() (string, error) {
	dir := a.state
	if dir == "" {
		dir = a.getenv("SANDGLASS_STATE")
	}
	switch home := a.getenv("HOME"); {
	case dir != "":
	case os.Geteuid() == 0:
		dir = "/var/lib/sandglass"
	case a.getenv("XDG_STATE_HOME") != "":
		dir = filepath.Join(a.getenv("XDG_STATE_HOME"), "sandglass")
	case home != "":
		dir = filepath.Join(home, ".local", "state", "sandglass")
	default:
		return "", usage("Name it with --state or SANDGLASS_STATE.", "There is no home folder, so the state folder is not known.")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find state folder: %w", err)
	}
	return abs, nil
}

// client is a client of the control plane that the flags name.
func (a *app) client() (*client.Client, error) {
	url := a.server
	if url == "" && a.state == "" {
		url = a.getenv("SANDGLASS_SERVER")
	}
	if url == "" {
		dir, err := a.stateFolder()
		if err != nil {
			return nil, err
		}
		return client.New(client.Options{Socket: filepath.Join(dir, "api.sock")})
	}
	file := a.tokenFile
	if file == "" {
		file = a.getenv("SANDGLASS_TOKEN_FILE")
	}
	if file == "" {
		return nil, usage("Name the file that holds it with --token-file or SANDGLASS_TOKEN_FILE.", "A control plane over TCP needs a token.")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, usage("Name the file that holds the token with --token-file.", "The token file can't be read: %v.", err)
	}
	fields := strings.Fields(string(content))
	if len(fields) == 0 || len(fields) > 2 {
		return nil, usage("It holds the token alone, or NAME TOKEN.", "%s is not a token file.", file)
	}
	return client.New(client.Options{URL: url, Token: fields[len(fields)-1]})
}

// asks is a command that asks the control plane.
func (a *app) asks(do func(ctx context.Context, cl *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		return do(c.Context(), cl, args)
	}
}

// asksOf is asks for a command on the environment that is its first argument, with that one's zone.
func (a *app) asksOf(do func(ctx context.Context, cl *client.Client, zone *time.Location, args []string) error) func(*cobra.Command, []string) error {
	return a.asks(func(ctx context.Context, cl *client.Client, args []string) error {
		zone, err := a.zoneOf(ctx, cl, args[0])
		if err != nil {
			return err
		}
		return do(ctx, cl, zone, args)
	})
}

// print writes v as JSON when --json asks for it, else calls text with a writer for people.
func (a *app) print(v any, text func(w io.Writer) error) error {
	if !a.json {
		return text(a.stdout)
	}
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// say writes a line for people; with --json there is none.
func (a *app) say(format string, args ...any) {
	if !a.json {
		fmt.Fprintf(a.stdout, format+"\n", args...)
	}
}

// terminal says whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// utf8 says whether people's terminal shows more than ASCII.
func (a *app) utf8() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := a.getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}
