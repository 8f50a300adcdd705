package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/repo"
	"sandglass/internal/systest"
)

// A recorded sandbox has a history of its own, that begins at the cutover with what the policy made of the
// copy: each of its moments can be restored, from the very first, and nothing of production's secrets is in it.
func TestRecordedSandbox(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	// What must not come along: a password, and rows of a database that the sandbox has no role for.
	const planted = "planted-in-a-dropped-database"
	prod.Exec(t, "postgres", "CREATE DATABASE shop", "CREATE DATABASE wages", "CREATE ROLE boss LOGIN PASSWORD 'boss'")
	prod.Exec(t, "shop", "CREATE TABLE mark AS SELECT 'production' AS who")
	s := newSystem(t)
	roles := map[string]string{"business": "shop"}
	must(t, s.Record(ctx, "prod", prod, func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "shop", "wages": "wages"}
	}))
	// Planted after the image, so that it is in the WAL that the restore replays.
	prod.Exec(t, "wages", "CREATE TABLE pay AS SELECT '"+planted+"' || i AS note FROM generate_series(1, 200) i", "UPDATE pay SET note = note || '!'", "VACUUM pay")
	prod.Exec(t, "postgres", "ALTER ROLE boss CONNECTION LIMIT 7", "ALTER ROLE boss PASSWORD 'changed'")
	// WAL of an update leaves out what old and new value begin and end with.
	secret := prod.Query(t, "postgres", "SELECT substr(rolpassword, 30, 60) FROM pg_authid WHERE rolname = 'boss'")
	_, err := s.Sandbox(ctx, "uat", "prod", func(e *sandglass.Environment) {
		e.Databases, e.Recording = roles, &sandglass.Recording{FastCheckpoint: true, MaxRate: -1}
	})
	must(t, err)
	streaming(t, s, "prod")
	ran(t, s, "record", "start", "uat")
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	streaming(t, s, "uat")
	who := func() string {
		t.Helper()
		got, err := s.Query(ctx, "uat", "shop", "SELECT who FROM mark")
		must(t, err)
		return got
	}

	w, err := s.Client.Window(ctx, "uat")
	must(t, err)
	if len(w.Incarnations) != 1 || len(w.Images) == 0 {
		t.Fatalf("the window of uat: %+v", w)
	}
	first := w.Images[0]
	if _, wages := first.Databases["wages"]; first.Databases["shop"] == 0 || wages || first.Settings["max_connections"] == "" {
		t.Errorf("its first image says %v %v", first.Databases, first.Settings)
	}
	t.Run("its window begins at the cutover", func(t *testing.T) {
		if since := time.Since(w.Incarnations[0].Began); since > 5*time.Minute || !first.Ended.IsZero() && first.Ended.Before(w.Incarnations[0].Began.Add(-time.Minute)) {
			t.Errorf("it began %s ago, with an image of %s", since, first.Ended)
		}
		_, err := s.Client.Resolve(ctx, "uat", sandglass.Moment{Kind: sandglass.AtTime, Time: w.Incarnations[0].Began.Add(-time.Hour)})
		if sandglass.CodeOf(err) != sandglass.CodeMomentBefore {
			t.Errorf("a moment before: %v", err)
		}
	})
	write := func(what string) (xid uint64) {
		t.Helper()
		text, err := s.Query(ctx, "uat", "shop", "UPDATE mark SET who = '"+what+"' RETURNING pg_current_xact_id()")
		must(t, err)
		fmt.Sscan(text, &xid)
		return xid
	}
	one, two := write("one"), write("two")
	streaming(t, s, "uat")
	restore := func(m sandglass.Moment) {
		t.Helper()
		r := sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Source: "uat", Moment: &m}
		must(t, s.Await(ctx, 40*time.Second, "the moment to settle", func() (bool, error) {
			_, err := s.Client.Resolve(ctx, "uat", m)
			return err == nil, err
		}))
		succeeds(t, s, r)
		streaming(t, s, "uat")
	}
	t.Run("a moment of its own is restored, and undone", func(t *testing.T) {
		before := time.Now()
		restore(sandglass.Moment{Kind: sandglass.AtXID, XID: one})
		if got := who(); got != "one" {
			t.Errorf("after transaction %d: %q", one, got)
		}
		between := time.Now()
		undone, err := s.Undo(ctx, "uat")
		must(t, err)
		streaming(t, s, "uat")
		if got := who(); got != "two" {
			t.Errorf("after the undo: %q", got)
		}
		takesTurns(t, s, w.Incarnations[0].ID, before, between, undone)
		restore(sandglass.Moment{Kind: sandglass.AtXID, XID: two, Before: true})
		if got := who(); got != "one" {
			t.Errorf("before transaction %d: %q", two, got)
		}
	})
	t.Run("the moment of its first image", func(t *testing.T) {
		if long {
			restore(sandglass.Moment{Kind: sandglass.AtXID, XID: one, Before: true})
			if got := who(); got != "production" {
				t.Errorf("before its first transaction: %q", got)
			}
			_, err := s.Undo(ctx, "uat")
			must(t, err)
			streaming(t, s, "uat")
		}
		restore(sandglass.Moment{Kind: sandglass.AtTime, Time: w.Earliest})
		if got := who(); got != "production" {
			t.Errorf("at its first image: %q", got)
		}
	})
	t.Run("no state that it had is lost", func(t *testing.T) {
		w, err := s.Client.Window(ctx, "uat")
		must(t, err)
		if len(w.Incarnations) < 4 || len(w.Gaps) > 0 {
			t.Errorf("the window has %d incarnations, gaps %+v", len(w.Incarnations), w.Gaps)
		}
		for i, inc := range w.Incarnations {
			if inc.Current() != (i == len(w.Incarnations)-1) {
				t.Errorf("incarnation %d of %d: %+v", i+1, len(w.Incarnations), inc)
			}
		}
		restore(sandglass.Moment{Kind: sandglass.AtXID, XID: two})
		if got := who(); got != "two" {
			t.Errorf("after transaction %d: %q", two, got)
		}
	})
	t.Run("nothing of production's secrets is in its history", func(t *testing.T) {
		clean(t, s, "uat", secret, planted)
		if found := search(t, s, "prod", secret, planted); len(found) != 2 {
			t.Errorf("of production's own history only %v was found: the search is blind", found)
		}
	})
}

