// Any history against a naive reading of recovery_target_time, and a large one against the clock.

package window_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sandglass"
	"sandglass/internal/repo"
	"sandglass/internal/wal"
	"sandglass/internal/window"
)

// ended is a commit or abort of the model.
type ended struct {
	lsn    sandglass.LSN
	time   time.Time
	commit bool
	xid    uint32
}

// model is a history as the naive reading sees it.
type model struct {
	log   *log
	ended []ended
	walls []sandglass.LSN // records that replay can't follow
}

// drawModel draws a history: transactions in bursts and with idle times, some disorder, images, obstacles, large records.
func drawModel(t *rapid.T) *model {
	m := &model{log: newLog()}
	clock, xid := sec(1), uint32(800)
	tx := func() {
		xid++
		e := ended{time: clock.Add(-time.Duration(rapid.IntRange(0, 900).Draw(t, "delay")) * time.Millisecond), commit: rapid.IntRange(0, 4).Draw(t, "abort") > 0, xid: xid}
		if e.commit {
			e.lsn = m.log.commit(xid, e.time)
		} else {
			e.lsn = m.log.abort(xid, e.time)
		}
		m.ended = append(m.ended, e)
	}
	image := func() {
		clock = clock.Add(time.Second)
		m.log.image(fmt.Sprintf("i%02d", len(m.log.images)), uint64(xid)+1, clock)
	}
	m.log.filler(10)
	tx()
	image()
	for range rapid.IntRange(1, 30).Draw(t, "steps") {
		clock = clock.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 3, 700, 5000, 60000}).Draw(t, "pause")) * time.Millisecond)
		switch rapid.SampledFrom([]string{"tx", "tx", "tx", "tx", "burst", "filler", "filler", "image", "wall", "beat"}).Draw(t, "step") {
		case "tx":
			tx()
		case "burst":
			for range 5 {
				tx()
			}
		case "filler":
			m.log.filler(rapid.SampledFrom([]int{10, 9000, segmentSize / 3, segmentSize + 100}).Draw(t, "size"))
		case "image":
			image()
		case "wall":
			if rapid.IntRange(0, 2).Draw(t, "wall") == 0 {
				m.walls = append(m.walls, m.log.tablespace(17000, "/mnt/x"))
			}
		case "beat":
			m.log.beat(clock)
		}
	}
	return m
}

// upTo is what the model expects of everything before until (nil: nothing is excluded).
func (m *model) upTo(until *ended) string {
	begin, limit := m.log.images[0].Consistent, m.log.end()
	var r sandglass.Range
	if until != nil {
		r.Until, limit = until.lsn, until.lsn
	}
	var last sandglass.LSN
	for _, e := range m.ended {
		if e.commit && e.lsn > begin && e.lsn < limit {
			last = e.lsn
		}
	}
	reached := false
	for _, i := range m.log.images { // the newest that gets there without a wall wins
		stop := max(last, i.Consistent)
		if i.Consistent >= limit {
			continue
		}
		free := true
		for _, w := range m.walls {
			if w >= i.Redo && w <= stop {
				free = false
			}
		}
		if free {
			reached = true
			r.Image, r.From, r.Stop = i.ID, stop, stop
		}
	}
	if !reached {
		return string(sandglass.CodeMomentTablespace)
	}
	r.Incarnation = "a"
	return show(r, nil)
}

// atTime is recovery_target_time, read naively.
func (m *model) atTime(t time.Time) string {
	if t.Before(m.log.images[0].Ended) {
		return string(sandglass.CodeMomentBefore)
	}
	for i := range m.ended {
		if e := &m.ended[i]; e.lsn > m.log.images[0].Consistent && e.time.After(t) {
			return m.upTo(e)
		}
	}
	for _, b := range m.log.beats {
		if !b.Time.Before(t.Add(window.Settle)) {
			return m.upTo(nil)
		}
	}
	return "not settled"
}

func (m *model) atLSN(lsn sandglass.LSN) string {
	for i := range m.ended {
		if m.ended[i].lsn >= lsn {
			return m.upTo(&m.ended[i])
		}
	}
	return m.upTo(nil)
}

