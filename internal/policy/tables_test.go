// Rules on tables of unusual kinds: types, constraints, places and indexes.

package policy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

const kindsSQL = `
CREATE EXTENSION citext; CREATE EXTENSION file_fdw;
CREATE DOMAIN mail AS text CHECK (VALUE LIKE '%@%'); CREATE DOMAIN filled AS text NOT NULL; CREATE TYPE mood AS ENUM ('calm', 'cross'); CREATE TYPE pair AS (a int, b text);
CREATE TABLE typed (id int PRIMARY KEY, m mail, f filled, c citext NOT NULL, e mood NOT NULL, es mood[] NOT NULL, p pair, r int4range, j jsonb NOT NULL, u uuid NOT NULL, b boolean NOT NULL, v varbit NOT NULL);
INSERT INTO typed VALUES (1, 'a@b', 'x', 'Secret', 'cross', '{calm,cross}', (1, 'x'), '[1,5)', '{"k":1}', '11111111-1111-1111-1111-111111111111', true, B'101');
CREATE TABLE checked (id int PRIMARY KEY, n int CHECK (n > 0), t text NOT NULL, during int4range, EXCLUDE USING gist (during WITH &&), code int UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO checked SELECT i, i, 't', int4range(i * 10, i * 10 + 5), i FROM generate_series(1, 50) i;
CREATE TABLE indexed (id int PRIMARY KEY, t text, a int[], g int4range, d date, doc tsvector, secret text);
INSERT INTO indexed SELECT i, 'word' || i, ARRAY[i], int4range(i, i + 3), '2026-01-01'::date + i, to_tsvector('word' || i), 'hidden-' || i FROM generate_series(1, 300) i;
CREATE INDEX hashed ON indexed USING hash (t); CREATE INDEX inverted ON indexed USING gin (a); CREATE INDEX nested ON indexed USING gist (g); CREATE INDEX blocked ON indexed USING brin (d);
CREATE INDEX spaced ON indexed USING spgist (t); CREATE INDEX words ON indexed USING gin (doc); CREATE INDEX part ON indexed (secret) WHERE id > 100; CREATE INDEX expressed ON indexed (lower(secret)) INCLUDE (d); CLUSTER indexed USING indexed_pkey;
CREATE UNLOGGED TABLE fleeting (id int, secret text); INSERT INTO fleeting VALUES (1, 'hidden-unlogged');
CREATE TABLE toasted (id int, secret text, plain bytea); ALTER TABLE toasted ALTER plain SET STORAGE EXTERNAL, ALTER secret SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, repeat('hidden-toast ' || i || ' ', 20000), decode(repeat('68696464656e2d', 20000), 'hex') FROM generate_series(1, 5) i;
CREATE TABLE guarded (id int, secret text); INSERT INTO guarded VALUES (1, 'hidden-guarded');
CREATE RULE instead AS ON UPDATE TO guarded DO INSTEAD NOTHING; CREATE RULE never AS ON DELETE TO guarded DO INSTEAD NOTHING; ALTER TABLE guarded ENABLE ALWAYS RULE never;
CREATE ROLE holder; ALTER TABLE guarded OWNER TO holder; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY nobody ON guarded AS RESTRICTIVE USING (false);
CREATE VIEW shown WITH (security_barrier) AS SELECT * FROM guarded; CREATE MATERIALIZED VIEW stored AS SELECT secret FROM guarded; CREATE UNIQUE INDEX ON stored (secret);
CREATE TABLE split (id int, region text, secret text) PARTITION BY LIST (region); CREATE TABLE split_here PARTITION OF split FOR VALUES IN ('here') TABLESPACE aside; CREATE TABLE split_deep PARTITION OF split FOR VALUES IN ('deep') PARTITION BY RANGE (id);
CREATE TABLE split_deepest PARTITION OF split_deep DEFAULT; INSERT INTO split VALUES (1, 'here', 'hidden-here'), (2, 'deep', 'hidden-deep');
CREATE TABLE elsewhere (id int PRIMARY KEY USING INDEX TABLESPACE aside, secret text) TABLESPACE aside; INSERT INTO elsewhere VALUES (1, 'hidden-elsewhere');
CREATE TABLE outside (id int, region text) PARTITION BY LIST (region); CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE outside_1 PARTITION OF outside FOR VALUES IN ('x') SERVER files OPTIONS (filename '/nonexistent'); CREATE TABLE outside_2 PARTITION OF outside FOR VALUES IN ('y'); INSERT INTO outside_2 VALUES (2, 'y');
CREATE TABLE dropped (gone int, id int, secret text); INSERT INTO dropped VALUES (1, 1, 'hidden-dropped'); ALTER TABLE dropped DROP COLUMN gone, ADD COLUMN late text DEFAULT 'hidden-late';`

