package main

// What people are told to type is there to be typed: every command that a text of the code or of the documentation names exists.

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named finds "sandglass COMMAND [COMMAND]" after a backquote, a colon or a shell's prompt.
var named = regexp.MustCompile("(?:`|: |\\$ )sandglass ([a-z]+)(?: ([a-z]+))?")

func TestNamedCommandsExist(t *testing.T) {
	root := newRoot(&app{stdout: os.Stdout, getenv: os.Getenv})
	root.InitDefaultHelpCmd() // as its execution does
	seen := 0
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext != ".go" && ext != ".md" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			if m[1] == "repository" { // the kind in repo.json, not a command
				continue
			}
			seen++
			c, _, err := root.Find([]string{m[1]})
			if err != nil || c == root {
				t.Errorf("%s names %q: there is no such command", path, m[0])
				continue
			}
			if m[2] == "" || strings.Contains(c.Use, " ") { // nothing, or an argument, follows
				continue
			}
			if below, _, err := c.Find([]string{m[2]}); err != nil || below == c {
				t.Errorf("%s names %q: there is no such command", path, m[0])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Errorf("only %d commands were found in the texts", seen)
	}
}
