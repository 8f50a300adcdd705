package test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sandglass"
)

// A restore with packs: the application's rules and the team's own are applied before anybody sees
// the copy, production's secrets are nowhere in its files, and an assertion that fails leaves the
// sandbox as it was.
func TestPacks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	fixture, err := os.ReadFile("../internal/policy/testdata/finops.sql")
	must(t, err)
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE DATABASE axdb")
	prod.Exec(t, "axdb", string(fixture), "CREATE TABLE goods (id int, note text); INSERT INTO goods VALUES (1, 'secret-note')")
	s := newSystem(t)
	own := filepath.Join(s.State(), "packs", "shop")
	must(t, os.MkdirAll(own, 0o755))
	write := func(assertion string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(own, "pack.yaml"), []byte("pack: shop\nversion: 1\ndatabases:\n  business:\n    what: the shop\nrules:\n"+
			"  - name: notes\n    why: they are private\n    database: business\n    table: goods\n    clear: [note]\n"+
			"assertions:\n  - name: goods\n    why: a test\n    database: business\n    query: SELECT count(*) FROM public.goods\n    expect: "+assertion+"\n"+
			"checklist:\n  - what: Look at the goods of {target}, from {source}.\n"), 0o644))
	}
	write("1")
	must(t, s.Record(ctx, "prod", prod, func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "axdb"}
		e.Versions = map[string]string{"application": "10.0.38", "platform": "62", "reporting": "10.0.38"}
	}))
	declare := func(versions map[string]string) func(*sandglass.Environment) {
		return func(e *sandglass.Environment) {
			e.Databases, e.Versions = map[string]string{"business": "axdb_uat"}, versions
			e.Packs = []string{"dynamics365-finops", "shop"}
		}
	}
	_, err = s.Sandbox(ctx, "uat", "prod", declare(map[string]string{"application": "10.0.38", "platform": "62", "reporting": "10.0.38"}))
	must(t, err)
	_, err = s.Sandbox(ctx, "older", "prod", declare(map[string]string{"application": "10.0.37", "platform": "62", "reporting": "10.0.38"}))
	must(t, err)
	if _, err := s.Sandbox(ctx, "other", "prod", func(e *sandglass.Environment) { e.Packs = []string{"nothing"} }); sandglass.CodeOf(err) != "pack.not_found" {
		t.Errorf("a pack that is not there: %v", err)
	}

	if r := s.Run(ctx, "pack", "check", "shop", "--environment", "uat"); r.Exit != 3 || !strings.Contains(r.Stderr, "[environment.empty]") {
		t.Errorf("a pack against an empty sandbox: %d %s", r.Exit, r.Stderr)
	}
	op, err := s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	for environment, rows := range map[string]string{"prod": `-`, "uat": `0`} { // the recorder may not read production's tables; in the copy nothing is left to clear
		line := regexp.MustCompile(`(?m)^ok +notes +rule +business +goods +` + rows + ` +pack.yaml:\d+$`)
		if r := ran(t, s, "pack", "check", "shop", "--environment", environment); !line.MatchString(r.Stdout) {
			t.Errorf("the pack against %s: %s", environment, r.Stdout)
		}
	}
	everythingZipped(t, zipped(t, s, op), op)
	var told []string
	for _, l := range op.Plan.NotCopied {
		told = append(told, l.What+" "+l.Why)
	}
	for _, want := range []string{"Passwords and logins of prod", "Nothing is sent from uat to real people.", "A copy is not for production reporting", "Files outside the database", "Counters of activity"} {
		if !strings.Contains(strings.Join(told, "\n"), want) {
			t.Errorf("the plan does not say %q", want)
		}
	}
	var result sandglass.Result
	must(t, json.Unmarshal(op.Result, &result))
	if list := strings.Join(result.Checklist, "\n"); !strings.Contains(list, "Look at the goods of uat, from prod.") || !strings.Contains(list, "batch servers of uat") {
		t.Errorf("checklist: %s", list)
	}
	line := regexp.MustCompile(`(?m)^dynamics365-finops/batch-jobs axdb_uat +9 +4 +\d+\.\d s$`)
	if out := ran(t, s, "ops", "show", op.ID, "--rules").Stdout; !line.MatchString(out) {
		t.Errorf("what the rules changed: %s", out)
	}
	report, err := os.ReadFile(filepath.Join(s.State(), "ops", op.ID, "neutralize.json"))
	if err != nil || strings.Contains(string(report), `"skipped"`) {
		t.Errorf("the report of a restore that was not interrupted: %s %v", report, err)
	}
	for _, row := range []struct{ what, sql, want string }{
		{"withheld jobs", "SELECT count(*)::text FROM batchjob WHERE status IN (1, 2, 5, 7)", "0"},
		{"other rows", "SELECT count(*)::text FROM batchjob", "9"},
		{"the team's own rule", "SELECT coalesce(note, 'none') FROM goods", "none"},
		{"the origin", "SELECT source || ' ' || cardinality(policies) FROM sandglass.origin", "prod 3"},
	} {
		if got, err := s.Query(ctx, "uat", "axdb_uat", row.sql); err != nil || got != row.want {
			t.Errorf("%s: %s, want %s (%v)", row.what, got, row.want, err)
		}
	}
	if found := filesWith(t, filepath.Join(s.State(), "volumes"), "secret-"); found != nil {
		t.Errorf("secrets of production are in %v", found)
	}

	if _, err := s.Restore(ctx, "older", sandglass.Moment{Kind: sandglass.AtLatest}); sandglass.CodeOf(err) != "pack.version" {
		t.Errorf("an older sandbox: %v", err)
	}
	before, err := s.Query(ctx, "uat", "axdb_uat", "SELECT operation FROM sandglass.origin")
	must(t, err)
	write("2")
	if _, err := s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest}); sandglass.CodeOf(err) != "proof.shop/goods" {
		t.Errorf("an assertion that fails: %v", err)
	}
	if now, err := s.Query(ctx, "uat", "axdb_uat", "SELECT operation FROM sandglass.origin"); err != nil || now != before {
		t.Errorf("after the failure the sandbox shows %s, before %s (%v)", now, before, err)
	}
}

