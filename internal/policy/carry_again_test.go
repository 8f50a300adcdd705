// Carry-over when things change: in the sandbox after it was read, in the shape of its tables, or
// because the work was killed; and when there is no sandbox yet, or a great many rows.

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

// TestCarryAgain restores again and again, each time with other tables on both sides, and lets
// the sandbox's people change something in between.
func TestCarryAgain(t *testing.T) {
	t.Parallel()
	c, own, in := twoClusters(t, "", "")
	st := staging(c)
	type scene struct {
		name, copySQL, ownSQL, rules string
		code                         sandglass.Code // of the first carrying
		says                         string
		first                        string // what the copy shows
		change                       string // in the sandbox, before 8c
		again                        sandglass.Code
		last                         string
		missed                       string // reported
		after, shows                 string // a query of the copy, at the end
		ownAfter, ownShows           string // of the sandbox
	}
	const (
		split    = "CREATE TABLE far (id int PRIMARY KEY); CREATE TABLE whole (id int REFERENCES far, v text) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (9); CREATE VIEW a AS SELECT *, NULL AS w FROM whole; "
		numbered = "CREATE SEQUENCE n; CREATE TABLE a (id int PRIMARY KEY DEFAULT nextval('n'), v text, w text); "
		chain    = "CREATE TABLE first (id int PRIMARY KEY); CREATE TABLE second (id int PRIMARY KEY, of int REFERENCES first); CREATE TABLE a (id int PRIMARY KEY, v text, w text, of int REFERENCES second); "
		small    = "CREATE EXTENSION citext SCHEMA public; CREATE TABLE a (id public.citext PRIMARY KEY, v text, w text); "
	)
	const a, id = "SELECT concat_ws(' ', id, v, w) FROM public.a ORDER BY id", "CREATE TABLE a (id int PRIMARY KEY, v text, w text UNIQUE); "
	for n, s := range []scene{
		{name: "nothing changes", copySQL: id + "INSERT INTO a VALUES (1, 'p')", ownSQL: id + "INSERT INTO a VALUES (2, 'o')", rules: ownRule("r", "a", "keep: target"), first: "2 o", last: "2 o"},
		{name: "keep", copySQL: id, ownSQL: id + "INSERT INTO a VALUES (2, 'o'), (3, 'o')", rules: ownRule("r", "a", "keep: target"), first: "2 o, 3 o",
			change: "DELETE FROM a WHERE id = 2; INSERT INTO a VALUES (4, 'n')", last: "3 o, 4 n"},
		{name: "columns", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x'), (2, 'p', 'y')", ownSQL: id + "INSERT INTO a VALUES (1, 'o', 'own'), (7, 'o', NULL)", rules: ownRule("r", "a", "merge: target", "columns: [v]"),
			first: "1 o x, 2 p y", change: "UPDATE a SET v = v || '2'; INSERT INTO a VALUES (2, 'late')", last: "1 o2 x, 2 late y"},
		{name: "an added row goes again", copySQL: id + "INSERT INTO a VALUES (1, 'p')", ownSQL: id + "INSERT INTO a VALUES (2, 'o'), (3, 'o')", rules: ownRule("r", "a", "merge: target"),
			first: "1 p, 2 o, 3 o", change: "DELETE FROM a WHERE id = 2", last: "1 p, 3 o"},
		{name: "a replaced row goes", copySQL: id + "INSERT INTO a VALUES (1, 'p')", ownSQL: id + "INSERT INTO a VALUES (1, 'o')", rules: ownRule("r", "a", "merge: target"),
			first: "1 o", change: "DELETE FROM a", again: policy.CodeCarryChanged, last: "1 o"},
		{name: "a new conflict", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x')", ownSQL: id + "INSERT INTO a VALUES (2, 'o', 'y')", rules: ownRule("r", "a", "merge: target"),
			first: "1 p x, 2 o y", change: "INSERT INTO a VALUES (3, 'o', 'x')", again: policy.CodeCarryChanged},
		{name: "a known conflict", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x')", ownSQL: id + "INSERT INTO a VALUES (2, 'o', 'x')", rules: ownRule("r", "a", "merge: target"),
			first: "1 p x", change: "INSERT INTO a VALUES (3, 'n', 'z')", last: "1 p x, 3 n z"},
		{name: "values change places", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x'), (2, 'p', 'y')", ownSQL: id + "INSERT INTO a VALUES (1, 'o', 'y'), (2, 'o', 'x')", rules: ownRule("r", "a", "merge: target"), first: "1 o y, 2 o x", last: "1 o y, 2 o x"},
		{name: "stop on conflict", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x')", ownSQL: id + "INSERT INTO a VALUES (2, 'o', 'x')", rules: ownRule("r", "a", "merge: target", "on_conflict: stop"), code: policy.CodeCarryConflict, says: "same key as other rows of production (a_w_key)"},
		{name: "an assertion that fails then", copySQL: id, ownSQL: id + "INSERT INTO a VALUES (1, 'o')", rules: ownRule("r", "a", "keep: target") + "assertions:\n  - name: q\n    why: t\n    database: business\n    query: SELECT count(*) FROM public.a WHERE v = 'bad'\n    expect: 0\n",
			first: "1 o", change: "UPDATE a SET v = 'bad'", again: policy.CodeCarryChanged},
		{name: "other types", copySQL: "CREATE TABLE a (id bigint PRIMARY KEY, v varchar(3), w date)", ownSQL: "CREATE TABLE a (id int PRIMARY KEY, v text, w text); INSERT INTO a VALUES (1, 'abc', '2026-01-02')", rules: ownRule("r", "a", "keep: target"), first: "1 abc 2026-01-02", last: "1 abc 2026-01-02"},
		{name: "values that do not fit", copySQL: "CREATE TABLE a (id int PRIMARY KEY, v int, w text)", ownSQL: id + "INSERT INTO a VALUES (1, 'abc')", rules: ownRule("r", "a", "keep: target"), code: policy.CodeRuleFailed, says: "22P02"},
		{name: "a column that must be given", copySQL: id + "ALTER TABLE a ADD must int NOT NULL", ownSQL: id + "INSERT INTO a VALUES (1)", rules: ownRule("r", "a", "keep: target"), code: policy.CodeCarryConflict, says: "column must"},
		{name: "a deferrable key that the sandbox lacks", copySQL: "CREATE TABLE a (id int PRIMARY KEY, v text UNIQUE DEFERRABLE, w text)", ownSQL: id + "INSERT INTO a VALUES (1, 'o'), (2, 'o')", rules: ownRule("r", "a", "keep: target"), code: policy.CodeCarryConflict, says: "a_v_key"},
		{name: "no table in the sandbox", copySQL: id + "INSERT INTO a VALUES (1)", ownSQL: "CREATE VIEW a AS SELECT 1 AS id", rules: ownRule("r", "a", "keep: target") + ownRule("m", "a", "merge: target"), first: "", last: ""},
		{name: "no table in the copy", copySQL: id, ownSQL: id, rules: ownRule("r", "b", "keep: target"), code: policy.CodeTableMissing, says: "no table b"},
		{name: "no primary key", copySQL: "CREATE TABLE a (id int, v text, w text)", ownSQL: id, rules: ownRule("r", "a", "merge: target"), code: policy.CodeTableUnfit, says: "no primary key"},
		{name: "a key that is none", copySQL: "CREATE TABLE a (id int, v text, w text); INSERT INTO a VALUES (1, 'p'), (1, 'p')", ownSQL: id + "INSERT INTO a VALUES (1)", rules: ownRule("r", "a", "merge: target", "key: [id]"), code: policy.CodeTableUnfit, says: "The copy has several rows"},
		{name: "a declared key", copySQL: "CREATE TABLE a (id int, v text, w text); INSERT INTO a VALUES (1, 'p', 'x'), (2, NULL, 'y'), (2, NULL, 'z')", ownSQL: id + "INSERT INTO a VALUES (8, 'p', 'o'), (9, NULL, 'q')", rules: ownRule("r", "a", "merge: target", "key: [v]"), first: "2 y, 2 z, 8 p o", last: "2 y, 2 z, 8 p o"},
		{name: "a table named m", copySQL: "CREATE TABLE m (m int PRIMARY KEY, key text); INSERT INTO m VALUES (1, 'p'), (2, 'p'); CREATE VIEW a AS SELECT m AS id, key AS v, NULL AS w FROM m", ownSQL: "CREATE TABLE m (m int PRIMARY KEY, key text); INSERT INTO m VALUES (2, 'o')", rules: ownRule("r", "m", "merge: target"),
			first: "1 p, 2 o", change: "INSERT INTO m VALUES (3, 'n')", last: "1 p, 2 o, 3 n"},
		{name: "a partition's key", copySQL: split + "INSERT INTO far VALUES (1)", ownSQL: split + "INSERT INTO far VALUES (1), (2); INSERT INTO whole VALUES (1, '1'), (2, '2')", rules: ownRule("r", "part", "keep: target"), first: "1 1", last: "1 1", missed: "1 rows of the sandbox's public.part stay behind: they refer to rows of public.far"},
		{name: "a default's sequence", copySQL: numbered + "SELECT setval('n', 3)", ownSQL: numbered + "SELECT setval('n', 40); INSERT INTO a (v) VALUES ('o')", rules: ownRule("r", "a", "keep: target"), first: "41 o", last: "41 o",
			after: "SELECT nextval('public.n')::text", shows: "42"},
		{name: "gone with production's", copySQL: chain + "INSERT INTO first VALUES (1); INSERT INTO second VALUES (10, 1)", ownSQL: chain + "INSERT INTO second VALUES (10, NULL); INSERT INTO a VALUES (7, 'o', NULL, 10), (8, 'o', NULL, NULL)",
			rules: ownRule("f", "first", "keep: target") + ownRule("r", "a", "keep: target"), first: "8 o", last: "8 o", missed: "1 rows of the sandbox's public.a stay behind: they refer to rows of production that went"},
		{name: "merged, and gone with production's", copySQL: chain + "INSERT INTO first VALUES (1); INSERT INTO second VALUES (10, 1)", ownSQL: chain + "INSERT INTO second VALUES (10, NULL); INSERT INTO a VALUES (7, 'o', NULL, 10), (8, 'o', NULL, NULL)",
			rules: ownRule("f", "first", "keep: target") + ownRule("r", "a", "merge: target"), first: "8 o", last: "8 o", missed: "1 rows of the sandbox's public.a stay behind: they refer to rows of production that went"},
		{name: "two merges of one value", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x'), (2, 'p', 'y')", ownSQL: id + "INSERT INTO a VALUES (1, 'o', 'y'), (2, 'q', 'x')", rules: ownRule("r", "a", "merge: target", "columns: [v]") + ownRule("s", "a", "merge: target", "key: [w]", "columns: [v]"),
			code: policy.CodeTableUnfit, says: "The rule own/r gave 2 rows of the sandbox to public.a, and another rule has given them other values (own/pack.yaml, line 11: merge: target)."},
		{name: "two merges of the same value", copySQL: id + "INSERT INTO a VALUES (1, 'p', 'x'), (2, 'p', 'y')", ownSQL: id + "INSERT INTO a VALUES (1, 'o', 'x'), (2, 'q', 'y')", rules: ownRule("r", "a", "merge: target", "columns: [v]") + ownRule("s", "a", "merge: target", "key: [w]", "columns: [v]"),
			first: "1 o x, 2 q y", change: "UPDATE a SET v = 'n' WHERE id = 1", last: "1 n x, 2 q y"},
		{name: "and it says stop", copySQL: chain + "INSERT INTO first VALUES (1); INSERT INTO second VALUES (10, 1)", ownSQL: chain + "INSERT INTO second VALUES (10, NULL); INSERT INTO a VALUES (7, 'o', NULL, 10)",
			rules: ownRule("f", "first", "keep: target") + ownRule("r", "a", "keep: target", "on_conflict: stop"), code: policy.CodeCarryConflict, says: "went with those they refer to"},
		{name: "the same rows twice", copySQL: "CREATE TABLE a (id int, v text, w text)", ownSQL: "CREATE TABLE a (id int, v text, w text); INSERT INTO a VALUES (1, 'o'), (2, 'o')", rules: ownRule("r", "a", "keep: target") + ownRule("s", "a", "where: id = 1", "keep: target"),
			code: policy.CodeTableUnfit, says: "The rule own/r gave 2 rows of the sandbox to public.a, and selects 3 there"},
		{name: "side by side", copySQL: id + "INSERT INTO a VALUES (1, 'p'), (2, 'p'), (3, 'p')", ownSQL: id + "INSERT INTO a VALUES (1, 'o'), (2, 'o'), (3, 'o')", rules: ownRule("r", "a", "where: id = 1", "keep: target") + ownRule("s", "a", "where: id = 2", "keep: target"),
			first: "1 o, 2 o, 3 p", change: "UPDATE a SET v = 'n'", last: "1 n, 2 n, 3 p"},
		{name: "a condition on other rows", copySQL: id + "CREATE TABLE local (id int)", ownSQL: id + "CREATE TABLE local (id int); INSERT INTO local VALUES (1); INSERT INTO a VALUES (1, 'o')", rules: ownRule("r", "a", "where: id IN (SELECT l.id FROM public.local l)", "keep: target"),
			code: policy.CodeTableUnfit, says: "gave 1 rows of the sandbox to public.a, and selects 0 there"},
		{name: "more than a condition", copySQL: id, ownSQL: id + "CREATE TABLE victim (x int)", rules: ownRule("r", "a", "where: 'true)) TO STDOUT; COMMIT; DROP TABLE public.victim; COPY (SELECT id FROM public.a WHERE (true'", "keep: target"),
			code: policy.CodeRuleFailed, says: "42601) (own/pack.yaml, line 11: where: ", ownAfter: "SELECT to_regclass('public.victim')::text", ownShows: "public.victim"},
		{name: "keys in capitals", copySQL: small + "INSERT INTO a VALUES ('one', 'p'), ('Two', 'p')", ownSQL: small + "INSERT INTO a VALUES ('ONE', 'o'), ('three', 'o')", rules: ownRule("r", "a", "merge: target"), first: "ONE o, three o, Two p",
			change: "UPDATE a SET id = 'THREE' WHERE id = 'three'", last: "ONE o, THREE o, Two p"},
		{name: "a refusing snapshot column", copySQL: id, ownSQL: id, rules: ownRule("r", "a", "keep: target", "where: nothing > 1"), code: policy.CodeRuleFailed, says: `Rule own/r failed in database "shop_uat": column "nothing" does not exist (SQLSTATE 42703) (own/pack.yaml, line 12: where: nothing > 1).`},
		{name: "a condition that divides", copySQL: id, ownSQL: id + "INSERT INTO a VALUES (1)", rules: ownRule("r", "a", "keep: target", "where: 1 / (id - 1) > 0"), code: policy.CodeRuleFailed, says: "22012 (own/pack.yaml, line 12: where: 1 / (id - 1) > 0)"},
		{name: "a condition that divides in the copy", copySQL: id + "INSERT INTO a VALUES (1)", ownSQL: id, rules: ownRule("r", "a", "keep: target", "where: 1 / (id - 1) > 0"), code: policy.CodeRuleFailed, says: "22012 (own/pack.yaml, line 12: where: 1 / (id - 1) > 0)"},
	} {
		if n%oneIn != 0 {
			continue
		}
		database := "shop"
		if n > 0 {
			database = "shop_uat"
		}
		in.Source.Databases = map[string]string{"business": database}
		const clean = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; "
		own.Exec(t, "shop_uat", clean+s.ownSQL)
		c.Exec(t, database, clean+s.copySQL)
		in.Run, in.Packs = fmt.Sprintf("20261122t190000-%04d", n), []pack.Pack{ownPack(t, "rules:\n"+s.rules)}
		report, err := policy.Neutralize(t.Context(), st, in)
		if got := sandglass.CodeOf(err); s.code != "" && (got != s.code || !strings.Contains(sandglass.AsError(err).Message, s.says)) || s.code == "" && err != nil {
			t.Errorf("%s: %v, want %s %s", s.name, err, s.code, s.says)
		}
		if s.ownAfter != "" {
			if got := ask(t, own, "shop_uat", s.ownAfter); got != s.ownShows {
				t.Errorf("%s: the sandbox: %q, want %q", s.name, got, s.ownShows)
			}
		}
		if s.code != "" || err != nil {
			continue
		}
		if !strings.Contains(strings.Join(report.NotReapplied, "\n"), s.missed) {
			t.Errorf("%s: not reported: %q", s.name, report.NotReapplied)
		}
		shows := func(when, want string) {
			t.Helper()
			if got := ask(t, c, "shop_uat", a); got != want {
				t.Errorf("%s, %s: %q, want %q (%v)", s.name, when, got, want, report.NotReapplied)
			}
		}
		shows("first", s.first)
		if stops := prove(t, st, in); stops != nil {
			t.Errorf("%s: proof: %q", s.name, stops)
		}
		if s.change != "" {
			own.Exec(t, "shop_uat", s.change)
		}
		again, err := policy.CarryAgain(t.Context(), st, in)
		if sandglass.CodeOf(err) != s.again && (err != nil || s.again != "") {
			t.Errorf("%s again: %v, want %s", s.name, err, s.again)
			continue
		}
		if s.again != "" { // killed before the refusal was heard: whoever takes over refuses too
			if _, err := policy.CarryAgain(t.Context(), st, in); sandglass.CodeOf(err) != s.again {
				t.Errorf("%s, by another: %v, want %s", s.name, err, s.again)
			}
		}
		if err == nil && (len(again.Rules) > 0) != (s.change != "") {
			t.Errorf("%s again: %+v", s.name, again.Rules)
		}
		if s.again == "" {
			shows("again", s.last)
			if stops := prove(t, st, in); stops != nil {
				t.Errorf("%s: proof again: %q", s.name, stops)
			}
		}
		if s.after != "" {
			if got := ask(t, c, "shop_uat", s.after); got != s.shows {
				t.Errorf("%s: %s: %q, want %q", s.name, s.after, got, s.shows)
			}
		}
	}
}

// TestCarryFirstAndMany: at a first restore production's rows go and nothing comes. Then a big
// table comes as a stream, killed on the way, while the sandbox's people write to it.
func TestCarryFirstAndMany(t *testing.T) {
	t.Parallel()
	const many = 100_000
	c, own, in := twoClusters(t, carryCopy, strings.ReplaceAll(carryOwn, "INSERT INTO part VALUES", fmt.Sprintf("INSERT INTO part SELECT 'b', 100 + i, repeat('own row ', 60) FROM generate_series(1, %d) i; INSERT INTO part VALUES", many)))
	in.Packs = []pack.Pack{carryPack(t)}
	st, target, from := staging(c), in.Target, in.FromTarget
	in.Target, in.FromTarget = nil, nil
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	const left = `SELECT concat_ws(' ', (SELECT count(*) FROM public.printer), (SELECT count(*) FROM public.part), (SELECT count(*) FROM public.base), (SELECT count(*) FROM public.param), (SELECT string_agg(id::text, ',') FROM public.person))`
	if got := ask(t, c, "shop_uat", left); got != "0 1 0 3 9" {
		t.Errorf("left after a first restore: %s", got)
	}
	if p := ruleReports(report)["printers"]; p.Rows != 0 || !strings.Contains(strings.Join(p.Notes, ";"), "no rows to keep; 3 rows of public.printer removed") {
		t.Errorf("report: %+v", p)
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}

	in.Run, in.Target, in.FromTarget = "20261122t190000-many", target, from
	in.Source.Databases = in.Environment.Databases
	client := own.Conn(t, "shop_uat")
	ctx, kill := context.WithCancelCause(t.Context())
	in.Progress = func(p sandglass.Progress) {
		if strings.Contains(p.Note, "own rows") || strings.Contains(p.Note, "sandbox's own") {
			go kill(errors.New("killed here"))
		}
	}
	if _, err := policy.Neutralize(ctx, st, in); err == nil {
		t.Log("the work was done before it could be killed")
	}
	in.Progress = nil
	if err := errors.Join(c.Kill(), c.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	// A writer is not held up, and what it writes later is not in the snapshot but is carried again.
	if _, err := client.Exec(t.Context(), "BEGIN; UPDATE part SET what = 'being written' WHERE n = 8"); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if report, err = policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err, c.Log())
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 24<<20 { // the rows are 50 MB
		t.Errorf("the heap grew by %s for a table of 50 MB", sandglass.Bytes(grown))
	}
	if p := ruleReports(report)["parts"]; p.Rows != many+1 {
		t.Errorf("report: %+v", p)
	}
	if _, err := client.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	const written = `SELECT count(*)::text FROM public.part WHERE what = 'being written'`
	if got := ask(t, c, "shop_uat", written); got != "0" {
		t.Errorf("what was not committed came along: %s", got)
	}
	if again, err := policy.CarryAgain(t.Context(), st, in); err != nil || len(again.Rules) != 7 {
		t.Errorf("again: %+v %v", again, err)
	}
	const counted = `SELECT concat_ws(' ', (` + written + `), (SELECT count(*) FROM public.part), (SELECT rows FROM sandglass.changed_columns WHERE rule = 'parts' AND action = 'keep' ORDER BY operation DESC LIMIT 1))`
	if diff := cmp.Diff(fmt.Sprintf("1 %d %d", many+2, many+1), ask(t, c, "shop_uat", counted)); diff != "" {
		t.Error(diff)
	}
}
