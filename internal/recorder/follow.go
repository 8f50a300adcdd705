package recorder

// The stream: three goroutines around the spool. One receives, one makes durable, one watches.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/repo"
)

// pageSize is XLOG_BLCKSZ: the last page before the durable end is read again after a reconnect.
const pageSize = 8192

// errGiveUp means that production keeps more WAL for us than was allowed.
var errGiveUp = errors.New("too far behind")

// session is the stream of one connection.
type session struct {
	r      *Recorder
	stream *pg.Stream
	spool  *spool
	index  *indexing
	pos    position

	work chan struct{} // wakes store: a segment is full, or an answer is wanted
	room chan struct{} // wakes receive: the backlog is shorter

	mu       sync.Mutex
	received sandglass.LSN // in the spool
	durable  sandglass.LSN // in the repository
	verified bool          // the stream has been seen to go on from what is held
	answer   bool          // the server wants a status with everything flushed
	progress time.Time     // of the last progress, or when there began to be work
	writing  time.Time     // when a write to the spool began; zero while there is none
	heard    time.Time     // last word of the server
	asked    time.Time     // when the keepalive that is awaited was asked for; zero: none

	partBeat  time.Time // of the newest beat in a part
	parts     int       // of the unfinished segment, since they were last made one
	compacted sandglass.LSN
	lastPart  time.Time // by our clock
	buffer    []byte    // of the part being stored
	draft     *repo.Draft
}

// stream starts replication and follows it.
func (a *attempt) stream(ctx context.Context) error {
	r, p := a.r, a.pos
	s, from, err := r.session(ctx, p, a.conn.Major())
	if err != nil {
		return err
	}
	held := s.durable
	defer s.spool.close()
	if err := forgetOthers(r.dir, p.inc.ID); err != nil {
		return err
	}
	err = s.follow(ctx, a, from)
	if sandglass.CodeOf(err) == sandglass.CodeSlotLost && !s.verified && from < p.start(held.Segment(s.spool.size)) && !a.recreated {
		// The slot keeps WAL from its position on, which is the first byte of a segment: the page
		// before it may be gone, and nothing is missing.
		r.log.Info("production no longer has the WAL segment before ours, so it is not compared")
		if a.conn, err = pg.Connect(ctx, a.target); err != nil {
			return err
		}
		s.verified = true
		err = s.follow(ctx, a, held)
	}
	return err
}

// session prepares to take WAL from a position on; from is the first byte that it wants.
func (r *Recorder) session(ctx context.Context, p position, major int) (s *session, from sandglass.LSN, err error) {
	sp, err := openSpool(r.dir, p.inc.ID, p.tli, p.inc.SegmentSize)
	if err != nil {
		return nil, 0, err
	}
	x, refetch, err := r.fill(ctx, p, sp, major)
	if err != nil {
		return nil, 0, errors.Join(err, sp.close())
	}
	held := max(p.durable, p.start(p.first))
	s = &session{r: r, spool: sp, index: x, pos: p, work: make(chan struct{}, 1), room: make(chan struct{}, 1),
		received: held, durable: held, compacted: held, draft: r.repo.NewDraft(p.start(held.Segment(sp.size)))}
	if beats := x.beats[held.Segment(sp.size)]; len(beats) > 0 {
		s.partBeat = beats[len(beats)-1].Time
	}
	from = held
	switch {
	case refetch:
		s.received = p.start(held.Segment(sp.size))
		from, s.verified = s.received, true
	case p.durable == 0:
		s.verified = true // nothing to go on from
	default:
		from = (held - 1) &^ (pageSize - 1)
		if sp.has(from.Segment(sp.size)) < from.Offset(sp.size)+int64(held-from) {
			from, s.verified = held, true
		}
	}
	return s, from, nil
}

// lasting are the codes that are shown until the next image is there: history was lost, or nearly so.
var lasting = map[sandglass.Code]bool{sandglass.CodeSlotMissing: true, sandglass.CodeSlotLost: true, CodeSlotGiven: true,
	sandglass.CodeHistoryForked: true, CodeWentBack: true, CodeReplaced: true, CodeSlotSmall: true}