func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := drawModel(rt)
		w := newWorld(t)
		w.runs = rapid.IntRange(0, 3).Draw(rt, "runs")
		w.begin("a", t0)
		w.put("a", m.log, nil)
		check := func(mo sandglass.Moment, want string) {
			r, err := w.resolve(mo)
			got := show(r, err)
			if c := sandglass.CodeOf(err); c == sandglass.CodeMomentUnsettled || c == sandglass.CodeMomentNotHeld {
				got = "not settled"
			}
			if got != want {
				rt.Errorf("%s: got %s (%v), want %s", mo, got, err, want)
			}
			if err == nil && (r.CommitTime.IsZero() != (r.From != m.commitAt(r.From))) {
				rt.Errorf("%s: commit time %s of %s", mo, r.CommitTime, r.From)
			}
		}
		step := 1 + len(m.ended)/6 // some are enough: each world has others
		for i := rapid.IntRange(0, step-1).Draw(rt, "first"); i < len(m.ended); i += step {
			e := m.ended[i]
			for _, d := range []time.Duration{-time.Second, -time.Microsecond, 0, time.Microsecond, 5 * time.Second} {
				check(timeMoment(e.time.Add(d)), m.atTime(e.time.Add(d)))
			}
			if e.lsn < m.log.images[0].Consistent {
				continue
			}
			check(sandglass.Moment{Kind: sandglass.AtLSN, LSN: e.lsn}, m.atLSN(e.lsn))
			check(sandglass.Moment{Kind: sandglass.AtLSN, LSN: e.lsn + 1}, m.atLSN(e.lsn+1))
			check(sandglass.Moment{Kind: sandglass.AtXID, XID: uint64(e.xid), Before: true}, m.upTo(&e))
			var next *ended
			if i+1 < len(m.ended) {
				next = &m.ended[i+1]
			}
			check(sandglass.Moment{Kind: sandglass.AtXID, XID: uint64(e.xid)}, m.upTo(next))
		}
		check(sandglass.Moment{Kind: sandglass.AtLatest}, m.upTo(nil))
		m.checkWindow(rt, w)
	})
}

// commitAt is lsn when a commit starts there, else zero.
func (m *model) commitAt(lsn sandglass.LSN) sandglass.LSN {
	for _, e := range m.ended {
		if e.lsn == lsn && e.commit {
			return lsn
		}
	}
	return 0
}

// checkWindow: what the window says can be had, can; what it calls a gap, can't.
func (m *model) checkWindow(t *rapid.T, w *world) {
	win, err := window.Compute(context.Background(), w.Repository, env, nil)
	if err != nil {
		t.Fatal(err)
	}
	if win.Latest.IsZero() {
		return
	}
	in := func(at time.Time) (gap bool, edge bool) {
		for _, g := range win.Gaps {
			gap = gap || at.After(g.From) && at.Before(g.To)
			edge = edge || at.Equal(g.From) || at.Equal(g.To)
		}
		return gap, edge
	}
	step := 1 + len(m.ended)/6
	for i, e := range append(m.ended, ended{time: win.Earliest}, ended{time: win.Latest}) {
		if i%step != 0 && i < len(m.ended) {
			continue
		}
		for _, at := range []time.Time{e.time, e.time.Add(2 * time.Second)} {
			if at.Before(win.Earliest) || at.After(win.Latest) {
				continue
			}
			gap, edge := in(at)
			_, err := w.resolve(timeMoment(at))
			if !edge && gap != (err != nil) && !(gap && err == nil && m.disordered(at)) {
				t.Errorf("%s: window has gaps %v, but resolving gives %v", at, win.Gaps, err)
			}
		}
	}
}

// disordered says whether records around a time are not in its order; gaps are drawn by times and exact only without that.
func (m *model) disordered(at time.Time) bool {
	for i := range m.ended {
		for j := range m.ended[:i] {
			if m.ended[j].time.After(m.ended[i].time) && m.ended[i].time.Sub(at).Abs() < 4*time.Second {
				return true
			}
		}
	}
	return false
}

