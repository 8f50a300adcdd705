package main

// How a plan is shown.

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"sandglass"
)

// showPlan writes what an operation would do.
func showPlan(w io.Writer, r sandglass.Request, p sandglass.Plan, zone *time.Location) error {
	fmt.Fprintln(w, planTitle(r, p, zone))
	if p.Range != nil {
		fmt.Fprintln(w)
		if err := columns(w, "  ", rangeRows(*p.Range, zone)); err != nil {
			return err
		}
	}
	if len(p.Lines) > 0 {
		fmt.Fprintln(w, "\nWhat happens")
		planLines(w, p.Lines)
		if p.Seconds > 0 {
			fmt.Fprintf(w, "  %s in all; the target stays online until the cutover\n", about(p.Seconds))
		}
	}
	showDatabases(w, p)
	if len(p.NotCopied) > 0 {
		fmt.Fprintln(w, "\nWhat is not copied")
		planLines(w, p.NotCopied)
	}
	if slices.ContainsFunc(p.Findings, func(f sandglass.Finding) bool { return f.Level != sandglass.OK }) {
		fmt.Fprintln(w, "\nFindings")
		findings(w, "  ", p.Findings)
	}
	return nil
}

// planTitle says in a sentence what was asked for.
func planTitle(r sandglass.Request, p sandglass.Plan, zone *time.Location) string {
	switch r.Kind {
	case sandglass.KindRestore, sandglass.KindRefresh, sandglass.KindPeek:
		m := p.Moment
		if m.Kind == "" && r.Moment != nil {
			m = *r.Moment
		}
		source, into := r.Source, " into "+r.Environment
		if r.Kind == sandglass.KindPeek {
			source, into = r.Environment, " to look into, sealed and read-only"
		}
		if m.Kind == sandglass.AtLatest {
			return "Bring " + source + " as it is now" + into
		}
		return "Bring " + source + " as of " + momentText(m, zone) + into
	case sandglass.KindUndo:
		if r.Volume != "" {
			return "Take " + r.Environment + " back to the kept state " + r.Volume
		}
		return "Take " + r.Environment + " back to the state before its last restore"
	}
	return upperFirst(string(r.Kind)) + " " + r.Environment
}

// textWidth is how wide running text is, in characters; less on a terminal that is narrower.
const textWidth = 100

func widthOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return min(textWidth, max(width, textWidth/2))
		}
	}
	return textWidth
}

// planLines writes plan lines: the step, named once, then what and why, how much and how long.
func planLines(w io.Writer, lines []sandglass.PlanLine) {
	widest := 0
	for _, l := range lines {
		widest = max(widest, len(l.Step))
	}
	last := ""
	for _, l := range lines {
		step := l.Step
		if step == last {
			step = ""
		}
		last = l.Step
		text := strings.TrimSuffix(l.What, ".")
		if l.Why != "" {
			text += " (" + strings.TrimSuffix(l.Why, ".") + ")"
		}
		for _, part := range planAmounts(l) {
			text += ", " + part
		}
		head := "  "
		if widest > 0 {
			head = fmt.Sprintf("  %-*s  ", widest, step)
		}
		hanging := strings.Repeat(" ", len(head)+2)
		for i, line := range wrap(text, widthOf(w)-len(hanging)) {
			if i > 0 {
				head = hanging
			}
			fmt.Fprintln(w, head+line)
		}
	}
}

// planAmounts is how much a plan line moves, and how long that takes.
func planAmounts(l sandglass.PlanLine) []string {
	var parts []string
	if l.Bytes > 0 {
		parts = append(parts, sandglass.Bytes(l.Bytes).String())
	}
	if l.Rows > 0 {
		parts = append(parts, thousands(l.Rows)+" rows")
	}
	if l.Seconds > 0 {
		parts = append(parts, about(l.Seconds))
	}
	return parts
}

// wrap breaks a text at blanks into lines of at most width characters; a longer word has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// showDatabases says which databases come along, under which names, and which go first.
func showDatabases(w io.Writer, p sandglass.Plan) {
	var names []string
	for _, source := range slices.Sorted(maps.Keys(p.Databases)) {
		if as := p.Databases[source]; as != "" && as != source {
			source += " as " + as
		}
		names = append(names, source)
	}
	if len(names) > 0 {
		fmt.Fprintf(w, "\nDatabases that come along: %s\n", strings.Join(names, ", "))
	}
	if len(p.Dropped) > 0 {
		fmt.Fprintf(w, "Databases that do not, as no role names them: %s\n", strings.Join(p.Dropped, ", "))
	}
}
