// What Neutralize will do, in people's words, before anything runs.

package policy

import (
	"slices"
	"strings"

	"sandglass"
)

// Describe says for the plan what Neutralize will do. databases are the source's, as far as
// they are known yet; it reads nothing and changes nothing.
func Describe(in Input, databases []string) []sandglass.PlanLine {
	const step = "neutralize"
	var lines []sandglass.PlanLine
	for _, r := range in.rules() {
		if r.needsTarget && in.Target == nil {
			continue
		}
		for _, c := range r.carries {
			if in.Target != nil {
				lines = append(lines, sandglass.PlanLine{Step: step, What: DescribeRule(c.rule, r.database), Why: c.rule.Why, Rows: in.Counts[c.name()]})
			} else if c.rule.Keep != "" {
				lines = append(lines, sandglass.PlanLine{Step: step, What: c.rule.Table + ": production's rows are removed; there are none of the sandbox's to keep (" + r.database + ").", Why: c.rule.Why})
			}
		}
		if r.carries != nil {
			continue
		}
		line := sandglass.PlanLine{Step: step, What: r.what, Why: r.why}
		if r.name == ruleDatabases {
			line.What = describeDatabases(in, databases)
			if line.What == "" {
				continue
			}
		}
		lines = append(lines, line)
	}
	if in.Target == nil {
		lines = append(lines, sandglass.PlanLine{Step: step, What: "Nobody but `sandglass connect` can log in afterwards.",
			Why: "The sandbox has no roles of its own yet; make them then, and every later restore keeps them."})
	}
	return lines
}

func describeDatabases(in Input, databases []string) string {
	keep, drop, err := MapDatabases(in.Source, in.Environment, databases)
	if err != nil {
		return rules()[1].what
	}
	var said []string
	if len(drop) > 0 {
		said = append(said, "Databases dropped: "+strings.Join(drop, ", ")+".")
		if slices.Contains(drop, home) {
			said = append(said, "An empty "+home+" is made.")
		}
	}
	for _, from := range sortedKeys(keep) {
		if keep[from] != from {
			said = append(said, "Database "+from+" is called "+keep[from]+".")
		}
	}
	return strings.Join(said, " ")
}

// BuiltIn is a rule of the pack postgresql, or an assertion of it.
type BuiltIn struct {
	Name  string           `json:"name"`
	What  string           `json:"what"` // an assertion: what holds
	Why   string           `json:"why,omitempty"`
	Proof []sandglass.Code `json:"proof,omitempty"` // the assertions that see when the rule was not applied
}

// BuiltIns are the rules and assertions that every restore has: the contents of the pack
// postgresql, which work on roles, settings and catalogs, where no table rule can.
func BuiltIns() (applied, asserted []BuiltIn) {
	for _, r := range rules() {
		applied = append(applied, BuiltIn{Name: r.name, What: r.what, Why: r.why, Proof: r.proof})
	}
	for _, a := range assertions() {
		asserted = append(asserted, BuiltIn{Name: string(a.code), What: a.says})
	}
	return applied, asserted
}
