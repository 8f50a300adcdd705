package test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// vault is a pack whose rules know where the secrets are.
const vault = `pack: vault
version: 1
databases:
  business:
    what: the application
rules:
  - {name: mail, why: a test, database: business, table: customers, set: {mail: "'nobody@sandbox.example'"}, secret: true}
  - {name: smtp, why: a test, database: business, table: smtp, clear: [host, password], secret: [password]}
  - {name: keys, why: a test, database: business, table: api_keys, clear: [key, raw, old], secret: true}
  - {name: documents, why: a test, database: business, table: documents, delete: true, where: id > 0, secret: [body]}
`

// planted is a production full of secrets: in rows, in rows that are no more, in indexes, in statistics, in pieces of large
// values and in WAL; each has "LEAK" in it. The roles' password hashes are given back.
func planted(t *testing.T, prod *pgtest.Cluster) (hashes []string) {
	t.Helper()
	prod.Exec(t, "postgres", "CREATE DATABASE erp")
	for i := range 10 {
		prod.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE person_%d LOGIN PASSWORD 'LEAK-login-%d'", i, i))
		hashes = append(hashes, prod.Query(t, "postgres", fmt.Sprintf("SELECT rolpassword FROM pg_authid WHERE rolname = 'person_%d'", i)))
	}
	prod.Exec(t, "erp", `CREATE TABLE customers (id int PRIMARY KEY, mail text, padding text);
		CREATE INDEX ON customers (mail); CREATE INDEX ON customers (lower(mail)); CREATE STATISTICS both_mail ON mail, padding FROM customers;
		INSERT INTO customers SELECT i, 'LEAK.mail.' || i || '@customer.example', repeat('x', 50) FROM generate_series(1, 75) i`,
		`CREATE TABLE smtp (id int, host text, password text); INSERT INTO smtp VALUES (1, 'mail.LEAK-host.example', 'LEAK-smtp-password')`,
		`CREATE TABLE api_keys (id int PRIMARY KEY, key text, raw bytea, old varchar(100) NOT NULL);
		INSERT INTO api_keys SELECT i, 'LEAK-key-' || md5(i::text), convert_to('LEAK-raw-' || md5(i::text), 'UTF8'), 'LEAK-old-' || i FROM generate_series(1, 30) i;
		CREATE INDEX ON api_keys (key)`,
		`CREATE TABLE documents (id int, body text); ALTER TABLE documents ALTER body SET STORAGE EXTERNAL; INSERT INTO documents SELECT i, repeat('LEAK-document-' || i || ' ', 900) FROM generate_series(1, 10) i`,
		`CREATE MATERIALIZED VIEW mails AS SELECT mail FROM customers`,
		`CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'far.LEAK-host.example');
		CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x', password 'LEAK-fdw-password')`,
		`DELETE FROM customers WHERE id > 65; UPDATE api_keys SET key = 'LEAK-new-' || md5(key); ANALYZE; CHECKPOINT`)
	return hashes
}

// strewn are files that servers and people leave in a data folder: logs, keys, copies of configuration, dumps.
func strewn(t *testing.T, prod *pgtest.Cluster) (files []string) {
	t.Helper()
	database := prod.Query(t, "postgres", "SELECT 'base/' || oid FROM pg_database WHERE datname = 'erp'")
	for _, file := range []string{"log/postgresql-Mon.log", "pg_log/postgresql.log", "server.key", "pg_hba.conf.old", "notes/todo.txt", "base/dump", database + "/1259-old", "global/passwords"} {
		path := filepath.Join(prod.Data(), file)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte("LEAK in "+file+", strewn-by-people"), 0o644))
		files = append(files, file)
	}
	return files
}

// later is what production writes after the image: the secrets lie in the WAL that is replayed.
func later(t *testing.T, prod *pgtest.Cluster) {
	t.Helper()
	prod.Exec(t, "erp", `INSERT INTO customers SELECT i, 'LEAK.late.' || i || '@customer.example', '' FROM generate_series(101, 140) i`,
		`UPDATE smtp SET password = 'LEAK-smtp-password-2'`, `DELETE FROM customers WHERE id BETWEEN 101 AND 110`, `VACUUM ANALYZE`)
}

// leftIn says which files below the folder hold any of the texts, read with nothing of Sandglass.
func leftIn(t *testing.T, folder string, texts ...string) (found []string) {
	t.Helper()
	for _, text := range texts {
		for _, f := range filesWith(t, folder, text) {
			found = append(found, text+" in "+f)
		}
	}
	return found
}

