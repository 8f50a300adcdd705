// Random tables, keys, data and rules: what no rule names is as it was, and every key holds.

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

// randomRounds is how many random databases a batch has, randomTables how many tables each.
const randomRounds, randomTables = 4, 6

// randomERP is a database of tables that refer to each other, and the rules on it.
type randomERP struct {
	*rand.Rand
	name   string
	schema []string // what production has
	way    []string // what stands in the way of rules; it changes no row
	kind   []string // of each table: plain, parent, hash, range, deep
	refers [][]int  // to which tables each refers
	rules  string
	twin   []string // statements that do the same with keys in force
	kinds  []string // of rules, tables and keys there were, for the test's own proof
}

// table makes one, in pieces or not, that refers to those before it and to itself.
func (e *randomERP) table(i int) {
	kind := []string{"plain", "plain", "parent", "hash", "range", "deep"}[e.IntN(6)]
	e.kind, e.refers = append(e.kind, kind), append(e.refers, nil)
	note := []string{"note text", "note text NOT NULL DEFAULT 'none'", "note varchar(60)"}[e.IntN(3)]
	columns := "id int PRIMARY KEY, part int NOT NULL, " + note + ", low text GENERATED ALWAYS AS (lower(note)) STORED, twice int GENERATED ALWAYS AS (part * 2) STORED, UNIQUE (part, id), calm int DEFAULT 2 REFERENCES calm"
	names, values := "id, part, note", fmt.Sprintf("i, i %% 3, 'Note ' || i * %d %% 17", 1+e.IntN(9))
	if kind == "plain" || kind == "parent" { // before 17 a partitioned table has no identity column
		columns += ", number bigint GENERATED " + []string{"ALWAYS", "BY DEFAULT"}[e.IntN(2)] + " AS IDENTITY (START 500 INCREMENT 3)"
	}
	for j := range i + 1 {
		if e.IntN(2) == 0 {
			continue
		}
		e.refers[i] = append(e.refers[i], j)
		action := []string{"CASCADE", "SET NULL", "SET DEFAULT"}[e.IntN(3)]
		value := "nullif(i / 2, 0)"
		if j != i {
			value = fmt.Sprintf("nullif((i * %d) %% 60, 0)", 1+e.IntN(50))
		}
		if e.IntN(2) == 0 {
			columns += fmt.Sprintf(", r%d int REFERENCES t%d ON DELETE %s", j, j, action)
			names, values = names+fmt.Sprintf(", r%d", j), values+", "+value
		} else { // the key of two columns
			columns += fmt.Sprintf(", r%d int, p%d int, FOREIGN KEY (p%d, r%d) REFERENCES t%d (part, id) ON DELETE %s", j, j, j, j, j, action)
			names, values = names+fmt.Sprintf(", r%d, p%d", j, j), values+", "+value+", "+value+" % 3"
		}
		e.kinds = append(e.kinds, "key "+action)
	}
	create := fmt.Sprintf("CREATE TABLE t%d (%s)", i, columns)
	switch kind {
	case "parent": // the child's rows are no rows that the keys of the parent mean
		create += fmt.Sprintf("; CREATE TABLE t%d_child (extra text DEFAULT 'e', PRIMARY KEY (id)) INHERITS (t%[1]d); INSERT INTO t%[1]d_child (id, part, note, number) SELECT i, i %% 3, 'Child ' || i, -i FROM generate_series(200, 220) i", i)
	case "hash":
		create += " PARTITION BY HASH (id)"
		for n := range 3 {
			create += fmt.Sprintf("; CREATE TABLE t%d_%d PARTITION OF t%d FOR VALUES WITH (MODULUS 3, REMAINDER %d)", i, n, i, n)
		}
	case "range", "deep":
		create += fmt.Sprintf(" PARTITION BY RANGE (id); CREATE TABLE t%d_rest PARTITION OF t%[1]d DEFAULT; CREATE TABLE t%[1]d_low PARTITION OF t%[1]d FOR VALUES FROM (1) TO (25)", i)
		if kind == "deep" {
			create += fmt.Sprintf(" PARTITION BY HASH (id); CREATE TABLE t%d_low_0 PARTITION OF t%[1]d_low FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE t%[1]d_low_1 PARTITION OF t%[1]d_low FOR VALUES WITH (MODULUS 2, REMAINDER 1)", i)
		}
	}
	e.kinds = append(e.kinds, "table "+kind)
	e.schema = append(e.schema, create, fmt.Sprintf("INSERT INTO t%d (%s) SELECT %s FROM generate_series(1, 60) i", i, names, values))
	e.obstruct(fmt.Sprintf("t%d", i))
}

