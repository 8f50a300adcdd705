// Keepalives that date an idle stretch are found wherever they are.

package window_test

import (
	"context"
	"testing"

	"sandglass"
	"sandglass/internal/repo"
)

func TestKeepaliveFarBack(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	l.image("i1", 710, sec(10))
	c1 := l.commit(710, sec(20))
	l.filler(2 * segmentSize)
	l.beat(sec(100))
	for range 12 { // of a transaction that has not ended
		l.filler(segmentSize)
	}
	w.put("a", l, nil)
	if r, err := w.resolve(timeMoment(sec(90))); err != nil || r.From != c1 {
		t.Errorf("settled by a keepalive: %s", show(r, err))
	}
	if r, err := w.resolve(timeMoment(sec(90.1))); sandglass.CodeOf(err) != sandglass.CodeMomentUnsettled {
		t.Errorf("not settled: %s", show(r, err))
	}
}

func TestKeepaliveAtTheEndOfASegment(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	l.image("i1", 710, sec(10))
	c1 := l.commit(710, sec(20))
	l.switchSegment()
	w.put("a", l, nil)
	w.must(w.PutPart(context.Background(), env.Name, "a", repo.Part{Timeline: 1, From: l.end(), Beats: []sandglass.Beat{{Time: sec(100), LSN: l.end()}}}))
	if r, err := w.resolve(timeMoment(sec(90))); err != nil || r.From != c1 {
		t.Errorf("settled by a keepalive: %s", show(r, err))
	}
}
