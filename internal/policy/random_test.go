// Random tables, keys, data and rules: what no rule names is as it was, and every key holds.

package policy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

// TestPackRandom makes a forest of tables that refer to each other, deletes and sets at random,
// and compares with what the database itself does, in an untouched twin, with keys in force.
func TestPackRandom(t *testing.T) {
	t.Parallel()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`)
	const rounds, tables = 4, 6
	type round struct {
		name, rules string
		twin        []string
	}
	var all []round
	for n := range rounds {
		seed := uint64(20261122 + n)
		r := rand.New(rand.NewPCG(seed, seed))
		name := fmt.Sprintf("erp%d", n)
		schema := []string{}
		for i := range tables {
			columns := "id int PRIMARY KEY, note text, low text GENERATED ALWAYS AS (lower(note)) STORED"
			values := fmt.Sprintf("i, 'Note ' || i * %d %% 17", 1+r.IntN(9))
			names := "id, note"
			for j := range i + 1 { // also to itself
				if r.IntN(2) == 0 {
					continue
				}
				action := []string{"CASCADE", "SET NULL"}[r.IntN(2)]
				columns += fmt.Sprintf(", r%d int REFERENCES t%d ON DELETE %s", j, j, action)
				names += fmt.Sprintf(", r%d", j)
				if j == i {
					values += ", nullif(i / 2, 0)"
				} else {
					values += fmt.Sprintf(", nullif((i * %d) %% 60, 0)", 1+r.IntN(50))
				}
			}
			schema = append(schema, fmt.Sprintf("CREATE TABLE t%d (%s)", i, columns), fmt.Sprintf("INSERT INTO t%d (%s) SELECT %s FROM generate_series(1, 60) i", i, names, values))
		}
		rules, twin := "rules:\n", []string{}
		for k := range 4 {
			table, where := fmt.Sprintf("t%d", r.IntN(tables)), fmt.Sprintf("id %% %d = %d", 5+r.IntN(9), r.IntN(5))
			switch r.IntN(3) {
			case 0:
				rules += ownRule(fmt.Sprintf("r%d", k), table, "where: "+where, "delete: true")
				twin = append(twin, "DELETE FROM "+table+" WHERE "+where)
			case 1:
				rules += ownRule(fmt.Sprintf("r%d", k), table, "where: "+where, "set:", "  note: note || '+'")
				twin = append(twin, "UPDATE "+table+" SET note = note || '+' WHERE "+where)
			default:
				rules += ownRule(fmt.Sprintf("r%d", k), table, "where: "+where, "clear: [note]")
				twin = append(twin, "UPDATE "+table+" SET note = NULL WHERE "+where)
			}
		}
		c.Exec(t, "postgres", "CREATE DATABASE "+name, "CREATE DATABASE "+name+"_twin")
		c.Exec(t, name, schema...)
		c.Exec(t, name+"_twin", append(schema, twin...)...)
		all = append(all, round{name, rules, twin})
	}
	contact(t, c)
	databases := map[string]string{}
	for _, r := range all {
		databases[r.name], databases[r.name+"-twin"] = r.name, r.name+"_twin"
	}
	in := policy.Input{Run: "20261122t190000-rand", Source: sandglass.Environment{Name: "prod", Databases: databases}, Environment: sandglass.Environment{Name: "uat", Databases: databases}}
	for _, r := range all {
		p := ownPack(t, r.rules)
		p.Name = r.name
		p.Databases = map[string]pack.Database{r.name: {What: "one"}}
		for i := range p.Rules {
			p.Rules[i].Database = r.name
		}
		in.Packs = append(in.Packs, p)
	}
	st := staging(c)
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err)
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	for _, r := range all {
		for i := range tables {
			sql := fmt.Sprintf("SELECT row(t.*)::text FROM public.t%d t ORDER BY id", i)
			if got, want := ask(t, c, r.name, sql), ask(t, c, r.name+"_twin", sql); got != want {
				t.Errorf("%s: t%d after %s\n got %s\nwant %s", r.name, i, strings.Join(r.twin, "; "), got, want)
			}
		}
	}
}
