//go:build long

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
)

// The main job with a production of every other major: recorded, restored to a moment known by its
// commits, neutralized, undone. SANDGLASS_PG_BIN says where the programs are; see packaging/majors.
func TestEveryMajor(t *testing.T) {
	t.Parallel()
	for _, major := range []int{14, 16, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			ctx := t.Context()
			if _, _, err := pgtest.Binaries(major); err != nil {
				t.Skip(err)
			}
			prod := pgtest.New(t, pgtest.Options{Major: major, Settings: map[string]string{"max_prepared_transactions": "5"}})
			prod.Exec(t, "postgres", "CREATE TABLE kept (n int PRIMARY KEY)", "INSERT INTO kept SELECT generate_series(1, 1000)",
				"CREATE ROLE app LOGIN PASSWORD 'of production'", "CREATE PUBLICATION everything FOR ALL TABLES",
				"CREATE FUNCTION noisy() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''acts''; END'",
				"CREATE EVENT TRIGGER noisy ON ddl_command_end EXECUTE FUNCTION noisy()", "ALTER EVENT TRIGGER noisy DISABLE")
			s := newSystem(t)
			must(t, s.Record(ctx, "prod", prod, nil))
			_, err := s.Sandbox(ctx, "uat", "prod", nil)
			must(t, err)
			prod.Exec(t, "postgres", "ALTER EVENT TRIGGER noisy ENABLE ALWAYS", "BEGIN", "INSERT INTO kept VALUES (0)", "PREPARE TRANSACTION 'pending'")
			xid := prod.Query(t, "postgres", "WITH d AS (DELETE FROM kept WHERE n > 10 RETURNING 1) SELECT txid_current() FROM d LIMIT 1")
			var m sandglass.Moment
			_, err = fmt.Sscan(xid, &m.XID)
			must(t, err)
			m.Kind, m.Before = sandglass.AtXID, true
			must(t, s.Await(ctx, time.Minute, "the transaction", func() (bool, error) {
				_, err := s.Client.Resolve(ctx, "prod", m)
				return err == nil, err
			}))
			_, err = s.Restore(ctx, "uat", m)
			must(t, err)
			got, err := s.Query(ctx, "uat", "postgres", `SELECT count(*) || ' ' || (SELECT count(*) FROM pg_prepared_xacts) || ' ' ||
				(SELECT count(*) FROM pg_publication) || ' ' || (SELECT count(*) FROM pg_roles WHERE rolname = 'app' AND rolcanlogin) || ' ' ||
				current_setting('server_version_num')::int / 10000 FROM kept`)
			must(t, err)
			if want := fmt.Sprintf("1000 0 0 0 %d", major); got != want {
				t.Errorf("rows, prepared transactions, publications, logins, major: %s, want %s", got, want)
			}
			_, err = s.Undo(ctx, "uat")
			must(t, err)
			_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
			must(t, err)
			if got, err = s.Query(ctx, "uat", "postgres", "SELECT count(*) FROM kept"); err != nil || got != "10" {
				t.Errorf("rows at latest: %s (%v), want 10", got, err)
			}
		})
	}
}

// A production of a major whose programs this host lacks is recorded, and a restore of it refused with the package that brings them.
func TestMajorsMissing(t *testing.T) {
	const major = 16
	if _, _, err := pgtest.Binaries(major); err != nil {
		t.Skip(err)
	}
	prod := pgtest.New(t, pgtest.Options{Major: major})
	t.Setenv("SANDGLASS_PG_BIN", "") // `serve` is not told where they are
	if _, _, err := pgtest.Binaries(major); err == nil {
		t.Skipf("PostgreSQL %d is installed on this host", major)
	}
	s := newSystem(t)
	must(t, s.Record(t.Context(), "prod", prod, nil))
	_, err := s.Sandbox(t.Context(), "uat", "prod", nil)
	must(t, err)
	for _, args := range []string{"restore uat --latest --plan", "restore uat --latest --yes"} {
		r := refused(t, s, 3, sandglass.CodeBinariesMissing, strings.Fields(args)...)
		if out := r.Stdout + r.Stderr; !strings.Contains(out, "The image is of PostgreSQL 16") || !strings.Contains(out, "postgresql-16") {
			t.Errorf("%s: no sentence or no remedy:\n%s", args, out)
		}
	}
	if e, err := s.Client.Environment(t.Context(), "uat"); err != nil || e.State != sandglass.SandboxEmpty {
		t.Errorf("uat is %s %v, want empty", e.State, err)
	}
}