// everythingZipped: the logs of an operation have all that it is understood from later.
func everythingZipped(t *testing.T, logs map[string]string, op sandglass.Operation) {
	t.Helper()
	if !strings.Contains(logs["postgresql.log"], "starting PostgreSQL") {
		t.Errorf("postgresql.log is no server's: %q", logs["postgresql.log"])
	}
	var plan sandglass.Plan
	must(t, json.Unmarshal([]byte(logs["plan.json"]), &plan))
	if len(plan.Lines) == 0 || len(plan.Findings) == 0 || len(plan.Findings) != len(op.Plan.Findings) {
		t.Errorf("plan.json has %d lines and %d findings, the plan %d and %d", len(plan.Lines), len(plan.Findings), len(op.Plan.Lines), len(op.Plan.Findings))
	}
	var zipped sandglass.Operation
	must(t, json.Unmarshal([]byte(logs["operation.json"]), &zipped))
	if len(zipped.Steps) == 0 || len(zipped.Steps) != len(op.Steps) {
		t.Errorf("operation.json has %d steps, the operation %d", len(zipped.Steps), len(op.Steps))
	}
	for _, step := range zipped.Steps {
		if step.State == sandglass.Skipped {
			continue
		}
		if step.Began.IsZero() || step.Ended.Before(step.Began) {
			t.Errorf("%s began at %s and ended at %s", step.Name, step.Began, step.Ended)
		}
		if logs[step.Name+".log"] == "" {
			t.Errorf("there is no log of %s", step.Name)
		}
	}
}

// filesWith are the files below dir that hold the text.
func filesWith(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	}))
	return found
}
