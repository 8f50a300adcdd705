// Where the items of a pack are written: what is found wrong with one only later, in a copy, is
// quoted with its line too.

package pack

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Place is a line of a pack's file. The zero Place is of a pack that was not read from files.
type Place struct {
	File string
	Line int    // from 1
	Text string // of the line, shortened
}

// String quotes the line.
func (p Place) String() string {
	if p.File == "" {
		return ""
	}
	return fmt.Sprintf("%s, line %d: %s", p.File, p.Line, p.Text)
}

// Short is FILE:LINE.
func (p Place) Short() string {
	if p.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Quoted is the line in brackets after a blank, "" where there is none.
func (p Place) Quoted() string {
	if p.File == "" {
		return ""
	}
	return " (" + p.String() + ")"
}

// quotes are how much of a line is quoted, characters.
const quotes = 70

// places notes in the part that was read from the file where its items are.
func (s source) places(part *Pack) {
	file, err := parser.ParseBytes(s.text, 0)
	if err != nil {
		return // it was decoded a moment ago
	}
	for i := range part.Rules {
		r, at := &part.Rules[i], fmt.Sprintf("$.rules[%d]", i)
		r.At, r.Does = s.place(file, at+".table"), s.place(file, at+"."+r.Action())
		r.Parts = map[string]Place{"where": s.place(file, at+".where")}
		for _, column := range sortedKeys(r.Set) {
			r.Parts["set."+column] = s.place(file, at+".set."+quoted(column))
		}
		for n, row := range r.Insert {
			for _, column := range sortedKeys(row) {
				r.Parts[fmt.Sprintf("insert[%d].%s", n, column)] = s.place(file, fmt.Sprintf("%s.insert[%d].%s", at, n, quoted(column)))
			}
		}
	}
	for i := range part.Assertions {
		part.Assertions[i].At = s.place(file, fmt.Sprintf("$.assertions[%d].query", i))
	}
	for i := range part.Quiesce {
		part.Quiesce[i].At = s.place(file, fmt.Sprintf("$.quiesce[%d].query", i))
	}
	for role, d := range part.Databases {
		d.At = s.place(file, "$.databases."+role)
		// The node is what stands behind the role, often on the line below it.
		if lines := strings.Split(string(s.text), "\n"); d.At.Line > 1 && !strings.Contains(d.At.Text, role+":") && strings.Contains(lines[d.At.Line-2], role+":") {
			d.At.Line, d.At.Text = d.At.Line-1, strings.TrimSpace(lines[d.At.Line-2])
		}
		part.Databases[role] = d
	}
}

// quoted is a key in a YAML path.
func quoted(key string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(key) + "'"
}

func (s source) place(file *ast.File, at string) Place {
	path, err := yaml.PathString(at)
	if err != nil {
		return Place{}
	}
	node, err := path.FilterFile(file)
	if err != nil || node == nil || node.GetToken() == nil {
		return Place{}
	}
	line := node.GetToken().Position.Line
	lines := strings.Split(string(s.text), "\n")
	if line < 1 || line > len(lines) {
		return Place{}
	}
	text := []rune(strings.TrimSpace(lines[line-1]))
	if len(text) > quotes {
		text = append(text[:quotes-1], '…')
	}
	return Place{File: s.name, Line: line, Text: string(text)}
}
