package demo

// This file is how the story looks in a terminal: a quiet column of text, commands as typed, and one sign for each check.

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

type paper struct {
	w     io.Writer
	color bool
}

const (
	styleDim   = "\x1b[2m"
	styleBold  = "\x1b[1m"
	styleGreen = "\x1b[32m"
	styleRed   = "\x1b[31m"
	styleCyan  = "\x1b[36m"
	styleOff   = "\x1b[0m"
)

func (p paper) style(style, s string) string {
	if !p.color {
		return s
	}
	return style + s + styleOff
}

func (p paper) line(s string) { fmt.Fprintln(p.w, s) }

// chapter begins a part of the story.
func (p paper) chapter(title string) {
	p.line(p.style(styleBold, title))
}

// say tells something, wrapped by hand at the caller.
func (p paper) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		p.line("  " + strings.TrimRight(line, "\n"))
	}
}

// prompt shows a command as it can be typed.
func (p paper) prompt(argv []string) {
	shown := make([]string, len(argv))
	for i, a := range argv {
		shown[i] = a
		if a == "" || strings.ContainsAny(a, " '\"*;") {
			shown[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	p.line("  " + p.style(styleCyan, "$ "+strings.Join(shown, " ")))
}

func (p paper) verdictLine(what string, holds bool, detail string) {
	sign := p.style(styleGreen, "✓")
	if !holds {
		sign = p.style(styleRed, "✗")
	}
	if detail != "" {
		what += p.style(styleDim, "  "+detail)
	}
	p.line("  " + sign + " " + what)
}

// indented is a writer that puts a command's output under its prompt.
func (p paper) indented() io.Writer { return &indenter{p: p, fresh: true} }

type indenter struct {
	p     paper
	fresh bool // at the start of a line
}

func (i *indenter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if i.fresh {
			if _, err := io.WriteString(i.p.w, "    "); err != nil {
				return 0, err
			}
			i.fresh = false
		}
		line := b
		if at := bytes.IndexAny(b, "\n\r"); at >= 0 {
			line, i.fresh = b[:at+1], true
		}
		if _, err := i.p.w.Write(line); err != nil {
			return 0, err
		}
		b = b[len(line):]
	}
	return n, nil
}

// shortened leaves out of a command's output what lies between a line that begins with from and the
// next that begins with to, and says so.
func (p paper) shortened(w io.Writer, from, to, note string) io.Writer {
	return &shortener{w: w, from: from, to: to, note: note}
}

type shortener struct {
	w              io.Writer
	from, to, note string
	cutting        bool
	line           []byte // so far
}

func (s *shortener) Write(b []byte) (int, error) {
	for _, c := range b {
		s.line = append(s.line, c)
		if c != '\n' {
			continue
		}
		text := strings.TrimSpace(string(s.line))
		switch {
		case !s.cutting && strings.HasPrefix(text, s.from):
			s.cutting = true
			s.line = []byte(s.note + "\n\n")
		case s.cutting && strings.HasPrefix(text, s.to):
			s.cutting = false
		}
		if !s.cutting || bytes.HasPrefix(s.line, []byte(s.note)) {
			if _, err := s.w.Write(s.line); err != nil {
				return 0, err
			}
		}
		s.line = s.line[:0]
	}
	return len(b), nil
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
