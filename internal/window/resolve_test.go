// What each kind of moment comes to, and why some are refused.

package window_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/window"
)

func sec(n float64) time.Time { return at(time.Duration(n * float64(time.Second))) }

func TestResolve(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	early := l.commit(700, sec(1))
	i1 := l.image("i1", 710, sec(10))
	c1 := l.commit(710, sec(20))
	c2 := l.commit(711, sec(30))
	a1 := l.abort(712, sec(31))
	c3 := l.commit(713, sec(31.5))
	p1 := l.point("before lunch", sec(32))
	l.filler(3 * segmentSize)
	c4 := l.commitWith(720, sec(40), 721, 722)
	c5 := l.commit(723, sec(39.9995)) // written after c4 with a smaller time
	i2 := l.image("i2", 730, sec(50))
	l.filler(segmentSize)
	c6 := l.commitPrepared(731, sec(60))
	l.running(740, 735)
	l.filler(500)
	l.beat(sec(75))
	w.put("a", l, nil)
	_ = early

	xid := func(n uint64, before bool) sandglass.Moment {
		return sandglass.Moment{Kind: sandglass.AtXID, XID: n, Before: before}
	}
	lsn := func(l sandglass.LSN) sandglass.Moment { return sandglass.Moment{Kind: sandglass.AtLSN, LSN: l} }
	type want struct {
		from, until, stop sandglass.LSN
		image             sandglass.ImageID
		code              sandglass.Code
	}
	after := func(c, until sandglass.LSN, i sandglass.Image) want {
		return want{from: max(c, i.Consistent), until: until, stop: max(c, i.Consistent), image: i.ID}
	}
	refused := func(c sandglass.Code) want { return want{code: c} }
	for _, c := range []struct {
		name string
		m    sandglass.Moment
		want want
	}{
		{"before the window", timeMoment(sec(9)), refused(sandglass.CodeMomentBefore)},
		{"the end of the image", timeMoment(sec(10)), after(0, c1, i1)},
		{"idle after the image", timeMoment(sec(19.999999)), after(0, c1, i1)},
		{"a commit's own time", timeMoment(sec(20)), after(c1, c2, i1)},
		{"one microsecond before a commit", timeMoment(sec(30).Add(-time.Microsecond)), after(c1, c2, i1)},
		{"below a microsecond", timeMoment(sec(30).Add(-time.Nanosecond)), after(c1, c2, i1)},
		{"an abort ends the range", timeMoment(sec(30)), after(c2, a1, i1)},
		{"between abort and commit", timeMoment(sec(31)), after(c2, c3, i1)},
		{"before the disordered pair", timeMoment(sec(39.9995)), after(c3, c4, i1)},
		{"after it, and before the image: the newest image that has not passed it", timeMoment(sec(45)), after(c5, c6, i2)},
		{"idle after the second image", timeMoment(sec(55)), after(0, c6, i2)},
		{"settled by the last commit", timeMoment(sec(59)), after(0, c6, i2)},
		{"settled by a beat", timeMoment(sec(65)), after(c6, 0, i2)},
		{"a beat that is too early", timeMoment(sec(65.000001)), refused(sandglass.CodeMomentUnsettled)},
		{"after the last beat", timeMoment(sec(76)), refused(sandglass.CodeMomentNotHeld)},
		{"in the future", timeMoment(time.Now().Add(time.Hour)), refused(sandglass.CodeMomentFuture)},
		{"latest", sandglass.Moment{Kind: sandglass.AtLatest}, after(c6, 0, i2)},

		{"at the start of a commit", lsn(c2), after(c1, c2, i1)},
		{"within a commit", lsn(c2 + 1), after(c2, a1, i1)},
		{"at the image", lsn(i1.Consistent), refused(sandglass.CodeMomentBefore)},
		{"just after the image", lsn(i1.End), after(0, c1, i1)},
		{"at the end", lsn(l.end()), after(c6, 0, i2)},
		{"beyond the end", lsn(l.end() + 100), refused(sandglass.CodeMomentNotHeld)},
		{"far beyond the end", lsn(l.end() + 100*segmentSize), refused(sandglass.CodeMomentNotHeld)},

		{"after a transaction", xid(711, false), after(c2, a1, i1)},
		{"before it", xid(711, true), after(c1, c2, i1)},
		{"after one that was rolled back", xid(712, false), after(c2, c3, i1)},
		{"a subtransaction", xid(722, false), after(c4, c5, i1)},
		{"a prepared one", xid(731, false), after(c6, 0, i2)},
		{"before a prepared one", xid(731, true), after(0, c6, i2)},
		{"one from before the window", xid(700, false), refused(sandglass.CodeMomentNotFound)},
		{"one that never was", xid(999999, false), refused(sandglass.CodeMomentNotFound)},
		{"one that left nothing", xid(732, false), refused(sandglass.CodeMomentNotFound)},
		{"one of another epoch", xid(711+1<<32, false), refused(sandglass.CodeMomentNotFound)},

		{"a restore point", sandglass.Moment{Kind: sandglass.AtName, Name: "before lunch"}, after(c3, c4, i1)},
		{"an unknown one", sandglass.Moment{Kind: sandglass.AtName, Name: "after lunch"}, refused(sandglass.CodeMomentNotFound)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := w.resolve(c.m)
			got := want{r.From, r.Until, r.Stop, r.Image, sandglass.CodeOf(err)}
			if err != nil {
				got = want{code: sandglass.CodeOf(err)}
			}
			if got != c.want {
				t.Errorf("got %v, want %v (%v)", got, c.want, err)
			}
			if e, ok := errors.AsType[*sandglass.Error](err); ok && (e.Message == "" || e.Remedy == "") {
				t.Errorf("an error without sentence or remedy: %+v", e)
			}
		})
	}
	_ = p1
}

