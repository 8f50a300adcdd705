package main

// The live view of an operation: on a terminal one line that changes for the running step, else a line for each step as it ends.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"sandglass"
)

// line is a line that can be shown again and again where it stands; off a terminal it shows nothing.
type line struct {
	w     io.Writer
	width int // of the terminal; 0 off a terminal
	shown bool
}

func (a *app) newLine(w io.Writer) *line {
	l := &line{w: w}
	if f, ok := w.(*os.File); ok && !a.json && a.getenv("TERM") != "dumb" {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			l.width = width
		}
	}
	return l
}

// show replaces the line's text.
func (l *line) show(text string) {
	if l.width == 0 {
		return
	}
	if r := []rune(text); len(r) >= l.width {
		text = string(r[:max(l.width-1, 0)])
	}
	fmt.Fprint(l.w, "\r\x1b[K"+text)
	l.shown = true
}

// end takes the line away, so that something else can be written.
func (l *line) end() {
	if l.shown {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.shown = false
	}
}

// view shows an operation's steps as they go by.
type view struct {
	out    io.Writer
	line   *line
	told   map[string]sandglass.State // the last state told of each step
	noted  string
	widest int
}

func (a *app) newView() *view {
	v := &view{out: a.stdout, line: a.newLine(a.stdout), told: map[string]sandglass.State{}}
	if a.json {
		v.out = io.Discard
	}
	return v
}

// note says something once, until something else is known.
func (v *view) note(text string) {
	if v.noted != text {
		v.line.end()
		fmt.Fprintln(v.out, text)
		v.noted = text
	}
}

// show tells what has changed: a line for each step that came to an end, and the live one for the running step.
func (v *view) show(o sandglass.Operation, now time.Time) {
	for _, s := range o.Steps {
		v.widest = max(v.widest, len(s.Name))
	}
	live := ""
	for _, s := range o.Steps {
		switch s.State {
		case sandglass.Running, sandglass.Undoing:
			live = v.liveText(s, now)
		case sandglass.Done, sandglass.Failed, sandglass.Undone, sandglass.Skipped:
			if v.told[s.Name] != s.State {
				v.told[s.Name], v.noted = s.State, ""
				v.line.end()
				fmt.Fprintln(v.out, v.endText(s))
			}
		}
	}
	switch {
	case live != "":
		v.line.show(live)
	case o.State == sandglass.Queued:
		v.line.show("  waiting to begin")
	}
}

func (v *view) liveText(s sandglass.Step, now time.Time) string {
	text := fmt.Sprintf("  %-*s  ", v.widest, s.Name)
	if s.State == sandglass.Undoing {
		text += "going back  "
	}
	if s.Progress != nil {
		return text + progressText(*s.Progress)
	}
	if !s.Began.IsZero() {
		text += span(max(now.Sub(s.Began), 0))
	}
	return text
}

func (v *view) endText(s sandglass.Step) string {
	text := fmt.Sprintf("  %-*s  %-7s", v.widest, s.Name, s.State)
	if s.State != sandglass.Skipped && !s.Began.IsZero() && !s.Ended.IsZero() {
		text += fmt.Sprintf("  %10s", span(s.Ended.Sub(s.Began)))
	}
	switch {
	case s.Error != nil && s.State == sandglass.Failed:
		text += "  " + s.Error.Message
	case s.Progress != nil && s.State == sandglass.Done && s.Progress.Done > 0:
		text += "  " + amount(s.Progress.Done, s.Progress.Unit)
	}
	return strings.TrimRight(text, " ")
}

// progressText is a progress in words: "1.2 GiB of 4.1 GiB  29 %  about 12 s left".
func progressText(p sandglass.Progress) string {
	text := amount(p.Done, p.Unit)
	if p.Total > 0 {
		text += fmt.Sprintf(" of %s  %d %%", amount(p.Total, p.Unit), min(p.Done*100/p.Total, 100))
		if p.ETA >= 0 {
			text += "  " + about(p.ETA) + " left"
		}
	}
	if p.Note != "" {
		text += "  " + p.Note
	}
	return text
}

// amount is a number of a unit; bytes as people say them.
func amount(n int64, unit string) string {
	if unit == "bytes" {
		return sandglass.Bytes(n).String()
	}
	return strings.TrimSpace(thousands(n) + " " + unit)
}

var errInterrupted = errors.New("interrupted")

// readAnswer reads a line from the terminal, or ends with errInterrupted, or with ctx.
func (a *app) readAnswer(ctx context.Context, interrupts <-chan os.Signal) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok {
		return "", io.EOF
	}
	for {
		select {
		case <-interrupts:
			return "", errInterrupted
		case <-ctx.Done():
			return "", ctx.Err()
		default:
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, 100) // ms: how soon Ctrl-C is seen
		if err != nil && !errors.Is(err, unix.EINTR) {
			return "", fmt.Errorf("wait for an answer: %w", err)
		}
		if ready > 0 {
			text, err := bufio.NewReader(f).ReadString('\n')
			if err != nil && text == "" {
				return "", fmt.Errorf("read answer: %w", err)
			}
			return strings.TrimSpace(text), nil
		}
	}
}

// confirm has the name typed; anything else cancels, and so does Ctrl-C, which ends a command's context.
func (a *app) confirm(ctx context.Context, name string) error {
	if a.json || !terminal(a.stdin) {
		return usage("Add --yes.", "There is no terminal to confirm on.")
	}
	fmt.Fprintf(a.stdout, "\nType %s to go on: ", name)
	text, err := a.readAnswer(ctx, nil)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if text != name {
		return &sandglass.Error{Code: sandglass.CodeCancelled, Op: "confirm", Message: "That is not its name; nothing was changed."}
	}
	return nil
}
