package test

// This file is times as people type them: in the environment's zone, whatever the zones of this machine, of production's sessions and of its log are.

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/systest"
)

// A time without a zone is read in the environment's, half hours and changes of the clock included; it is the same moment as
// its UTC, and told in both. What the zone does not say is refused, and nothing begins.
func TestZones(t *testing.T) {
	t.Setenv("TZ", "Pacific/Auckland") // of the command line and of `serve`
	ctx := t.Context()
	prod := production(t, map[string]string{"timezone": "America/New_York", "log_timezone": "Asia/Tokyo"})
	prod.Exec(t, "postgres", "CREATE TABLE mark (n int)")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	prod.Exec(t, "postgres", "INSERT INTO mark VALUES (1)")
	var first time.Time
	must(t, first.UnmarshalText([]byte(prod.Query(t, "postgres", `SELECT to_char(max(pg_xact_commit_timestamp(xmin)) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM mark`))))
	prod.Exec(t, "postgres", "INSERT INTO mark VALUES (2)")
	streaming(t, s, "prod")
	must(t, s.Await(ctx, time.Minute, "the first row's moment to be settled", func() (bool, error) {
		_, err := s.Client.Resolve(ctx, "prod", sandglass.Moment{Kind: sandglass.AtTime, Time: first})
		return err == nil, err
	}))

	for _, name := range []string{"UTC", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "Europe/Vienna"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			zone, err := time.LoadLocation(name)
			must(t, err)
			redeclare(t, s, "prod", func(e *sandglass.Environment) { e.Zone = name })
			typed := first.In(zone).Format("2006-01-02 15:04:05.999999")
			if got := commitAt(t, s, typed); !got.Equal(first) {
				t.Errorf("%q resolves to %s, want %s", typed, got, first)
			}
			// An offset or a zone that is typed wins over the declared one.
			for _, typed := range []string{first.UTC().Format(time.RFC3339Nano), first.UTC().Format("2006-01-02 15:04:05.999999") + " UTC"} {
				if got := commitAt(t, s, typed); !got.Equal(first) {
					t.Errorf("%q resolves to %s, want %s", typed, got, first)
				}
			}
			out := ran(t, s, "restore", "uat", "--at", typed, "--plan").Stdout
			if utc := first.UTC().Format("2006-01-02 15:04:05.999999 UTC"); !strings.Contains(out, utc) {
				t.Errorf("the plan does not tell %s:\n%s", utc, out)
			}
			if local := first.In(zone).Format("15:04:05.999999 ") + name; name != "UTC" && !strings.Contains(out, local) {
				t.Errorf("the plan does not tell %s:\n%s", local, out)
			}
		})
	}
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtTime, Time: first})
	must(t, err)
	if got, err := s.Query(ctx, "uat", "postgres", "SELECT string_agg(n::text, ',') FROM mark"); err != nil || got != "1" {
		t.Errorf("restored is %q %v, want 1", got, err)
	}

	before, err := s.Client.Operations(ctx, sandglass.OperationQuery{Limit: 100})
	must(t, err)
	for _, row := range []struct {
		zone, typed, says string
		exit              int
		code              sandglass.Code
	}{
		{"Europe/Vienna", "2026-03-29 02:30", "does not exist in Europe/Vienna", 2, sandglass.CodeMomentSyntax},
		{"Europe/Vienna", "2026-10-25 02:30", "2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00", 2, sandglass.CodeMomentAmbiguous},
		{"Australia/Lord_Howe", "2026-10-04 02:15", "does not exist in Australia/Lord_Howe", 2, sandglass.CodeMomentSyntax}, // its clocks move by half an hour
		{"Australia/Lord_Howe", "2026-04-05 01:45", "2026-04-05T01:45:00+11:00 or 2026-04-05T01:45:00+10:30", 2, sandglass.CodeMomentAmbiguous},
		{"Australia/Lord_Howe", "2026-04-05 02:15", "2026-04-04 15:45:00 UTC", 3, sandglass.CodeMomentBefore}, // no longer ambiguous, but before the window
		{"America/New_York", "2026-03-08 02:00", "does not exist in America/New_York", 2, sandglass.CodeMomentSyntax},
	} {
		t.Run(row.zone+" "+row.typed, func(t *testing.T) {
			redeclare(t, s, "prod", func(e *sandglass.Environment) { e.Zone = row.zone })
			r := refused(t, s, row.exit, row.code, "restore", "uat", "--yes", "--at", row.typed)
			if out := r.Stdout + r.Stderr; !strings.Contains(out, row.says) {
				t.Errorf("the refusal does not say %q:\n%s", row.says, out)
			}
		})
	}
	after, err := s.Client.Operations(ctx, sandglass.OperationQuery{Limit: 100})
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("%d operations, before %d", len(after), len(before))
	}
}

// commitAt is the time of the last commit that a typed moment of prod includes.
func commitAt(t *testing.T, s *systest.System, typed string) time.Time {
	t.Helper()
	var r sandglass.Range
	must(t, json.Unmarshal([]byte(ran(t, s, "moment", "prod", typed, "--json").Stdout), &r))
	return r.CommitTime
}
