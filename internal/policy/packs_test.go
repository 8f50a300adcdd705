// The engine for packs' rules on tables of every kind: what a rule does, what it leaves alone,
// and what it refuses.

package policy_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

const shopSQL = `
CREATE TABLE part (id int, region text, mail text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a'); CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b');
INSERT INTO part VALUES (1, 'a', 'x@y'), (2, 'b', 'x@y'), (3, 'b', 'none');
CREATE TABLE base (id int PRIMARY KEY, mail text); CREATE TABLE derived (extra int) INHERITS (base);
INSERT INTO base VALUES (1, 'x@y'); INSERT INTO derived VALUES (2, 'x@y', 7);
CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail text NOT NULL, low text GENERATED ALWAYS AS (lower(mail)) STORED, n numeric NOT NULL DEFAULT 5, raw bytea NOT NULL DEFAULT 'x', born date NOT NULL DEFAULT '2000-01-01');
INSERT INTO made (mail) VALUES ('X@Y');
CREATE TABLE fired (what text);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (TG_OP); RETURN NULL; END';
CREATE TRIGGER always AFTER UPDATE OR DELETE ON base FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE base ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER replica AFTER UPDATE ON part FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE part ENABLE REPLICA TRIGGER replica;
CREATE TRIGGER usual AFTER UPDATE ON made FOR EACH ROW EXECUTE FUNCTION fire();
CREATE RULE divert AS ON UPDATE TO made DO ALSO INSERT INTO public.fired VALUES ('rule'); ALTER TABLE made ENABLE ALWAYS RULE divert;
ALTER TABLE base ENABLE ROW LEVEL SECURITY; ALTER TABLE base FORCE ROW LEVEL SECURITY;
CREATE VIEW seen AS SELECT * FROM base;
CREATE TABLE customer (id int PRIMARY KEY, parent int REFERENCES customer ON DELETE CASCADE, name text);
CREATE TABLE invoice (id int PRIMARY KEY, customer int REFERENCES customer);
CREATE TABLE line (invoice int REFERENCES invoice ON DELETE CASCADE, text text);
CREATE TABLE note (id int, customer int REFERENCES customer ON DELETE SET NULL, other int DEFAULT 9);
CREATE TABLE favourite (customer int DEFAULT 9 REFERENCES customer ON DELETE SET DEFAULT);
CREATE TABLE visit (part_id int, region text, FOREIGN KEY (part_id, region) REFERENCES part);
INSERT INTO customer VALUES (1, NULL, 'goes'), (2, 1, 'below'), (3, 2, 'further below'), (4, NULL, 'stays'), (9, NULL, 'nobody');
INSERT INTO invoice VALUES (10, 1), (20, 3), (40, 4); INSERT INTO line VALUES (10, 'a'), (20, 'b'), (40, 'c');
INSERT INTO note VALUES (1, 2, 1), (2, 4, 2), (3, NULL, 3); INSERT INTO favourite VALUES (2), (4);
INSERT INTO visit VALUES (1, 'a'), (2, 'b'), (3, 'b');
CREATE TABLE alone (x int); INSERT INTO alone VALUES (1), (2);
CREATE TABLE target (id int PRIMARY KEY); CREATE TABLE refers (id int REFERENCES target); INSERT INTO target VALUES (1); INSERT INTO refers VALUES (NULL);
CREATE SCHEMA "Odd ""one"; CREATE TABLE "Odd ""one"."T" ("A b" int, doc jsonb NOT NULL DEFAULT '{"a":1}'); INSERT INTO "Odd ""one"."T" VALUES (1);
CREATE TABLE odd (x int, "where" int, "it's" int); INSERT INTO odd VALUES (1);
CREATE UNLOGGED TABLE fast (x int); INSERT INTO fast VALUES (1);`

