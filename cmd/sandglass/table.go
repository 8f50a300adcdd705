package main

// Small aligned tables, and the words of lists.

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"sandglass"
)

// table writes rows under a head, aligned; cells that are empty show as "-".
func table(w io.Writer, head []string, rows [][]string) error {
	all := [][]string{make([]string, len(head))}
	for i, h := range head {
		name, unit, _ := strings.Cut(h, "(")
		all[0][i] = strings.TrimSuffix(strings.ToUpper(name)+"("+unit, "(")
	}
	for _, row := range rows {
		row = slices.Clone(row)
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		all = append(all, row)
	}
	return columns(w, "", all)
}

// columns writes rows aligned, without a head; a column that is empty in all rows takes no room, and no line ends in blanks.
func columns(w io.Writer, indent string, rows [][]string) error {
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
		line := indent
		for i, cell := range row {
			if widths[i] > 0 {
				line += strings.ReplaceAll(cell, "\n", " ") + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
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