func TestTableKinds(t *testing.T) {
	t.Parallel()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	aside := filepath.Join(c.Dir, "aside")
	if err := c.MakeDir(aside); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for i := range 300 {
		columns = append(columns, fmt.Sprintf("c%d text DEFAULT 'hidden-wide'", i))
	}
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE shop`, `CREATE TABLESPACE aside LOCATION '`+aside+`'`)
	c.Exec(t, "shop", kindsSQL, `CREATE TABLE wide (id int, `+strings.Join(columns, ", ")+`)`, `INSERT INTO wide VALUES (1)`, `ANALYZE toasted, indexed, guarded, split, elsewhere, dropped`)
	contact(t, c)
	databases := map[string]string{"business": "shop"}
	in := policy.Input{Run: "20261122t190000-kind", Source: sandglass.Environment{Name: "prod", Databases: databases}, Environment: sandglass.Environment{Name: "uat", Databases: databases}}
	st := staging(c)
	for i, refused := range []struct{ name, yaml, says string }{
		{"domain", ownRule("r", "typed", "set:", "  m: \"'no address'\""), "23514"},
		{"domain that can't be NULL", ownRule("r", "typed", "set:", "  f: 'NULL'"), "23502"},
		{"no such label", ownRule("r", "typed", "set:", "  e: \"'glad'\""), "22P02"},
		{"enum that can't be NULL", ownRule("r", "typed", "clear: [e]"), "has no empty value"},
		{"check", ownRule("r", "checked", "set:", "  n: -n"), "23514"},
		{"exclusion", ownRule("r", "checked", "where: id < 3", "set:", "  during: \"'[1,2)'\""), "23P01"},
		{"deferred unique", ownRule("r", "checked", "where: id < 3", "set:", "  code: 7"), "23505"},
		{"no partition for it", ownRule("r", "split", "set:", "  region: \"'nowhere'\""), "23514"},
		{"foreign partition", ownRule("r", "outside", "set:", "  id: 1"), "has the foreign table"},
		{"foreign table", ownRule("r", "outside_1", "set:", "  id: 1"), "is no table"},
		{"materialized view", ownRule("r", "stored", "clear: [secret]"), "is no table"},
	} {
		in.Packs = []pack.Pack{ownPack(t, "rules:\n"+strings.Replace(refused.yaml, "name: r\n", fmt.Sprintf("name: r%d\n", i), 1))}
		if _, err := policy.Neutralize(t.Context(), st, in); err == nil || !strings.Contains(sandglass.AsError(err).Message, refused.says) || !strings.Contains(err.Error(), "own/pack.yaml") && !strings.Contains(refused.name, "partition") {
			t.Errorf("%s: %v", refused.name, err)
		}
	}
	in.Run, in.Packs = "20261122t190000-well", []pack.Pack{ownPack(t, "rules:\n"+
		ownRule("types", "typed", "set:", "  m: \"'none@invalid'\"", "  e: \"'calm'\"", "  p: ROW(2, 'y')", "  r: \"'empty'\"")+
		ownRule("emptied", "typed", "clear: [c, es, f, j, u, b]")+
		ownRule("shift", "checked", "set:", "  code: code + 1")+
		ownRule("indexed", "indexed", "clear: [secret]")+ownRule("fleeting", "fleeting", "clear: [secret]")+ownRule("toasted", "toasted", "clear: [secret, plain]")+
		ownRule("guarded", "guarded", "set:", "  secret: \"'open'\"")+ownRule("split", "split", "clear: [secret]")+ownRule("elsewhere", "elsewhere", "clear: [secret]")+
		ownRule("beside", "outside_2", "set:", "  id: 22")+
		ownRule("dropped", "dropped", "clear: [secret, late]")+ownRule("wide", "wide", "clear: [c0, c299]", "required: false")+ownRule("wider", "wide", "where: id = 2", "delete: true"))}
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ sql, want string }{
		{`SELECT concat_ws(' ', m, f, c, e, es, p, r, j, u, b, v) FROM public.typed`, "none@invalid   calm {} (2,y) empty {} 00000000-0000-0000-0000-000000000000 f 101"},
		{`SELECT concat_ws(' ', min(code - id), max(code - id), count(*)) FROM public.checked`, "1 1 50"},
		{`SELECT concat_ws(' ', count(secret), count(*)) FROM public.indexed WHERE t LIKE 'word%'`, "0 300"},
		{`SELECT count(*)::text FROM pg_index WHERE indrelid = 'public.indexed'::regclass AND indisvalid AND indisready`, "9"},
		{`SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'public.indexed'::regclass AND indisclustered`, "public.indexed_pkey"},
		{`SELECT concat_ws(' ', relpersistence, (SELECT count(secret) FROM public.fleeting)) FROM pg_class WHERE oid = 'public.fleeting'::regclass`, "u 0"},
		{`SELECT concat_ws(' ', count(secret), count(plain), count(*)) FROM public.toasted`, "0 0 5"},
		{`SELECT secret FROM public.guarded UNION ALL SELECT secret FROM public.stored`, "open, open"},
		{`SELECT string_agg(ev_enabled::text, '' ORDER BY rulename) FROM pg_rewrite WHERE ev_class = 'public.guarded'::regclass`, "OA"},
		{`SELECT concat_ws(' ', relrowsecurity, relforcerowsecurity, relowner::regrole) FROM pg_class WHERE oid = 'public.guarded'::regclass`, "t t holder"},
		{`SELECT concat_ws(' ', tableoid::regclass, id, secret) FROM public.split ORDER BY id`, "public.split_here 1, public.split_deepest 2"},
		{`SELECT concat_ws(' ', relname, spcname) FROM pg_class JOIN pg_tablespace t ON t.oid = reltablespace WHERE spcname = 'aside' AND relname !~ 'toast' ORDER BY 1`, "elsewhere aside, elsewhere_pkey aside, split_here aside"},
		{`SELECT concat_ws(' ', id, secret, late) FROM public.dropped`, "1"}, {`SELECT id::text FROM public.outside_2`, "22"},
		{`SELECT concat_ws(' ', id, c0, c1, c299) FROM public.wide`, "1 hidden-wide"},
	} {
		if got := ask(t, c, "shop", want.sql); got != want.want {
			t.Errorf("%s\n got %s\nwant %s", want.sql, got, want.want)
		}
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hidden-toast", "hidden-h", "hidden-d", "hidden-u", "hidden-g", "hidden-1", "hidden-2", "hidden-elsewhere"} {
		if found := files(t, c, secret); found != nil {
			t.Errorf("%s is still in %v", secret, found)
		}
	}
}
