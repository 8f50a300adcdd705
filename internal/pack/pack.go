// Package pack reads what Sandglass knows of an application: which databases and components it
// has, what must not come along into a sandbox and the proof that it did not, when the
// application is quiet, and what is left for people to do. A pack is a folder of YAML files;
// rules are data that the database runs, never code. This file is the language of packs.
//
// Names in SQL texts must be qualified (public.userinfo): they run with search_path=pg_catalog.
package pack

import (
	"cmp"
	"slices"

	"sandglass"
)

// Codes of this package.
const (
	CodeInvalid     sandglass.Code = "pack.invalid"
	CodeNotFound    sandglass.Code = "pack.not_found"
	CodeNotYet      sandglass.Code = "pack.not_yet"
	CodeRoleMissing sandglass.Code = "pack.role_missing"
	CodeVersion     sandglass.Code = "pack.version"
)

// Always is the pack that every environment has.
const Always = "postgresql"

// Pack is one pack, read and checked.
type Pack struct {
	Name    string `json:"name" yaml:"pack"`
	Version int    `json:"version" yaml:"version"` // of the pack, counted up by whoever changes it
	What    string `json:"what,omitempty" yaml:"what"`
	// Databases are the roles of databases that the application has.
	Databases map[string]Database `json:"databases,omitempty" yaml:"databases"`
	// Components are the parts with versions of their own, as Environment.Versions names them.
	Components map[string]string `json:"components,omitempty" yaml:"components"`
	Versions   []VersionRule     `json:"versions,omitempty" yaml:"versions"`
	Rules      []Rule            `json:"rules,omitempty" yaml:"rules"`
	Assertions []Question        `json:"assertions,omitempty" yaml:"assertions"`
	// Quiesce asks the untouched copy whether the application was quiet at the moment; a wrong answer is a warning.
	Quiesce   []Question `json:"quiesce,omitempty" yaml:"quiesce"`
	NotCopied []Text     `json:"not_copied,omitempty" yaml:"not_copied"`
	Checklist []Text     `json:"checklist,omitempty" yaml:"checklist"`
	// Digest is of the pack's files (SHA-256, first 12 hexadecimal digits): what Version promises, Digest proves.
	Digest string `json:"digest" yaml:"-"`
	// Shipped says that the pack is part of this binary.
	Shipped bool `json:"shipped" yaml:"-"`
}

// Database is a role of database of the application.
type Database struct {
	What string `json:"what" yaml:"what"`
	// Required: an environment with this pack must name it; default true.
	Required *bool `json:"required,omitempty" yaml:"required"`
	// At is where the pack names it.
	At Place `json:"-" yaml:"-"`
}

// VersionRule is a condition on the versions that source and target declare. Exactly one of
// Target and Above is given.
type VersionRule struct {
	Component string `json:"component" yaml:"component"`
	// Target compares the target's version with the source's: "equal" or "at least".
	Target string `json:"target,omitempty" yaml:"target"`
	// Above is a version that both must be newer than.
	Above string `json:"above,omitempty" yaml:"above"`
	Why   string `json:"why" yaml:"why"`
}

