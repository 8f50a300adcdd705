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

// table writes rows under a head, aligned; cells that are empty show as "-". On a terminal that is too narrow columns without
// anything in them are left out, then those that spare names, in its order, and at last the widest cells are cut; --json has all.
func table(w io.Writer, head []string, rows [][]string, spare ...string) error {
	all := append([][]string{head}, rows...)
	if width := terminalWidth(w); width > 0 {
		all = fit(all, width, spare)
	}
	shown := make([][]string, len(all))
	for i, row := range all {
		shown[i] = slices.Clone(row)
		for j, cell := range row {
			switch {
			case i == 0:
				name, unit, _ := strings.Cut(cell, "(")
				shown[i][j] = strings.TrimSuffix(strings.ToUpper(name)+"("+unit, "(")
			case cell == "":
				shown[i][j] = "-"
			}
		}
	}
	return columns(w, "", shown)
}

// leastCut is how short a cell is cut at most, in characters.
const leastCut = 8

// fit makes a table, whose first row is its head, no wider than width where that can be had.
func fit(rows [][]string, width int, spare []string) [][]string {
	rows = slices.Clone(rows)
	empty := func(column int) bool {
		return !slices.ContainsFunc(rows[1:], func(row []string) bool { return strings.TrimSpace(row[column]) != "" })
	}
	drop := func(column int) {
		for i, row := range rows {
			rows[i] = slices.Delete(slices.Clone(row), column, column+1)
		}
	}
	tooWide := func(widths []int) int {
		sum := 2 * (len(widths) - 1) // between columns
		for _, n := range widths {
			sum += n
		}
		return sum - width
	}
	for i := len(rows[0]) - 1; i >= 0 && tooWide(widthsOf(rows)) > 0; i-- {
		if empty(i) {
			drop(i)
		}
	}
	for _, name := range spare {
		if i := slices.Index(rows[0], name); i >= 0 && tooWide(widthsOf(rows)) > 0 {
			drop(i)
		}
	}
	for widths := widthsOf(rows); ; widths = widthsOf(rows) {
		widest := slices.Index(widths, slices.Max(widths))
		over := tooWide(widths)
		to := max(widths[widest]-over, leastCut)
		if over <= 0 || to >= widths[widest] {
			return rows
		}
		for i, row := range rows {
			rows[i] = slices.Clone(row)
			rows[i][widest] = cut(row[widest], to)
		}
	}
}

// cut shortens a text to at most n characters.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return strings.TrimRight(string(r[:n-2]), " ,") + ".."
	}
	return text
}

func widthsOf(rows [][]string) (widths []int) {
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// columns writes rows aligned, without a head; a column that is empty in all rows takes no room, and no line ends in blanks.
func columns(w io.Writer, indent string, rows [][]string) error {
	widths := widthsOf(rows)
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

// pairs writes rows of a name and its value, which takes several lines where the terminal is too narrow.
func pairs(w io.Writer, indent string, rows [][]string) error {
	width := terminalWidth(w)
	if width == 0 {
		return columns(w, indent, rows)
	}
	names := widthsOf(rows)[0]
	for _, row := range rows {
		head := fmt.Sprintf("%s%-*s  ", indent, names, row[0])
		paragraphIn(w, width, head, strings.Repeat(" ", len(head)), row[1])
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
		hanging := indent + strings.Repeat(" ", 9)
		paragraph(w, fmt.Sprintf("%s%-7s  ", indent, f.Level), hanging, fmt.Sprintf("%s [%s]%s", f.Message, f.Code, accepted))
		if f.Remedy != "" {
			paragraph(w, hanging, hanging, f.Remedy)
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
