package main

// How a plan is shown.

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/preflight"
)

// showPlan writes what an operation would do, with those of its findings that are to be told here.
func showPlan(w io.Writer, r sandglass.Request, p sandglass.Plan, zone *time.Location, told []sandglass.Finding) error {
	sentence(w, "", planTitle(r, p, zone))
	if p.Range != nil {
		fmt.Fprintln(w)
		if err := pairs(w, "  ", rangeRows(*p.Range, zone)); err != nil {
			return err
		}
	}
	if !p.Stopped() { // then nothing of it happens
		showWork(w, r, p, zone)
	}
	if slices.ContainsFunc(told, func(f sandglass.Finding) bool { return f.Level != sandglass.OK }) {
		fmt.Fprintln(w, "\nFindings")
		findings(w, "  ", told)
	}
	return nil
}

// showWork writes what happens, how long it takes, and what does not come along.
func showWork(w io.Writer, r sandglass.Request, p sandglass.Plan, zone *time.Location) {
	if len(p.Lines) > 0 {
		fmt.Fprintln(w, "\nWhat happens")
		planLines(w, p.Lines, zone)
		if p.Seconds > 0 {
			fmt.Fprintf(w, "  %s in all%s\n", about(p.Seconds), meanwhile(r, p))
		}
	}
	showDatabases(w, p)
	for rest := slices.Clone(p.NotCopied); len(rest) > 0; {
		title, pack, n := "\nWhat is not copied", rest[0].Step, 0
		if pack != "" {
			title += ", by the pack " + pack
		}
		for ; n < len(rest) && rest[n].Step == pack; n++ {
			rest[n].Step = "" // it is in the title
		}
		fmt.Fprintln(w, title)
		planLines(w, rest[:n], zone)
		rest = rest[n:]
	}
}

// meanwhile says how the target is until its cutover.
func meanwhile(r sandglass.Request, p sandglass.Plan) string {
	switch {
	case r.Kind == sandglass.KindPeek:
		return ""
	case slices.ContainsFunc(p.Findings, func(f sandglass.Finding) bool { return f.Code == preflight.CodeFirstRestore }):
		return "; " + r.Environment + " is empty until then"
	}
	return "; " + r.Environment + " stays online until the cutover"
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

// planLines writes plan lines: the step, named once, then what and why, how much and how long.
func planLines(w io.Writer, lines []sandglass.PlanLine, zone *time.Location) {
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
		paragraph(w, head, strings.Repeat(" ", len(head)+2), withTimes(text, zone))
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
		fmt.Fprintln(w)
		paragraph(w, "", "  ", "Databases that come along: "+strings.Join(names, ", "))
	}
	if len(p.Dropped) > 0 {
		paragraph(w, "", "  ", "Databases that do not, as no role names them: "+strings.Join(p.Dropped, ", "))
	}
}