func TestSettleWithRecorder(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	i := l.image("i1", 710, sec(10))
	c1 := l.commit(710, sec(20))
	w.put("a", l, nil)
	status := func(t time.Time, end sandglass.LSN, s sandglass.RecorderState) live {
		return live{State: s, Incarnation: "a", ServerTime: t, ServerLSN: end, DurableLSN: l.end()}
	}
	for _, c := range []struct {
		name string
		t    time.Time
		live live
		want sandglass.Code
		text string
	}{
		{"all is held, and the clock is far enough", sec(25), status(sec(35), l.end(), sandglass.RecorderStreaming), "", ""},
		{"all is held, and the clock is not", sec(26), status(sec(35), l.end(), sandglass.RecorderStreaming), sandglass.CodeMomentUnsettled, "about 2 s"},
		{"not all is held", sec(25), status(sec(35), l.end()+100, sandglass.RecorderStreaming), sandglass.CodeMomentUnsettled, ""},
		{"a little ahead of the clock", sec(40), status(sec(35), l.end(), sandglass.RecorderStreaming), sandglass.CodeMomentUnsettled, "about 16 s"},
		{"in the future of production's clock", sec(50), status(sec(35), l.end(), sandglass.RecorderStreaming), sandglass.CodeMomentFuture, "08:00:35"},
		{"not recorded", sec(50), status(sec(35), l.end(), sandglass.RecorderConnecting), sandglass.CodeMomentNotHeld, ""},
		{"a recorder of another history", sec(25), live{State: sandglass.RecorderStreaming, Incarnation: "b", ServerTime: sec(100), ServerLSN: 1}, sandglass.CodeMomentUnsettled, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := window.Resolve(context.Background(), w.Repository, env, timeMoment(c.t), c.live)
			if sandglass.CodeOf(err) != c.want && !(c.name == "a recorder of another history" && err != nil) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if e, ok := errors.AsType[*sandglass.Error](err); ok && !strings.Contains(e.Message+e.Remedy, c.text) {
				t.Errorf("%q is not in: %s %s", c.text, e.Message, e.Remedy)
			}
			if err == nil && (r.From != c1 || r.Image != i.ID || !r.CommitTime.Equal(sec(20))) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestObstacles(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	l.image("i1", 710, sec(10))
	l.commit(710, sec(20))
	l.parameters(200, 1)
	c2 := l.commit(711, sec(30))
	l.filler(2 * segmentSize)
	l.dropTablespace(16500)
	l.tablespace(16600, "") // in place: replay makes it inside the copy
	c3 := l.commit(712, sec(40))
	l.tablespace(16700, "/mnt/fast")
	l.filler(segmentSize)
	l.commit(713, sec(50))
	l.commit(714, sec(54))
	l.image("i2", 714, sec(60))
	l.parameters(150, 0)
	l.commit(715, sec(70))
	l.commit(716, sec(74))
	l.filler(segmentSize)
	l.parameters(150, 1)
	l.image("i3", 717, sec(80))
	l.commit(717, sec(90))
	l.commit(718, sec(95))
	w.put("a", l, nil)

	r, err := w.resolve(timeMoment(sec(25)))
	if err != nil || r.Minimums.MaxConnections != 100 {
		t.Errorf("before the change: %+v, %v", r.Minimums, err)
	}
	r, err = w.resolve(timeMoment(sec(45)))
	if err != nil || r.From != c3 || r.Minimums.MaxConnections != 200 || r.Minimums.WALLevel != "replica" {
		t.Errorf("after the change, and beyond a dropped tablespace: %+v, %v", r, err)
	}
	_ = c2
	for _, c := range []struct {
		t             time.Time
		code          sandglass.Code
		before, after time.Time
	}{
		{sec(52), sandglass.CodeMomentTablespace, sec(50).Add(-time.Microsecond), sec(54)},
		{sec(54), "", time.Time{}, time.Time{}}, // nothing more before the image: the image has it
		{sec(65), "", time.Time{}, time.Time{}},
		{sec(72), sandglass.CodeMomentMinimalWAL, sec(70).Add(-time.Microsecond), sec(74)},
		{sec(85), "", time.Time{}, time.Time{}},
	} {
		_, err := w.resolve(timeMoment(c.t))
		if sandglass.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.t, err, c.code)
			continue
		}
		if e, ok := errors.AsType[*sandglass.Error](err); ok && (!e.Before.Equal(c.before) || !e.After.Equal(c.after)) {
			t.Errorf("%s: before %s, after %s", c.t, e.Before, e.After)
		}
	}
	// What a refusal names can be had.
	for _, d := range []float64{49.999999, 54, 69.999999, 74} {
		if _, err := w.resolve(timeMoment(sec(d))); err != nil {
			t.Errorf("%v: %v", d, err)
		}
	}
	win, err := window.Compute(context.Background(), w.Repository, env, nil)
	if err != nil {
		t.Fatal(err)
	}
	var gaps []string
	for _, g := range win.Gaps {
		gaps = append(gaps, fmt.Sprint(g.From.Sub(t0), " ", g.To.Sub(t0), " ", g.Code))
	}
	want := "[49.999999s 54s moment.beyond_tablespace_change 1m9.999999s 1m14s moment.wal_level_minimal]"
	if fmt.Sprint(gaps) != want {
		t.Errorf("gaps %v, want %s", gaps, want)
	}
}

func TestClockStep(t *testing.T) {
	for _, runs := range []int{0, 1, 2} {
		w := newWorld(t)
		w.runs = runs
		w.begin("a", t0)
		l := newLog()
		l.filler(100)
		l.image("i1", 710, sec(10))
		c1 := l.commit(710, sec(20))
		l.filler(segmentSize)
		c2 := l.commit(711, sec(100))
		l.filler(2 * segmentSize)
		c3 := l.commit(712, sec(50)) // the clock was set back by more than 50 s
		l.filler(segmentSize)
		c4 := l.commit(713, sec(80))
		l.filler(segmentSize)
		c5 := l.commit(714, sec(120))
		l.beat(sec(200))
		w.put("a", l, nil)
		for _, c := range []struct {
			t    float64
			want string
		}{
			{30, fmt.Sprint(c1, c2)},
			{48.9, fmt.Sprint(c1, c2)},
			{49, "clock"}, {60, "clock"}, {99, "clock"},
			{100, fmt.Sprint(c4, c5)},
			{130, fmt.Sprint(c5, sandglass.LSN(0))},
		} {
			r, err := w.resolve(timeMoment(sec(c.t)))
			got := fmt.Sprint(r.From, r.Until)
			if sandglass.CodeOf(err) == sandglass.CodeMomentClockStep {
				got = "clock"
				e, _ := errors.AsType[*sandglass.Error](err)
				for _, near := range []time.Time{e.Before, e.After} {
					if _, err := w.resolve(timeMoment(near)); err != nil {
						t.Errorf("the near moment %s: %v", near, err)
					}
				}
			} else if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("runs of %d, %v: %s, want %s", runs, c.t, got, c.want)
			}
		}
		_ = c3
	}
}

