package repo_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/repo"
)

// A damaged record of an operation is named, and costs no other.
func TestOperationsSkipDamage(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	ttl := sandglass.Duration(time.Minute)
	for _, id := range []string{"20260101t000000-aaaa", "20260102t000000-bbbb", "20260103t000000-cccc"} {
		o := sandglass.Operation{ID: id, Kind: sandglass.KindPeek, State: sandglass.Succeeded, Request: &sandglass.Request{Kind: sandglass.KindPeek, TTL: ttl}}
		if err := x.repo.PutOperation(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	x.flip(t, "operation/20260102t000000-bbbb/record", -1)
	all, err := x.fresh(t).Operations(ctx)
	wantCode(t, err, sandglass.CodeRepositoryDamaged)
	if !strings.Contains(err.Error(), "20260102t000000-bbbb") {
		t.Errorf("the damaged record is not named: %v", err)
	}
	if len(all) != 2 || all[0].ID != "20260101t000000-aaaa" || all[1].ID != "20260103t000000-cccc" || all[1].Request.TTL != ttl {
		t.Errorf("%+v", all)
	}
}

// What an environment left and came back to is read again as it was written.
func TestAbsences(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	inc := x.begin(t, "20260101t000000-turn", began)
	at := func(minutes int) time.Time { return began.Add(time.Duration(minutes) * time.Minute) }
	for range 2 { // again, after a crash
		for _, err := range []error{
			x.repo.LeaveIncarnation(ctx, inc.Environment, inc.ID, sandglass.Absence{From: at(10), LSN: 4711, Reason: "restore"}),
			x.repo.ReturnIncarnation(ctx, inc.Environment, inc.ID, at(20)),
			x.repo.LeaveIncarnation(ctx, inc.Environment, inc.ID, sandglass.Absence{From: at(30)}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := x.fresh(t).Incarnation(ctx, inc.Environment, inc.ID)
	if err != nil {
		t.Fatal(err)
	}
	shown := got.Shown()
	if len(got.Away) != 2 || got.Away[0] != (sandglass.Absence{From: at(10), To: at(20), LSN: 4711, Reason: "restore"}) || got.Current() ||
		len(shown) != 2 || !shown[0].From.Equal(began) || !shown[0].To.Equal(at(10)) || !shown[1].From.Equal(at(20)) || !shown[1].To.Equal(at(30)) {
		t.Errorf("%+v, shown %+v", got.Away, shown)
	}
	if report := x.verify(t, repo.VerifyOptions{State: filepath.Join(x.state, "verified")}); len(report.Damaged) > 0 {
		t.Errorf("verify finds %+v", report.Damaged)
	}
	// A damaged one costs where the WAL ended then, and no more.
	x.flip(t, "env/"+inc.Environment+"/"+string(inc.ID)+"/away/20260101t001000.000000-left", -1)
	if got, err = x.fresh(t).Incarnation(ctx, inc.Environment, inc.ID); err != nil || got.Away[0] != (sandglass.Absence{From: at(10), To: at(20)}) {
		t.Errorf("%+v, %v", got.Away, err)
	}
	if report := x.verify(t, repo.VerifyOptions{}); len(report.Damaged) != 1 {
		t.Errorf("verify finds %+v", report.Damaged)
	}
}

// An incarnation that the environment has left goes once the window is past that; one that it came back to stays.
func TestPruneOfALeftIncarnation(t *testing.T) {
	for name, back := range map[string]bool{"left": false, "back": true} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			ctx := t.Context()
			x.history(t, 2)
			err := x.repo.LeaveIncarnation(ctx, env, x.inc.ID, sandglass.Absence{From: days(2)})
			if err == nil && back {
				err = x.repo.ReturnIncarnation(ctx, env, x.inc.ID, days(2.2))
			}
			if err != nil {
				t.Fatal(err)
			}
			x.prune(t, 24*time.Hour, days(2.5)) // its last day is still in the window
			if got := x.imageIDs(t, x.inc.ID); len(got) != 1 {
				t.Errorf("images: %q", got)
			}
			x.prune(t, 24*time.Hour, days(3.5))
			incs, err := x.fresh(t).Incarnations(ctx, env)
			if err != nil || (len(incs) > 0) != back {
				t.Errorf("left: %+v, %v", incs, err)
			}
			if left := x.objects(t, "env/prod/"+string(x.inc.ID)+"/away/"); (len(left) > 0) != back {
				t.Errorf("left: %v", left)
			}
		})
	}
}
