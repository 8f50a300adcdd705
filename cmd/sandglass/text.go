package main

// Running text: paragraphs and lists that fit the terminal.

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"sandglass"
)

// textWidth is how wide running text is, in characters; less on a terminal that is narrower.
const textWidth = 100

func widthOf(w io.Writer) int {
	if width := terminalWidth(w); width > 0 {
		return min(textWidth, max(width, textWidth/2))
	}
	return textWidth
}

// terminalWidth is how wide the terminal is, in characters; off a terminal what COLUMNS says, or 0.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	width, _ := strconv.Atoi(os.Getenv("COLUMNS")) // not a number: as if it were not there
	return max(width, 0)
}

// paragraph writes a text after head; its further lines begin with hanging.
func paragraph(w io.Writer, head, hanging, text string) {
	paragraphIn(w, widthOf(w), head, hanging, text)
}

// paragraphIn is paragraph in lines of at most width characters.
func paragraphIn(w io.Writer, width int, head, hanging, text string) {
	for i, line := range wrap(text, width-max(utf8.RuneCountInString(head), utf8.RuneCountInString(hanging))) {
		if i > 0 {
			head = hanging
		}
		fmt.Fprintln(w, strings.TrimRight(head+line, " "))
	}
}

// sentence writes a line that is broken on a terminal only, where it is too narrow; elsewhere it stays one, for those who search in it.
func sentence(w io.Writer, indent, text string) {
	width := terminalWidth(w)
	if width == 0 {
		fmt.Fprintln(w, indent+text)
		return
	}
	paragraphIn(w, width, indent, indent+"  ", text)
}

// showError writes the sentence, code and remedy of an error that is part of what is shown.
func showError(w io.Writer, e *sandglass.Error) error {
	sentence(w, "", fmt.Sprintf("%s [%s]", e.Message, e.Code))
	sentence(w, "  ", e.Remedy)
	return nil
}

// list writes a title and its entries, a paragraph each.
func list(w io.Writer, title string, entries []string) {
	fmt.Fprintln(w, title+":")
	for _, e := range entries {
		paragraph(w, "  ", "    ", e)
	}
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

// flow breaks the paragraphs of a help text anew; lines that are indented stay as they are.
func flow(text string, width int) string {
	var out, running []string
	end := func() {
		if len(running) > 0 {
			out, running = append(out, wrap(strings.Join(running, " "), width)...), nil
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || strings.HasPrefix(line, " ") {
			end()
			out = append(out, line)
			continue
		}
		running = append(running, line)
	}
	end()
	return strings.Join(out, "\n")
}
