// Rules on big tables go by ranges of blocks: what they change is what one statement would, also
// where PostgreSQL puts a changed row into a range that is still to come, and after kills.

package policy_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

// bigSQL makes tables whose free space lies everywhere, so that changed rows move forth and back.
const bigSQL = `
CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, mail text, twice int GENERATED ALWAYS AS (n * 2) STORED, code int UNIQUE DEFERRABLE INITIALLY IMMEDIATE, rank int, pad text DEFAULT repeat('x', 200));
INSERT INTO big (id, mail, code) SELECT i, CASE i % 3 WHEN 0 THEN 'a@b' END, i FROM generate_series(1, 6000) i;
CREATE INDEX ON big (n);
DELETE FROM big WHERE id % 5 = 0;
CREATE TABLE parts (id int, region int, n int NOT NULL DEFAULT 0, pad text DEFAULT repeat('y', 300), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts (id, region) SELECT i, (i % 10 = 0)::int FROM generate_series(1, 4000) i;
DELETE FROM parts WHERE id % 7 = 0;
CREATE TABLE above (id int, n int NOT NULL DEFAULT 0, pad text DEFAULT repeat('z', 300)); CREATE TABLE under (more int) INHERITS (above);
INSERT INTO above SELECT i, 0 FROM generate_series(1, 1500) i; INSERT INTO under SELECT i, 0 FROM generate_series(2001, 4000) i;
DELETE FROM under WHERE id % 3 = 0;
CREATE TABLE gone (id int, pad text DEFAULT repeat('w', 300)); INSERT INTO gone SELECT i FROM generate_series(1, 2000) i;
CREATE TABLE ranks (r int); INSERT INTO ranks VALUES (4800); CREATE FUNCTION "ö""n"(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION own(int) RETURNS int LANGUAGE sql AS 'SELECT $1';`

func bigRules() string {
	return "rules:\n" +
		ownRule("count", "big", "set:", "  n: n + 1") +
		ownRule("some", "big", "where: mail LIKE '%@%' -- those", "set:", "  mail: \"mail || '+'\"", "  n: n + 10") +
		ownRule("unique", "big", "set:", "  code: code + 1") +
		ownRule("look", "big", "set:", "  rank: (SELECT count(*) FROM public.big b WHERE b.rank IS NULL)") +
		ownRule("table", "big", "set:", "  rank: (TABLE public.ranks)") +
		ownRule("odd", "big", "where: |-", "  public.\"ö\"\"n\" -- of mine", "  (id) < 0", "set:", "  n: '0'") +
		ownRule("call", "big", "where: public.own(id) > 0", "set:", "  n: n + 100") +
		ownRule("parts", "parts", "set:", "  n: n + 1") +
		ownRule("move", "parts", "where: id <= 100", "set:", "  region: 1 - region", "  n: n + 1") +
		ownRule("above", "above", "set:", "  n: n + 1") +
		ownRule("clear", "big", "where: id % 2 = 0", "clear: [pad]") +
		ownRule("gone", "gone", "empty: true")
}

// bigTruth are what the rules make of it, counted in people's way.
var bigTruth = []struct{ sql, want string }{
	{`SELECT concat_ws(' ', n, twice, count(*)) FROM public.big GROUP BY n, twice ORDER BY n`, "101 202 3200, 111 222 1600"},
	{`SELECT concat_ws(' ', mail, count(*)) FROM public.big WHERE mail IS NOT NULL GROUP BY mail`, "a@b+ 1600"},
	{`SELECT concat_ws(' ', min(code - id), max(code - id), min(rank), max(rank), count(*)) FROM public.big`, "1 1 4800 4800 4800"},
	{`SELECT concat_ws(' ', n, count(*)) FROM public.parts GROUP BY n ORDER BY n`, "1 3343, 2 86"},
	{`SELECT concat_ws(' ', region, count(*)) FROM public.parts WHERE id <= 100 GROUP BY region ORDER BY 1`, "0 9, 1 77"},
	{`SELECT concat_ws(' ', n, tableoid::regclass, count(*)) FROM public.above GROUP BY n, tableoid ORDER BY 1`, "1 public.above 1500, 1 public.under 1333"},
	{`SELECT concat_ws(' ', pad IS NULL, count(*)) FROM public.big GROUP BY pad IS NULL ORDER BY 1`, "f 2400, t 2400"},
	{`SELECT count(*)::text FROM public.gone`, "0"},
	{`SELECT coalesce(to_regclass('sandglass.moved')::text, 'none')`, "none"},
	{`SELECT count(*)::text FROM sandglass.rule_done WHERE rule LIKE '% so far'`, "0"},
}