// large is a repository of many segments whose indexes are made when asked for; it counts them.
type large struct {
	window.Repository
	segments, read int
}

const perSegment = 200

func (l *large) index(n int) *wal.Index {
	start := sandglass.SegmentNo(n + 1).Start(sandglass.DefaultSegmentSize)
	x := &wal.Index{Major: 15, Timeline: 1, SegmentSize: sandglass.DefaultSegmentSize, Start: start, From: start, End: start + sandglass.LSN(sandglass.DefaultSegmentSize), Whole: true,
		First: start + 40, Last: start + sandglass.LSN(sandglass.DefaultSegmentSize) - 64, RunStart: sandglass.SegmentNo(n/1000*1000 + 1).Start(sandglass.DefaultSegmentSize), NextXID: uint64(1000 + (n+1)*perSegment), OldestXID: uint64(1000 + n*perSegment)}
	for i := range perSegment {
		lsn := start + 40 + sandglass.LSN(i*80000)
		x.Transactions = append(x.Transactions, wal.Transaction{LSN: lsn, End: lsn + 40, XID: uint32(1000 + n*perSegment + i), Time: sec(float64(n) + float64(i)/perSegment)})
	}
	last := x.Transactions[perSegment-1]
	x.LastEnded, x.LastCommit, x.LastTime, x.HighTime = last.LSN, last.LSN, last.Time, last.Time
	return x
}

func (l *large) Incarnations(context.Context, string) ([]sandglass.Incarnation, error) {
	return []sandglass.Incarnation{{ID: "a", Environment: "prod", Major: 15, SegmentSize: sandglass.DefaultSegmentSize, Began: t0}}, nil
}

func (l *large) Images(context.Context, string, sandglass.IncarnationID) ([]sandglass.Image, error) {
	x := l.index(0)
	return []sandglass.Image{{ID: "i", Redo: x.First, Consistent: x.First + 16, End: x.First + 32, Ended: t0}}, nil
}

func (l *large) Segments(context.Context, string, sandglass.IncarnationID) iter.Seq2[repo.SegmentInfo, error] {
	return func(yield func(repo.SegmentInfo, error) bool) {
		for n := range l.segments {
			seg := sandglass.SegmentNo(n + 1)
			if !yield(repo.SegmentInfo{Timeline: 1, Segment: seg, From: seg.Start(sandglass.DefaultSegmentSize), End: (seg + 1).Start(sandglass.DefaultSegmentSize), Whole: true, Indexed: true}, nil) {
				return
			}
		}
	}
}

func (l *large) Index(_ context.Context, _ string, _ sandglass.IncarnationID, _ sandglass.TimelineID, seg sandglass.SegmentNo) ([]byte, error) {
	l.read++
	return l.index(int(seg) - 1).Marshal(), nil
}

func (l *large) OpenWAL(context.Context, string, sandglass.IncarnationID, sandglass.TimelineID, sandglass.SegmentNo) (io.ReadCloser, int64, error) {
	return nil, 0, fs.ErrNotExist
}

func TestFewIndexesAreRead(t *testing.T) {
	for _, m := range []sandglass.Moment{timeMoment(sec(7777.3)), {Kind: sandglass.AtXID, XID: 1_234_567}, {Kind: sandglass.AtLSN, LSN: 5000 << 24}, {Kind: sandglass.AtLatest}, {Kind: sandglass.AtName, Name: "x"}} {
		l := &large{segments: 10_000}
		began := time.Now()
		r, err := window.Resolve(context.Background(), l, env, m, nil)
		if c := sandglass.CodeOf(err); c != "" && c != sandglass.CodeMomentNotFound {
			t.Errorf("%s: %v", m, err)
		}
		t.Logf("%s: %d indexes read, %s: %s", m, l.read, time.Since(began).Round(time.Millisecond), show(r, err))
		if l.read > 100 {
			t.Errorf("%s: %d indexes read", m, l.read)
		}
	}
}
