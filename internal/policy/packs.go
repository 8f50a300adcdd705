// The rules of packs among the built-in ones: which database each works in, what the plan says
// of it, and the report it makes.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// Codes of the rules of packs.
const (
	CodeTableMissing    sandglass.Code = "policy.table_missing"
	CodeColumnMissing   sandglass.Code = "policy.column_missing"
	CodeTableUnfit      sandglass.Code = "policy.table_unfit" // a view, a foreign table, a generated column
	CodePolicyChanged   sandglass.Code = "policy.changed"
	CodeTableReferenced sandglass.Code = "policy.table_referenced" // by rows that no rule empties
)

// ruleRewrite is the rule that follows those of the packs in each database they work in.
const ruleRewrite = "rewrite-tables"

// rules are the built-in rules with those of the packs. The packs' come once the databases have
// their names and nothing acts by itself any more, and before the catalogs are rewritten, which
// takes the old statistics out of pg_statistic.
func (in Input) rules() []rule {
	builtIn := rules()
	last := len(builtIn) - 2
	all := slices.Clone(builtIn[:last])
	for _, database := range in.packDatabases() {
		for _, p := range in.Packs {
			for _, r := range p.Rules {
				if in.Environment.Databases[r.Database] == database && !r.Carries() {
					all = append(all, packRule(p, r, database))
				}
			}
		}
		if carries := in.carryRules(database); len(carries) > 0 {
			all = append(all, rule{name: ruleCarry, database: database, carries: carries, what: "Rows that stay the sandbox's own are carried over in " + database + "."})
		}
		all = append(all, rule{name: ruleRewrite, database: database, plain: rewriteTables,
			what: "The tables that rules are about are rewritten in " + database + ", and what was derived from them is made anew.",
			why:  "Old values are left in dead rows, free space and statistics until then."})
	}
	return append(all, builtIn[last:]...)
}

// packDatabases are the sandbox's databases that any rule or question of a pack is about, in order.
func (in Input) packDatabases() []string {
	var names []string
	add := func(role string) {
		if name := in.Environment.Databases[role]; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, p := range in.Packs {
		for _, r := range p.Rules {
			add(r.Database)
		}
		for _, q := range p.Assertions {
			add(q.Database)
		}
	}
	slices.Sort(names)
	return names
}

func packRule(p pack.Pack, r pack.Rule, database string) rule {
	name := p.Name + "/" + r.Name
	return rule{name: name, what: DescribeRule(r, database), why: r.Why, database: database, of: &r,
		plain: func(ctx context.Context, j *job, conn *pgx.Conn, o *outcome) error {
			return j.inRanges(ctx, conn, p, r, o)
		},
		tx: func(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
			if o.ranged {
				return forgetRanges(ctx, tx, name)
			}
			a := &act{job: j, tx: tx, pack: p, rule: r, out: o}
			return a.do(ctx)
		}}
}

// DescribeRule says in one line what a rule does.
func DescribeRule(r pack.Rule, database string) string {
	what := map[string]string{"set": "set " + strings.Join(r.Columns(), ", "), "clear": "clear " + strings.Join(r.Columns(), ", "),
		"empty": "remove all rows", "delete": "remove rows", "insert": "add rows",
		"keep": "the sandbox's own rows stay, production's are removed", "merge": "the sandbox's own rows win over production's"}[r.Action()]
	if len(r.Only) > 0 {
		what = "the sandbox's own " + strings.Join(r.Only, ", ") + " stay"
	}
	line := r.Table + ": " + what
	if r.Where != "" {
		line += " where " + strings.Join(strings.Fields(r.Where), " ")
	}
	return fmt.Sprintf("%s (%s).", line, database)
}

// rolesMissing is the refusal of packs whose databases the sandbox does not name.
func (in Input) rolesMissing() error {
	for _, p := range in.Packs {
		for _, f := range p.Check(in.Source, in.Environment) {
			if f.Code == pack.CodeRoleMissing {
				return &sandglass.Error{Code: f.Code, Op: "neutralize", Message: f.Message, Remedy: f.Remedy}
			}
		}
	}
	return nil
}

// lookAtTables finds what of the packs' tables and columns the copy lacks, before anything is changed.
func (in Input) lookAtTables(ctx context.Context, q querier, database string) ([]sandglass.Finding, error) {
	var all []sandglass.Finding
	for _, p := range in.Packs {
		for _, r := range p.Rules {
			if in.Environment.Databases[r.Database] != database {
				continue
			}
			t, err := findTable(ctx, q, r.Table)
			if err != nil {
				return nil, err
			}
			var columns []attribute
			if t.OID != 0 {
				if columns, err = t.columns(ctx, q, r.Columns()); err != nil {
					return nil, err
				}
			}
			_, f := fits(p, r, t, columns)
			if f != nil && !slices.ContainsFunc(all, func(g sandglass.Finding) bool { return g.Message == f.Message }) {
				all = append(all, *f)
			}
		}
	}
	return all, nil
}

// fits says whether the rule can work on the table as it is: which of its columns are there,
// and a finding when anything is missing: stop where the rule requires it.
func fits(p pack.Pack, r pack.Rule, t relation, there []attribute) ([]attribute, *sandglass.Finding) {
	f := &sandglass.Finding{Level: sandglass.OK, Remedy: fmt.Sprintf("Correct the pack %s, or say required: false for the rule %s.", p.Name, r.Name)}
	if r.Must() {
		f.Level = sandglass.Stop
	}
	rule := p.Name + "/" + r.Name
	switch {
	case t.OID == 0:
		f.Code, f.Message = CodeTableMissing, fmt.Sprintf("There is no table %s, which the rule %s is about%s.", r.Table, rule, r.At.Quoted())
		return nil, f
	case t.Kind != "r" && t.Kind != "p":
		f.Code, f.Level, f.Message = CodeTableUnfit, sandglass.Stop, fmt.Sprintf("%s, which the rule %s is about, is no table%s.", t.Name, rule, r.At.Quoted())
		f.Remedy = fmt.Sprintf("Correct the pack %s: rules are about tables.", p.Name)
		return nil, f
	}
	var missing []string
	for _, name := range r.Columns() {
		i := slices.IndexFunc(there, func(c attribute) bool { return c.Name == name })
		switch {
		case i < 0:
			missing = append(missing, name)
		case there[i].Generated:
			f.Code, f.Level, f.Message = CodeTableUnfit, sandglass.Stop, fmt.Sprintf("The column %s of %s is generated, so the rule %s can't change it%s.", name, t.Name, rule, r.Does.Quoted())
			f.Remedy = fmt.Sprintf("Correct the pack %s: change the columns it is generated from.", p.Name)
			return nil, f
		}
	}
	if missing == nil {
		return there, nil
	}
	f.Code, f.Message = CodeColumnMissing, fmt.Sprintf("%s has no column %s, which the rule %s is about%s.", t.Name, strings.Join(missing, ", "), rule, r.Does.Quoted())
	return there, f
}
