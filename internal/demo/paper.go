package demo

// This file is how the story looks in a terminal: a quiet column of text, commands as typed, and one sign for each check.

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

type paper struct {
	w     *screen
	color bool // it is a terminal
}

// screen is what the paper is written to: whole lines, and below them, on a terminal, one that says what is being done.
type screen struct {
	io.Writer
	mu   sync.Mutex
	busy bool // the last line is such a one
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	return s.Writer.Write(b)
}

func (s *screen) clear() {
	if s.busy {
		fmt.Fprint(s.Writer, "\r\x1b[K")
	}
	s.busy = false
}

func (s *screen) status(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	if text != "" {
		fmt.Fprint(s.Writer, text)
		s.busy = true
	}
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

// busy says on a terminal, for as long as it takes, what is being done; what it gives takes that away again.
func (p paper) busy(what string) (done func()) {
	if !p.color {
		return func() {}
	}
	ended, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 0; ; n++ {
			p.w.status("  " + p.style(styleDim, fmt.Sprintf("... %s, %d s", what, n)))
			select {
			case <-tick.C:
			case <-ended:
				p.w.status("")
				return
			}
		}
	}()
	return func() { close(ended); <-gone }
}

// chapter begins a part of the story.
func (p paper) chapter(title string) {
	p.line(p.style(styleBold, title))
}

// say tells something, a paragraph a line.
func (p paper) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		for _, l := range hang("  ", "  ", strings.TrimRight(line, "\n")) {
			p.line(l)
		}
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
	line := fmt.Sprintf("  %s %-*s", sign, verdictWidth, what)
	if room := width - 6 - max(verdictWidth, utf8.RuneCountInString(what)); detail != "" && utf8.RuneCountInString(detail) > room {
		p.line(strings.TrimRight(line, " "))
		for _, l := range hang("    ", "    ", detail) {
			p.line(p.style(styleDim, l))
		}
		return
	}
	if detail != "" {
		line += "  " + p.style(styleDim, detail)
	}
	p.line(strings.TrimRight(line, " "))
}

// verdictWidth is where the details of checks begin, so that they stand below one another.
const verdictWidth = 44

// width is that of a line, in characters.
const width = 80

// statement shows SQL as it is typed into psql.
func (p paper) statement(database string, sql ...string) {
	for _, s := range sql {
		sign := "=# "
		for line := range strings.Lines(s + ";") {
			p.line("  " + p.style(styleCyan, database+sign+strings.TrimRight(line, "\n")))
			sign = "-# "
		}
	}
}

// cut is a part of a command's output that is left out: from a line that begins so to before one that
// begins so, or to the end.
type cut struct{ from, to, note string }

// output is a writer that puts a command's output under its prompt: indented, wrapped, and without what is cut. Its
// end is to be flushed.
func (p paper) output(cuts []cut) *output { return &output{p: p, cuts: cuts} }

type output struct {
	p      paper
	cuts   []cut
	within *cut
	rest   []byte // an unfinished line
	blank  bool   // the line before was one
}

func (o *output) Write(b []byte) (int, error) {
	o.rest = append(o.rest, b...)
	for {
		at := bytes.IndexByte(o.rest, '\n')
		if at < 0 {
			return len(b), nil
		}
		o.show(string(o.rest[:at]))
		o.rest = o.rest[at+1:]
	}
}

func (o *output) flush() {
	if len(o.rest) > 0 {
		o.show(string(o.rest))
		o.rest = nil
	}
}

func (o *output) show(line string) {
	text := strings.TrimSpace(line)
	if o.within != nil && o.within.to != "" && strings.HasPrefix(text, o.within.to) {
		o.within = nil
	}
	if o.within != nil {
		return
	}
	for i, c := range o.cuts {
		if strings.HasPrefix(text, c.from) {
			o.within = &o.cuts[i]
			if c.note == "" {
				return
			}
			line, text = line[:len(line)-len(strings.TrimLeft(line, " "))]+c.note, c.note
		}
	}
	if text == "" && o.blank {
		return
	}
	o.blank = text == ""
	lines := wrap(line, width-4)
	if strings.HasPrefix(text, "psql ") {
		lines = typed(line, width-4)
	}
	for _, l := range lines {
		o.p.line(strings.TrimRight("    "+l, " "))
	}
}

// typed breaks a command before its options, so that it can still be copied as it stands.
func typed(line string, width int) (lines []string) {
	parts := strings.Split(line, " -")
	now, indent := parts[0], strings.Repeat(" ", len(line)-len(strings.TrimLeft(line, " "))+2)
	for _, option := range parts[1:] {
		if utf8.RuneCountInString(now+" -"+option+` \`) > width {
			lines, now = append(lines, now+` \`), indent+"-"+option
			continue
		}
		now += " -" + option
	}
	return append(lines, now)
}

// wrap breaks a line at blanks; what follows stands two further in than the line began. A line that stands far in is let be.
func wrap(line string, width int) []string {
	text := strings.TrimLeft(line, " ")
	indent := len(line) - len(text)
	if utf8.RuneCountInString(line) <= width || indent > width/2 {
		return []string{line}
	}
	return breakAt(width, line[:indent], strings.Repeat(" ", indent+2), text)
}

// hang breaks a text into lines of the paper, the first behind head, the others behind rest.
func hang(head, rest, text string) []string { return breakAt(width, head, rest, text) }

// breakAt breaks a text at blanks; blanks between columns stay.
func breakAt(width int, head, rest, text string) (lines []string) {
	now := head
	for i, word := range strings.Split(text, " ") {
		if i > 0 && utf8.RuneCountInString(now)+1+utf8.RuneCountInString(word) > width {
			lines, now = append(lines, strings.TrimRight(now, " ")), rest
		} else if i > 0 {
			now += " "
		}
		now += word
	}
	return append(lines, now)
}

// rows writes a table: the last column is text, those before it that begin with a digit are numbers.
func (p paper) rows(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := "  "
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if cell != "" && cell[0] >= '0' && cell[0] <= '9' {
				line += pad + cell + "  "
			} else {
				line += cell + pad + "  "
			}
		}
		p.line(strings.TrimRight(line, " "))
	}
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
