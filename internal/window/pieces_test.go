// Two incarnations of one environment take turns: a restore, its undo, and the undo of that.

package window_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/window"
)

// away puts an absence: from one time, at a position, to another (zero: it lasts).
func (w *world) away(id sandglass.IncarnationID, from, to time.Time, lsn sandglass.LSN) {
	ctx := context.Background()
	w.must(w.LeaveIncarnation(ctx, env.Name, id, sandglass.Absence{From: from, LSN: lsn, Reason: "restore 1"}))
	if !to.IsZero() {
		w.must(w.ReturnIncarnation(ctx, env.Name, id, to))
	}
}

func TestIncarnationsTakeTurns(t *testing.T) {
	w := newWorld(t)
	// a is shown from 10 to 100 and again from 200 on; b, prepared at 90, from 100 to 200. c was prepared and never shown.
	w.begin("a", t0)
	a := newLog()
	a.filler(100)
	a.image("a1", 710, sec(10))
	a1 := a.commit(710, sec(50))
	a.checkpoint(0x00, 0, 711, sec(99)) // a clean stop
	stop := (a.end() + 7) &^ 7
	a.commit(711, sec(150)) // as a trial start's autovacuum may
	a3 := a.commit(712, sec(250))
	a.beat(sec(300))
	w.put("a", a, nil)
	w.away("a", sec(100), sec(200), stop)

	w.begin("b", sec(90))
	b := newLog()
	b.filler(100)
	b.image("b1", 710, sec(91))
	b1 := b.commit(710, sec(150))
	b.checkpoint(0x00, 0, 711, sec(199))
	w.put("b", b, nil)
	w.away("b", sec(90), sec(100), 0)
	w.away("b", sec(200), time.Time{}, (b.end()+7)&^7)

	w.begin("c", sec(260))
	c := newLog()
	c.image("c1", 710, sec(261))
	w.put("c", c, nil)
	w.away("c", sec(260), time.Time{}, 0)

	for _, c := range []struct {
		m    sandglass.Moment
		want string
	}{
		{timeMoment(sec(5)), "moment.before_window"},
		{timeMoment(sec(20)), "a a1 710"},
		{timeMoment(sec(60)), fmt.Sprint("a a1 ", a1)},
		{timeMoment(sec(95)), fmt.Sprint("a a1 ", a1)}, // b's image is there, but uat showed a
		{timeMoment(sec(99.999)), fmt.Sprint("a a1 ", a1)},
		{timeMoment(sec(100)), "b b1 image"},
		{timeMoment(sec(160)), fmt.Sprint("b b1 ", b1)},
		{timeMoment(sec(199.9)), fmt.Sprint("b b1 ", b1)},
		{timeMoment(sec(260)), fmt.Sprint("a a1 ", a3)},
		{timeMoment(sec(310)), "moment.not_received"},
		{sandglass.Moment{Kind: sandglass.AtXID, XID: 710}, fmt.Sprint("a a1 ", a1)}, // that of the state shown last
		{sandglass.Moment{Kind: sandglass.AtLatest}, fmt.Sprint("a a1 ", a3)},
	} {
		r, err := w.resolve(c.m)
		got := fmt.Sprint(r.Incarnation, " ", r.Image, " ", r.From)
		switch {
		case err != nil:
			got = string(sandglass.CodeOf(err))
		case r.CommitTime.IsZero() && c.want != "a a1 710":
			got = fmt.Sprint(r.Incarnation, " ", r.Image, " image")
		case c.want == "a a1 710":
			got = fmt.Sprint(r.Incarnation, " ", r.Image, " 710")
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.m, got, err, c.want)
		}
	}

	drawn, err := window.Compute(t.Context(), w, env, nil)
	w.must(err)
	if len(drawn.Gaps) != 0 || !drawn.Earliest.Equal(sec(10)) || !drawn.Latest.Equal(sec(290)) {
		t.Errorf("the window: from %s to %s, gaps %+v", drawn.Earliest, drawn.Latest, drawn.Gaps)
	}
	var ids []string
	for _, i := range drawn.Incarnations {
		ids = append(ids, string(i.ID))
	}
	if !slices.Equal(ids, []string{"b", "a"}) {
		t.Errorf("incarnations %v", ids)
	}
	var xids []string
	for c, err := range window.Commits(t.Context(), w, env, nil, time.Time{}, time.Time{}) {
		w.must(err)
		xids = append(xids, fmt.Sprint(c.XID, "@", c.Time.Sub(t0).Seconds()))
	}
	if want := []string{"710@50", "710@150", "712@250"}; !slices.Equal(xids, want) {
		t.Errorf("commits %v, want %v", xids, want)
	}
}

