// Names that must be quoted: every kind of rule works on a schema, a table and columns with
// quotes, blanks, dots, capitals and words of SQL in their names.

package policy_test

import (
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

const oddSQL = `
CREATE SCHEMA "My ""S"""; SET search_path = "My ""S""";
CREATE TABLE "Odd "" T.x" ("Id;" int PRIMARY KEY, "sel ""ect" text, "from" text UNIQUE, n int NOT NULL DEFAULT 0, pad text DEFAULT repeat('x', 300));
CREATE TABLE "Child's" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Of;" int REFERENCES "Odd "" T.x" ON DELETE CASCADE);
CREATE TABLE "Own $$" ("K 1" int, "k""2" text, "V" text, "Seq " serial, PRIMARY KEY ("K 1", "k""2"));
CREATE TABLE "Kept--" ("Id" int PRIMARY KEY, "Wo rd" text, "O f" int REFERENCES "Child's");
CREATE TABLE "gone/*" (x int); CREATE MATERIALIZED VIEW "View ;" AS SELECT "sel ""ect" FROM "Odd "" T.x";`

func TestOddNames(t *testing.T) {
	t.Parallel()
	c, own, in := twoClusters(t, oddSQL+`
		INSERT INTO "Odd "" T.x" SELECT i, 'hidden-' || i, 'f' || i FROM generate_series(1, 3000) i; DELETE FROM "Odd "" T.x" WHERE "Id;" % 5 = 4;
		INSERT INTO "Child's" ("Of;") SELECT i FROM generate_series(1, 3) i; INSERT INTO "gone/*" VALUES (1);
		INSERT INTO "Own $$" VALUES (1, 'a', 'p'), (2, 'b', 'p'); INSERT INTO "Kept--" VALUES (1, 'p', 1)`,
		oddSQL+`INSERT INTO "Own $$" VALUES (1, 'a', 'o'), (3, 'c', 'o'); INSERT INTO "Kept--" VALUES (7, 'o', 1), (8, 'o', 2), (9, 'o', 99)`)
	const s = `My "S".`
	in.Range = 8 * 8192
	in.Packs = []pack.Pack{ownPack(t, "rules:\n"+
		ownRule("set", s+`Odd " T.x`, `where: '"Odd "" T.x"."Id;" > 0 -- all'`, "set:", `  'n': n + 1`, `  'sel "ect': "'blank'"`)+
		ownRule("clear", s+`Odd " T.x`, `clear: ['from']`)+
		ownRule("delete", s+`Odd " T.x`, `where: '"Odd "" T.x"."Id;" = 2'`, "delete: true")+
		ownRule("insert", s+`Odd " T.x`, "insert:", `  - {'Id;': '9001', 'sel "ect': "'new'"}`)+
		ownRule("empty", s+`gone/*`, "empty: true")+
		ownRule("merge", s+`Own $$`, "merge: target")+
		ownRule("keep", s+`Kept--`, `where: '"Kept--"."Wo rd" <> '''''`, "keep: target"))}
	st := staging(c)
	ranged := false
	in.Progress = func(p sandglass.Progress) { ranged = ranged || strings.Contains(p.Note, "own/set: ") }
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	if !ranged {
		t.Error("the big table did not go by ranges")
	}
	own.Exec(t, "shop_uat", `UPDATE "My ""S"""."Own $$" SET "V" = 'late'; UPDATE "My ""S"""."Kept--" SET "Wo rd" = 'late'`)
	if again, err := policy.CarryAgain(t.Context(), st, in); err != nil || len(again.Rules) != 2 {
		t.Errorf("again: %+v %v", again, err)
	}
	for _, want := range []struct{ sql, want string }{
		{`SELECT concat_ws(' ', n, "sel ""ect", count(*), count("from")) FROM "My ""S"""."Odd "" T.x" GROUP BY n, "sel ""ect" ORDER BY n`, "0 new 1 0, 1 blank 2399 0"},
		{`SELECT concat_ws(' ', id, "Of;") FROM "My ""S"""."Child's" ORDER BY 1`, "1 1, 3 3"},
		{`SELECT concat_ws(' ', "K 1", "k""2", "V") FROM "My ""S"""."Own $$" ORDER BY 1`, "1 a late, 2 b p, 3 c late"},
		{`SELECT concat_ws(' ', "Id", "Wo rd", "O f") FROM "My ""S"""."Kept--" ORDER BY 1`, "7 late 1"},
		{`SELECT DISTINCT "sel ""ect" FROM "My ""S"""."View ;" ORDER BY 1`, "blank, new"},
		{`SELECT count(*)::text FROM "My ""S"""."gone/*"`, "0"},
	} {
		if got := ask(t, c, "shop_uat", want.sql); got != want.want {
			t.Errorf("%s\n got %s\nwant %s", want.sql, got, want.want)
		}
	}
	if missed := strings.Join(report.NotReapplied, "\n"); strings.Count(missed, "stay behind") != 1 || !strings.Contains(missed, `2 rows of the sandbox's "My ""S"""."Kept--" stay behind`) {
		t.Errorf("not re-applied: %s", missed)
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if found := files(t, c, "hidden-"); found != nil {
		t.Errorf("old values are still in %v", found)
	}
}

// A superuser of the sandbox can make its functions say anything. What they say of rights would become part of a statement in the copy,
// which holds production's rows still: none but PostgreSQL's own rights and names are taken.
func TestUnsoundTarget(t *testing.T) {
	t.Parallel()
	for _, lie := range []string{
		`CREATE FUNCTION pg_catalog.quote_ident(name) RETURNS text LANGUAGE sql AS $$SELECT 'a) ON TABLE t TO app; CREATE TABLE pwned (); --'$$`,
		`CREATE FUNCTION pg_catalog.told(text, text, text) RETURNS text LANGUAGE sql AS $$SELECT 'SELECT ON TABLE t TO app; CREATE TABLE pwned (); --'$$;
			ALTER AGGREGATE pg_catalog.string_agg(text, text) RENAME TO string_agg_before;
			CREATE AGGREGATE pg_catalog.string_agg(text, text) (SFUNC = pg_catalog.told, STYPE = text)`,
	} {
		c := makeTarget(t)
		for _, database := range []string{"postgres", "shop_uat"} {
			c.Exec(t, database, lie)
		}
		if _, err := policy.ReadTarget(t.Context(), staging(c).Connect); sandglass.CodeOf(err) != policy.CodeUnsound {
			t.Errorf("%s: %v", lie, err)
		}
	}
}