func makeBig(t testing.TB, more ...string) (*pgtest.Cluster, policy.Input) {
	t.Helper()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE shop`)
	c.Exec(t, "shop", append([]string{bigSQL}, more...)...)
	c.Exec(t, "shop", `VACUUM ANALYZE`) // now the free space is known
	contact(t, c)
	return c, bigInput(t)
}

func bigInput(t testing.TB) policy.Input {
	t.Helper()
	databases := map[string]string{"business": "shop"}
	return policy.Input{Run: "20261122t190000-bigg", Range: 12 * 8192, Source: sandglass.Environment{Name: "prod", Databases: databases},
		Environment: sandglass.Environment{Name: "uat", Databases: databases}, Packs: []pack.Pack{ownPack(t, bigRules())}}
}

func checkBig(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	for _, truth := range bigTruth {
		if got := ask(t, c, "shop", truth.sql); got != truth.want {
			t.Errorf("%s\n got %s\nwant %s", truth.sql, got, truth.want)
		}
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	c, in := makeBig(t)
	moved, ranged := 0, map[string]bool{}
	in.Progress = func(p sandglass.Progress) {
		if name, _, is := strings.Cut(p.Note, " % of "); is {
			rule, _, _ := strings.Cut(name, ":")
			ranged[rule] = true
			if ask(t, c, "shop", `SELECT count(*)::text FROM sandglass.moved`) != "0" {
				moved++
			}
		}
	}
	report, err := policy.Neutralize(t.Context(), staging(c), in)
	if err != nil {
		t.Fatal(err)
	}
	checkBig(t, c)
	for rule, want := range map[string]bool{"own/count": true, "own/some": true, "own/unique": false, "own/look": false, "own/call": false, "own/table": false, "own/odd": false, "own/parts": true, "own/move": false, "own/above": true, "own/clear": true, "own/gone": false} {
		if ranged[rule] != want {
			t.Errorf("%s goes by ranges: %t", rule, ranged[rule])
		}
	}
	if moved < 10 {
		t.Errorf("changed rows were moved to ranges to come %d times: this is no test of that", moved)
	}
	rows := map[string][2]int64{}
	for _, r := range report.Rules {
		if r.Rule == "own/gone" && !slices.Contains(r.Notes, "about 2000 rows of public.gone, by its statistics") {
			t.Errorf("notes of %s: %q", r.Rule, r.Notes)
		}
		rows[r.Rule] = [2]int64{r.Rows, r.Seen}
	}
	for rule, want := range map[string][2]int64{"own/count": {4800, 4800}, "own/some": {1600, 4800}, "own/parts": {3429, 3429}, "own/above": {2833, 2833}, "own/gone": {2000, 2000}} {
		if rows[rule] != want {
			t.Errorf("%s: %v rows changed and seen, want %v", rule, rows[rule], want)
		}
	}
	if got := ask(t, c, "shop", `SELECT rows::text FROM sandglass.changed_columns WHERE rule = 'count' ORDER BY column_name`); got != "4800, 4800" {
		t.Errorf("changed columns: %s", got)
	}
	if stops := prove(t, staging(c), in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
}

// TestRangesResume ends the work after each range, now and then with the server killed.
func TestRangesResume(t *testing.T) {
	t.Parallel()
	c, in := makeBig(t)
	in.Range = 60 * 8192
	stopped := errors.New("killed here")
	for kills := 0; ; kills++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		in.Progress = func(p sandglass.Progress) {
			if strings.Contains(p.Note, " % of ") {
				cancel(stopped)
			}
		}
		_, err := policy.Neutralize(ctx, staging(c), in)
		if err == nil {
			if kills < 12 {
				t.Errorf("%d kills only", kills)
			}
			break
		}
		if !errors.Is(context.Cause(ctx), stopped) || kills > 100 {
			t.Fatal(err)
		}
		if kills%7 == 3 {
			if err := errors.Join(c.Kill(), c.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	in.Progress = nil
	checkBig(t, c)
	if stops := prove(t, staging(c), in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
}
