// Package demo is the main job of Sandglass told in two minutes, on a production, a sandbox and a control
// plane of its own: an accident in production, the moment before it brought into the sandbox
// while that stays online, the lost rows found again, and the way back. It is a user like
// any other: it runs the commands a person would type, asks through the public client, and believes only what it measured itself.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"sandglass"
	"sandglass/client"
	"sandglass/internal/pgtest"
)

// Options say how the demo is run.
type Options struct {
	Binary string // of sandglass itself
	Dir    string // everything lies here; DefaultDir by default
	Out    io.Writer
	Color  bool
	Once   bool // take everything down at the end
}

// ErrChecks says that the story was told to its end, but that not every check held.
var ErrChecks = errors.New("not every check held")

// DefaultDir is where a demo of this user lies: short, for PostgreSQL's Unix sockets, and open to the server's user.
func DefaultDir() string {
	return filepath.Join("/tmp", "sandglass-demo-"+strconv.Itoa(os.Geteuid()))
}

// Run tells the story. Without Once a good end leaves everything running, for Down to end; on any
// error, and when ctx ends, everything is taken down. The error is ErrChecks when a check did not hold.
func Run(ctx context.Context, o Options) error {
	s := &story{Options: o, paper: paper{w: &screen{Writer: o.Out}, color: o.Color}, began: time.Now()}
	if err := prepareDir(ctx, o.Dir, s.paper); err != nil {
		return err
	}
	s.say("Sandglass in one to two minutes, on servers of its own: rows are deleted in production by mistake; the moment before that is restored into a sandbox, safe to use; and the rows come back. Every line with a ✓ was checked just now. Ctrl-C ends it and leaves nothing.")
	s.say("Everything lies in %s.", o.Dir)
	s.line("")
	err := s.tell(ctx)
	if err == nil && !o.Once {
		s.hints()
		return errors.Join(s.verdict(), os.Remove(filepath.Join(o.Dir, "demo.pid")))
	}
	if ctx.Err() != nil {
		err = ctx.Err() // asked for: nothing went wrong, and nothing is to be left
		s.line("")
	} else if err != nil {
		s.keepLogs()
	}
	s.chapter("Taking everything down")
	done := s.busy("ending servers, removing files")
	downErr := Down(o.Dir)
	done()
	if downErr != nil {
		s.check("no process, no mount and no file is left", false, downErr.Error())
	} else {
		s.check("no process, no mount and no file is left", true, "")
	}
	if err != nil {
		return err
	}
	s.line("")
	s.summary()
	return s.verdict()
}

// prepareDir makes the demo's folder; a demo that was left there is taken down first.
func prepareDir(ctx context.Context, dir string, p paper) error {
	if len(dir) > 60 {
		return fmt.Errorf("the folder %s is too long for PostgreSQL's Unix sockets; use a shorter one", dir)
	}
	if _, err := os.Stat(dir); err == nil {
		if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
			return fmt.Errorf("%s exists and is not a demo's folder; choose another with --dir", dir)
		}
		p.line("A demo was left in " + dir + "; taking it down first.")
		if err := Down(dir); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, marker), []byte("Made by `sandglass demo`; `sandglass demo --down` removes it.\n"), 0o644); err != nil {
		return err
	}
	return writePid(dir, "demo", os.Getpid())
}

const marker = "sandglass-demo"

// story is one telling of the demo.
type story struct {
	Options
	paper
	began  time.Time
	client *client.Client
	prod   *pgtest.Cluster
	uat    sandbox
	loss   loss
	// restored is the finished restore, and result what it came to.
	restored sandglass.Operation
	result   sandglass.Result
	// took and silent are how long it took, and the longest time in it without an answer from uat.
	took, silent time.Duration
	postings     int64 // in production, when the restore began
	failed       []string
	facts        []fact
}

// fact is one line of the summary.
type fact struct{ name, value string }

func (s *story) state() string { return filepath.Join(s.Dir, "state") }

// command runs a sandglass command as a person would, shows it without what is cut, and gives the time it took.
func (s *story) command(ctx context.Context, cuts []cut, args ...string) (time.Duration, error) {
	s.prompt(append([]string{"sandglass"}, args...))
	cmd, out := s.sandglass(ctx, args...), s.output(cuts)
	cmd.Stdout, cmd.Stderr = out, out
	done := s.busy("sandglass " + args[0])
	begin := time.Now()
	err := cmd.Run()
	done()
	out.flush()
	if err != nil {
		return 0, fmt.Errorf("sandglass %s: %w", args[0], err)
	}
	return time.Since(begin), nil
}

func (s *story) sandglass(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Binary, args...)
	cmd.Env = append(os.Environ(), "SANDGLASS_STATE="+s.state(), "NO_COLOR=1", "COLUMNS="+strconv.Itoa(width-4))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// check tells whether something holds, and remembers if it does not.
func (s *story) check(what string, holds bool, detail string) {
	if !holds {
		s.failed = append(s.failed, what)
	}
	s.verdictLine(what, holds, detail)
}

func (s *story) verdict() error {
	s.line("")
	if len(s.failed) == 0 {
		s.line(s.style(styleGreen, "Every check held."))
		return nil
	}
	for _, f := range s.failed {
		s.line("  did not hold: " + f)
	}
	return ErrChecks
}

// keepLogs copies what an error can be understood from, since the folder goes.
func (s *story) keepLogs() {
	log, err := os.ReadFile(filepath.Join(s.Dir, "serve.log"))
	if err != nil || len(log) == 0 {
		return
	}
	kept := fmt.Sprintf("%s-%d-%s.log", DefaultDir(), os.Getpid(), time.Now().UTC().Format("20060102t150405"))
	if os.WriteFile(kept, log, 0o600) == nil {
		s.line("The log of `sandglass serve` is kept in " + kept)
	}
}