// obstruct puts views, row security and triggers between a rule and its table.
func (e *randomERP) obstruct(table string) {
	for _, way := range []string{
		"ALTER TABLE %s ENABLE ROW LEVEL SECURITY; ALTER TABLE %[1]s FORCE ROW LEVEL SECURITY; CREATE POLICY nobody ON %[1]s USING (false)",
		"CREATE VIEW %s_seen AS SELECT * FROM %[1]s WHERE part > 0 WITH CHECK OPTION",
		"CREATE MATERIALIZED VIEW %s_notes AS SELECT note, count(*) FROM %[1]s GROUP BY note",
		"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION refuse(); ALTER TABLE %[1]s ENABLE ALWAYS TRIGGER refuse",
	} {
		if e.IntN(3) == 0 {
			e.way = append(e.way, fmt.Sprintf(way, table))
		}
	}
}

// rule adds one, and what does the same to the twin.
func (e *randomERP) rule(k int) {
	i := e.IntN(randomTables)
	name, table, where := fmt.Sprintf("r%d", k), fmt.Sprintf("t%d", i), fmt.Sprintf("id %% %d = %d", 5+e.IntN(9), e.IntN(5))
	if e.IntN(4) == 0 {
		where += " OR note LIKE '%1'"
	}
	kind := []string{"delete", "set", "clear", "insert", "empty"}[(k+e.IntN(3))%5]
	e.kinds = append(e.kinds, "rule "+kind)
	switch kind {
	case "delete":
		e.rules += ownRule(name, table, "where: "+where, "delete: true")
		e.twin = append(e.twin, "DELETE FROM "+table+" WHERE "+where)
	case "set":
		e.rules += ownRule(name, table, "where: "+where, "set:", "  note: left(note || '+', 60)", "  calm: (SELECT max(id) FROM public.calm)")
		e.twin = append(e.twin, "UPDATE "+table+" SET note = left(note || '+', 60), calm = (SELECT max(id) FROM public.calm) WHERE "+where)
	case "clear":
		e.rules += ownRule(name, table, "where: "+where, "clear: [note, calm]")
		e.twin = append(e.twin, "UPDATE "+table+" SET note = CASE WHEN (SELECT attnotnull FROM pg_attribute WHERE attrelid = '"+table+"'::regclass AND attname = 'note') THEN '' END, calm = NULL WHERE "+where)
	case "insert":
		id, part, note, when := fmt.Sprint(1000+k), "length('ab')", "'New ' || upper('x')", []string{"true", "EXISTS (SELECT FROM public.t0 WHERE id > 30)", "false"}[e.IntN(3)]
		e.rules += ownRule(name, table, "where: "+when, "insert:", "  - {id: \""+id+"\", part: \""+part+"\", note: \""+note+"\"}")
		e.twin = append(e.twin, fmt.Sprintf("INSERT INTO %s (id, part, note) SELECT %s, %s, %s WHERE %s", table, id, part, note, when))
	case "empty": // with all that refers to it
		all := []int{i}
		for changed := true; changed; {
			changed = false
			for child, parents := range e.refers {
				if !slices.Contains(all, child) && slices.ContainsFunc(parents, func(p int) bool { return slices.Contains(all, p) }) {
					all, changed = append(all, child), true
				}
			}
		}
		var tables []string
		for _, n := range e.Perm(len(all)) {
			tables = append(tables, fmt.Sprintf("t%d", all[n]))
			e.rules += ownRule(fmt.Sprintf("%s-%d", name, n), fmt.Sprintf("t%d", all[n]), "empty: true")
		}
		e.twin = append(e.twin, "TRUNCATE "+strings.Join(tables, ", "))
	}
}

