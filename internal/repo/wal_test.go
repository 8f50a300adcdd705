package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/repo"
)

const segSize = 1 << 20

func (x *fixture) part(t testing.TB, r *repo.Repository, wal []byte, from, to int, beats ...sandglass.Beat) repo.Part {
	t.Helper()
	p := repo.Part{Timeline: 1, From: sandglass.LSN(3*segSize + from), Data: wal[from:to], Beats: beats}
	if err := r.PutPart(t.Context(), env, x.inc.ID, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func beat(seconds, at int) sandglass.Beat {
	return sandglass.Beat{Time: epoch.Add(time.Duration(seconds) * time.Second), LSN: sandglass.LSN(3*segSize + at)}
}

func (x *fixture) checkWAL(t testing.TB, wal []byte, valid int) {
	t.Helper()
	rc, n, err := x.fresh(t).OpenWAL(t.Context(), env, x.inc.ID, 1, 3)
	got := readAll(t, rc, err)
	want := append(bytes.Clone(wal[:valid]), make([]byte, segSize-valid)...)
	if n != int64(valid) || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of which %d are valid, want %d; equal: %v", len(got), n, valid, bytes.Equal(got, want))
	}
}

func (x *fixture) segments(t testing.TB) []repo.SegmentInfo {
	t.Helper()
	var out []repo.SegmentInfo
	blind := x.reopen(t, repo.Keys{DigestKey: x.repo.DigestKey()})
	for s, err := range blind.Segments(t.Context(), env, x.inc.ID) {
		if err != nil {
			t.Fatal(err)
		}
		s.Bytes = 0
		out = append(out, s)
	}
	return out
}

func TestSegmentGrowsFromParts(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	blind := x.reopen(t, repo.Keys{DigestKey: x.repo.DigestKey()})
	wal := data(8, segSize)
	if _, _, err := blind.OpenWAL(ctx, env, x.inc.ID, 1, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is held: %v", err)
	}
	x.part(t, blind, wal, 0, 1000, beat(1, 1000))
	x.part(t, blind, wal, 0, 1000, beat(1, 1000)) // sent again
	x.part(t, blind, wal, 1000, 5000)
	x.part(t, blind, wal, 5000, 5000, beat(2, 5000), beat(3, 5000), beat(4, 5000)) // idle
	x.part(t, blind, wal, 4000, 9000, beat(5, 9000))                               // overlapping, after a restart
	x.part(t, blind, wal, 20000, 30000)                                            // after a hole
	x.checkWAL(t, wal, 9000)
	want := repo.SegmentInfo{Timeline: 1, Segment: 3, From: 3 * segSize, End: 3*segSize + 9000, Parts: 5}
	if diff := cmp.Diff([]repo.SegmentInfo{want}, x.segments(t)); diff != "" {
		t.Errorf("segments (-want +got):\n%s", diff)
	}
	beats, err := x.repo.TailBeats(ctx, env, x.inc.ID, 1, 3)
	if diff := cmp.Diff([]sandglass.Beat{beat(1, 1000), beat(2, 5000), beat(4, 5000), beat(5, 9000)}, beats); diff != "" || err != nil {
		t.Errorf("beats: %v (-want +got):\n%s", err, diff)
	}
	other := bytes.Clone(wal)
	other[500] ^= 1
	wantCode(t, blind.PutPart(ctx, env, x.inc.ID, repo.Part{Timeline: 1, From: 3 * segSize, Data: other[:1000]}), sandglass.CodeHistoryForked)
	wantCode(t, blind.PutPart(ctx, env, x.inc.ID, repo.Part{Timeline: 1, From: 3 * segSize, Data: other[:1000], Beats: []sandglass.Beat{beat(1, 1000)}}), sandglass.CodeHistoryForked)

	all := repo.Part{Timeline: 1, From: 3 * segSize, Data: wal[:30000], Beats: append(beats, beat(6, 30000))}
	for range 2 {
		if err := blind.CompactParts(ctx, env, x.inc.ID, all); err != nil {
			t.Fatal(err)
		}
	}
	want.End, want.Parts = 3*segSize+30000, 1
	if diff := cmp.Diff([]repo.SegmentInfo{want}, x.segments(t)); diff != "" {
		t.Errorf("compacted (-want +got):\n%s", diff)
	}
	x.checkWAL(t, wal, 30000)

	if err := blind.DropParts(ctx, env, x.inc.ID, 1, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("parts may go before the segment is whole: %v", err)
	}
	if err := blind.PutSegment(ctx, env, x.inc.ID, 1, 3, bytes.NewReader(wal[1:])); err == nil {
		t.Error("a short segment was accepted")
	}
	for range 2 {
		if err := blind.PutSegment(ctx, env, x.inc.ID, 1, 3, bytes.NewReader(wal)); err != nil {
			t.Fatal(err)
		}
		if err := blind.PutIndex(ctx, env, x.inc.ID, 1, 3, []byte("an index")); err != nil {
			t.Fatal(err)
		}
		if err := blind.DropParts(ctx, env, x.inc.ID, 1, 3); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, blind.PutSegment(ctx, env, x.inc.ID, 1, 3, bytes.NewReader(other)), sandglass.CodeHistoryForked)
	x.checkWAL(t, wal, segSize)
	want = repo.SegmentInfo{Timeline: 1, Segment: 3, From: 3 * segSize, End: 4 * segSize, Whole: true, Indexed: true}
	if diff := cmp.Diff([]repo.SegmentInfo{want}, x.segments(t)); diff != "" {
		t.Errorf("whole (-want +got):\n%s", diff)
	}
	if b, err := x.repo.Index(ctx, env, x.inc.ID, 1, 3); err != nil || string(b) != "an index" {
		t.Errorf("index: %q, %v", b, err)
	}
	_, _, err = blind.OpenWAL(ctx, env, x.inc.ID, 1, 3)
	wantCode(t, err, sandglass.CodeKeyMissing)
}

func TestPartsWithoutTheBeginningAreNotAbsence(t *testing.T) {
	x := newFixture(t)
	x.part(t, x.repo, data(8, segSize), 1000, 2000)
	_, _, err := x.repo.OpenWAL(t.Context(), env, x.inc.ID, 1, 3)
	wantCode(t, err, sandglass.CodeRepositoryDamaged)
	p := repo.Part{Timeline: 1, From: 4*segSize - 10, Data: make([]byte, 11)}
	if err := x.repo.PutPart(t.Context(), env, x.inc.ID, p); err == nil {
		t.Error("a part of two segments was accepted")
	}
}

func TestOnlyBeats(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	x.part(t, x.repo, nil, 0, 0, beat(0, 0))
	for i := range 10 { // an idle weekend, as the recorder keeps it
		p := repo.Part{Timeline: 1, From: 3 * segSize, Beats: []sandglass.Beat{beat(0, 0), beat(10*i, 0)}}
		if err := x.repo.CompactParts(ctx, env, x.inc.ID, p); err != nil {
			t.Fatal(err)
		}
	}
	if left := x.objects(t, "env/prod/"+string(x.inc.ID)+"/part"); len(left) != 1 {
		t.Errorf("parts: %v", left)
	}
	if _, _, err := x.repo.OpenWAL(ctx, env, x.inc.ID, 1, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	beats, err := x.repo.TailBeats(ctx, env, x.inc.ID, 1, 3)
	if diff := cmp.Diff([]sandglass.Beat{beat(0, 0), beat(90, 0)}, beats); diff != "" || err != nil {
		t.Errorf("beats: %v\n%s", err, diff)
	}
}

func TestSegmentsInOrder(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	type at struct {
		tli sandglass.TimelineID
		seg sandglass.SegmentNo
	}
	var want []at
	for _, k := range []at{{1, 1}, {1, 2}, {1, 4095}, {1, 4096}, {1, 4097}, {2, 4097}, {2, 4098}} { // 4096 segments of 1 MiB make 4 GiB
		want = append(want, k)
		if err := x.repo.PutSegment(ctx, env, x.inc.ID, k.tli, k.seg, bytes.NewReader(make([]byte, segSize))); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.repo.PutIndex(ctx, env, x.inc.ID, 1, 4096, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := x.repo.PutPart(ctx, env, x.inc.ID, repo.Part{Timeline: 2, From: 4099 * segSize, Data: []byte("wal")}); err != nil {
		t.Fatal(err)
	}
	want = append(want, at{2, 4099})
	for skip := range want {
		var got []at
		for s, err := range x.repo.SegmentsFrom(ctx, env, x.inc.ID, want[skip].tli, want[skip].seg) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, at{s.Timeline, s.Segment})
			if s.Indexed != (s.Segment == 4096) || s.Whole == (s.Segment == 4099) {
				t.Errorf("%+v", s)
			}
		}
		if diff := cmp.Diff(want[skip:], got, cmp.AllowUnexported(at{})); diff != "" {
			t.Errorf("from %+v (-want +got):\n%s", want[skip], diff)
		}
	}
}

func TestHistoryFiles(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	content := []byte("1\t0/3000000\tno recovery target specified\n")
	for range 2 {
		if err := x.repo.PutHistory(ctx, env, x.inc.ID, 2, content); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, x.repo.PutHistory(ctx, env, x.inc.ID, 2, []byte("1\t0/4000000\n")), sandglass.CodeHistoryForked)
	if b, err := x.fresh(t).History(ctx, env, x.inc.ID, 2); err != nil || !bytes.Equal(b, content) {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := x.repo.History(ctx, env, x.inc.ID, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a history that is not held: %v", err)
	}
	if held, err := x.repo.Histories(ctx, env, x.inc.ID); err != nil || !cmp.Equal(held, []sandglass.TimelineID{2}) {
		t.Errorf("%v, %v", held, err)
	}
}

func TestFlippedByteInWAL(t *testing.T) {
	for _, kind := range []string{"wal", "index", "part"} {
		for _, off := range []int64{-1, 3, 60, 150} {
			x := newFixture(t)
			ctx := t.Context()
			wal := data(8, segSize)
			if err := errors.Join(
				x.repo.PutSegment(ctx, env, x.inc.ID, 1, 3, bytes.NewReader(wal)),
				x.repo.PutIndex(ctx, env, x.inc.ID, 1, 3, wal[:1000]),
				x.repo.PutPart(ctx, env, x.inc.ID, repo.Part{Timeline: 1, From: 4 * segSize, Data: wal[:9000], Beats: []sandglass.Beat{beat(1, 1)}})); err != nil {
				t.Fatal(err)
			}
			var key string
			for key = range x.objects(t, "env/prod/"+string(x.inc.ID)+"/"+kind) {
			}
			x.flip(t, key, off)
			r := x.fresh(t)
			var err error
			switch kind {
			case "wal":
				err = readErr(ctx, r, x.inc.ID, 3)
			case "part":
				err = readErr(ctx, r, x.inc.ID, 4)
			case "index":
				_, err = r.Index(ctx, env, x.inc.ID, 1, 3)
			}
			wantCode(t, err, sandglass.CodeRepositoryDamaged)
			if err != nil && !strings.Contains(sandglass.AsError(err).Message, key) {
				t.Errorf("the message does not name %s: %v", key, err)
			}
		}
	}
}

func readErr(ctx context.Context, r *repo.Repository, inc sandglass.IncarnationID, seg sandglass.SegmentNo) error {
	rc, _, err := r.OpenWAL(ctx, env, inc, 1, seg)
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = bytes.NewBuffer(nil).ReadFrom(rc)
	return err
}

func TestFullDisk(t *testing.T) {
	// A Store of /dev/full is not to be had; the file size limit of the process would hit others. A small tmpfs is real.
	dir := t.TempDir()
	if err := mountSmall(dir); err != nil {
		t.Skipf("a small file system can't be mounted here: %v", err)
	}
	t.Cleanup(func() { unmount(dir) })
	x := newFixture(t)
	x.dir = dir + "/repo"
	store, err := repo.NewFolder(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	x.repo, err = repo.Create(t.Context(), store, repo.CreateOptions{Recipients: []string{x.identity.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	x.inc = x.begin(t, x.inc.ID, epoch)
	noise := make([]byte, 8<<20)
	incompressible(noise)
	wantCode(t, x.repo.PutPart(t.Context(), env, x.inc.ID, repo.Part{Timeline: 1, Data: noise[:segSize]}), "")
	err = nil
	for seg := sandglass.SegmentNo(1); seg < 8 && err == nil; seg++ {
		err = x.repo.PutSegment(t.Context(), env, x.inc.ID, 1, seg, bytes.NewReader(noise[seg<<20:][:segSize]))
	}
	wantCode(t, err, sandglass.CodeRepositoryFull)
	facts := sandglass.Image{ID: "20261101t110000-img1", Environment: env, Incarnation: x.inc.ID}
	w, err := x.repo.NewImage(t.Context(), facts, repo.ImageOptions{Dir: x.state})
	if err != nil {
		t.Fatal(err)
	}
	w.File(t.Context(), "big", 0o600, epoch, int64(len(noise)), bytes.NewReader(noise)) // fails, or the end does
	_, _, err = w.Finish(t.Context(), facts)
	wantCode(t, err, sandglass.CodeRepositoryFull)
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(x.dir + "/.tmp"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}

	// And a restore onto a full disk.
	y := newFixture(t)
	big, _ := y.image(t, y.repo, y.inc.ID, "20261101t110000-img1", epoch, 0, nil, []file{{"big", noise}})
	i, err := y.repo.OpenImage(t.Context(), env, y.inc.ID, big.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, i.Restore(t.Context(), dir+"/data", nil, nil), sandglass.CodeDiskFull)
}