// takesTurns checks that the undone state goes on with its own incarnation, without a gap, and that each time
// belongs to the state that uat showed then.
func takesTurns(t *testing.T, s *systest.System, own sandglass.IncarnationID, before, between time.Time, undo sandglass.Operation) {
	t.Helper()
	ctx := t.Context()
	e, err := s.Client.Environment(ctx, "uat")
	must(t, err)
	if e.Recorder.Incarnation != own {
		t.Errorf("after the undo incarnation %s is recorded, want %s", e.Recorder.Incarnation, own)
	}
	w, err := s.Client.Window(ctx, "uat")
	must(t, err)
	if len(w.Gaps) != 0 || len(w.Incarnations) != 2 {
		t.Errorf("gaps %+v, incarnations %+v", w.Gaps, w.Incarnations)
	}
	for at, want := range map[time.Time]bool{before: true, between: false} {
		r, err := s.Client.Resolve(ctx, "uat", sandglass.Moment{Kind: sandglass.AtTime, Time: at})
		must(t, err)
		if (r.Incarnation == own) != want {
			t.Errorf("%s belongs to incarnation %s; %s is the first", at, r.Incarnation, own)
		}
	}
	var result sandglass.Result
	must(t, json.Unmarshal(undo.Result, &result))
	if result.UnreachableSeconds <= 0 || result.UnreachableSeconds > 3 {
		t.Errorf("unreachable for %v s", result.UnreachableSeconds)
	}
}

func clean(t *testing.T, s *systest.System, env string, secrets ...string) {
	t.Helper()
	if found := search(t, s, env, secrets...); len(found) > 0 {
		t.Errorf("the history of %s holds %v", env, found)
	}
}

// search reads all WAL and all images of an environment, decrypted, for texts.
func search(t *testing.T, s *systest.System, env string, texts ...string) (found map[string]string) {
	t.Helper()
	ctx := t.Context()
	r := openRepository(t, s)
	incarnations, err := r.Incarnations(ctx, env)
	must(t, err)
	found = map[string]string{}
	look := func(name string, in io.Reader) {
		b, err := io.ReadAll(in)
		must(t, err)
		for _, text := range texts {
			if bytes.Contains(b, []byte(text)) {
				found[text] = name
			}
		}
	}
	for _, inc := range incarnations {
		infos := []repo.SegmentInfo{}
		for info, err := range r.Segments(ctx, env, inc.ID) {
			must(t, err)
			infos = append(infos, info)
		}
		for _, info := range slices.Backward(infos) {
			wal, _, err := r.OpenWAL(ctx, env, inc.ID, info.Timeline, info.Segment)
			must(t, err)
			look(fmt.Sprintf("%s: WAL segment %d", inc.ID, info.Segment), wal)
			wal.Close()
		}
		images, err := r.Images(ctx, env, inc.ID)
		must(t, err)
		for _, img := range images {
			reader, err := r.OpenImage(ctx, env, inc.ID, img.ID)
			must(t, err)
			dir := t.TempDir()
			must(t, reader.Restore(ctx, dir, func(oid string) string { return filepath.Join(dir, "pg_tblspc", oid) }, func(int64) {}))
			must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				look(fmt.Sprintf("%s: image %s: %s", inc.ID, img.ID, path[len(dir):]), f)
				return nil
			}))
			reader.Close()
		}
	}
	return found
}
