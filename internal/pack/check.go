// What a pack must be besides well-formed: names once, roles known, one action a rule.

package pack

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

var itemName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// actions are the keys of which a rule has exactly one.
var actions = []string{"set", "clear", "empty", "delete", "insert", "keep", "merge", "mask"}

// keys are the keys that each item of the file's lists was written with: a key with an empty
// value counts too.
type keys struct {
	Rules      []map[string]any `yaml:"rules"`
	Assertions []map[string]any `yaml:"assertions"`
	Quiesce    []map[string]any `yaml:"quiesce"`
}

// check judges one file's part of a pack; all is what pack.yaml and the files before it have
// given (for pack.yaml itself, the same).
func (s source) check(part, all Pack, first bool) error {
	var k keys
	if err := yaml.Unmarshal(s.text, &k); err != nil {
		return s.refuse(CodeInvalid, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if first {
		all.Rules, all.Assertions, all.Quiesce = nil, nil, nil
	}
	for i, v := range part.Versions {
		if err := s.version(fmt.Sprintf("$.versions[%d]", i), v, all); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, r := range all.Rules {
		seen[r.Name] = true
	}
	for i, r := range part.Rules {
		at := fmt.Sprintf("$.rules[%d]", i)
		if err := s.item(at, r.Name, r.Why, r.Database, r.Table, seen, all); err != nil {
			return err
		}
		if err := s.action(at, r, k.Rules[i]); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		key          string
		part, before []Question
		keys         []map[string]any
	}{{"assertions", part.Assertions, all.Assertions, k.Assertions}, {"quiesce", part.Quiesce, all.Quiesce, k.Quiesce}} {
		seen := map[string]bool{}
		for _, q := range list.before {
			seen[q.Name] = true
		}
		for i, q := range list.part {
			if err := s.question(fmt.Sprintf("$.%s[%d]", list.key, i), q, list.keys[i], seen, all); err != nil {
				return err
			}
		}
	}
	for key, texts := range map[string][]Text{"not_copied": part.NotCopied, "checklist": part.Checklist} {
		for i, t := range texts {
			if t.What == "" {
				return s.bad(fmt.Sprintf("$.%s[%d]", key, i), "what is missing")
			}
		}
	}
	return nil
}

func (s source) version(at string, v VersionRule, all Pack) error {
	switch {
	case all.Components[v.Component] == "":
		return s.bad(at, "the pack's components name no %q", v.Component)
	case (v.Target == "") == (v.Above == ""):
		return s.bad(at, "a version rule has either target or above")
	case v.Target != "" && v.Target != equal && v.Target != atLeast:
		return s.bad(at+".target", "target is %q or %q", equal, atLeast)
	case v.Why == "":
		return s.bad(at, "why is missing")
	}
	return nil
}

// item judges what rules and questions share.
func (s source) item(at, name, why, database, table string, seen map[string]bool, all Pack) error {
	if !itemName.MatchString(name) {
		return s.bad(at, "a name is needed: lower-case letters, digits and dashes")
	}
	if seen[name] {
		return s.bad(at+".name", "the name %s is there twice", name)
	}
	seen[name] = true
	if why == "" {
		return s.bad(at, "why is missing")
	}
	if _, ok := all.Databases[database]; !ok {
		if database == "" {
			return s.bad(at, "database is missing: one of %s", strings.Join(sortedKeys(all.Databases), ", "))
		}
		return s.bad(at+".database", "the pack's databases name no role %q", database)
	}
	schema, rest, qualified := strings.Cut(table, ".")
	if qualified && (schema == "" || rest == "" || strings.HasPrefix(schema, "pg_") || schema == "information_schema" || schema == "sandglass") {
		return s.bad(at+".table", "a table is NAME or SCHEMA.NAME, of the application's own schemas")
	}
	return nil
}

func (s source) action(at string, r Rule, written map[string]any) error {
	if r.Table == "" {
		return s.bad(at, "table is missing")
	}
	var has []string
	for _, a := range actions {
		if _, ok := written[a]; ok {
			has = append(has, a)
		}
	}
	switch {
	case len(has) == 0:
		return s.bad(at, "a rule needs one of set, clear, empty, delete, insert, keep, merge")
	case len(has) > 1:
		return s.bad(at+"."+has[1], "a rule has one action, this one has %s", strings.Join(has, " and "))
	}
	if !r.Carries() {
		for _, k := range []string{"key", "columns", "on_conflict"} {
			if _, ok := written[k]; ok {
				return s.bad(at+"."+k, "%s belongs to keep or merge", k)
			}
		}
	}
	if _, ok := written["where"]; ok && strings.TrimSpace(r.Where) == "" {
		return s.bad(at+".where", "where is empty; leave it out to mean all rows")
	}
	if _, ok := written["secret"]; ok && (len(r.SecretColumns()) == 0 || slices.Contains(r.SecretColumns(), "") || has[0] == "insert") {
		return s.bad(at+".secret", "secret is true, with set or clear, or a list of columns that production has values in")
	}
	here := at + "." + has[0]
	switch has[0] {
	case "keep", "merge":
		return s.carry(at, has[0], r, written)
	case "mask":
		return s.refuse(CodeNotYet, s.quote(here, "mask is a reserved name; it is not done yet by this version of Sandglass"))
	case "set":
		return s.expressions(here, r.Set)
	case "clear":
		if !each(r.Clear) {
			return s.bad(here, "clear is a list of columns, each once")
		}
	case "empty":
		if !r.Empty {
			return s.bad(here, "empty is true, or left out")
		}
		if r.Where != "" {
			return s.bad(at+".where", "empty takes all rows; use delete for some")
		}
	case "delete":
		if !r.Delete {
			return s.bad(here, "delete is true, or left out")
		}
	case "insert":
		if len(r.Insert) == 0 {
			return s.bad(here, "insert is a list of rows, each a column and its SQL expression a line")
		}
		for i, row := range r.Insert {
			if err := s.expressions(fmt.Sprintf("%s[%d]", here, i), row); err != nil {
				return err
			}
		}
	}
	return nil
}

// each says whether the list has columns, and each once.
func each(columns []string) bool {
	names := slices.Sorted(slices.Values(columns))
	return len(names) > 0 && names[0] != "" && len(slices.Compact(names)) == len(columns)
}

// carry judges a rule about rows that stay the sandbox's own.
func (s source) carry(at, action string, r Rule, written map[string]any) error {
	if cmp.Or(r.Keep, r.Merge) != Target {
		return s.bad(at+"."+action, "%s is %s: the rows of the sandbox that is restored", action, Target)
	}
	for _, list := range []struct {
		name    string
		columns []string
	}{{"key", r.Key}, {"columns", r.Only}} {
		if _, ok := written[list.name]; !ok {
			continue
		}
		if action == "keep" {
			return s.bad(at+"."+list.name, "%s belongs to merge; keep takes whole rows", list.name)
		}
		if !each(list.columns) {
			return s.bad(at+"."+list.name, "%s is a list of columns, each once", list.name)
		}
	}
	for _, c := range r.Only {
		if slices.Contains(r.Key, c) {
			return s.bad(at+".columns", "%s is in key; columns are what is carried into the row with that key", c)
		}
	}
	if _, ok := written["on_conflict"]; ok && r.OnConflict != "skip" && r.OnConflict != "stop" {
		return s.bad(at+".on_conflict", "on_conflict is skip or stop")
	}
	return nil
}

// expressions refuses empty values: an empty text in YAML is none in SQL.
func (s source) expressions(at string, values map[string]string) error {
	if len(values) == 0 {
		return s.bad(at, "a column and its SQL expression a line are needed")
	}
	for _, column := range sortedKeys(values) {
		if column == "" || strings.TrimSpace(values[column]) == "" {
			return s.bad(at, "%q has no SQL expression; write NULL, or an empty text as \"''\"", column)
		}
	}
	return nil
}

func (s source) question(at string, q Question, written map[string]any, seen map[string]bool, all Pack) error {
	if err := s.item(at, q.Name, q.Why, q.Database, q.Table, seen, all); err != nil {
		return err
	}
	if strings.TrimSpace(q.Query) == "" {
		return s.bad(at, "query is missing")
	}
	if _, ok := written["expect"]; !ok {
		return s.bad(at, "expect is missing: the one answer that is right")
	}
	if !q.Must() && q.Table == "" {
		return s.bad(at+".required", "required: false needs the table whose absence leaves nothing to ask")
	}
	return nil
}