func TestGapsAndIncarnations(t *testing.T) {
	w := newWorld(t)
	// The first history loses a segment; the second begins at a lower position, as after a cutover.
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	l.image("a1", 710, sec(10))
	a1 := l.commit(710, sec(20))
	l.point("twice", sec(21))
	l.point("twice", sec(22))
	l.filler(2 * segmentSize)
	lost := l.end().Segment(segmentSize)
	l.commit(711, sec(30))
	l.filler(segmentSize)
	l.image("a2", 712, sec(40))
	a3 := l.commit(713, sec(50))
	l.point("once", sec(51))
	l.checkpoint(0x00, 0, 720, sec(60)) // a clean stop
	w.put("a", l, func(s sandglass.SegmentNo) bool { return s == lost })
	w.must(w.EndIncarnation(context.Background(), "prod", "a", sec(61), "the server was replaced"))
	w.begin("b", sec(62))
	m := newLog()
	m.filler(100)
	m.image("b1", 710, sec(70))
	b1 := m.commit(710, sec(80))
	m.beat(sec(100))
	w.put("b", m, nil)

	for _, c := range []struct {
		m    sandglass.Moment
		want string
	}{
		{timeMoment(sec(15)), "a a1"},
		{timeMoment(sec(20)), "moment.in_gap"}, // no later commit is held, so another of that time may be lost
		{timeMoment(sec(35)), "moment.in_gap"},
		{timeMoment(sec(45)), "a a2"},
		{timeMoment(sec(60)), "a a2"},
		{timeMoment(sec(60.5)), "moment.in_gap"}, // it had stopped, but may have run again before it was replaced
		{timeMoment(sec(65)), "moment.in_gap"},
		{timeMoment(sec(75)), "b b1"},
		{timeMoment(sec(85)), "b b1"},
		{sandglass.Moment{Kind: sandglass.AtXID, XID: 710}, "b b1"},
		{sandglass.Moment{Kind: sandglass.AtXID, XID: 713}, "a a2"},
		{sandglass.Moment{Kind: sandglass.AtLSN, LSN: a3}, "a a2"},
		{sandglass.Moment{Kind: sandglass.AtName, Name: "once"}, "a a2"},
		{sandglass.Moment{Kind: sandglass.AtName, Name: "twice"}, "moment.ambiguous_name"},
		{sandglass.Moment{Kind: sandglass.AtLatest}, "b b1"},
	} {
		r, err := w.resolve(c.m)
		got := fmt.Sprint(r.Incarnation, " ", r.Image)
		if err != nil {
			got = string(sandglass.CodeOf(err))
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.m, got, err, c.want)
		}
		if e, ok := errors.AsType[*sandglass.Error](err); ok && e.Code == sandglass.CodeMomentGap {
			for _, near := range []time.Time{e.Before, e.After} {
				if r, err := w.resolve(timeMoment(near)); err != nil {
					t.Errorf("%s: the near moment %s: %s", c.m, near, show(r, err))
				}
			}
		}
	}
	win, err := window.Compute(context.Background(), w.Repository, env, live{State: sandglass.RecorderStreaming, Incarnation: "b", ServerTime: sec(110), ServerLSN: m.end() + 64, DurableLSN: m.end()})
	if err != nil {
		t.Fatal(err)
	}
	if !win.Earliest.Equal(sec(10)) || !win.Latest.Equal(sec(90)) || len(win.Gaps) != 2 || len(win.Images) != 3 || win.LagBytes != 64 || win.LagSeconds != 10 || win.LatestLSN != (m.end()+7)&^7 {
		t.Errorf("window %+v", win)
	}
	if g := win.Gaps[1]; !strings.Contains(g.Reason, "the server was replaced") || !g.From.Equal(sec(60)) || !g.To.Equal(sec(70)) {
		t.Errorf("gap %+v", g)
	}
	_, _ = a1, b1
}

