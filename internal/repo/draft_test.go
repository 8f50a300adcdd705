package repo_test

import (
	"bytes"
	"testing"

	"sandglass"
	"sandglass/internal/repo"
)

// TestDraftedSegment puts segments whose beginnings are parts' frames: whatever parts there were, a segment is
// the same thing as one that was put as a whole.
func TestDraftedSegment(t *testing.T) {
	x := newFixture(t)
	const k = 1 << 10
	half := segSize / 2
	for n, c := range []struct {
		name  string
		parts [][2]int
	}{
		{"none", nil},
		{"some", [][2]int{{0, 300 * k}, {300 * k, 900 * k}}},
		{"all", [][2]int{{0, half}, {half, segSize}}},
		{"a small one between", [][2]int{{0, 300 * k}, {300 * k, 301 * k}, {301 * k, 900 * k}}},
		{"not from the start", [][2]int{{300 * k, 900 * k}}},
		{"a hole", [][2]int{{0, 300 * k}, {600 * k, 900 * k}}},
		{"over again", [][2]int{{0, 300 * k}, {0, 300 * k}, {0, 600 * k}}},
	} {
		seg := sandglass.SegmentNo(n + 1)
		wal := heap(uint64(n), segSize)
		d := x.repo.NewDraft(seg.Start(segSize))
		if n > 2 { // as the recorder does
			d.Begin(seg.Start(segSize))
		}
		for _, p := range c.parts {
			if err := x.repo.PutPart(t.Context(), env, x.inc.ID, repo.Part{Timeline: 1, From: seg.Start(segSize) + sandglass.LSN(p[0]), Data: wal[p[0]:p[1]], Draft: d}); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		if err := x.repo.PutDrafted(t.Context(), env, x.inc.ID, 1, seg, d, bytes.NewReader(wal)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		rc, _, err := x.repo.OpenWAL(t.Context(), env, x.inc.ID, 1, seg)
		if got := readAll(t, rc, err); !bytes.Equal(got, wal) {
			t.Errorf("%s: the segment differs", c.name)
		}
		if err := x.repo.PutSegment(t.Context(), env, x.inc.ID, 1, seg, bytes.NewReader(wal)); err != nil {
			t.Errorf("%s: put again: %v", c.name, err)
		}
	}
}
