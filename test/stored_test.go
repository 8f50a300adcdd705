package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandglass"
)

// What PostgreSQL keeps compressed or in pieces, addresses, and names that stand beside lengths which look like letters, are found
// where no rule looks, though no file shows them.
func TestHiddenValues(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE DATABASE erp")
	prod.Exec(t, "erp",
		`CREATE TABLE smtp (id int, password text); INSERT INTO smtp VALUES (1, E'LEAK "smtp" \\password')`,
		`CREATE TABLE inline (id int, "a Note" text); INSERT INTO inline VALUES (1, repeat('abc ', 1000) || 'see db-master.prod.example.' || repeat(' xyz', 1000))`,
		`CREATE TABLE toasted (id int, doc jsonb); INSERT INTO toasted SELECT 1, jsonb_build_object('filler', (SELECT string_agg(md5(i::text) || repeat('-', 40), '') FROM generate_series(1, 2000) i), 'p', 'x' || password) FROM smtp`,
		`CREATE TABLE lists (id int, names text[]); INSERT INTO lists SELECT 1, array_agg('a name like others'::text) || 'db-master.prod.example'::text FROM generate_series(1, 500)`,
		`CREATE MATERIALIZED VIEW notes AS SELECT "a Note" || '' AS note FROM inline`,
		`CREATE DOMAIN address AS inet; CREATE TABLE peers (id int, host address, net cidr); INSERT INTO peers VALUES (1, '10.20.30.40/24', '10.9.0.0/16')`,
		// The length of the host, 24 bytes, is kept as the digit 3, that of the note behind it as an A.
		`CREATE TABLE beside (kind "char", host text, note text); INSERT INTO beside VALUES ('x', 'db1.erp.prod.example.com', repeat('-', 31))`,
		`CREATE TABLE pieces (note text); ALTER TABLE pieces ALTER note SET STORAGE EXTERNAL; INSERT INTO pieces VALUES (repeat('x ', 994) || 'db-master.prod.example' || repeat(' x', 994))`,
		`CREATE TABLE harmless (note text); INSERT INTO harmless VALUES (repeat('abc ', 1000)), ('olddb1.erp.prod.example.com is another')`)
	want := []string{
		"production's host db-master.prod.example in the large values of public.inline.a Note of erp",
		"public.smtp.password (rule vault/smtp) in the large values of public.toasted.doc of erp",
		"production's host db-master.prod.example in the large values of public.lists.names of erp",
		"production's host db-master.prod.example in the large values of public.notes.note of erp",
		"production's host 10.20.30.40 in the addresses of public.peers.host of erp",
		"production's host db1.erp.prod.example.com in the values of public.beside.host of erp",
		"production's host db-master.prod.example in the large values of public.pieces.note of erp",
	}
	if prod.Query(t, "erp", "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'") == "t" {
		prod.Exec(t, "erp", `CREATE TABLE lz (id int, note text COMPRESSION lz4); INSERT INTO lz VALUES (1, repeat('abc ', 1000) || 'db-master.prod.example' || repeat(' xyz', 1000))`)
		want = append(want, "production's host db-master.prod.example in the large values of public.lz.note of erp")
	}
	// A large value that is damaged in production can't be looked into.
	prod.Exec(t, "erp", "CREATE TABLE torn (note text)", "ALTER TABLE torn ALTER note SET STORAGE EXTERNAL", "INSERT INTO torn VALUES (repeat('x', 10000))", "CHECKPOINT")
	torn := prod.Query(t, "erp", "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'torn'::regclass")
	must(t, prod.Stop())
	must(t, os.Truncate(filepath.Join(prod.Data(), torn), 0))
	must(t, prod.Start(ctx))
	for _, c := range []string{`"a Note") FROM inline`, "doc) FROM toasted", "names) FROM lists", "note) FROM notes"} {
		if prod.Query(t, "erp", "SELECT pg_column_compression("+c) == "" {
			t.Fatalf("not compressed: %s", c)
		}
	}
	s := newSystem(t)
	own := filepath.Join(s.State(), "packs", "vault")
	must(t, os.MkdirAll(own, 0o755))
	must(t, os.WriteFile(filepath.Join(own, "pack.yaml"), []byte(`pack: vault
version: 1
databases:
  business:
    what: the application
rules:
  - {name: smtp, why: a test, database: business, table: smtp, clear: [password], secret: [password]}
`), 0o644))
	must(t, s.Record(ctx, "prod", prod, func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "erp"}
		e.Hosts = []string{"db-master.prod.example", "10.20.30.40", "db1.erp.prod.example.com"}
	}))
	_, err := s.Sandbox(ctx, "uat", "prod", func(e *sandglass.Environment) {
		e.Databases, e.Packs = map[string]string{"business": "erp"}, []string{"vault"}
	})
	must(t, err)
	streaming(t, s, "prod")
	started, err := s.Client.Start(ctx, restoreLatest)
	must(t, err)
	op, err := s.Finish(ctx, started.ID)
	must(t, err)
	if op.State != sandglass.Failed || op.Error.Code != "prove.leak" {
		t.Fatalf("compressed secrets where no rule looks: %s %v", op.State, op.Error)
	}
	logs := zipped(t, s, op)
	for _, w := range want {
		if !strings.Contains(logs["search.json"], w) {
			t.Errorf("search.json does not name %q", w)
		}
	}
	if !strings.Contains(logs["search.json"], "public.torn.note of erp: could not read") {
		t.Error("search.json does not name the column that can't be read")
	}
	if strings.Contains(logs["search.json"], "harmless") {
		t.Error("a harmless value is named")
	}
	if t.Failed() {
		t.Log(logs["search.json"])
	}
	for name, text := range logs {
		if strings.Contains(text, "LEAK") {
			t.Errorf("%s of the logs repeats a secret", name)
		}
	}
}
