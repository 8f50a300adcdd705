// Random tables on both sides that refer to each other, and random rules that keep and merge:
// every foreign key holds afterwards, what was to be kept is proven, and it comes out the same twice.

package policy_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

func TestCarryRandom(t *testing.T) {
	t.Parallel()
	const rounds, tables = 4, 5
	c, own, in := twoClusters(t, "", "")
	in.Source.Databases, in.Environment.Databases, in.Packs = map[string]string{}, map[string]string{}, nil
	for n := range rounds {
		seed := uint64(20261122 + n)
		r := rand.New(rand.NewPCG(seed, seed))
		var schema, keys []string
		refers := map[int][]int{}
		for i := range tables {
			columns := "id int PRIMARY KEY, code int UNIQUE, note text"
			for j := range tables { // also to itself, and in circles
				if r.IntN(3) > 0 {
					continue
				}
				refers[i] = append(refers[i], j)
				columns += fmt.Sprintf(", r%d int", j)
				keys = append(keys, fmt.Sprintf("ALTER TABLE t%d ADD FOREIGN KEY (r%d) REFERENCES t%d %s", i, j, j, []string{"", "ON DELETE CASCADE", "ON DELETE SET NULL"}[r.IntN(3)]))
			}
			schema = append(schema, fmt.Sprintf("CREATE TABLE t%d (%s)", i, columns))
		}
		// The rows of one side: ids of their own and shared ones, and keys that lead to rows of that side.
		fill := func(from int, note string) (all []string) {
			for i := range tables {
				names, values := "id, code, note", fmt.Sprintf("i, (i * 7 + %d) %% 101, '%s ' || i", r.IntN(3), note)
				for _, j := range refers[i] {
					names += fmt.Sprintf(", r%d", j)
					values += fmt.Sprintf(", CASE WHEN i %% 4 > 0 THEN %d + (i * %d) %% 40 END", from, 1+r.IntN(39))
				}
				all = append(all, fmt.Sprintf("INSERT INTO t%d (%s) SELECT %s FROM generate_series(%d, %d) i", i, names, values, from, from+39))
			}
			return all
		}
		rules := "rules:\n"
		for i := range tables {
			name, table, where := fmt.Sprintf("r%d", i), fmt.Sprintf("t%d", i), fmt.Sprintf("where: id %% %d > 0", 2+r.IntN(4))
			switch r.IntN(5) {
			case 0:
				rules += ownRule(name, table, "keep: target")
			case 1:
				rules += ownRule(name, table, where, "keep: target")
			case 2:
				rules += ownRule(name, table, "merge: target")
			case 3:
				rules += ownRule(name, table, where, "merge: target", "key: [code]", "columns: [note]")
			}
		}
		copySQL := append(append(append([]string{}, schema...), fill(1, "production")...), keys...)
		for _, twin := range []string{"", "-twin"} {
			name := fmt.Sprintf("erp%d%s", n, twin)
			c.Exec(t, "postgres", fmt.Sprintf("CREATE DATABASE %q", name))
			own.Exec(t, "postgres", fmt.Sprintf("CREATE DATABASE %q", name))
			c.Exec(t, name, copySQL...)
			in.Source.Databases[name], in.Environment.Databases[name] = name, name
			p := ownPack(t, rules)
			p.Name, p.Databases = name, map[string]pack.Database{name: {What: "one"}}
			for i := range p.Rules {
				p.Rules[i].Database = name
			}
			in.Packs = append(in.Packs, p)
		}
		ownSQL := append(append(append([]string{}, schema...), fill(21, "sandbox")...), keys...)
		own.Exec(t, fmt.Sprintf("erp%d", n), ownSQL...)
		own.Exec(t, fmt.Sprintf("erp%d-twin", n), ownSQL...)
	}
	st := staging(c)
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	carried := int64(0)
	for _, r := range report.Rules {
		if r.Carried {
			carried += r.Rows
		}
	}
	t.Logf("%d rows carried, %d reports of rows left behind", carried, len(report.NotReapplied))
	if carried == 0 || len(report.NotReapplied) == 0 {
		t.Error("the rounds show neither rows carried nor conflicts")
	}
	for n := range rounds {
		for i := range tables {
			sql := fmt.Sprintf("SELECT row(t.*)::text FROM public.t%d t ORDER BY id", i)
			if one, two := ask(t, c, fmt.Sprintf("erp%d", n), sql), ask(t, c, fmt.Sprintf("erp%d-twin", n), sql); one != two {
				t.Errorf("round %d, t%d: %s\nand %s", n, i, one, two)
			}
		}
	}
}