// follow runs the goroutines of a session until the first of them ends.
func (s *session) follow(ctx context.Context, a *attempt, from sandglass.LSN) error {
	g, gctx := errgroup.WithContext(ctx)
	conn := a.conn
	stop := context.AfterFunc(gctx, conn.Abort)
	defer stop()
	var err error
	if s.stream, err = conn.StartReplication(gctx, s.r.status.Slot, s.pos.tli, from); err != nil {
		conn.Abort()
		return err
	}
	now := time.Now()
	s.mu.Lock()
	s.heard, s.progress, s.asked = now, now, time.Time{}
	s.mu.Unlock()
	s.r.update(func() {
		st := &s.r.status
		if s.r.inc.ID != s.pos.inc.ID {
			s.r.last, s.r.spaces = s.pos.image, 0
		}
		s.r.inc, s.r.live, s.r.begin = s.pos.inc, s.index, s.pos.start(s.pos.first)
		st.Incarnation, st.Timeline, st.DurableLSN, st.ReceivedLSN = s.pos.inc.ID, s.pos.tli, s.durable, s.received
		st.State, st.LastImage = sandglass.RecorderStreaming, s.r.last.ID
		if e := st.LastError; e != nil && !lasting[e.Code] {
			st.LastError = nil
		}
	})
	s.r.log.Info("recording", "incarnation", s.pos.inc.ID, "timeline", s.pos.tli, "from", from, "durable", s.durable)
	g.Go(func() error { return s.receive(gctx, from, a.sys.Timeline == s.pos.tli) })
	g.Go(func() error { return s.store(gctx) })
	g.Go(func() error { return s.watch(gctx) })
	g.Go(func() error { return s.lookAgain(gctx, a.target) })
	return s.wait(ctx, gctx, g, a)
}

// wait waits for all goroutines. While one hangs in a repository or a disk that does not
// answer, the limit on what production keeps for us is still watched.
func (s *session) wait(ctx, gctx context.Context, g *errgroup.Group, a *attempt) error {
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	<-gctx.Done()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(stuckAfter):
			if ctx.Err() == nil {
				s.r.note(stuck())
				s.r.guard(ctx, a.target, s.durableEnd())
			}
		}
	}
}

func stuck() error {
	return &sandglass.Error{Code: CodeStuck, Op: "record",
		Message: "The repository or the spool has not taken any WAL for 10 seconds, so the recorder let go of production.",
		Remedy:  "Check the disks of the repository and of the state folder; recording goes on by itself, and production's slot keeps the WAL until then."}
}

// guard gives the slot up if production keeps too much; the next attempt then finds the gap.
func (r *Recorder) guard(ctx context.Context, t pg.Target, durable sandglass.LSN) {
	most := int64(r.env.Recording.MaxSlotWAL)
	if most <= 0 {
		return
	}
	c, err := pg.Connect(ctx, t)
	if err != nil {
		return
	}
	defer c.Close()
	sys, err := c.IdentifySystem(ctx)
	if err != nil || int64(sys.Flushed)-int64(durable) <= most {
		return
	}
	r.log.Warn("giving up the replication slot: production keeps more WAL than max_slot_wal", "behind", int64(sys.Flushed)-int64(durable))
	if err := c.DropSlot(ctx, r.status.Slot); err != nil {
		r.log.Warn("the slot could not be dropped", "error", err)
	}
}

func (s *session) durableEnd() sandglass.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// receive takes what the server sends: to the spool, and through the index.
func (s *session) receive(ctx context.Context, from sandglass.LSN, tip bool) error {
	at := from
	beats := pulse{received: from}
	for {
		m, err := s.stream.Receive()
		if err != nil {
			return err
		}
		if m.Next != 0 {
			s.r.log.Info("timeline ends", "timeline", s.pos.tli, "next", m.Next, "at", m.NextAt)
			return errAgain
		}
		b, isBeat := beats.hear(m)
		s.hear(m, b, isBeat, tip)
		if len(m.Data) == 0 {
			continue
		}
		if m.Start != at {
			return fmt.Errorf("receive WAL: got position %s instead of %s", m.Start, at)
		}
		if err := s.take(m.Start, m.Data); err != nil {
			return err
		}
		at += sandglass.LSN(len(m.Data))
		if err := s.waitForRoom(ctx); err != nil {
			return err
		}
	}
}

