// Copies that are hard to enter or to name, the first restore, and the restore of a sandbox
// that was restored before.

package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/policy"
)

func TestMapDatabases(t *testing.T) {
	t.Parallel()
	env := func(databases, rename map[string]string) sandglass.Environment {
		return sandglass.Environment{Name: "e", Databases: databases, Server: &sandglass.Server{Rename: rename}}
	}
	names := []string{"template0", "template1", "postgres", "a", "b", "c"}
	for name, c := range map[string]struct {
		source, target sandglass.Environment
		keep           map[string]string
		drop           []string
		code           sandglass.Code
	}{
		"nothing named":      {env(nil, nil), env(nil, nil), map[string]string{"postgres": "postgres", "a": "a", "b": "b", "c": "c"}, nil, ""},
		"renamed":            {env(nil, nil), env(nil, map[string]string{"a": "x"}), map[string]string{"postgres": "postgres", "a": "x", "b": "b", "c": "c"}, nil, ""},
		"swapped":            {env(nil, nil), env(nil, map[string]string{"a": "b", "b": "a"}), map[string]string{"postgres": "postgres", "a": "b", "b": "a", "c": "c"}, nil, ""},
		"by role":            {env(map[string]string{"main": "a", "other": "b"}, nil), env(map[string]string{"main": "x"}, nil), map[string]string{"a": "x"}, []string{"b", "c", "postgres"}, ""},
		"source names none":  {env(nil, nil), env(map[string]string{"main": "b", "second": "x"}, map[string]string{"c": "x"}), map[string]string{"b": "b", "c": "x"}, []string{"a", "postgres"}, ""},
		"role unknown":       {env(map[string]string{"main": "a"}, nil), env(map[string]string{"extra": "x"}, nil), nil, nil, policy.CodeDatabaseMissing},
		"not at this moment": {env(map[string]string{"main": "later"}, nil), env(map[string]string{"main": "x"}, nil), nil, nil, policy.CodeDatabaseMissing},
		"same name twice":    {env(nil, nil), env(nil, map[string]string{"a": "b"}), nil, nil, policy.CodeDatabaseConflict},
		"one for two roles":  {env(map[string]string{"m": "a", "n": "a"}, nil), env(map[string]string{"m": "x", "n": "y"}, nil), nil, nil, policy.CodeDatabaseConflict},
		"name of a template": {env(nil, nil), env(nil, map[string]string{"a": "template1"}), nil, nil, policy.CodeDatabaseConflict},
	} {
		keep, drop, err := policy.MapDatabases(c.source, c.target, names)
		if got := sandglass.CodeOf(err); got != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.keep, keep) + cmp.Diff(c.drop, drop); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestHardCopy has no role to log in as, no database postgres, a half-dropped database, and
// two databases that swap names; the sandbox has an ordinary role of the superuser's name.
func TestHardCopy(t *testing.T) {
	t.Parallel()
	c := cluster(t, nil)
	c.Exec(t, "template1", `DROP DATABASE postgres`, `CREATE DATABASE a`, `CREATE DATABASE b`, `CREATE DATABASE half`)
	c.Exec(t, "a", `CREATE TABLE in_a (x int)`)
	c.Exec(t, "template1", `UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'`, `CREATE ROLE plain LOGIN PASSWORD 'x'`, `UPDATE pg_database SET datallowconn = false WHERE datname = 'template1'`, `ALTER ROLE postgres NOLOGIN`)
	for i, want := range [][]string{{"template1"}, nil} { // again: nothing left to open
		if diff := cmp.Diff(want, contact(t, c).Opened); diff != "" {
			t.Fatalf("contact %d: %s", i, diff)
		}
	}
	hash := "md5" + strings.Repeat("0123456789abcdef", 2)
	in := policy.Input{Run: "r", Source: sandglass.Environment{Name: "p"},
		Environment: sandglass.Environment{Name: "s", Server: &sandglass.Server{Rename: map[string]string{"a": "b", "b": "a"}}},
		Target:      &policy.Target{Superuser: policy.OurRole, Roles: []policy.Role{{Name: "postgres", Login: true, Inherit: true, ConnLimit: -1, Password: &hash}}}}
	report, err := policy.Neutralize(t.Context(), staging(c), in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	if len(report.NotReapplied) != 1 || !strings.Contains(report.NotReapplied[0], "postgres_of_production") {
		t.Errorf("not re-applied: %q", report.NotReapplied)
	}
	findings, err := policy.Prove(t.Context(), staging(c), in)
	if err != nil {
		t.Fatal(err)
	}
	if stops := levels(findings, sandglass.Stop); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	if err := policy.Finish(t.Context(), staging(c)); err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct{ database, sql, want string }{
		{"postgres", `SELECT datname || ' ' || datallowconn FROM pg_database ORDER BY 1`, "a true, b true, postgres true, template0 false, template1 false"},
		{"b", `SELECT to_regclass('public.in_a')::text`, "public.in_a"},
		{"postgres", `SELECT concat_ws(' ', rolname, rolsuper::int, rolcanlogin::int, oid = 10) FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1`, "plain 0 0 f, postgres 0 1 f, postgres_of_production 1 0 t, sandglass 1 1 f"},
	} {
		if got := ask(t, c, q.database, q.sql); got != q.want {
			t.Errorf("%s: got %s, want %s", q.sql, got, q.want)
		}
	}
}

// TestSecondRestore restores twice: after a first restore into an empty sandbox people make
// roles, and the next restore keeps those, not what production once brought. The second copy
// is one of a sandbox, with the rules of another run recorded as done.
func TestSecondRestore(t *testing.T) {
	t.Parallel()
	first := cluster(t, nil)
	first.Exec(t, "postgres", `CREATE TABLE t (x int)`, `CREATE ROLE once LOGIN PASSWORD 'once'`, `CREATE ROLE opened LOGIN PASSWORD 'opened'`, `GRANT SELECT ON t TO once`)
	contact(t, first)
	in := policy.Input{Run: "one", Source: sandglass.Environment{Name: "p"}, Environment: sandglass.Environment{Name: "s"}}
	if _, err := policy.Neutralize(t.Context(), staging(first), in); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, first, "postgres", `SELECT rolname::text FROM pg_authid WHERE rolcanlogin`); got != policy.OurRole {
		t.Errorf("can log in after a first restore: %s", got)
	}
	conn, err := staging(first).Connect(t.Context(), "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range []string{`CREATE ROLE tester LOGIN PASSWORD 'new'`, `ALTER ROLE opened LOGIN`, `GRANT SELECT ON public.t TO tester`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	target := readTarget(t, first)
	var names []string
	for _, r := range target.Roles {
		names = append(names, r.Name)
	}
	if diff := cmp.Diff([]string{"opened", "tester"}, names); diff != "" {
		t.Error("roles of the sandbox", diff)
	}
	// The sandbox itself, restored into another one: its record of run "one" must not count.
	in = policy.Input{Run: "two", Source: sandglass.Environment{Name: "s"}, Environment: sandglass.Environment{Name: "s2"}, Target: target}
	if stops := prove(t, staging(first), in); !strings.Contains(strings.Join(stops, " "), "proof.rules_done") {
		t.Errorf("another run's record counts: %q", stops)
	}
	report, err := policy.Neutralize(t.Context(), staging(first), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Rules {
		if r.Skipped {
			t.Errorf("rule %s of another run counts", r.Rule)
		}
	}
	if stops := prove(t, staging(first), in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	// What a migration brings is found, and can be accepted then.
	if _, err := conn.Exec(t.Context(), `CREATE ROLE service LOGIN PASSWORD 'service'; ALTER ROLE service SET work_mem = '1MB'`); err != nil {
		t.Fatal(err)
	}
	in.Synchronized = true
	if stops := prove(t, staging(first), in); len(stops) != 4 {
		t.Errorf("after a migration: %q", strings.Join(stops, "\n"))
	}
	in.Environment.Accept = []sandglass.Code{"proof.login_roles", "proof.passwords", "proof.password_remains", "proof.settings"}
	if stops := prove(t, staging(first), in); stops != nil {
		t.Errorf("accepted: %q", stops)
	}
}

func prove(t *testing.T, st policy.Staging, in policy.Input) []string {
	t.Helper()
	findings, err := policy.Prove(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	return levels(findings, sandglass.Stop)
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	lines := policy.Describe(policy.Input{Source: prod, Environment: uat}, []string{"shop", `re"port`, "closed", "junk", "postgres"})
	var said []string
	for _, l := range lines {
		if l.Step != "neutralize" || l.What == "" || l.Why == "" {
			t.Errorf("%+v", l)
		}
		said = append(said, l.What)
	}
	for _, want := range []string{`Databases dropped: junk, postgres. An empty postgres is made. Database re"port is called reports. Database shop is called shop_uat.`, "sandglass connect", "Subscriptions"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("plan lacks %q:\n%s", want, strings.Join(said, "\n"))
		}
	}
}
