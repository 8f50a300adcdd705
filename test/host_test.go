package test

// This file is what a host can lack that production has: the binaries of its major, and its collation versions.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// On a host without the binaries of production's major recording goes on, restore and peek are refused, and what is there
// stays. With them, a copy that sorts by other collation versions than production is restored and told.
func TestWhatTheHostLacks(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("hiding a folder from a process needs root")
	}
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who")
	oldCollations(t, prod)
	metadata := pgtest.New(t, pgtest.Options{}) // elsewhere, as the binaries of a private one would be missing too
	binary, err := build()
	must(t, err)
	s := systest.New(t, binary)
	config, err := os.OpenFile(filepath.Join(s.State(), "config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(config, "\nmetadata_url: postgres:///postgres?host=%s&port=%d&user=%s\n", metadata.Socket(), metadata.Port, pgtest.Superuser)
	must(t, err)
	must(t, config.Close())
	must(t, s.Serve(ctx))
	must(t, s.Record(ctx, "prod", prod, nil))
	newSandbox(t, s, "uat", nil)
	streaming(t, s, "prod")
	must(t, s.Stop())

	s.Binary = withoutFolder(t, s, prod.Bin)
	must(t, s.Serve(ctx))
	streaming(t, s, "prod")
	for _, args := range []string{"restore uat --latest --plan", "restore uat --latest --yes", "peek prod --latest --reason look --no-wait"} {
		r := refused(t, s, 3, sandglass.CodeBinariesMissing, strings.Fields(args)...)
		if out := r.Stdout + r.Stderr; !strings.Contains(out, fmt.Sprintf("apt-get install postgresql-%d", prod.Major)) {
			t.Errorf("%s: there is no remedy:\n%s", args, out)
		}
	}
	must(t, s.Stop())
	s.Binary = binary
	must(t, s.Serve(ctx))
	shows(t, s, "uat", "the sandbox")
	op, err := s.Restore(ctx, "uat", *latest)
	must(t, err)
	shows(t, s, "uat", "production")
	if prod.Major >= 15 { // a database has a collation version since then
		collationsTold(t, s, op)
	}
}

// withoutFolder gives a command that runs the system's binary with an empty folder in the place of one.
func withoutFolder(t *testing.T, s *systest.System, folder string) string {
	t.Helper()
	script := filepath.Join(s.Dir, "without")
	must(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none %s && exec %s \"$@\"' sh \"$@\"\n", folder, s.Binary), 0o755))
	return script
}

// oldCollations makes a production's indexes as if another version of ICU had built them.
func oldCollations(t *testing.T, prod *pgtest.Cluster) {
	t.Helper()
	if prod.Major < 15 {
		return
	}
	prod.Exec(t, "postgres", "CREATE DATABASE shop TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'")
	prod.Exec(t, "shop", "CREATE COLLATION swedish (provider = icu, locale = 'sv-SE')", "CREATE COLLATION unused (provider = icu, locale = 'fr-FR')",
		"CREATE TABLE customer (name text COLLATE swedish)", "CREATE INDEX ON customer (name)", "INSERT INTO customer VALUES ('Östen')",
		"UPDATE pg_collation SET collversion = '1.2.3' WHERE collname IN ('swedish', 'unused')",
		"UPDATE pg_database SET datcollversion = '1.2.3' WHERE datname = 'shop'")
}

// collationsTold looks for the findings: one of the database's default, one of the collation that an index uses, with what to do, which helps.
func collationsTold(t *testing.T, s *systest.System, op sandglass.Operation) {
	t.Helper()
	ctx := t.Context()
	var result sandglass.Result
	must(t, json.Unmarshal(op.Result, &result))
	told := ""
	for _, f := range result.Findings {
		if f.Code != "inspect.collation_version" {
			continue
		}
		told += f.Message + "\n"
		if f.Level != sandglass.Warning || !strings.Contains(f.Remedy, "REINDEX") || !strings.Contains(f.Remedy, "REFRESH VERSION") {
			t.Errorf("the finding: %+v", f)
		}
	}
	if strings.Count(told, "\n") != 2 || strings.Count(told, "shop: ") != 2 || !strings.Contains(told, "1.2.3 there") || !strings.Contains(told, "swedish") || strings.Contains(told, "unused") {
		t.Errorf("the findings:\n%s", told)
	}
	if out := ran(t, s, "ops", "show", op.ID).Stdout; strings.Count(out, "inspect.collation_version") != 2 {
		t.Errorf("ops show does not tell both, once:\n%s", out)
	}
	do(t, s, "uat", "shop", "REINDEX DATABASE shop", "ALTER COLLATION swedish REFRESH VERSION", "ALTER DATABASE shop REFRESH COLLATION VERSION")
	if got, err := s.Query(ctx, "uat", "shop", `SELECT (SELECT collversion = pg_collation_actual_version(oid) FROM pg_collation WHERE collname = 'swedish'),
		(SELECT datcollversion = pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = 'shop')`); err != nil || got != "t|t" {
		t.Errorf("after the remedy: %s %v", got, err)
	}
}