// hear notes what a message tells besides its WAL.
func (s *session) hear(m pg.Message, b sandglass.Beat, isBeat, tip bool) {
	s.mu.Lock()
	s.heard = time.Now()
	if m.Keepalive && !m.Reply {
		s.asked = time.Time{}
	}
	// Of a timeline that the server has left, neither says anything of the present.
	known := s.verified && tip
	if isBeat = isBeat && known && b.LSN <= s.received; isBeat {
		s.index.hear(b)
	}
	answer := m.Reply && !s.answer
	if answer {
		s.answer = true
		if s.received == s.durable {
			s.progress = s.heard // there was nothing to do before
		}
	}
	s.mu.Unlock()
	if answer {
		wake(s.work)
	}
	r := s.r
	r.mu.Lock() // no update: nobody waits for these, and they come with every message
	defer r.mu.Unlock()
	r.said, r.heard = m.ServerTime, time.Now()
	switch {
	case isBeat && b.LSN >= r.status.ServerLSN:
		r.status.ServerTime, r.status.ServerLSN = b.Time, b.LSN
	case known && len(m.Data) > 0:
		r.status.ServerTime, r.status.ServerLSN = m.ServerTime, m.ServerEnd
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take spools WAL. What is held already must be the same bytes: else the server's history is another one.
func (s *session) take(at sandglass.LSN, data []byte) error {
	s.mu.Lock()
	received := s.received
	s.mu.Unlock()
	if at < received {
		n := min(int64(received-at), int64(len(data)))
		held := make([]byte, n)
		if err := s.spool.read(held, at); err != nil {
			return err
		}
		if !bytes.Equal(held, data[:n]) {
			return &sandglass.Error{Code: sandglass.CodeHistoryForked, Op: "compare WAL",
				Message: fmt.Sprintf("The server's WAL near %s differs from what was recorded before.", at)}
		}
		at, data = at+sandglass.LSN(n), data[n:]
		if at == received {
			s.mu.Lock()
			s.verified, s.progress = true, time.Now()
			s.mu.Unlock()
		}
		if len(data) == 0 {
			return nil
		}
	}
	s.mu.Lock()
	s.writing = time.Now()
	s.mu.Unlock()
	err := s.spool.write(at, data)
	if err == nil {
		s.index.write(at, data) // before it counts as received: what is durable has been indexed
	}
	end := at + sandglass.LSN(len(data))
	s.mu.Lock()
	s.writing = time.Time{}
	if err == nil {
		if s.received == s.durable {
			s.progress = time.Now() // there was nothing to do before
		}
		s.received = end
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	r := s.r
	r.mu.Lock()
	r.status.ReceivedLSN = end
	wanted := r.wanted
	r.mu.Unlock()
	if at.Segment(s.spool.size) != end.Segment(s.spool.size) || at < wanted && wanted <= end {
		wake(s.work)
	}
	return nil
}

// waitForRoom holds the stream back while too much waits for the repository.
func (s *session) waitForRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		long := int64(s.received)-int64(s.durable) > max(maxBacklog, 2*s.spool.size)
		s.mu.Unlock()
		if !long {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.room:
		}
	}
}

// watch sends a status every second, asks for keepalives, and ends a connection without progress.
func (s *session) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	most := int64(s.r.env.Recording.MaxSlotWAL)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		s.r.mu.Lock()
		behind := int64(s.r.status.ServerLSN) - int64(s.r.status.DurableLSN)
		s.r.mu.Unlock()
		s.mu.Lock()
		now := time.Now()
		waiting := s.verified && (s.received > s.durable || s.answer)
		slow := waiting && now.Sub(s.progress) > stuckAfter || !s.writing.IsZero() && now.Sub(s.writing) > stuckAfter
		silent := now.Sub(s.heard) > silentAfter
		ask := s.asked.IsZero()
		if ask {
			s.asked = now
		}
		s.mu.Unlock()
		switch {
		case slow:
			err := stuck()
			s.r.note(err)
			return err
		case silent:
			return &sandglass.Error{Code: sandglass.CodeProductionUnreachable, Op: "record",
				Message: "The server has been silent for 30 seconds.", Remedy: "Check the server and the network to it; the recorder tries again by itself."}
		case most > 0 && behind > most:
			return errGiveUp
		}
		if err := s.sendStatus(ask); err != nil {
			return err
		}
	}
}

// lookAgain looks at the server's settings now and then: a reload changes them under a connection that stands. Recording goes on, because
// to leave would make nobody who waits for us wait less; but it is said.
func (s *session) lookAgain(ctx context.Context, target pg.Target) error {
	tick := time.NewTicker(s.r.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		facts, err := pg.ReadFacts(ctx, target, s.r.status.Slot)
		if err != nil {
			continue // the stream itself shows whether the server is there
		}
		var found *sandglass.Error
		for _, f := range s.r.findings(facts) {
			if f.Level == sandglass.Stop && harmful[f.Code] && found == nil {
				found = &sandglass.Error{Code: f.Code, Op: "check production", Message: f.Message, Remedy: f.Remedy}
			}
		}
		s.r.update(func() {
			if e := s.r.status.LastError; found != nil || e != nil && harmful[e.Code] {
				s.r.status.LastError = found
			}
		})
		if found != nil {
			s.r.log.Warn("production may come to wait for the recorder", "code", found.Code, "error", found)
		}
	}
}

// harmful are settings with which production waits for us, or keeps WAL for us until its disk is full.
var harmful = map[sandglass.Code]bool{sandglass.CodeProductionSync: true, sandglass.CodeProductionSlotCap: true}

// sendStatus acknowledges what the repository holds.
func (s *session) sendStatus(reply bool) error {
	s.mu.Lock()
	durable := s.durable
	if !s.verified {
		durable = 0 // nothing: the server may not be the one we know
	}
	s.mu.Unlock()
	if s.stream == nil { // a stopped server's
		return nil
	}
	return s.stream.Status(durable, durable, reply)
}
