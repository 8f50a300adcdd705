// Rules left out on purpose: each has an assertion that turns red without it, and no other does.

package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

// TestFinopsLeftOut applies the pack with rules left out. Only a rule on the same table could
// stand in for one that is left out, so the first rule of every table is left out in one
// database, the second in another, and so on: that is as good as each on its own.
func TestFinopsLeftOut(t *testing.T) {
	t.Parallel()
	c, in := makeERP(t), finopsInput(t)
	full := in.Packs[1]
	place := map[string]int{} // rule to its place among those of its table
	seen, groups := map[string]int{}, 0
	for _, r := range full.Rules {
		if !r.Carries() {
			place[r.Name] = seen[r.Table]
			seen[r.Table]++
			groups = max(groups, seen[r.Table])
		}
	}
	in.Packs = nil
	in.Source.Databases, in.Environment.Databases, in.Environment.Packs = map[string]string{}, map[string]string{}, nil
	for n := range groups {
		name := fmt.Sprintf("without%d", n)
		c.Exec(t, "postgres", "CREATE DATABASE "+name+" TEMPLATE axdb")
		in.Source.Databases[name], in.Environment.Databases[name] = name, name
		p := pack.Pack{Name: name, Version: 1, Digest: name, Databases: map[string]pack.Database{name: {What: "one"}}}
		for _, r := range full.Rules {
			if at, is := place[r.Name]; is && at != n {
				r.Database = name
				p.Rules = append(p.Rules, r)
			}
		}
		for _, q := range full.Assertions {
			q.Database = name
			p.Assertions = append(p.Assertions, q)
		}
		in.Packs = append(in.Packs, p)
	}
	st := staging(c)
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err)
	}
	proof, err := policy.Prove(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	red := map[sandglass.Code]bool{}
	for _, f := range proof {
		red[f.Code] = f.Level != sandglass.OK
	}
	for n, p := range in.Packs {
		for _, q := range p.Assertions {
			at, is := place[q.Name]
			if !is {
				if !slices.ContainsFunc(full.Rules, func(r pack.Rule) bool { return r.Name == q.Name }) {
					t.Errorf("the assertion %s belongs to no rule", q.Name)
				}
				continue
			}
			if got := red[policy.AssertionCode(p, q)]; got != (at == n) {
				t.Errorf("%s: with the rule left out %t, its assertion is red %t", q.Name, at == n, got)
			}
		}
	}
	// The foreign keys hold, and nothing but the left-out rules' assertions is red.
	for code, is := range red {
		if is && !strings.HasPrefix(string(code), "proof.without") {
			t.Errorf("%s is red", code)
		}
	}
}
