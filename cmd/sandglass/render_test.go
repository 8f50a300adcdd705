package main

// What people read, as golden files; `go test ./cmd/sandglass -update` writes them anew.

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"sandglass"
)

var updateGolden = flag.Bool("update", false, "write the golden files")

func at(clock string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05.999999", "2026-11-22 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func samplePlan() sandglass.Plan {
	return sandglass.Plan{
		Moment: sandglass.Moment{Kind: sandglass.AtTime, Time: at("10:42:00")},
		Range: &sandglass.Range{Environment: "prod", Incarnation: "20261120t080000-a1b2", Timeline: 1, From: 0x5A3F2B8, Until: 0x5A40110, Stop: 0x5A3F2B8,
			Image: "20261122t060000-x9y8", CommitTime: at("10:41:59.812345"), NextTime: at("10:42:00.104"), ReplayBytes: 125829120},
		Lines: []sandglass.PlanLine{
			{Step: "stage", What: "fetch image 20261122t060000-x9y8", Bytes: 4402341478, Seconds: 12},
			{Step: "recover", What: "replay WAL", Bytes: 125829120, Seconds: 3.2},
			{Step: "neutralize", What: "drop database scratch", Why: "no role of uat names it."},
			{Step: "neutralize", What: "Foreign servers lead nowhere; user mappings and their passwords are dropped.", Why: "A query in the sandbox would read or change other systems with production's rights."},
			{Step: "neutralize", What: "disable 2 subscriptions", Rows: 2},
			{Step: "cut over", What: "replace the running server", Seconds: 1.1},
		},
		NotCopied: []sandglass.PlanLine{{What: "production's settings", Why: "uat has its own"}},
		Databases: map[string]string{"erp": "erp", "reporting": "uat_reporting"},
		Dropped:   []string{"scratch"},
		Findings: []sandglass.Finding{
			{Code: "preflight.disk_space", Level: sandglass.OK, Message: "There is room."},
			{Code: "preflight.clients_connected", Level: sandglass.Warning, Message: "3 clients are connected to uat.", Remedy: "They are disconnected at the cutover."},
			{Code: "preflight.same_system_identifier", Level: sandglass.Warning, Message: "uat is a copy of prod.", Accepted: true},
		},
		Seconds: 19.4,
	}
}

func sampleWindow() sandglass.Window {
	image := func(id, clock string, bytes, stored int64) sandglass.Image {
		return sandglass.Image{ID: sandglass.ImageID(id), Timeline: 1, Ended: at(clock), Bytes: bytes, StoredBytes: stored}
	}
	return sandglass.Window{Environment: "prod", Earliest: at("02:00:11.5"), Latest: at("23:43:07"), EarliestLSN: 0x2000100, LatestLSN: 0x5A40110,
		Gaps:   []sandglass.Gap{{From: at("11:00:00"), To: at("12:30:00"), Code: sandglass.CodeSlotLost, Reason: "The slot was lost."}},
		Images: []sandglass.Image{image("20261122t020011-aaaa", "02:00:11.5", 4402341478, 1503238553), image("20261122t123000-bbbb", "12:30:00", 4509715660, 12582912)}, LagBytes: 16384, LagSeconds: 0.6}
}

func sampleOperation(state sandglass.State) sandglass.Operation {
	o := sandglass.Operation{ID: "20261122t104307-k3m9", Kind: sandglass.KindRestore, Environment: "uat", Source: "prod", State: state, AskedBy: "anna", Reason: "orders deleted",
		Created: at("10:43:07"), Began: at("10:43:07"), Ended: at("10:43:28.4")}
	o.Steps = []sandglass.Step{
		{Name: "preflight", State: sandglass.Done, Began: at("10:43:07"), Ended: at("10:43:07.3")},
		{Name: "stage", State: sandglass.Done, Began: at("10:43:07.3"), Ended: at("10:43:19.6"), Progress: &sandglass.Progress{Done: 4402341478, Total: 4402341478, Unit: "bytes"}},
		{Name: "synchronize", State: sandglass.Skipped},
		{Name: "cut over", State: sandglass.Done, Began: at("10:43:26"), Ended: at("10:43:28.4")},
	}
	switch state {
	case sandglass.Succeeded:
		o.Result, _ = json.Marshal(sandglass.Result{Moment: "prod at 2026-11-22T10:42:00Z", UnreachableSeconds: 1.24, Kept: "k2j4h6g8", KeptUntil: at("10:43:28.4").AddDate(0, 0, 7), Held: true}) // a plain struct
	case sandglass.Failed:
		o.Error = &sandglass.Error{Code: sandglass.CodeHealthFailed, Message: "The new server did not answer.", Remedy: "Look at its log."}
		o.Steps[3].State, o.Steps[3].Error = sandglass.Failed, o.Error
	case sandglass.Running:
		o.Ended, o.Steps[3].Ended = time.Time{}, time.Time{}
		o.Steps[3].State, o.Steps[3].Progress = sandglass.Running, &sandglass.Progress{Done: 3 << 20, Total: 12 << 20, Unit: "bytes", ETA: 9, Note: "at 0/5A00000"}
	}
	return o
}

func TestGolden(t *testing.T) {
	zone := vienna(t)
	restore := sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Source: "prod"}
	a := &app{now: func() time.Time { return at("10:43:30") }}
	for name, show := range map[string]func(w io.Writer) error{
		"plan":         func(w io.Writer) error { return showPlan(w, restore, samplePlan(), zone, samplePlan().Findings) },
		"window_ascii": func(w io.Writer) error { return showWindow(w, sampleWindow(), zone, false) },
		"window_utf8":  func(w io.Writer) error { return showWindow(w, sampleWindow(), time.UTC, true) },
		"window_empty": func(w io.Writer) error { return showWindow(w, sandglass.Window{Environment: "prod"}, zone, true) },
		"window_unsettled": func(w io.Writer) error {
			v := sampleWindow()
			v.Latest, v.Gaps, v.Images = time.Time{}, nil, v.Images[:1]
			return showWindow(w, v, zone, true)
		},
		"commits": func(w io.Writer) error {
			return showCommits(w, "prod", []sandglass.Commit{
				{XID: 81236, LSN: 0x5A3F2B8, Time: at("10:41:59.812345"), Rows: []sandglass.RelationRows{{Database: "erp", Relation: "public.orders", Deleted: 1204}, {Database: "erp", Relation: "public.audit", Inserted: 1, Updated: 12345678}}},
				{XID: 81237, LSN: 0x5A40110, Time: at("23:42:00"), Rows: []sandglass.RelationRows{{Database: "oid 16384", Relation: "filenode 16402", Truncated: true}}},
			}, zone)
		},
		"operation_succeeded": func(w io.Writer) error { return a.showOperation(w, sampleOperation(sandglass.Succeeded), zone) },
		"operation_rules": func(w io.Writer) error {
			o := sampleOperation(sandglass.Succeeded)
			o.Result, _ = json.Marshal(sandglass.Result{Rules: []sandglass.PlanLine{ // a plain struct
				{What: "roles", Rows: 3, Seconds: 0.04},
				{What: "dynamics365-finops/e-mail-addresses axdb_uat", Rows: 61204, Seen: 1234567, Seconds: 12.3},
				{What: "dynamics365-finops/smtp-relay axdb_uat", Rows: 1, Seen: 1, Seconds: 0.003}}})
			return showRules(w, o)
		},
		"operation_without_rules": func(w io.Writer) error { return showRules(w, sampleOperation(sandglass.Succeeded)) },
		"operation_failed":        func(w io.Writer) error { return a.showOperation(w, sampleOperation(sandglass.Failed), zone) },
		"operation_running":       func(w io.Writer) error { return a.showOperation(w, sampleOperation(sandglass.Running), zone) },
		"environment": func(w io.Writer) error {
			return showEnvironment(w, sandglass.EnvironmentStatus{
				Environment: sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Server: &sandglass.Server{Port: 5433, Source: "prod"}}.WithDefaults(),
				State:       sandglass.SandboxRunning, Address: "localhost:5433", Major: 15, Volume: &sandglass.Volume{ID: "k2j4h6g8", Bytes: 5 << 30},
				Recorder: &sandglass.RecorderStatus{State: sandglass.RecorderConnecting, Slot: "sandglass_uat", ServerLSN: 0x5A40110, DurableLSN: 0x5A3C110,
					LastError: &sandglass.Error{Code: sandglass.CodeSlotTaken, Message: "The slot is in use.", Remedy: "Stop whoever uses it."}}})
		},
		"volumes": func(w io.Writer) error {
			return showVolumes(w, []sandglass.Volume{
				{ID: "k2j4h6g8", Environment: "uat", State: sandglass.VolumeCurrent, Bytes: 5 << 30, Major: 15, Created: at("10:43:07"), Moment: "prod at 10:42"},
				{ID: "a1b2c3d4", Environment: "uat", State: sandglass.VolumeKept, Bytes: 1 << 30, Major: 15, Created: at("09:00:00"), KeptUntil: at("10:43:28").AddDate(0, 0, 7)}})
		},
		"prune": func(w io.Writer) error {
			return showPrune(w, sandglass.PrunePlan{ID: "p", Objects: 131, Bytes: 9 << 30, Items: []sandglass.PruneItem{
				{Environment: "prod", Kind: "image", Name: "20261022t020011-aaaa", Objects: 3, Bytes: 7 << 30, Why: "older than 28d"}, {Environment: "prod", Kind: "wal", Name: "to 0/2000000", Objects: 128, Bytes: 2 << 30, Why: "no image kept needs it"}}})
		},
		"verify": func(w io.Writer) error {
			return showVerify(w, sandglass.VerifyReport{Objects: 120, Skipped: 1, Bytes: 3 << 30, Seconds: 8.4, Damaged: []sandglass.Damage{
				{Object: "env/prod/x/wal/000000010000000000000005", Problem: "Its bytes were changed.", Costs: "Moments after it up to the next image can't be restored.", From: at("10:00:00"), To: at("12:30:00")}}}, false)
		},
		"verify-all": func(w io.Writer) error {
			return showVerify(w, sandglass.VerifyReport{Objects: 121, Bytes: 3 << 30, Seconds: 8.4}, true)
		},
		"repository": func(w io.Writer) error {
			return showRepository(w, sandglass.RepositoryInfo{Path: "/srv/repo", ID: "20261101t000000-abcd", Format: 1, Created: at("08:00:00"), Recipients: []string{"age1qqq"}, Objects: 12345, Bytes: 3 << 30, FreeBytes: -1,
				Environments: []sandglass.RepositoryEnvironmentInfo{{Environment: "prod", Incarnations: 1, Images: 28, ImageBytes: 2 << 30, WALBytes: 1 << 30}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := show(&b); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "golden", name+".txt")
			if *updateGolden {
				if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Off a terminal each step is told once, as it ends.
func TestViewOffTerminal(t *testing.T) {
	var b bytes.Buffer
	a := &app{stdout: &b, getenv: func(string) string { return "" }}
	v := a.newView()
	o := sampleOperation(sandglass.Running)
	for range 3 {
		v.show(o, at("10:43:30"))
	}
	o = sampleOperation(sandglass.Succeeded)
	v.show(o, at("10:43:30"))
	want := `  preflight    done          0.3 s
  stage        done           12 s  4.1 GiB
  synchronize  skipped
  cut over     done          2.4 s
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// On a terminal the running step has one line that is shown again.
func TestViewOnTerminal(t *testing.T) {
	var b bytes.Buffer
	v := &view{out: &b, line: &line{w: &b, width: 60}, told: map[string]sandglass.State{}}
	o := sampleOperation(sandglass.Running)
	o.Steps = o.Steps[3:]
	v.show(o, at("10:43:30"))
	v.show(o, at("10:43:31"))
	v.line.end()
	line := "\r\x1b[K  cut over  3 MiB of 12 MiB  25 %  about 9 s left  at 0/5A0" // 59 columns: the last stays free
	if diff := cmp.Diff(line+line+"\r\x1b[K", b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestShellLine(t *testing.T) {
	got := shellLine([]string{"psql", "host=/tmp/x port=5432", "it's", ""})
	if want := `psql 'host=/tmp/x port=5432' 'it'\''s' ''`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A table fits a narrow terminal: what is empty goes first, then what can be spared, then the widest cells are cut.
func TestTablesFit(t *testing.T) {
	rows := [][]string{
		{"id", "note", "source", "by", "shows"},
		{"20261122t104307-k3m9", "", "prod", "anna", "2026-11-22 10:43:07.123456 UTC, latest"},
		{"20261122t104207-k3m8", "", "prod", "", "ä new cluster"},
	}
	for _, row := range []struct {
		width int
		want  []string // of the first row
	}{
		{100, rows[1]},
		{77, []string{"20261122t104307-k3m9", "prod", "anna", "2026-11-22 10:43:07.123456 UTC, latest"}},
		{73, []string{"20261122t104307-k3m9", "prod", "2026-11-22 10:43:07.123456 UTC, latest"}},
		{60, []string{"20261122t104307-k3m9", "2026-11-22 10:43:07.123456 UTC, latest"}},
		{50, []string{"20261122t104307-k3m9", "2026-11-22 10:43:07.123456.."}},
		{30, []string{"20261122t104307-k3m9", "2026-1.."}},
	} {
		got := fit(rows, row.width, []string{"by", "source"})
		if diff := cmp.Diff(row.want, got[1]); diff != "" {
			t.Errorf("width %d:\n%s", row.width, diff)
		}
		var b bytes.Buffer
		if err := columns(&b, "", got); err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b.Bytes()) {
			if n := utf8.RuneCount(bytes.TrimRight(line, "\n")); n > row.width {
				t.Errorf("width %d: a line of %d: %s", row.width, n, line)
			}
		}
	}
	if len(rows[0]) != 5 || rows[1][4] != "2026-11-22 10:43:07.123456 UTC, latest" {
		t.Errorf("the table itself was changed: %v", rows)
	}
}
