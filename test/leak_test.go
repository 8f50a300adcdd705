package test

import (
	"archive/zip"
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
  - {name: services, why: a test, database: business, table: services, set: {url: "'https://uat.sandbox.example'", address: "''", config: "'{}'"}}
  - {name: documents, why: a test, database: business, table: documents, delete: true, where: id > 0, secret: [body]}
`

// host and address are production's own: declared, and looked for without being said.
const host, address = "db-master.prod.example", "10.20.30.40"

// planted is a production full of secrets: in rows, in rows that are no more, in indexes, in statistics, in pieces of large
// values, in catalogs, in settings and in WAL. All of them are given back, the roles' password hashes too.
func planted(t *testing.T, prod *pgtest.Cluster) (secrets []string) {
	t.Helper()
	add := func(n int, secret func(i int) string) {
		for i := 1; i <= n; i++ {
			secrets = append(secrets, secret(i))
		}
	}
	prod.Exec(t, "postgres", "CREATE DATABASE erp")
	for i := range 10 {
		prod.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE person_%d LOGIN PASSWORD 'LEAK-login-%d'", i, i))
		secrets = append(secrets, prod.Query(t, "postgres", fmt.Sprintf("SELECT rolpassword FROM pg_authid WHERE rolname = 'person_%d'", i)))
	}
	prod.Exec(t, "erp", `CREATE TABLE customers (id int PRIMARY KEY, mail text, padding text);
		CREATE INDEX ON customers (mail); CREATE INDEX ON customers (lower(mail)); CREATE STATISTICS both_mail ON mail, padding FROM customers;
		INSERT INTO customers SELECT i, 'LEAK.mail.' || i || '@customer.example', repeat('x', 50) FROM generate_series(1, 75) i`,
		`CREATE TABLE smtp (id int, host text, password text); INSERT INTO smtp VALUES (1, 'mail.LEAK-host.example', 'LEAK-smtp-password')`,
		`CREATE TABLE api_keys (id int PRIMARY KEY, key text, raw bytea, old varchar(100) NOT NULL);
		INSERT INTO api_keys SELECT i, 'LEAK-key-' || md5(i::text), convert_to('LEAK-raw-' || md5(i::text), 'UTF8'), 'LEAK-old-' || i || '.' FROM generate_series(1, 30) i;
		CREATE INDEX ON api_keys (key)`,
		`CREATE TABLE documents (id int, body text); ALTER TABLE documents ALTER body SET STORAGE EXTERNAL; INSERT INTO documents SELECT i, repeat('LEAK-document-' || i || ' ', 900) FROM generate_series(1, 10) i`,
		`CREATE MATERIALIZED VIEW mails AS SELECT mail FROM customers`,
		`CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'far.LEAK-host.example');
		CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x', password 'LEAK-fdw-password')`)
	// Production's own names: where the pack clears or rewrites them, and where a rule of ours takes them out.
	prod.Exec(t, "erp", `CREATE TABLE services (id int PRIMARY KEY, url text, address text, config jsonb);
		INSERT INTO services SELECT i, 'https://`+host+`:' || 8000 + i || '/LEAK-service-' || i || '.', '`+address+`', jsonb_build_object('upstream', '`+strings.ToUpper(host)+`', 'ip', '`+address+`') FROM generate_series(1, 15) i;
		CREATE INDEX ON services (url); CREATE INDEX ON services ((config ->> 'upstream')); UPDATE services SET url = 'http://`+address+`/LEAK-moved-' || id || '.' WHERE id > 10`,
		`CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '`+host+`', hostaddr '`+address+`')`,
		`CREATE SUBSCRIPTION feed CONNECTION 'host=`+host+` hostaddr=`+address+` dbname=x password=LEAK-feed-password' PUBLICATION p WITH (connect = false)`,
		`ALTER DATABASE erp SET own.upstream = 'https://`+host+`/LEAK-setting'; ALTER ROLE person_3 SET own.upstream = '`+address+`, LEAK-role-setting'`, `ALTER SYSTEM SET cluster_name = '`+host+`, LEAK-system-setting'`,
		`DELETE FROM customers WHERE id > 65; UPDATE api_keys SET key = 'LEAK-new-' || md5(key); ANALYZE; CHECKPOINT`)
	key := func(i int) string { return fmt.Sprintf("LEAK-key-%x", md5.Sum(fmt.Append(nil, i))) }
	add(75, func(i int) string { return fmt.Sprintf("LEAK.mail.%d@", i) })
	add(30, key)
	add(30, func(i int) string { return fmt.Sprintf("LEAK-new-%x", md5.Sum([]byte(key(i)))) })
	add(30, func(i int) string { return fmt.Sprintf("LEAK-raw-%x", md5.Sum(fmt.Append(nil, i))) })
	add(30, func(i int) string { return fmt.Sprintf("LEAK-old-%d.", i) })
	add(10, func(i int) string { return fmt.Sprintf("LEAK-document-%d ", i) })
	add(10, func(i int) string { return fmt.Sprintf("LEAK-service-%d.", i) })
	add(5, func(i int) string { return fmt.Sprintf("LEAK-moved-%d.", 10+i) })
	return append(secrets, host, strings.ToUpper(host), address, "mail.LEAK-host.example", "far.LEAK-host.example", "LEAK-smtp-password", "LEAK-fdw-password", "LEAK-feed-password",
		"LEAK-setting", "LEAK-role-setting", "LEAK-system-setting", "leak.mail.1@", "leak.mail.70@") // the last two in an index only
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
func later(t *testing.T, prod *pgtest.Cluster) (secrets []string) {
	t.Helper()
	prod.Exec(t, "erp", `INSERT INTO customers SELECT i, 'LEAK.late.' || i || '@customer.example', '' FROM generate_series(101, 140) i`,
		`UPDATE smtp SET password = 'LEAK-smtp-password-2'`, `DELETE FROM customers WHERE id BETWEEN 101 AND 110`, `VACUUM ANALYZE`)
	for i := 101; i <= 140; i++ {
		secrets = append(secrets, fmt.Sprintf("LEAK.late.%d@", i))
	}
	return append(secrets, "LEAK-smtp-password-2")
}

