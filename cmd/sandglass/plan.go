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
)

// showPlan writes what an operation would do.
func showPlan(w io.Writer, r sandglass.Request, p sandglass.Plan, zone *time.Location) error {
	fmt.Fprintf(w, "%s\n\n", planTitle(r, p, zone))
	if p.Range != nil {
		if err := columns(w, "  ", rangeRows(*p.Range, zone)); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if len(p.Lines) > 0 {
		fmt.Fprintln(w, "What happens")
		if err := columns(w, "  ", planRows(p.Lines)); err != nil {
			return err
		}
		if p.Seconds > 0 {
			fmt.Fprintf(w, "  %s in all; the target stays online until the cutover\n", about(p.Seconds))
		}
	}
	showDatabases(w, p)
	if len(p.NotCopied) > 0 {
		fmt.Fprintln(w, "\nWhat is not copied")
		if err := columns(w, "  ", planRows(p.NotCopied)); err != nil {
			return err
		}
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

// planRows are plan lines as cells: step, what and why, how much, how long. A step is named once.
func planRows(lines []sandglass.PlanLine) [][]string {
	var rows [][]string
	last := ""
	for _, l := range lines {
		step := l.Step
		if step == last {
			step = ""
		}
		last = l.Step
		what := l.What
		if l.Why != "" {
			what += " (" + strings.TrimSuffix(l.Why, ".") + ")"
		}
		var amount []string
		if l.Bytes > 0 {
			amount = append(amount, sandglass.Bytes(l.Bytes).String())
		}
		if l.Rows > 0 {
			amount = append(amount, thousands(l.Rows)+" rows")
		}
		expected := ""
		if l.Seconds > 0 {
			expected = about(l.Seconds)
		}
		rows = append(rows, []string{step, what, strings.Join(amount, ", "), expected})
	}
	return rows
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
