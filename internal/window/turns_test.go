// Any sequence of cutovers and undos against a naive reading: a time belongs to the state that was shown then.

package window_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sandglass"
	"sandglass/internal/window"
)

// turns is a sandbox's history as the naive reading sees it.
type turns struct {
	w      *world
	clock  time.Time
	xid    uint32
	states []*shownState
	now    *shownState
	begun  []time.Time // of each turn,
	of     []*shownState
}

// shownState is one volume's history.
type shownState struct {
	id   sandglass.IncarnationID
	log  *log
	ends []ended
}

func (s *shownState) commit(m *turns) {
	m.xid++
	s.ends = append(s.ends, ended{lsn: s.log.commit(m.xid, m.clock), time: m.clock, commit: true})
}

// stop ends the state's server, and gives where its WAL ends.
func (s *shownState) stop(m *turns) sandglass.LSN {
	s.log.checkpoint(0x00, 0, uint64(m.xid)+1, m.clock)
	return (s.log.end() + 7) &^ 7
}

// make makes a state with an image.
func (m *turns) make(prepared bool) *shownState {
	s := &shownState{id: sandglass.IncarnationID(fmt.Sprintf("s%02d", len(m.states))), log: newLog()}
	m.w.begin(s.id, m.clock)
	if prepared {
		m.w.must(m.w.LeaveIncarnation(m.w.tb.Context(), env.Name, s.id, sandglass.Absence{From: m.clock}))
	}
	m.clock = m.clock.Add(2 * time.Second)
	s.log.filler(100)
	s.log.image("i"+string(s.id), uint64(m.xid)+1, m.clock)
	m.states = append(m.states, s)
	return s
}

// passTo is the cutover.
func (m *turns) passTo(s *shownState) {
	ctx := m.w.tb.Context()
	end := m.now.stop(m)
	m.clock = m.clock.Add(2 * time.Second)
	m.w.must(m.w.LeaveIncarnation(ctx, env.Name, m.now.id, sandglass.Absence{From: m.clock, LSN: end}))
	m.w.must(m.w.ReturnIncarnation(ctx, env.Name, s.id, m.clock))
	m.now, m.begun, m.of = s, append(m.begun, m.clock), append(m.of, s)
}

func drawTurns(t *rapid.T, w *world) *turns {
	m := &turns{w: w, clock: sec(1), xid: 800}
	m.now = m.make(false)
	m.begun, m.of = []time.Time{m.clock}, []*shownState{m.now}
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		m.clock = m.clock.Add(time.Duration(rapid.SampledFrom([]int{2, 30, 600}).Draw(t, "pause")) * time.Second)
		switch step := rapid.SampledFrom([]string{"commit", "commit", "commit", "big", "restore", "undo", "undo"}).Draw(t, "step"); step {
		case "commit":
			m.now.commit(m)
		case "big":
			m.now.log.filler(segmentSize)
		case "restore":
			if len(m.states) < 4 {
				m.passTo(m.make(true))
			}
		case "undo":
			s := rapid.SampledFrom(m.states).Draw(t, "to")
			if s == m.now {
				break
			}
			if rapid.Bool().Draw(t, "rehearsed") { // its trial start writes on while another state is shown
				s.commit(m)
				s.stop(m)
				m.clock = m.clock.Add(2 * time.Second)
			}
			m.passTo(s)
		}
	}
	if rapid.Bool().Draw(t, "heard") {
		m.now.log.beat(m.clock.Add(time.Minute))
	}
	for _, s := range m.states {
		w.put(s.id, s.log, nil)
	}
	return m
}

// at is what the naive reading expects of a time.
func (m *turns) at(t time.Time) string {
	turn := -1
	for i, begun := range m.begun {
		if !begun.After(t) {
			turn = i
		}
	}
	if turn < 0 {
		return string(sandglass.CodeMomentBefore)
	}
	s := m.of[turn]
	from, settled := s.log.images[0].Consistent, turn < len(m.begun)-1
	for _, e := range s.ends {
		settled = settled || e.time.After(t)
		if !e.time.After(t) {
			from = e.lsn
		}
	}
	for _, b := range s.log.beats {
		settled = settled || !b.Time.Before(t.Add(window.Settle))
	}
	if !settled {
		return "not settled"
	}
	return fmt.Sprint(s.id, " ", from)
}

func TestAnyTurns(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := drawTurns(rt, newWorld(t))
		resolve := func(at time.Time) (string, error) {
			r, err := m.w.resolve(timeMoment(at))
			if e, ok := errors.AsType[*sandglass.Error](err); ok && !e.Before.IsZero() {
				if _, err := m.w.resolve(timeMoment(e.Before)); err != nil {
					rt.Errorf("%s: the near moment %s: %v", at, e.Before, err)
				}
			}
			switch c := sandglass.CodeOf(err); {
			case c == sandglass.CodeMomentUnsettled || c == sandglass.CodeMomentNotHeld:
				return "not settled", err
			case err != nil:
				return string(c), err
			}
			return fmt.Sprint(r.Incarnation, " ", r.From), nil
		}
		times := append([]time.Time{sec(1)}, m.begun...)
		for _, s := range m.states {
			for _, e := range s.ends {
				times = append(times, e.time)
			}
		}
		for range 8 { // some are enough: each world has others
			d := rapid.SampledFrom([]time.Duration{-time.Microsecond, 0, time.Microsecond, time.Second, 20 * time.Second}).Draw(rt, "off")
			at := rapid.SampledFrom(times).Draw(rt, "at").Add(d)
			got, err := resolve(at)
			if want := m.at(at); got != want {
				rt.Errorf("%s: %s (%v), want %s", at, got, err, want)
			}
		}
		w, err := window.Compute(t.Context(), m.w, env, nil)
		m.w.must(err)
		if len(w.Gaps) > 0 {
			rt.Errorf("gaps %+v", w.Gaps)
		}
		if got, err := resolve(w.Latest); !w.Latest.IsZero() && (err != nil || got != m.at(w.Latest)) {
			rt.Errorf("the latest moment, %s: %s (%v)", w.Latest, got, err)
		}
	})
}