func makeRandom(seed uint64, name string) *randomERP {
	e := &randomERP{Rand: rand.New(rand.NewPCG(seed, seed)), name: name, rules: "rules:\n"}
	e.schema = append(e.schema, "CREATE TABLE calm (id int PRIMARY KEY, t timestamptz DEFAULT now(), n numeric(30, 10), d double precision, j jsonb, b bytea, a text[])",
		`INSERT INTO calm SELECT i, '2026-01-01'::timestamptz + i * interval '1 day', i / 7.0, sqrt(i), jsonb_build_object('i', i), decode(md5(i::text), 'hex'), ARRAY[NULL, i::text] FROM generate_series(1, 50) i`,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''fired''; END'`)
	for i := range randomTables {
		e.table(i)
	}
	for k := range 6 {
		e.rule(k)
	}
	return e
}

// TestPackRandom makes forests of tables, in partitions, with children or plain, that refer to each other by keys of one column or two, and random
// rules on them; and compares with what the database itself does, in an untouched twin, with keys in force.
func TestPackRandom(t *testing.T) {
	t.Parallel()
	kinds := map[string]int{}
	for batch := range randomBatches {
		for kind, n := range randomBatch(t, 20261122+uint64(batch*randomRounds)) {
			kinds[kind] += n
		}
	}
	t.Logf("seen: %v", kinds)
	if kinds["refused"] > randomBatches {
		t.Errorf("of %d databases, %d have rules that the server itself refuses", randomBatches*randomRounds, kinds["refused"])
	}
	for _, kind := range []string{"rule delete", "rule set", "rule clear", "rule insert", "rule empty", "table plain", "table parent", "table hash", "table range", "table deep", "key CASCADE", "key SET NULL", "key SET DEFAULT"} {
		if kinds[kind] == 0 {
			t.Errorf("the rounds have no %s", kind)
		}
	}
}

// inTwin does in the twin what the rules do. PostgreSQL refuses a delete that sets one key of a row to NULL after it has deleted what another key
// of that row refers to (it looks at all keys of a row that its own transaction has changed): then there is nothing to compare with.
func (e *randomERP) inTwin(t *testing.T, c *pgtest.Cluster, twin string) bool {
	t.Helper()
	conn := c.Conn(t, twin)
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range e.twin {
		_, err := conn.Exec(t.Context(), sql)
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "23503" {
			t.Logf("%s: the server itself refuses %s: %s", e.name, sql, refused.Message)
			return false
		} else if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return true
}

// randomBatch is some such databases in one cluster.
func randomBatch(t *testing.T, seed uint64) (kinds map[string]int) {
	t.Helper()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`)
	databases := map[string]string{}
	in := policy.Input{Run: "20261122t190000-rand", Source: sandglass.Environment{Name: "prod", Databases: databases}, Environment: sandglass.Environment{Name: "uat", Databases: databases}}
	kinds = map[string]int{}
	var all []*randomERP
	for n := range uint64(randomRounds) {
		e := makeRandom(seed+n, fmt.Sprintf("erp%d", n))
		twin := e.name + "_twin"
		c.Exec(t, "postgres", "CREATE DATABASE "+twin)
		c.Exec(t, twin, e.schema...)
		c.Exec(t, "postgres", "CREATE DATABASE "+e.name+" TEMPLATE "+twin)
		if !e.inTwin(t, c, twin) {
			kinds["refused"]++
			continue // both databases are dropped, since nobody names them
		}
		c.Exec(t, e.name, e.way...)
		all = append(all, e)
		databases[e.name], databases[twin] = e.name, twin
		p := ownPack(t, e.rules)
		p.Name, p.Databases = e.name, map[string]pack.Database{e.name: {What: "one"}}
		for i := range p.Rules {
			p.Rules[i].Database = e.name
		}
		in.Packs = append(in.Packs, p)
		for _, kind := range e.kinds {
			kinds[kind]++
		}
	}
	contact(t, c)
	st := staging(c)
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("seed %d, proof: %q", seed, stops)
	}
	const before = "SELECT md5(string_agg(row(calm.*)::text, ',' ORDER BY id)) FROM public.calm"
	for _, e := range all {
		for i := range randomTables {
			sql := fmt.Sprintf("SELECT row(tableoid::regclass, t.*)::text FROM public.t%d t ORDER BY id", i)
			if e.kind[i] == "parent" {
				sql = fmt.Sprintf("SELECT row(t.*)::text FROM ONLY public.t%d t UNION ALL SELECT row(t.*)::text FROM public.t%[1]d_child t ORDER BY 1", i)
			}
			if got, want := ask(t, c, e.name, sql), ask(t, c, e.name+"_twin", sql); got != want {
				t.Errorf("%s of seed %d: t%d after %s\n got %s\nwant %s", e.name, seed, i, strings.Join(e.twin, "; "), got, want)
			}
		}
		if got, want := ask(t, c, e.name, before), ask(t, c, e.name+"_twin", before); got != want {
			t.Errorf("%s of seed %d: a table that no rule names has changed", e.name, seed)
		}
		views(t, c, e)
		// Every key is declared anew: the server itself looks at all rows.
		ask(t, c, e.name, `DO $$ DECLARE k record; BEGIN
			FOR k IN SELECT conrelid::regclass AS child, conname AS name, pg_get_constraintdef(oid) AS said FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 LOOP
				EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', k.child, k.name); EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.child, k.name, k.said);
			END LOOP; END $$`)
	}
	return kinds
}

// views looks whether what was derived from the tables shows what they have now.
func views(t *testing.T, c *pgtest.Cluster, e *randomERP) {
	t.Helper()
	for i := range randomTables {
		view := fmt.Sprintf("public.t%d_notes", i)
		if ask(t, c, e.name, "SELECT to_regclass('"+view+"')::text") == "NULL" {
			continue
		}
		seen := ask(t, c, e.name, "SELECT concat_ws(' ', note, count) FROM "+view+" ORDER BY 1")
		if now := ask(t, c, e.name, fmt.Sprintf("SELECT concat_ws(' ', note, count(*)) FROM public.t%d GROUP BY note ORDER BY 1", i)); seen != now {
			t.Errorf("%s: the materialized view %s shows %s, the table has %s", e.name, view, seen, now)
		}
	}
}
