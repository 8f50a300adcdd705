// Rows that stay the sandbox's own, between two real clusters: whole tables and some rows, by
// key and by column, with what refers to them; conflicts, drift, resuming, and carrying again.

package policy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

// carryTables are in the copy and in the sandbox alike.
const carryTables = `
CREATE TABLE printer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, low text GENERATED ALWAYS AS (lower(name)) STORED);
CREATE TABLE job (id serial PRIMARY KEY, printer int REFERENCES printer ON DELETE CASCADE, what text);
CREATE TABLE memo (id int PRIMARY KEY, printer int REFERENCES printer ON DELETE SET NULL);
CREATE TABLE team (id int PRIMARY KEY, lead int);
CREATE TABLE person (id int PRIMARY KEY, team int REFERENCES team);
ALTER TABLE team ADD FOREIGN KEY (lead) REFERENCES person;
CREATE TABLE part (region text, n int, what text, PRIMARY KEY (region, n)) PARTITION BY LIST (region);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a'); CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b');
CREATE TABLE base (id int PRIMARY KEY, v text); CREATE TABLE derived (extra int) INHERITS (base);
CREATE TABLE param (scope text, name text, value text, secret text DEFAULT 'none', PRIMARY KEY (scope, name));
CREATE TABLE code (id int PRIMARY KEY, abbr text, of int REFERENCES person); CREATE UNIQUE INDEX ON code (lower(abbr)) WHERE abbr <> '';
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''fired''; END';
CREATE TRIGGER always BEFORE INSERT OR DELETE ON printer FOR EACH ROW EXECUTE FUNCTION refuse();`

const carryCopy = carryTables + `
ALTER TABLE printer DISABLE TRIGGER always;
INSERT INTO printer (name) VALUES ('Secret-P1'), ('Secret-P2'), ('Secret-P3');
INSERT INTO job (printer, what) VALUES (1, 'stays'), (2, 'goes'), (3, 'goes'); INSERT INTO memo VALUES (1, 3), (2, 1);
INSERT INTO person VALUES (1, NULL), (9, NULL); INSERT INTO team VALUES (1, 1); UPDATE person SET team = 1 WHERE id = 1;
INSERT INTO part VALUES ('a', 1, 'secret-a'), ('b', 1, 'secret-b'), ('b', 2, 'secret-c');
INSERT INTO base VALUES (1, 'secret-base'); INSERT INTO derived VALUES (2, 'secret-derived', 7);
INSERT INTO param VALUES ('x', 'url', 'secret-url', 's1'), ('x', 'size', '10', 's2'), ('y', 'url', 'other', 's3');
INSERT INTO code VALUES (1, 'AA', 1), (2, 'BB', 1), (3, '', 1);
ALTER TABLE printer ENABLE ALWAYS TRIGGER always;
ALTER TABLE param ADD only_copy text DEFAULT 'fresh';`

const carryOwn = carryTables + `
ALTER TABLE printer DISABLE TRIGGER always;
INSERT INTO printer (name) VALUES ('Uat-1'); INSERT INTO printer (id, name) OVERRIDING SYSTEM VALUE VALUES (50, E'tab\there\\ and\nline');
SELECT setval('printer_id_seq', 70); INSERT INTO job (printer, what) VALUES (50, 'the sandbox''s, not carried');
INSERT INTO person VALUES (5, NULL), (6, NULL); INSERT INTO team VALUES (5, 6), (6, 5), (7, 77) ; UPDATE person SET team = id;
INSERT INTO part VALUES ('a', 1, 'own-a'), ('b', 8, 'own-b');
INSERT INTO base VALUES (1, 'own-base'); INSERT INTO derived VALUES (3, 'own-derived', 8);
INSERT INTO param VALUES ('x', 'url', 'own-url', 'own-secret'), ('z', 'new', 'own-new', 'own-secret');
INSERT INTO code VALUES (2, 'own', NULL), (4, 'aa', NULL), (5, '', 44), (6, 'bb', NULL);
ALTER TABLE param ADD only_own text DEFAULT 'left';`