// leftIn says in which files below the folder each of the texts lies that lies in any: every byte of every file is read,
// with nothing of Sandglass. Texts that begin alike are looked for at once.
func leftIn(t *testing.T, folder string, texts ...string) map[string][]string {
	t.Helper()
	const start = 4 // bytes by which texts begin alike
	alike := map[string][]string{}
	for _, text := range texts {
		alike[text[:start]] = append(alike[text[:start]], text)
	}
	found := map[string][]string{}
	must(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		for beginning, texts := range alike {
			for rest := b; ; rest = rest[1:] {
				at := bytes.Index(rest, []byte(beginning))
				if at < 0 {
					break
				}
				rest = rest[at:]
				for _, text := range texts {
					if bytes.HasPrefix(rest, []byte(text)) && !slices.Contains(found[text], path) {
						found[text] = append(found[text], path)
					}
				}
			}
		}
		return err
	}))
	return found
}

// 200 secrets of production are nowhere in the finished sandbox's files. One that lies where no rule looks ends the
// restore, and neither the error nor the logs repeat it.
func TestLeaks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	secrets, files := planted(t, prod), strewn(t, prod)
	s := newSystem(t)
	own := filepath.Join(s.State(), "packs", "vault")
	must(t, os.MkdirAll(own, 0o755))
	must(t, os.WriteFile(filepath.Join(own, "pack.yaml"), []byte(vault), 0o644))
	must(t, s.Record(ctx, "prod", prod, func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "erp"}
		e.Hosts = []string{host, address, "db"}
	}))
	var env sandglass.Environment
	_, err := s.Sandbox(ctx, "uat", "prod", func(e *sandglass.Environment) {
		e.Databases, e.Packs = map[string]string{"business": "erp"}, []string{"vault"}
		env = *e
	})
	must(t, err)
	secrets = append(secrets, later(t, prod)...)
	streaming(t, s, "prod")
	there := leftIn(t, prod.Data(), secrets...)
	if len(secrets) < 200 || len(there) != len(secrets) {
		t.Fatalf("of %d secrets, %d are in production's files: %v", len(secrets), len(there), slices.DeleteFunc(slices.Clone(secrets), func(s string) bool { return there[s] != nil }))
	}
	secrets = append(secrets, "LEAK") // the rest of any of them

	op := succeeds(t, s, restoreLatest)
	e, err := s.Client.Environment(ctx, "uat")
	must(t, err)
	if left := leftIn(t, filepath.Join(s.State(), "volumes"), secrets...); len(left) > 0 {
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
	notHosts := slices.DeleteFunc(slices.Clone(secrets), func(s string) bool { return strings.EqualFold(s, host) || s == address }) // the logs say that these were looked for
	if left := leftIn(t, filepath.Join(s.State(), "ops"), notHosts...); len(left) > 0 {
		t.Errorf("secrets of production are in the operation's folder: %v", left)
	}
	if aside, _ := filepath.Glob(filepath.Join(s.State(), "ops/*/*.age")); aside != nil {
		t.Errorf("what was looked for is kept after the end: %v", aside)
	}
	if got, err := s.Query(ctx, "uat", "erp", "SELECT count(*) FILTER (WHERE mail = 'nobody@sandbox.example') || ' ' || (SELECT count(*) FROM api_keys WHERE key IS NULL) FROM customers"); err != nil || got != "95 30" {
		t.Errorf("the rules left %s, %v", got, err)
	}
	searched := zipped(t, s, op)["search.json"]
	if !strings.Contains(searched, `"`+host+`"`) || !strings.Contains(searched, `"`+address+`"`) || !strings.Contains(searched, `"not_searched": `) || strings.Contains(searched, `"found"`) {
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
	if op, err := s.Finish(ctx, started.ID); err == nil {
		t.Fatalf("it ended before it was killed: %s %v", op.State, op.Error)
	}
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
