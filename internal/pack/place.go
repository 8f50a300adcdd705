package pack

// This file remembers where in its files a pack says what it says.

import (
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// places notes the line of each rule, of the values of its columns and of its condition, and of each question.
func (s source) places(part *Pack) {
	file, err := parser.ParseBytes(s.text, 0)
	if err != nil {
		return // the file was read already, so this is not
	}
	for i := range part.Rules {
		r, at := &part.Rules[i], fmt.Sprintf("$.rules[%d]", i)
		r.At, r.Lines = s.line(file, at+".name"), map[string]string{"where": s.line(file, at+".where")}
		for _, c := range sortedKeys(r.Set) {
			r.Lines[c] = s.line(file, at+".set."+c)
		}
	}
	for key, list := range map[string][]Question{"assertions": part.Assertions, "quiesce": part.Quiesce} {
		for i := range list {
			list[i].At = s.line(file, fmt.Sprintf("$.%s[%d].query", key, i))
		}
	}
}

// line is FILE:LINE of what is at the YAML path, or only the file.
func (s source) line(file *ast.File, at string) string {
	path, err := yaml.PathString(at)
	if err != nil {
		return s.name
	}
	node, err := path.FilterFile(file)
	if err != nil || node.GetToken() == nil {
		return s.name
	}
	return fmt.Sprintf("%s:%d", s.name, node.GetToken().Position.Line)
}