// Rule is one thing that is done to a table of the copy. Exactly one action is given.
type Rule struct {
	Name string `json:"name" yaml:"name"`
	Why  string `json:"why" yaml:"why"`
	// Database is a role that the pack's databases name.
	Database string `json:"database" yaml:"database"`
	// Table is NAME (in schema public) or SCHEMA.NAME, spelled as the catalog has it.
	Table string `json:"table" yaml:"table"`
	// Where is an SQL condition on the table's rows; for insert, the condition under which it is done.
	Where string `json:"where,omitempty" yaml:"where"`
	// Required: a missing table or column is a failure; else it is reported. Default true.
	Required *bool `json:"required,omitempty" yaml:"required"`
	// Secret are columns whose values in production must not be left anywhere in the finished copy's files (prove.leak):
	// true for those the rule changes, or a list. Default none.
	Secret Columns `json:"secret,omitempty" yaml:"secret"`

	Set    map[string]string   `json:"set,omitempty" yaml:"set"`     // column to SQL expression
	Clear  []string            `json:"clear,omitempty" yaml:"clear"` // columns; NULL, or the type's empty value where NULL can't be
	Empty  bool                `json:"empty,omitempty" yaml:"empty"`
	Delete bool                `json:"delete,omitempty" yaml:"delete"`
	Insert []map[string]string `json:"insert,omitempty" yaml:"insert"` // rows of column to SQL expression

	// Keep and Merge are Target, or empty. Keep: the sandbox's own rows stand in the place of
	// the copy's. Merge: the sandbox's own rows win by their key; the copy's others stay.
	Keep  string `json:"keep,omitempty" yaml:"keep"`
	Merge string `json:"merge,omitempty" yaml:"merge"`
	// Key says by which columns a merge knows a row; default the primary key.
	Key []string `json:"key,omitempty" yaml:"key"`
	// Only are the columns that a merge carries, of rows that both have; default all, of all rows.
	Only []string `json:"columns,omitempty" yaml:"columns"`
	// OnConflict says what becomes of a row that the copy can't hold: "skip" (reported, the default) or "stop".
	OnConflict string `json:"on_conflict,omitempty" yaml:"on_conflict"`

	// Not done yet; a pack that uses it is refused.
	Mask any `json:"-" yaml:"mask"`

	// At is where the pack names the rule's table, Does where its action begins.
	At, Does Place `json:"-" yaml:"-"`
	// Parts are where the pack writes each SQL text: by "where", "set.COLUMN", "insert[N].COLUMN".
	Parts map[string]Place `json:"-" yaml:"-"`
}

// Target is the one value of Rule.Keep and Rule.Merge: whose rows they are.
const Target = "target"

// Carries says whether the rule is about rows that stay the sandbox's own.
func (r Rule) Carries() bool { return r.Keep != "" || r.Merge != "" }

// Question is a query of one row with one column, and its right answer.
type Question struct {
	Name     string `json:"name" yaml:"name"`
	Why      string `json:"why" yaml:"why"`
	Database string `json:"database" yaml:"database"`
	// Table is what the question is about. Where it is missing, a question that is not required has nothing to ask.
	Table    string `json:"table,omitempty" yaml:"table"`
	Required *bool  `json:"required,omitempty" yaml:"required"`
	Query    string `json:"query" yaml:"query"`
	Expect   string `json:"expect" yaml:"expect"` // the answer as text
	At       Place  `json:"-" yaml:"-"`           // where the pack writes the query
}

// Text is something people are told. {source} and {target} stand for the environments' names.
type Text struct {
	What string `json:"what" yaml:"what"`
	Why  string `json:"why,omitempty" yaml:"why"`
}

// Policy names the pack with its version and digest.
func (p Pack) Policy() string { return p.Name + " " + itoa(p.Version) + " sha256:" + p.Digest }

// Part is where the pack writes the SQL text that Parts names, or else the action.
func (r Rule) Part(name string) Place { return cmp.Or(r.Parts[name], r.Does) }

// Must says whether a missing database of the role is a failure.
func (d Database) Must() bool { return d.Required == nil || *d.Required }

// Must says whether a missing table or column is a failure.
func (r Rule) Must() bool { return r.Required == nil || *r.Required }

// Must says whether a missing table is a failure.
func (q Question) Must() bool { return q.Required == nil || *q.Required }

// Columns are the columns that the rule names, in order; none for whole rows.
func (r Rule) Columns() []string {
	switch {
	case r.Set != nil:
		return sortedKeys(r.Set)
	case r.Merge != "":
		return append(slices.Clone(r.Key), r.Only...)
	}
	return r.Clear
}

// Action names what the rule does.
func (r Rule) Action() string {
	switch {
	case r.Set != nil:
		return "set"
	case r.Clear != nil:
		return "clear"
	case r.Empty:
		return "empty"
	case r.Delete:
		return "delete"
	case r.Keep != "":
		return "keep"
	case r.Merge != "":
		return "merge"
	}
	return "insert"
}