func makeShop(t testing.TB) (*pgtest.Cluster, policy.Input) {
	t.Helper()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE shop`)
	c.Exec(t, "shop", shopSQL)
	contact(t, c)
	databases := map[string]string{"business": "shop"}
	return c, policy.Input{Run: "20261122t190000-shop", Source: sandglass.Environment{Name: "prod", Databases: databases}, Environment: sandglass.Environment{Name: "uat", Databases: databases}}
}

// ownPack reads a pack of these rules, in the short form NAME TABLE: keys.
func ownPack(t testing.TB, text string) pack.Pack {
	t.Helper()
	p, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte("pack: own\nversion: 1\ndatabases:\n  business:\n    what: the shop\n" + text)}}, "own")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ownRule(name, table string, lines ...string) string {
	return "  - name: " + name + "\n    why: a test\n    database: business\n    table: '" + table + "'\n    " + strings.Join(lines, "\n    ") + "\n"
}

func TestPackRules(t *testing.T) {
	t.Parallel()
	c, in := makeShop(t)
	in.Packs = []pack.Pack{ownPack(t, "rules:\n"+
		ownRule("partitioned", "part", "where: mail LIKE '%@%' -- those", "set:", "  mail: \"'sink' -- all\"")+
		ownRule("inherited", "public.base", "clear: [mail]")+
		ownRule("generated", "made", "set:", "  mail: \"'New'\"", "  n: n + 1")+
		ownRule("not-null", "made", "clear: [raw]")+
		ownRule("closure", "customer", "where: customer.name = 'goes'", "delete: true")+
		ownRule("move", "part", "where: id = 3", "delete: true")+
		ownRule("alone", "alone", "empty: true")+
		ownRule("referenced", "target", "empty: true")+
		ownRule("add", "made", "where: NOT EXISTS (SELECT FROM public.made WHERE id = 77)", "insert:", "  - id: 77", "    mail: \"'decoy'\"")+
		ownRule("odd", `Odd "one.T`, "clear: [doc, 'A b']")+
		ownRule("optional", "not_there", "required: false", "empty: true")+
		ownRule("drift", "part", "required: false", "clear: [mail, gone_column]")+
		"assertions:\n  - name: decoy\n    why: a test\n    database: business\n    query: SELECT mail FROM public.made WHERE id = 77\n    expect: decoy\n")}
	st := staging(c)
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ sql, want string }{
		{`SELECT concat_ws(' ', tableoid::regclass, id, region, mail) FROM public.part ORDER BY id`, "public.part_a 1 a, public.part_b 2 b"},
		{`SELECT concat_ws(' ', tableoid::regclass, id, coalesce(mail, '-')) FROM public.base ORDER BY id`, "public.base 1 -, public.derived 2 -"},
		{`SELECT concat_ws(' ', id, mail, low, n, raw) FROM public.made ORDER BY id`, `1 New new 6 \x, 77 decoy decoy 5 \x78`},
		{`SELECT id::text FROM public.customer ORDER BY id`, "4, 9"},
		{`SELECT id::text FROM public.invoice ORDER BY id`, "40"}, {`SELECT text FROM public.line`, "c"},
		{`SELECT concat_ws(' ', id, coalesce(customer::text, '-'), other) FROM public.note ORDER BY id`, "1 - 1, 2 4 2, 3 - 3"},
		{`SELECT customer::text FROM public.favourite ORDER BY 1`, "4, 9"},
		{`SELECT part_id::text FROM public.visit ORDER BY 1`, "1, 2"},
		{`SELECT count(*)::text FROM public.alone`, "0"}, {`SELECT count(*)::text FROM public.target`, "0"}, {`SELECT count(*)::text FROM public.refers`, "1"},
		{`SELECT concat_ws(' ', coalesce("A b"::text, '-'), doc) FROM "Odd ""one"."T"`, "- {}"},
		{`SELECT count(*)::text FROM public.fired`, "0"},
		{`SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1`, "public.base always A, public.made usual O, public.part replica R, public.part_a replica R, public.part_b replica R"},
		{`SELECT ev_enabled::text FROM pg_rewrite WHERE rulename = 'divert'`, "A"},
		{`SELECT string_agg(column_name, ' ' ORDER BY column_name) FROM sandglass.changed_columns WHERE rule = 'generated'`, "low mail n"},
	} {
		if got := ask(t, c, "shop", want.sql); got != want.want {
			t.Errorf("%s\n got %s\nwant %s", want.sql, got, want.want)
		}
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	notes := map[string]string{}
	for _, r := range report.Rules {
		notes[r.Rule] = strings.Join(r.Notes, "; ")
	}
	for rule, want := range map[string]string{"own/optional": "There is no table not_there, which the rule own/optional is about (own/pack.yaml, line 69: table: 'not_there').", "own/drift": "no column gone_column, which the rule own/drift is about (own/pack.yaml, line 77: clear: [mail, gone_column]).", "own/closure": "rows of public.invoice referred"} {
		if !strings.Contains(notes[rule], want) {
			t.Errorf("notes of %s: %q", rule, notes[rule])
		}
	}
}