func TestStateThatWasNotRecorded(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	a := newLog()
	a.filler(100)
	a.image("a1", 710, sec(10))
	a.commit(710, sec(50))
	held := a.end()
	a.checkpoint(0x00, 0, 711, sec(99))
	w.away("a", sec(100), sec(200), (a.end()+7)&^7)
	whole := *a
	a.b = a.b[:held-a.start] // the last WAL before the cutover was not received
	w.put("a", a, nil)
	if _, err := w.resolve(timeMoment(sec(80))); sandglass.CodeOf(err) != sandglass.CodeMomentGap {
		t.Errorf("before the last WAL is there: %v", err)
	}
	whole.images = nil
	whole.commit(711, sec(250))
	w.put("a", &whole, nil)
	for _, c := range []struct {
		seconds float64
		want    sandglass.Code
	}{{80, ""}, {99, ""}, {100, sandglass.CodeMomentGap}, {150, sandglass.CodeMomentGap}, {199, sandglass.CodeMomentGap}, {200, ""}} {
		_, err := w.resolve(timeMoment(sec(c.seconds)))
		if sandglass.CodeOf(err) != c.want {
			t.Errorf("second %v: %v, want %q", c.seconds, err, c.want)
		}
		if e, ok := errors.AsType[*sandglass.Error](err); ok {
			for _, near := range []time.Time{e.Before, e.After} {
				if r, err := w.resolve(timeMoment(near)); err != nil {
					t.Errorf("second %v: the near moment %s: %s", c.seconds, near, show(r, err))
				}
			}
		}
	}
	drawn, err := window.Compute(t.Context(), w, env, nil)
	w.must(err)
	if len(drawn.Gaps) != 1 || !drawn.Gaps[0].From.Equal(sec(100)) || !drawn.Gaps[0].To.Equal(sec(200)) {
		t.Errorf("gaps %+v", drawn.Gaps)
	}
}

// TestRanAgain is a server that stopped, with all its WAL held, and ran again unheard before it was left. What it did then
// is not known, so none of it is resolved to its stop.
func TestRanAgain(t *testing.T) {
	for name, end := range map[string]func(w *world, held sandglass.LSN){
		"the rest of its WAL is not held":  func(w *world, held sandglass.LSN) { w.away("a", sec(200), time.Time{}, held+8) },
		"where its WAL ended is not known": func(w *world, held sandglass.LSN) { w.away("a", sec(200), time.Time{}, 0) },
		"it was lost": func(w *world, held sandglass.LSN) {
			w.must(w.EndIncarnation(context.Background(), env.Name, "a", sec(200), "Production has removed WAL that was not recorded yet."))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.begin("a", t0)
			a := newLog()
			a.filler(100)
			a.image("a1", 710, sec(10))
			a.commit(710, sec(50))
			a.checkpoint(0x00, 0, 711, sec(99))
			w.put("a", a, nil)
			end(w, (a.end()+7)&^7)
			w.begin("b", sec(200))
			b := newLog()
			b.image("b1", 710, sec(210))
			b.beat(sec(300))
			w.put("b", b, nil)
			for second, want := range map[float64]sandglass.Code{99: "", 99.1: sandglass.CodeMomentGap, 150: sandglass.CodeMomentGap, 205: sandglass.CodeMomentGap, 210: ""} {
				if r, err := w.resolve(timeMoment(sec(second))); sandglass.CodeOf(err) != want {
					t.Errorf("second %v: %s, want %q", second, show(r, err), want)
				}
			}
		})
	}
}

// TestJustTakenUp: what is settled just after a cutover is what was shown before it.
func TestJustTakenUp(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	a := newLog()
	a.filler(100)
	a.image("a1", 710, sec(10))
	a1 := a.commit(710, sec(50))
	a.checkpoint(0x00, 0, 711, sec(99))
	w.put("a", a, nil)
	w.away("a", sec(100), time.Time{}, (a.end()+7)&^7)
	w.begin("b", sec(90))
	b := newLog()
	b.filler(100)
	b.image("b1", 710, sec(91))
	w.put("b", b, nil)
	w.away("b", sec(90), sec(100), 0)

	drawn, err := window.Compute(t.Context(), w, env, nil)
	w.must(err)
	_, err = w.resolve(timeMoment(sec(101)))
	e, _ := errors.AsType[*sandglass.Error](err)
	if e == nil || len(drawn.Gaps) != 0 || !drawn.Latest.Equal(e.Before) {
		t.Fatalf("the window: latest %s, gaps %+v; second 101: %+v", drawn.Latest, drawn.Gaps, e)
	}
	if r, err := w.resolve(timeMoment(drawn.Latest)); err != nil || r.Incarnation != "a" || r.From != a1 {
		t.Errorf("the latest moment, %s: %s", drawn.Latest, show(r, err))
	}
}
