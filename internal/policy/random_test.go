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

// TestPackRandom makes a forest of tables, some in partitions, that refer to each other by keys of one column or two, deletes and sets at random,
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
			columns := "id int PRIMARY KEY, part int NOT NULL, note text, low text GENERATED ALWAYS AS (lower(note)) STORED, UNIQUE (part, id)"
			values := fmt.Sprintf("i, i %% 3, 'Note ' || i * %d %% 17", 1+r.IntN(9))
			names := "id, part, note"
			for j := range i + 1 { // also to itself
				if r.IntN(2) == 0 {
					continue
				}
				action := []string{"CASCADE", "SET NULL"}[r.IntN(2)]
				value := "nullif(i / 2, 0)"
				if j != i {
					value = fmt.Sprintf("nullif((i * %d) %% 60, 0)", 1+r.IntN(50))
				}
				if r.IntN(2) == 0 {
					columns += fmt.Sprintf(", r%d int REFERENCES t%d ON DELETE %s", j, j, action)
					names, values = names+fmt.Sprintf(", r%d", j), values+", "+value
				} else { // the key of two columns
					columns += fmt.Sprintf(", r%d int, p%d int, FOREIGN KEY (p%d, r%d) REFERENCES t%d (part, id) ON DELETE %s", j, j, j, j, j, action)
					names, values = names+fmt.Sprintf(", r%d, p%d", j, j), values+", "+value+", "+value+" % 3"
				}
			}
			create := fmt.Sprintf("CREATE TABLE t%d (%s)", i, columns)
			if parts := r.IntN(3); parts > 0 {
				create += " PARTITION BY HASH (id)"
				for n := range parts + 1 {
					create += fmt.Sprintf("; CREATE TABLE t%d_%d PARTITION OF t%d FOR VALUES WITH (MODULUS %d, REMAINDER %d)", i, n, i, parts+1, n)
				}
			}
			schema = append(schema, create, fmt.Sprintf("INSERT INTO t%d (%s) SELECT %s FROM generate_series(1, 60) i", i, names, values))
		}
		rules, twin := "rules:\n", []string{}
		for k := range 4 {
			table, where := fmt.Sprintf("t%d", r.IntN(tables)), fmt.Sprintf("id %% %d = %d", 5+r.IntN(9), r.IntN(5))
			if r.IntN(4) == 0 {
				where += " OR note LIKE '%1'"
			}
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
