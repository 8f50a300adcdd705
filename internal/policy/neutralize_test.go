// The rules on real clusters: a fixture for every rule, before and after, and the proof.

package policy_test

import (
	stdcmp "cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

type fixture struct {
	rule, database, sql string // database is the copy's name of it
	after               string // its name afterwards, if another
	want, wantAfter     string
}

// fixtures say for every rule what is there before, and what after.
var fixtures = []fixture{
	{"prepared-transactions", "shop", `SELECT count(*)::text FROM pg_prepared_xacts`, "shop_uat", "2", "0"},
	{"databases", "postgres", `SELECT datname::text FROM pg_database WHERE datname NOT LIKE 'template%' ORDER BY 1`, "", `closed, junk, postgres, re"port, shop`, "closed, postgres, reports, shop_uat"},
	{"databases", "postgres", `SELECT coalesce(to_regclass('public.left_over')::text, 'none')`, "", "public.left_over", "none"},
	{"databases", "template1", `SELECT coalesce(to_regclass('public.in_template')::text, 'none')`, "", "public.in_template", "none"},
	{"databases", "template1", `SELECT datistemplate::text FROM pg_database WHERE datname = 'template1'`, "", "true", "true"},
	{"databases", "shop", `SELECT count(*)::text FROM public.goods`, "shop_uat", "50", "50"},
	{"event-triggers", "shop", `SELECT evtname || ' ' || evtenabled::text FROM pg_event_trigger`, "shop_uat", "watch A", "watch D"},
	{"subscriptions", "shop", `SELECT subname::text FROM pg_subscription`, "shop_uat", "feed, feed", ""},
	{"publications", "shop", `SELECT pubname::text FROM pg_publication`, "shop_uat", "all_of_it", ""},
	{"foreign-servers", "shop", `SELECT srvname || ' ' || coalesce(srvoptions::text, '') FROM pg_foreign_server ORDER BY 1`, "shop_uat",
		`erp {host=erp.prod.example,port=5432,dbname=erp,fetch_size=77}, files , local_one , other {address=10.1.2.3,token=abc,port=99,format=csv}`,
		`erp {fetch_size=77,host=/nonexistent/sandglass,port=1,dbname=none}, files , local_one {host=/nonexistent/sandglass,port=1,dbname=none}, other {address=sandglass.invalid,token=sandglass.invalid,port=1,format=csv}`},
	{"foreign-servers", "shop", `SELECT count(*)::text FROM pg_user_mapping`, "shop_uat", "2", "0"},
	{"foreign-servers", "shop", `SELECT fdwname::text FROM pg_foreign_data_wrapper WHERE fdwhandler <> 0 ORDER BY 1`, "shop_uat", "file_fdw, postgres_fdw, strange", "file_fdw, postgres_fdw"},
	{"foreign-servers", "shop", `SELECT ftrelid::regclass || ' ' || ftoptions::text FROM pg_foreign_table ORDER BY 1`, "shop_uat",
		"public.far {table_name=goods}, public.output {program=id}", "public.far {table_name=goods}, public.output {filename=/nonexistent/sandglass}"},
	{"scheduled-jobs", "shop", `SELECT jobid || ' ' || active FROM cron.job ORDER BY 1`, "shop_uat", "1 true, 2 false", "1 false, 2 false"},
	{"replication-origins", "postgres", `SELECT roname FROM pg_replication_origin WHERE roname = 'from_far'`, "", "from_far", ""},
	{"replication-slots", "postgres", `SELECT slot_name::text FROM pg_replication_slots`, "", "old_standby", ""},
	{"alter-system", "postgres", `SELECT name || ' ' || setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf' ORDER BY 1`, "", "archive_cleanup_command false, work_mem 77MB", ""},
	{"production-roles", "postgres", `SELECT concat_ws(' ', rolname, rolsuper::int, rolcanlogin::int, (rolpassword IS NOT NULL)::int, (rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)::int) FROM pg_authid
		WHERE rolname IN ('boss', 'shop_owner', 'we"ird', 'app') ORDER BY 1`, "", `app 0 1 1 1, boss 1 1 1 0, shop_owner 0 1 1 1, we"ird 0 1 1 0`, `app 0 1 1 0, boss 0 0 0 0, shop_owner 0 0 0 0, we"ird 0 0 0 0`},
	{"production-roles", "postgres", `SELECT concat_ws(' ', rolname, rolsuper::int, rolcanlogin::int, (rolpassword IS NOT NULL)::int) FROM pg_authid WHERE rolname = 'sandglass'`, "", "sandglass 1 1 0", "sandglass 1 1 0"},
	{"sandbox-roles", "postgres", `SELECT concat_ws(' ', rolname, rolsuper::int, rolconnlimit, rolvaliduntil::date) FROM pg_authid WHERE rolname IN ('uat_app', 'testers', 'shop_dba', 'app') ORDER BY 1`, "",
		"app 0 7", "app 0 -1 infinity, shop_dba 1 -1 infinity, testers 0 -1 infinity, uat_app 0 3 2099-01-01"},
	{"memberships", "postgres", `SELECT concat_ws(' ', member::regrole, roleid::regrole, admin_option::int, grantor::regrole) FROM pg_auth_members WHERE NOT (member::regrole::text ~ '^pg_' AND roleid::regrole::text ~ '^pg_') ORDER BY 1`, "",
		`app pg_read_all_data 0 postgres, app readers 1 postgres, app sandglass 0 postgres, pg_monitor readers 0 postgres, shop_owner readers 0 app`,
		`app pg_monitor 0 sandglass, app testers 0 uat_app, uat_app shop_owner 0 sandglass, uat_app testers 1 sandglass`},
	{"database-access", "shop", `SELECT concat_ws(' ', datdba::regrole, datconnlimit, has_database_privilege('app', oid, 'CONNECT')::int, has_database_privilege('shop_owner', oid, 'CONNECT')::int, has_database_privilege('app', oid, 'TEMP')::int)
		FROM pg_database WHERE datname = current_database()`, "shop_uat", "shop_owner -1 1 1 1", "uat_app 20 1 0 1"},
	{"grants", "shop", `SELECT coalesce(relacl::text, '') FROM pg_class WHERE oid = 'public.goods'::regclass`, "shop_uat", "", "{shop_owner=arwdDxt/shop_owner,uat_app=arwdDxt/shop_owner}"},
	{"grants", "shop", `SELECT attname || ' ' || attacl::text FROM pg_attribute WHERE attrelid = '"Odd ""one"."T"'::regclass AND attacl IS NOT NULL ORDER BY 1`, "shop_uat", "", "a {app=rw/postgres}, b {app=w/postgres}"},
	{"grants", "shop", `SELECT relacl::text FROM pg_class WHERE oid = 'public.numbers'::regclass AND relacl IS NOT NULL`, "shop_uat", "", "{postgres=rwU/postgres,testers=U*/postgres}"},
	{"grants", "shop", `SELECT proacl::text FROM pg_proc WHERE oid = 'public.price_of(int)'::regprocedure`, "shop_uat", "{postgres=X/postgres}", "{postgres=X/postgres,app=X/postgres}"},
	{"grants", "shop", `SELECT has_function_privilege('app', 'pg_ls_waldir()', 'EXECUTE')::text`, "shop_uat", "false", "true"},
	{"grants", "shop", `SELECT concat_ws(' ', defaclrole::regrole, CASE WHEN defaclnamespace <> 0 THEN defaclnamespace::regnamespace END, defaclobjtype, defaclacl) FROM pg_default_acl ORDER BY 1`, "shop_uat", "",
		"uat_app f {uat_app=X/uat_app}, uat_app public r {testers=r/uat_app}"},
	{"settings", "postgres", `SELECT concat_ws(' ', CASE WHEN setrole <> 0 THEN setrole::regrole END, datname, setconfig) FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase ORDER BY 1`, "",
		`closed {sandglass.closed=on}`, `app shop_uat {work_mem=9MB}, closed {sandglass.closed=on}, shop_uat {"my.own=it's \\ here"}, uat_app {"search_path=\"$user\", \"Odd \"\"one\", public"}`},
	{"records", `re"port`, `SELECT concat_ws(' ', relname, has_schema_privilege('app', relnamespace, 'USAGE'), has_table_privilege('app', oid, 'SELECT')) FROM pg_class WHERE relnamespace = to_regnamespace('sandglass') AND relkind = 'r' ORDER BY 1`, "reports", "",
		"carried t f, changed_columns t t, merged_rows t f, origin t t, rule_done t f"},
	{"rewrite-catalogs", "shop", `SELECT (count(*) > 0)::text FROM pg_statistic WHERE starelid = 'pg_authid'::regclass`, "shop_uat", "true", "false"},
}

func TestNeutralize(t *testing.T) {
	t.Parallel()
	copied, first := makeCopy(t)
	if diff := cmp.Diff([]string{"closed"}, first.Opened); diff != "" {
		t.Error("opened", diff)
	}
	if len(first.Settings) != 4 {
		t.Errorf("settings removed: %q", first.Settings)
	}
	hashes := strings.Split(ask(t, copied, "postgres", `SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL`), ", ")
	if len(hashes) != 4 {
		t.Fatalf("hashes of production: %q", hashes)
	}
	sandbox := makeTarget(t)
	target := readTarget(t, sandbox)
	st, in := staging(copied), policy.Input{Run: "20261122t000000-aaaa", Source: prod, Environment: uat, Target: target, Moment: "2026-11-22 18:00:00 UTC"}
	var err error
	if in.Packs, err = pack.Load("", nil); err != nil {
		t.Fatal(err)
	}
	findings, facts, err := policy.Inspect(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"inspect.prepared_transactions", "inspect.subscriptions", "inspect.foreign_servers", "inspect.event_triggers", "inspect.publications", "inspect.functions_reach_out", "inspect.unlogged_tables", "inspect.secret_store",
		"inspect.extension_missing", "inspect.library_missing"} {
		if !strings.Contains(strings.Join(append(levels(findings, sandglass.OK), levels(findings, sandglass.Warning)...), "\n"), want) {
			t.Errorf("no finding %s", want)
		}
	}
	t.Logf("%+v\n%s", facts, strings.Join(append(levels(findings, sandglass.OK), levels(findings, sandglass.Warning)...), "\n"))
	if stops := levels(findings, sandglass.Stop); stops != nil {
		t.Errorf("stops: %q", stops)
	}
	before, err := policy.Prove(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	// Not yet true of the untouched copy: everything but what it happens not to have.
	for _, f := range before {
		if f.Level == sandglass.OK && f.Code != "proof.settings" {
			t.Errorf("%s holds before any rule has run", f.Code)
		}
	}
	for _, f := range fixtures {
		if got := ask(t, copied, f.database, f.sql); got != f.want {
			t.Errorf("before %s: %s\n got %s\nwant %s", f.rule, f.sql, got, f.want)
		}
	}
	var last sandglass.Progress
	in.Progress = func(p sandglass.Progress) { last = p }
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, copied.Log())
	}
	if last.Done != last.Total {
		t.Errorf("last progress: %+v", last)
	}
	t.Logf("%.2f s\n%s", report.Seconds, strings.Join(report.NotReapplied, "\n"))
	for _, f := range fixtures {
		if got := ask(t, copied, stdcmp.Or(f.after, f.database), f.sql); got != f.wantAfter {
			t.Errorf("after %s: %s\n got %s\nwant %s", f.rule, f.sql, got, f.wantAfter)
		}
	}
	wantMissed := []string{
		`roles_map: "uat_app" is no member of "nobody_there": production has no such role.`,
		`roles_map: "uat_app" is no member of "postgres": that role is a superuser, and its member could become it.`,
		`shop_uat: Grants on tables or views that the copy does not have: public.only_here.`,
	}
	if diff := cmp.Diff(wantMissed, report.NotReapplied); diff != "" {
		t.Error("not re-applied", diff)
	}
	proof, err := policy.Prove(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	if stops := levels(proof, sandglass.Stop); stops != nil {
		t.Errorf("proof: %q", strings.Join(stops, "\n"))
	}
	checkLogins(t, copied)
	checkRecords(t, copied)
	// Somebody changes a password and makes a role while the restore runs.
	sandbox.Exec(t, "postgres", `ALTER ROLE uat_app PASSWORD 'changed'`, `CREATE ROLE newcomer LOGIN PASSWORD 'newcomer'`, `GRANT testers TO newcomer`)
	in.Target = readTarget(t, sandbox)
	if stops := prove(t, st, in); len(stops) == 0 {
		t.Error("an old password passes for the sandbox's own")
	}
	if report, err = policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantMissed, report.NotReapplied); diff != "" {
		t.Error("not re-applied", diff)
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof after a change of the sandbox: %q", stops)
	}
	for password, opens := range map[string]bool{"changed": true, "uat-app": false} {
		if err := as(t.Context(), copied, "uat_app", password, "shop_uat"); (err == nil) != opens {
			t.Errorf("login with %q: %v", password, err)
		}
	}
	if err := as(t.Context(), copied, "newcomer", "newcomer", "reports"); err != nil {
		t.Error(err)
	}
	if err := policy.Finish(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if err := policy.Finish(t.Context(), st); err != nil {
		t.Fatal("again:", err)
	}
	if got := ask(t, copied, "postgres", `SELECT datallowconn::text FROM pg_database WHERE datname = 'closed'`); got != "false" {
		t.Errorf("database closed, which accepted no connections in production, accepts them: %s", got)
	}
	if err := copied.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, secret := range append(hashes, "fdw-secret", "feed-secret") {
		if found := files(t, copied, secret); found != nil {
			t.Errorf("%q is still in %v", secret, found)
		}
	}
}

// checkLogins tries every login there was.
func checkLogins(t *testing.T, c interface {
	URL(role, password, database string) string
}) {
	t.Helper()
	for _, login := range []struct {
		role, password string
		opens          bool
	}{
		{"app", "prod-app", false}, {"app", "uat-own-app", true}, {"uat_app", "uat-app", true}, {"boss", "prod-boss", false}, {"shop_owner", "prod-owner", false},
		{`we"ird`, "prod-weird", false}, {"sandglass", "prod-recorder", false}, {"shop_dba", "dba", true}, {"postgres", "", false},
	} {
		conn, err := pgx.Connect(t.Context(), c.URL(login.role, login.password, "shop_uat"))
		if err == nil {
			conn.Close(t.Context())
		}
		if (err == nil) != login.opens {
			t.Errorf("login of %s with %q: %v", login.role, login.password, err)
		}
	}
}

// Every built-in rule has a fixture above, and an assertion that TestNeutralize sees red before and green after.
func TestBuiltIns(t *testing.T) {
	applied, asserted := policy.BuiltIns()
	known, used := map[string]bool{}, map[string]bool{"proof.rules_done": true}
	for _, a := range asserted {
		known[a.Name] = true
	}
	for _, r := range applied {
		if r.What == "" || r.Why == "" || !slices.ContainsFunc(fixtures, func(f fixture) bool { return f.rule == r.Name }) {
			t.Errorf("rule %s: what %q, why %q, or no fixture", r.Name, r.What, r.Why)
		}
		for _, code := range r.Proof {
			used[string(code)] = true
			if !known[string(code)] {
				t.Errorf("rule %s: there is no assertion %s", r.Name, code)
			}
		}
		// What the sandbox may do is given to it where it can be; what can't be is reported, and makes nothing unsafe.
		if len(r.Proof) == 0 && r.Name != "database-access" && r.Name != "grants" {
			t.Errorf("rule %s has no assertion", r.Name)
		}
	}
	for name := range known {
		if !used[name] {
			t.Errorf("the assertion %s is of no rule", name)
		}
	}
}

// TestMidSync neutralizes a copy of a subscriber whose first table copy is not finished: not
// a byte may reach the publisher (field/postgres.md 2).
func TestMidSync(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	publisher := cluster(t, map[string]string{"wal_level": "logical", "log_connections": "on"})
	publisher.Exec(t, "postgres", `CREATE TABLE a (x int PRIMARY KEY)`, `CREATE TABLE b (x int PRIMARY KEY)`, `INSERT INTO b VALUES (1)`, `CREATE PUBLICATION p FOR ALL TABLES`)
	subscriber := cluster(t, map[string]string{"wal_level": "logical"})
	// The copy of b fails on its duplicate key again and again: its slot stays on the publisher.
	subscriber.Exec(t, "postgres", `CREATE TABLE a (x int PRIMARY KEY)`, `CREATE TABLE b (x int PRIMARY KEY)`, `INSERT INTO b VALUES (1)`,
		`CREATE SUBSCRIPTION s CONNECTION '`+publisher.ConnString("postgres")+`' PUBLICATION p`)
	const slots = `SELECT string_agg(concat_ws(' ', slot_name, restart_lsn, confirmed_flush_lsn), ', ' ORDER BY slot_name) FROM pg_replication_slots`
	for subscriber.Query(t, "postgres", `SELECT string_agg(srsubstate::text, '' ORDER BY srrelid) FROM pg_subscription_rel`) != "rd" ||
		publisher.Query(t, "postgres", `SELECT (count(*) FILTER (WHERE slot_name ~ '_sync_') = 1 AND count(*) = 2)::text FROM pg_replication_slots`) != "true" {
		select {
		case <-ctx.Done():
			t.Fatal("no table sync began", subscriber.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
	subscriber.Exec(t, "postgres", `CHECKPOINT`)
	if err := subscriber.Kill(); err != nil {
		t.Fatal(err)
	}
	// From here on it is the sealed copy: no workers.
	conf, err := os.OpenFile(filepath.Join(subscriber.Data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = conf.WriteString("max_logical_replication_workers = 0\n")
	}
	if err := errors.Join(err, conf.Close(), subscriber.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	contact(t, subscriber)
	if got := ask(t, subscriber, "postgres", `SELECT srsubstate::text FROM pg_subscription_rel ORDER BY 1`); !strings.Contains(got, "d") {
		t.Fatalf("the table is not in the middle of its copy: %s", got)
	}
	for publisher.Query(t, "postgres", `SELECT count(*)::text FROM pg_replication_slots WHERE active`) != "0" { // the dead subscriber's sessions end
		time.Sleep(20 * time.Millisecond)
	}
	before, heard := publisher.Query(t, "postgres", slots), strings.Count(publisher.Log(), "connection received")
	source := sandglass.Environment{Name: "prod"}
	in := policy.Input{Run: "r", Source: source, Environment: sandglass.Environment{Name: "uat"}}
	if _, err := policy.Neutralize(ctx, staging(subscriber), in); err != nil {
		t.Fatal(err, subscriber.Log())
	}
	if now := strings.Count(publisher.Log(), "connection received"); now != heard {
		t.Errorf("the publisher was called %d times", now-heard)
	}
	if now := publisher.Query(t, "postgres", slots); now != before || before == "" {
		t.Errorf("slots of the publisher: %s, before %s", now, before)
	}
	if got := ask(t, subscriber, "postgres", `SELECT subname::text FROM pg_subscription`); got != "" {
		t.Errorf("left: %s", got)
	}
}
