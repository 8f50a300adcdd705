package main

// Small aligned tables, and the words of lists.

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sandglass"
)

// table writes rows under a head, aligned; cells that are empty show as "-". No trailing blanks.
func table(w io.Writer, head []string, rows [][]string) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(head, "\t")))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			if cells[i] = strings.ReplaceAll(c, "\n", " "); c == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return flush(w, t, &b)
}

// columns writes rows aligned, without a head.
func columns(w io.Writer, indent string, rows [][]string) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, indent+strings.Join(row, "\t"))
	}
	return flush(w, t, &b)
}

func flush(w io.Writer, t *tabwriter.Writer, b *strings.Builder) error {
	if err := t.Flush(); err != nil {
		return fmt.Errorf("align table: %w", err)
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}

// findings writes findings, those that are ok left out; nothing at all when none is left.
func findings(w io.Writer, indent string, all []sandglass.Finding) {
	for _, f := range all {
		if f.Level == sandglass.OK {
			continue
		}
		accepted := ""
		if f.Accepted {
			accepted = " (accepted)"
		}
		fmt.Fprintf(w, "%s%-7s  %s [%s]%s\n", indent, f.Level, f.Message, f.Code, accepted)
		if f.Remedy != "" {
			fmt.Fprintf(w, "%s         %s\n", indent, f.Remedy)
		}
	}
}

// count writes "1 image", "2 images".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// thousands writes a number with its digits in groups of three.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}