func TestTimelineSwitch(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	l.image("i1", 710, sec(10))
	c1 := l.commit(710, sec(20))
	l.filler(2*segmentSize + 5000)
	c2 := l.commit(711, sec(30))
	l.filler(300)
	old := *l
	// A standby is promoted: the segment is copied, and goes on as timeline 2.
	cut := len(l.b) / segmentSize * segmentSize
	n := &log{tli: 2, start: l.start + sandglass.LSN(cut), b: append([]byte(nil), l.b[cut:]...), previous: l.previous}
	at := (n.end() + 7) &^ 7
	l.commit(900, sec(35)) // never reached the standby: not part of this history
	n.record(0, 0x90, 0, nil, le(sec(40), uint32(2), uint32(1)))
	c3 := n.commit(712, sec(50))
	n.filler(segmentSize)
	c4 := n.commit(713, sec(60))
	w.put("a", &old, nil)
	w.put("a", n, nil)
	w.must(w.PutHistory(context.Background(), "prod", "a", 2, []byte(fmt.Sprintf("1\t%s\tno recovery target specified\n", at))))
	for _, c := range []struct {
		t                 float64
		from, until, stop sandglass.LSN
		tli               sandglass.TimelineID
	}{
		{25, c1, c2, c1, 1},
		{45, c2, c3, c2, 2}, // the segment is served from the newer timeline
		{55, c3, c4, c3, 2},
	} {
		r, err := w.resolve(timeMoment(sec(c.t)))
		if err != nil || r.From != c.from || r.Until != c.until || r.Stop != c.stop || r.Timeline != c.tli {
			t.Errorf("%v: %+v, %v; want %+v", c.t, r, err, c)
		}
	}
}