// twoClusters are the recovered copy, and the running sandbox.
func twoClusters(t testing.TB, copySQL, ownSQL string) (c, own *pgtest.Cluster, in policy.Input) {
	t.Helper()
	c, own = cluster(t, map[string]string{"autovacuum": "off"}), cluster(t, nil)
	for _, one := range []*pgtest.Cluster{c, own} {
		one.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`)
	}
	c.Exec(t, "postgres", `CREATE DATABASE shop`)
	own.Exec(t, "postgres", `CREATE DATABASE shop_uat`)
	own.Exec(t, "shop_uat", "SET session_replication_role = replica; "+ownSQL)
	c.Exec(t, "shop", copySQL)
	contact(t, c)
	return c, own, policy.Input{Run: "20261122t190000-keep", Source: sandglass.Environment{Name: "prod", Databases: map[string]string{"business": "shop"}},
		Environment: sandglass.Environment{Name: "uat", Databases: map[string]string{"business": "shop_uat"}}, Target: readTarget(t, own), FromTarget: staging(own).Connect}
}

func carryPack(t testing.TB) pack.Pack {
	return ownPack(t, "rules:\n"+
		ownRule("printers", "printer", "keep: target")+
		ownRule("teams", "team", "keep: target")+ownRule("people", "person", "where: person.id < 9 -- theirs", "keep: target")+
		ownRule("parts", "part", "where: region = 'b'", "keep: target")+
		ownRule("bases", "base", "keep: target")+
		ownRule("params", "param", "merge: target")+
		ownRule("codes", "code", "merge: target", "key: [id]")+
		ownRule("blank", "param", "set: {secret: \"'blank'\"}"))
}

func ruleReports(report policy.Report) map[string]policy.RuleReport {
	all := map[string]policy.RuleReport{}
	for _, r := range report.Rules {
		all[strings.TrimPrefix(r.Rule, "own/")] = r
	}
	return all
}

func TestCarryOver(t *testing.T) {
	t.Parallel()
	c, _, in := twoClusters(t, carryCopy, carryOwn)
	in.Packs = []pack.Pack{carryPack(t)}
	st := staging(c)
	counts := policy.CountCarried(t.Context(), in)
	if diff := cmp.Diff(map[string]int64{"own/printers": 2, "own/teams": 3, "own/people": 2, "own/parts": 1, "own/bases": 2, "own/params": 2, "own/codes": 4}, counts); diff != "" {
		t.Error("counted", diff)
	}
	findings, _, err := policy.Inspect(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	if got := levels(findings, sandglass.Warning); len(got) != 1 || got[0] != "carry.drift: The copy has no column only_own of public.param; the sandbox's values of it stay behind." {
		t.Errorf("warnings: %q", got)
	}
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	for _, want := range []struct{ sql, want string }{
		{`SELECT concat_ws(' ', id, name, low) FROM public.printer ORDER BY id`, "1 Uat-1 uat-1, 50 tab\there\\ and\nline tab\there\\ and\nline"},
		{`SELECT concat_ws(' ', nextval('public.printer_id_seq'), (SELECT last_value FROM public.job_id_seq))`, "71 3"},
		{`SELECT concat_ws(' ', id, printer, what) FROM public.job ORDER BY id`, "1 1 stays"},
		{`SELECT concat_ws(' ', id, coalesce(printer::text, '-')) FROM public.memo ORDER BY id`, "1 -, 2 1"},
		{`SELECT concat_ws(' ', id, lead) FROM public.team ORDER BY id`, "5 6, 6 5"}, // 7 is led by nobody
		{`SELECT concat_ws(' ', id, coalesce(team::text, '-')) FROM public.person ORDER BY id`, "5 5, 6 6, 9 -"},
		{`SELECT concat_ws(' ', tableoid::regclass, n, what) FROM public.part ORDER BY 1`, "public.part_a 1 secret-a, public.part_b 8 own-b"},
		{`SELECT concat_ws(' ', tableoid::regclass, id, v) FROM public.base ORDER BY 1`, "public.base 1 own-base, public.derived 3 own-derived"},
		{`SELECT extra::text FROM public.derived`, "8"},
		{`SELECT concat_ws(' ', scope, name, value, secret, only_copy) FROM public.param ORDER BY 1`, "x size 10 blank fresh, x url own-url own-secret fresh, y url other blank fresh, z new own-new own-secret fresh"},
		// 4 is a second aa of production; 6 is no second bb, because 2 is another now. 1 and 3 go with person 1.
		{`SELECT concat_ws(' ', id, abbr) FROM public.code ORDER BY 1`, "2 own, 6 bb"},
		{`SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'always'`, "A"},
		{`SELECT string_agg(DISTINCT concat_ws(' ', table_name, column_name, action), ', ') FROM sandglass.changed_columns WHERE rule IN ('params', 'printers')`, "public.job * delete, public.memo printer set, public.param * merge, public.printer * keep"},
	} {
		if got := ask(t, c, "shop_uat", want.sql); got != want.want {
			t.Errorf("%s\n got %s\nwant %s", want.sql, got, want.want)
		}
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	r := ruleReports(report)
	if p := r["printers"]; p.Rows != 2 || p.Seen != 2 || !p.Carried || !strings.Contains(strings.Join(p.Notes, ";"), "3 rows of public.printer replaced") {
		t.Errorf("report: %+v", p)
	}
	missed := strings.Join(report.NotReapplied, "\n")
	for _, want := range []string{"1 rows of the sandbox's public.team stay behind: they refer to rows of public.person that the copy does not have (team_lead_fkey)",
		"no column only_own of public.param", "1 rows of the sandbox's public.code stay behind: they have the same key as other rows of production", "public.code stay behind: they refer to rows of public.person"} {
		if !strings.Contains(missed, want) {
			t.Errorf("not reported: %s in\n%s", want, missed)
		}
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Secret-P", "secret-base", "secret-derived", "secret-url", "secret-b"} {
		if found := files(t, c, secret); found != nil {
			t.Errorf("production's %s is still in %v", secret, found)
		}
	}
}

// TestMergeProven changes what a merge took, as a migration would: the proof sees it in the carried columns of the rows
// that were merged, and nowhere else; before and after the rows are carried again.
func TestMergeProven(t *testing.T) {
	t.Parallel()
	const tables = `CREATE TABLE setting (id int PRIMARY KEY, scope text, name text, value text, size int, UNIQUE (scope, name)); `
	c, own, in := twoClusters(t, tables+`INSERT INTO setting VALUES (1, 'a', 'url', 'secret', 1), (2, 'a', 'path', 'secret', 2), (3, 'b', 'url', 'production''s', 3)`,
		tables+`INSERT INTO setting VALUES (11, 'a', 'url', 'own', 11), (12, 'a', 'path', 'own', 12), (13, 'z', 'url', 'own', 13)`)
	in.Packs = []pack.Pack{ownPack(t, "rules:\n"+ownRule("own", "setting", "where: scope <> 'b'", "merge: target", "key: [name, scope]", "columns: [value]"))}
	st := staging(c)
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err, c.Log())
	}
	// Each change is taken back at once.
	look := func(when string) {
		t.Helper()
		if stops := prove(t, st, in); stops != nil {
			t.Errorf("%s: %q", when, stops)
		}
		for _, change := range []struct {
			sql, back string
			red       bool
		}{
			{"UPDATE public.setting SET value = 'other' WHERE id = 1", "UPDATE public.setting SET value = (SELECT value FROM before WHERE id = 1) WHERE id = 1", true},
			{"UPDATE public.setting SET value = NULL WHERE id = 2", "UPDATE public.setting SET value = (SELECT value FROM before WHERE id = 2) WHERE id = 2", true},
			{"UPDATE public.setting SET name = 'renamed' WHERE id = 2", "UPDATE public.setting SET name = 'path' WHERE id = 2", true},
			{"DELETE FROM public.setting WHERE id = 1", "INSERT INTO public.setting SELECT * FROM before WHERE id = 1", true},
			{"ALTER TABLE public.setting RENAME value TO data", "ALTER TABLE public.setting RENAME data TO value", true},
			{"ALTER TABLE public.setting DROP CONSTRAINT setting_scope_name_key, DROP CONSTRAINT setting_pkey, ADD note text", "ALTER TABLE public.setting ADD PRIMARY KEY (id), ADD UNIQUE (scope, name), DROP note", false},
			{"UPDATE public.setting SET size = 99, id = id + 100 WHERE id = 1", "UPDATE public.setting SET size = 1, id = 1 WHERE id = 101", false},
			{"UPDATE public.setting SET value = 'other' WHERE id = 3", "UPDATE public.setting SET value = 'production''s' WHERE id = 3", false},
			{"INSERT INTO public.setting VALUES (50, 'a', 'new', 'migration', 1)", "DELETE FROM public.setting WHERE id = 50", false},
		} {
			conn, err := st.Connect(t.Context(), "shop_uat")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			for _, sql := range []string{"CREATE TEMP TABLE before AS SELECT * FROM public.setting", change.sql} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(sql, err)
				}
			}
			in := in
			in.Synchronized = true
			stops := strings.Join(prove(t, st, in), "\n")
			if red := strings.Contains(stops, "proof.kept_rows: Rows are not the sandbox's own in: shop_uat: public.setting (own/own)"); red != change.red || !red && stops != "" {
				t.Errorf("%s, %s: red %t: %s", when, change.sql, red, stops)
			}
			in.Environment.Accept = []sandglass.Code{policy.CodeKeptRows} // a migration that means it
			if stops := prove(t, st, in); stops != nil {
				t.Errorf("%s, %s, accepted: %q", when, change.sql, stops)
			}
			if _, err := conn.Exec(t.Context(), change.back); err != nil {
				t.Fatal(change.back, err)
			}
			conn.Close(t.Context())
		}
	}
	look("neutralized")
	own.Exec(t, "shop_uat", `UPDATE setting SET value = 'newer' WHERE id = 11`)
	if again, err := policy.CarryAgain(t.Context(), st, in); err != nil || len(again.Rules) != 1 {
		t.Fatalf("again: %+v %v", again, err)
	}
	if got := ask(t, c, "shop_uat", `SELECT concat_ws(' ', id, scope, name, value, size) FROM public.setting ORDER BY id`); got != "1 a url newer 1, 2 a path own 2, 3 b url production's 3" {
		t.Errorf("carried again: %s", got)
	}
	look("carried again")
}

// TestFinopsOwnRows restores an ERP into a running one: its servers, printers, mail server, administrator and tenant stay.
func TestFinopsOwnRows(t *testing.T) {
	t.Parallel()
	c, own, in := makeERP(t), cluster(t, nil), finopsInput(t)
	own.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE axdb_uat`)
	own.Exec(t, "axdb_uat", strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(finopsSQL, "secret-", "own-"), "@prod.example", "@uat.example"), "prod", "uat"),
		`UPDATE sysemailparameters SET mailernoninteractive = 'Graph'; UPDATE userinfo SET name = 'not carried'; INSERT INTO syscorpnetprinters VALUES (2, 'p2', 'own-p2')`)
	in.Target, in.FromTarget = readTarget(t, own), staging(own).Connect
	st := staging(c)
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	for _, want := range []struct{ columns, table, want string }{
		{"serverid", "sysserverconfig", "aos-2; own-aos-1"}, {"instance_name", "sysserversessions", "own-aos-1"}, {"clientcomputer", "sysclientsessions", ""},
		{"printername, printerpath", "syscorpnetprinters", `p1 \\own-print\p1; p2 own-p2`}, {"serverid", "batchserverconfig", "own-batch-1"}, {"serverid", "batchservergroup", "own-batch-1"},
		{"smtprelayservername, smtpusername, mailernoninteractive", "sysemailparameters", "own-relay.uat.example own-relay-user Graph"}, {"password", "sysemailsmtppassword", `\x6f776e2d736d7470`},
		{"id, name, enable, networkalias", "userinfo WHERE id IN ('Admin', 'alice')", "Admin Administrator 1 admin@uat.example; alice Alice 0 alice@prod.example"},
		{"id, networkdomain, objectid", "userinfo WHERE id IN ('Admin', 'alice')", "Admin https://sts.example/uat object-in-uat; alice https://sts.example/prod object-in-prod"},
		{"name, value", "sysserviceconfigurationsetting", "MONITORURL https://own-monitor.example; OTHER x; TENANTID own-tenant"},
	} {
		if got := erpRows(t, c, "axdb_uat", want.columns, want.table); got != want.want {
			t.Errorf("%s:\n got %s\nwant %s", want.table, got, want.want)
		}
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %s", strings.Join(stops, "\n"))
	}
	rows := map[string]int64{}
	for _, r := range report.Rules {
		if r.Carried {
			rows[strings.TrimPrefix(r.Rule, "dynamics365-finops/")] = r.Rows
		}
	}
	if diff := cmp.Diff(map[string]int64{"smtp-passwords": 1, "own-mail-server": 1, "servers": 2, "server-sessions": 1, "printers": 2, "batch-servers": 1, "batch-server-groups": 1, "own-administrator": 1, "own-service-addresses": 1, "own-tenant": 1}, rows); diff != "" {
		t.Error(diff)
	}
	// One row that is not the sandbox's own is seen.
	ask(t, c, "axdb_uat", `UPDATE public.syscorpnetprinters SET printerpath = 'elsewhere' WHERE printername = 'p2' RETURNING ''`)
	if stops := strings.Join(prove(t, st, in), "\n"); !strings.Contains(stops, "proof.kept_rows: Rows are not the sandbox's own in: axdb_uat: public.syscorpnetprinters") {
		t.Errorf("a foreign printer is not seen: %s", stops)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if found := files(t, c, "secret-"); found != nil {
		t.Errorf("secrets are still in %v", found)
	}
}
