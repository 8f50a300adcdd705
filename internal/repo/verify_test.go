package repo_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/repo"
)

func (x *fixture) verify(t testing.TB, o repo.VerifyOptions) sandglass.VerifyReport {
	t.Helper()
	report, err := x.fresh(t).Verify(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestVerifyRemembers(t *testing.T) {
	x := newFixture(t)
	x.history(t, 3)
	if err := x.repo.PutOperation(t.Context(), sandglass.Operation{ID: "op", State: sandglass.Failed}); err != nil {
		t.Fatal(err)
	}
	x.part(t, x.repo, data(8, segSize), 0, 1000, beat(1, 1000))
	all := len(x.objects(t, "")) - 1 // without repo.json
	state := repo.VerifyOptions{State: filepath.Join(x.state, "verified")}
	if r := x.verify(t, state); r.Objects != all || r.Skipped != 0 || len(r.Damaged) != 0 || r.Bytes == 0 {
		t.Errorf("first: %+v, want %d objects", r, all)
	}
	x.wal(t, x.inc.ID, 10, 12)
	if r := x.verify(t, state); r.Objects != 4 || r.Skipped != all || len(r.Damaged) != 0 {
		t.Errorf("second: %+v", r)
	}
	key := "env/prod/" + string(x.inc.ID) + "/wal/00000001/00000000/00000001000000000000000B"
	x.flip(t, key, -1)
	for range 2 { // damage is not remembered as verified
		if r := x.verify(t, state); r.Objects != 1 || len(r.Damaged) != 1 || r.Damaged[0].Object != key {
			t.Errorf("after damage: %+v", r)
		}
	}
	state.Again, state.Environment = true, env
	if r := x.verify(t, state); r.Objects != all+4-1 || r.Skipped != 0 || len(r.Damaged) != 1 {
		t.Errorf("again: %+v, want %d objects", r, all+3)
	}
}

func TestVerifyNamesDamageAndItsCosts(t *testing.T) {
	prefix := "env/prod/20261101t100000-aaaa/"
	seg := func(n string) string { return "00000001/00000000/0000000100000000000000" + n }
	const tilEnd = "on"
	for name, c := range map[string]struct {
		key    string
		remove bool
		costs  string
		lost   bool // moments are lost
	}{
		"first image":       {prefix + "image/" + img0, false, "Moments from", true},
		"later image":       {prefix + "image/" + img1, false, "from the older image " + img0, false},
		"shared bundle":     {prefix + "bundle/" + img0 + "/000001", false, "Lost with it: image " + img0 + ", " + img1 + ", " + img2 + ". Moments from 2026-11-01 10:00:00 UTC on can't be restored", true},
		"last bundle":       {prefix + "bundle/" + img2 + "/000001", false, "Lost with it: image " + img2 + ". No moment is lost.", false},
		"missing bundle":    {prefix + "bundle/" + img1 + "/000001", true, "Lost with it: image " + img1 + ". No moment is lost.", false},
		"segment":           {prefix + "wal/" + seg("05"), false, "until 2026-11-03 10:00:00 UTC can't be restored", true},
		"missing segment":   {prefix + "wal/" + seg("05"), true, "until 2026-11-03 10:00:00 UTC can't be restored", true},
		"last segment":      {prefix + "wal/" + seg("09"), false, tilEnd, true},
		"index":             {prefix + "index/" + seg("05"), false, "their WAL is whole", true},
		"part":              {prefix + "part/00000001000000000000000A.*", false, "can't be restored", true},
		"beginning":         {prefix + "begin-15-1048576-7300000000000000001", false, "every moment of it is lost", true},
		"missing beginning": {prefix + "begin-15-1048576-7300000000000000001", true, "every moment of it is lost", true},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.history(t, 3)
			p := repo.Part{Timeline: 1, From: 10 * segSize, Data: data(8, 1000)}
			if err := x.repo.PutPart(t.Context(), env, x.inc.ID, p); err != nil {
				t.Fatal(err)
			}
			if names, _ := filepath.Glob(filepath.Join(x.dir, c.key)); len(names) == 1 { // of a part, the pattern
				c.key, _ = filepath.Rel(x.dir, names[0])
			}
			want := c.key
			if c.remove {
				if err := os.Remove(filepath.Join(x.dir, c.key)); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(c.key, "begin-") {
					want = prefix + "begin-"
				}
			} else {
				x.flip(t, c.key, -1)
			}
			report := x.verify(t, repo.VerifyOptions{})
			if len(report.Damaged) != 1 {
				t.Fatalf("damaged: %+v", report.Damaged)
			}
			d := report.Damaged[0]
			if d.Object != want || d.Problem == "" || !strings.Contains(d.Costs, c.costs) {
				t.Errorf("%+v", d)
			}
			if lost := !d.From.IsZero(); lost != c.lost {
				t.Errorf("moments from %s to %s: %s", d.From, d.To, d.Costs)
			}
		})
	}
}

func TestVerifyKnowsRecordedGaps(t *testing.T) {
	x := newFixture(t)
	x.history(t, 1)
	x.wal(t, x.inc.ID, 8, 9)
	if r := x.verify(t, repo.VerifyOptions{}); len(r.Damaged) != 1 || !strings.Contains(r.Damaged[0].Problem, "4 segments") {
		t.Errorf("%+v", r.Damaged)
	}
	g := repo.Gap{Timeline: 1, FromLSN: 4 * segSize, ToLSN: 8 * segSize}
	if err := x.repo.PutGap(t.Context(), env, x.inc.ID, g); err != nil {
		t.Fatal(err)
	}
	if r := x.verify(t, repo.VerifyOptions{}); len(r.Damaged) != 0 {
		t.Errorf("%+v", r.Damaged)
	}
}

func TestVerifyNeedsAnIdentity(t *testing.T) {
	x := newFixture(t)
	_, err := x.reopen(t, repo.Keys{DigestKey: x.repo.DigestKey()}).Verify(t.Context(), repo.VerifyOptions{}, nil)
	wantCode(t, err, sandglass.CodeKeyMissing)
	if bytes.Equal(x.repo.DigestKey(), nil) {
		t.Error("no digest key")
	}
}