// 200 secrets of production are nowhere in the finished sandbox's files. One that lies where no rule looks ends the
// restore, and neither the error nor the logs repeat it.
func TestLeaks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	hashes, files := planted(t, prod), strewn(t, prod)
	s := newSystem(t)
	own := filepath.Join(s.State(), "packs", "vault")
	must(t, os.MkdirAll(own, 0o755))
	must(t, os.WriteFile(filepath.Join(own, "pack.yaml"), []byte(vault), 0o644))
	must(t, s.Record(ctx, "prod", prod, func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "erp"}
		e.Hosts = []string{"db-master.prod.example", "10.20.30.40", "db"}
	}))
	var env sandglass.Environment
	_, err := s.Sandbox(ctx, "uat", "prod", func(e *sandglass.Environment) {
		e.Databases, e.Packs = map[string]string{"business": "erp"}, []string{"vault"}
		env = *e
	})
	must(t, err)
	later(t, prod)
	streaming(t, s, "prod")
	if n := len(leftIn(t, prod.Data(), append(hashes, "LEAK")...)); n < 10 {
		t.Fatalf("the secrets are in %d places of production only", n)
	}

	op := succeeds(t, s, restoreLatest)
	e, err := s.Client.Environment(ctx, "uat")
	must(t, err)
	if left := leftIn(t, filepath.Join(s.State(), "volumes"), append(hashes, "LEAK")...); left != nil {
		t.Errorf("secrets of production are left: %v", left)
	}
	data := filepath.Join(s.State(), "volumes", e.Volume.ID, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		t.Error(err)
	}
	for _, file := range files {
		if _, err := os.Lstat(filepath.Join(data, file)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of production's data folder came into the sandbox: %v", file, err)
		}
	}
	if left := leftIn(t, filepath.Join(s.State(), "ops"), append(hashes, "LEAK")...); left != nil {
		t.Errorf("secrets of production are in the operation's folder: %v", left)
	}
	if aside, _ := filepath.Glob(filepath.Join(s.State(), "ops/*/*.age")); aside != nil {
		t.Errorf("what was looked for is kept after the end: %v", aside)
	}
	if got, err := s.Query(ctx, "uat", "erp", "SELECT count(*) FILTER (WHERE mail = 'nobody@sandbox.example') || ' ' || (SELECT count(*) FROM api_keys WHERE key IS NULL) FROM customers"); err != nil || got != "95 30" {
		t.Errorf("the rules left %s, %v", got, err)
	}
	searched := zipped(t, s, op)["search.json"]
	if !strings.Contains(searched, `"db-master.prod.example"`) || !strings.Contains(searched, `"not_searched": `) || strings.Contains(searched, `"found"`) {
		t.Errorf("search.json of %s: %s", e.Environment.Name, searched)
	}

	prod.Exec(t, "erp", "CREATE TABLE notes (id int PRIMARY KEY, note text); ALTER TABLE notes ALTER note SET STORAGE EXTERNAL; INSERT INTO notes SELECT 1, key FROM api_keys WHERE id = 7",
		"INSERT INTO notes SELECT 2, repeat('y', 3000) || 'LEAK-smtp-password-2'", "INSERT INTO notes VALUES (3, 'see DB-MASTER.PROD.EXAMPLE.')",
		"CREATE INDEX notes_note ON notes (left(note, 100))", "INSERT INTO notes SELECT 4, rolpassword FROM pg_authid WHERE rolname = 'person_3'")
	streaming(t, s, "prod")
	must(t, s.Stop())
	must(t, s.Serve(ctx, "SANDGLASS_CRASH=restore/neutralize:after")) // what to look for survives it
	started, err := s.Client.Start(ctx, restoreLatest)
	must(t, err)
	<-s.Exited()
	must(t, s.Serve(ctx))
	op, err = s.Finish(ctx, started.ID)
	must(t, err)
	if op.State != sandglass.Failed || op.Error.Code != "prove.leak" {
		t.Fatalf("a secret where no rule looks: %s %v", op.State, op.Error)
	}
	logs := zipped(t, s, op)
	for _, want := range []string{"public.api_keys.key (rule vault/keys) in public.notes of erp", "public.api_keys.key (rule vault/keys) in the index public.notes_note of erp",
		"public.smtp.password (rule vault/smtp) in the large values of public.notes of erp", "production's host db-master.prod.example in public.notes of erp",
		"the password of production's role person_3 in public.notes of erp"} {
		if !strings.Contains(logs["search.json"], want) {
			t.Errorf("search.json does not name %q", want)
		}
	}
	if t.Failed() {
		t.Log(logs["search.json"])
	}
	for name, text := range logs {
		if strings.Contains(text, "LEAK") || strings.Contains(name, "secrets") {
			t.Errorf("%s of the logs repeats a secret", name)
		}
	}
	if strings.Contains(op.Error.Message, "LEAK") {
		t.Errorf("the error repeats a secret: %s", op.Error.Message)
	}

	env.Accept = []sandglass.Code{"prove.leak"}
	_, err = s.Client.Apply(ctx, env)
	must(t, err)
	if op := succeeds(t, s, restoreLatest); !strings.Contains(string(op.Result), `"prove.leak"`) {
		t.Errorf("an accepted leak is not in the result: %s", op.Result)
	}
}

var restoreLatest = sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}}

// zipped are the files of an operation's logs.
func zipped(t *testing.T, s *systest.System, op sandglass.Operation) map[string]string {
	t.Helper()
	var b bytes.Buffer
	must(t, s.Client.Logs(t.Context(), op.ID, &b))
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(t, err)
	all := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, err)
		all[f.Name] = string(text)
	}
	return all
}