// TestPackRefusals are rules that fail on the copy as it is: each leaves everything as it was.
func TestPackRefusals(t *testing.T) {
	t.Parallel()
	c, in := makeShop(t)
	st := staging(c)
	for _, refused := range []struct {
		name, yaml string
		code       sandglass.Code
		says       string
		quotes     string // the line of the pack
	}{
		{"missing required table", ownRule("r", "not_there", "empty: true"), policy.CodeTableMissing, "no table not_there", "line 10: table: 'not_there'"},
		{"missing required column", ownRule("r", "part", "clear: [nothing]"), policy.CodeColumnMissing, "no column nothing", "line 11: clear: [nothing]"},
		{"view", ownRule("r", "seen", "required: false", "clear: [mail]"), policy.CodeTableUnfit, "is no table", "line 10: table: 'seen'"},
		{"generated column", ownRule("r", "made", "clear: [low]"), policy.CodeTableUnfit, "is generated", "line 11: clear: [low]"},
		{"no empty value", ownRule("r", "made", "clear: [born]"), policy.CodeTableUnfit, "has no empty value", "line 11: clear: [born]"},
		{"failing expression", ownRule("r", "part", "set:", "  mail: no_such_function(mail)"), policy.CodeRuleFailed, "no_such_function", "line 12: mail: no_such_function(mail)"},
		{"type mismatch", ownRule("r", "made", "set:", "  n: \"'2020-01-01'::date\""), policy.CodeRuleFailed, "type", "line 12: n: \"'2020-01-01'::date\""},
		{"division", ownRule("r", "made", "set:", "  n: 1 / 0"), policy.CodeRuleFailed, "22012", "line 12: n: 1 / 0"},
		{"second statement", ownRule("r", "made", "where: 'true); DROP TABLE public.alone; SELECT (1'", "set:", "  n: 1"), policy.CodeRuleFailed, "42601", "line 11: where: 'true); DROP TABLE public.alone; SELECT (1'"},
		{"failing where", ownRule("r", "made", "where: nothing = 1", "set:", "  n: 1"), policy.CodeRuleFailed, `column "nothing" does not exist`, "line 11: where: nothing = 1"},
		{"where that divides", ownRule("r", "made", "where: 1 / (id - 1) > 0", "clear: [mail]"), policy.CodeRuleFailed, "22012", "line 11: where: 1 / (id - 1) > 0"},
		{"where over lines", ownRule("r", "made", "where: >-", "  mail <> ''", "  AND 1 / (id - 1) > 0", "set:", "  n: 1"), policy.CodeRuleFailed, "22012", "line 11: where: >-"},
		{"second value of set", ownRule("r", "made", "where: id > 0", "set:", "  mail: \"'x'\"", "  n: 1 / (id - 1)"), policy.CodeRuleFailed, "22012", "line 14: n: 1 / (id - 1)"},
		{"odd column", ownRule("r", `Odd "one.T`, "set:", "  doc: \"'{}'\"", "  'A b': 1 / 0"), policy.CodeRuleFailed, "22012", "line 13: 'A b': 1 / 0"},
		{"a column called where", ownRule("r", "odd", "where: x = 1", "set:", "  where: 1 / 0", "  it's: 1"), policy.CodeRuleFailed, "22012", "line 13: where: 1 / 0"},
		{"another one", ownRule("r", "odd", "set:", "  where: 1", "  it's: 1 / 0"), policy.CodeRuleFailed, "22012", "line 13: it's: 1 / 0"},
		{"value of insert", ownRule("r", "made", "insert:", "  - mail: \"'a'\"", "    n: 1", "  - mail: \"'b'\"", "    n: nothing"), policy.CodeRuleFailed, "nothing", "line 15: n: nothing"},
		{"value of insert that does not fit", ownRule("r", "made", "insert:", "  - mail: \"'a'\"", "    born: \"'soon'::text::date\""), policy.CodeRuleFailed, "22007", "line 13: born: \"'soon'::text::date\""},
		{"condition of insert", ownRule("r", "made", "where: id = 1", "insert:", "  - mail: \"'a'\""), policy.CodeRuleFailed, `"id" does not exist`, "line 11: where: id = 1"},
		{"row of insert", ownRule("r", "made", "insert:", "  - n: 1"), policy.CodeRuleFailed, "23502", "line 12: - n: 1"},
		{"condition of delete", ownRule("r", "customer", "delete: true", "where: customer.nothing > 1"), policy.CodeRuleFailed, "nothing", "line 12: where: customer.nothing > 1"},
		{"condition of delete that divides", ownRule("r", "customer", "delete: true", "where: 1 / (id - 4) > 0"), policy.CodeRuleFailed, "22012", "line 12: where: 1 / (id - 4) > 0"},
		{"empty, but referred to", ownRule("r", "customer", "empty: true"), policy.CodeTableReferenced, "refer to it", "line 11: empty: true"},
		{"identity", ownRule("r", "made", "set:", "  id: 5"), policy.CodeRuleFailed, "only be updated to DEFAULT", "line 12: id: 5"},
	} {
		in.Packs = []pack.Pack{ownPack(t, "rules:\n"+refused.yaml)}
		_, err := policy.Neutralize(t.Context(), st, in)
		if got := sandglass.CodeOf(err); got != refused.code || !strings.Contains(sandglass.AsError(err).Message, refused.says) || !strings.Contains(sandglass.AsError(err).Message, "(own/pack.yaml, "+refused.quotes+")") {
			t.Errorf("%s: %v", refused.name, err)
		}
	}
	if got := ask(t, c, "shop", `SELECT concat_ws(' ', (SELECT count(*) FROM public.alone), (SELECT count(*) FROM public.customer), (SELECT tgenabled FROM pg_trigger WHERE tgname = 'always'))`); got != "2 5 A" {
		t.Errorf("a refused rule changed something: %s", got)
	}
	// Keys broken by a rule, and assertions that can't be answered.
	in.Run, in.Packs = "20261122t190000-more", []pack.Pack{ownPack(t, "rules:\n"+ownRule("r", "invoice", "where: id = 40", "set:", "  customer: 123")+
		"assertions:\n  - name: two\n    why: t\n    database: business\n    query: SELECT 0 FROM public.customer\n    expect: 0\n"+
		"  - name: wide\n    why: t\n    database: business\n    query: SELECT 0, 0\n    expect: 0\n"+
		"  - name: broken\n    why: t\n    database: business\n    query: SELECT count(*) FROM public.nowhere\n    expect: 0\n"+
		"  - name: writes\n    why: t\n    database: business\n    query: DELETE FROM public.alone RETURNING 0\n    expect: 0\n"+
		"  - name: absent\n    why: t\n    database: business\n    table: nowhere\n    query: SELECT 1\n    expect: 0\n"+
		"  - name: optional\n    why: t\n    database: business\n    table: nowhere\n    required: false\n    query: SELECT 1\n    expect: 0\n"+
		"  - name: none\n    why: t\n    database: business\n    query: SELECT NULL\n    expect: ''\n")}
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err)
	}
	stops := strings.Join(prove(t, st, in), "\n")
	for _, want := range []string{"proof.foreign_keys", "gave 5 rows", "gave 2 columns", "relation \"public.nowhere\" does not exist", "own/writes", "there is no table nowhere", "answer is NULL", "gave 5 rows instead of one (own/pack.yaml, line 18: query: SELECT 0 FROM public.customer)"} {
		if !strings.Contains(stops, want) {
			t.Errorf("no %q in %s", want, stops)
		}
	}
	if strings.Contains(stops, "own/optional") {
		t.Error("an optional question failed")
	}
	in.Packs = []pack.Pack{ownPack(t, "rules:\n"+ownRule("another", "part", "clear: [mail]"))}
	if _, err := policy.Neutralize(t.Context(), st, in); sandglass.CodeOf(err) != policy.CodePolicyChanged {
		t.Errorf("a pack that was changed in between: %v", err)
	}
	in.Environment.Databases = map[string]string{"other": "shop"}
	if _, err := policy.Neutralize(t.Context(), st, in); sandglass.CodeOf(err) != pack.CodeRoleMissing || !strings.Contains(err.Error(), "no database of the role business: the shop (own/pack.yaml, line 4: business:)") {
		t.Errorf("a pack whose role the environment lacks: %v", err)
	}
}