// TestStoppedImage: of an image taken of a stopped server nothing is replayed until its first commit.
func TestStoppedImage(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	i := sandglass.Image{ID: "cold", Timeline: 1, Began: sec(9), Ended: sec(10), Redo: l.next()}
	i.Consistent = l.checkpoint(0x00, i.Redo, 710, sec(9))
	i.End = l.next()
	l.images = append(l.images, i)
	l.running(710, 710)
	l.delete(710, 16400, 1)
	c1 := l.commit(710, sec(20))
	l.commit(711, sec(30))
	w.put("a", l, nil)
	r, err := w.resolve(timeMoment(sec(15)))
	if err != nil || r.Stop != i.Redo || r.From != i.Redo || r.Until != c1 || r.ReplayBytes != 0 || !r.CommitTime.IsZero() {
		t.Errorf("the image itself: %+v, %v", r, err)
	}
	r, err = w.resolve(timeMoment(sec(25)))
	if err != nil || r.Stop != c1 || r.Image != "cold" {
		t.Errorf("after its first commit: %+v, %v", r, err)
	}
}

func TestNothingYet(t *testing.T) {
	w := newWorld(t)
	for _, m := range []sandglass.Moment{timeMoment(t0), {Kind: sandglass.AtLatest}} {
		if _, err := w.resolve(m); sandglass.CodeOf(err) != sandglass.CodeWindowEmpty {
			t.Errorf("%s: %v", m, err)
		}
	}
	win, err := window.Compute(context.Background(), w.Repository, env, nil)
	if err != nil || !win.Earliest.IsZero() || win.LagBytes != -1 {
		t.Errorf("window %+v, %v", win, err)
	}
}

func TestCommits(t *testing.T) {
	w := newWorld(t)
	w.begin("a", t0)
	l := newLog()
	l.filler(100)
	l.image("i1", 1<<32+710, sec(10))
	l.delete(710, 16400, 300)
	l.delete(711, 16400, 5)
	l.delete(712, 16400, 2) // a subtransaction of 713
	l.filler(2 * segmentSize)
	l.delete(710, 16400, 512)
	l.delete(710, 1259, 3) // a catalog
	c := l.commit(710, sec(20))
	l.abort(711, sec(21))
	l.delete(713, 16500, 1)
	l.commitWith(713, sec(22), 712)
	l.commit(714, sec(30))
	w.put("a", l, nil)
	found, err := window.Find(context.Background(), w.Repository, env, nil, sandglass.CommitQuery{From: sec(15), To: sec(25)})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("[{4294968009 %d [{oid 5 filenode 16400 0 0 2 false} {oid 5 filenode 16500 0 0 1 false}]} {4294968006 %d [{oid 5 filenode 16400 0 0 812 false}]}]", found[0].LSN, c)
	var got []any
	for _, f := range found {
		got = append(got, struct {
			x    uint64
			l    sandglass.LSN
			rows []sandglass.RelationRows
		}{f.XID, f.LSN, f.Rows})
	}
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	found, err = window.Find(context.Background(), w.Repository, env, nil, sandglass.CommitQuery{MinRows: 100})
	if err != nil || len(found) != 1 || found[0].LSN != c {
		t.Errorf("with at least 100 rows: %v, %v", found, err)
	}
}
