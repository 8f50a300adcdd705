package recorder

// One connection's worth of recording: who the server is, which incarnation and timeline
// its WAL belongs to, the slot, and then the stream.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/pg"
)

// attempt is one try to record, from connecting to the end of the stream.
type attempt struct {
	r      *Recorder
	target pg.Target
	facts  pg.Facts
	conn   *pg.Conn
	sys    pg.System
	pos    position
	// recreated is set when the slot was gone although WAL is held: the WAL must then prove
	// that it goes on where ours ends.
	recreated bool
}

// record connects and records until the connection ends.
func (r *Recorder) record(ctx context.Context) error {
	a := &attempt{r: r}
	var err error
	if a.target, err = targetOf(r.env, r.target); err != nil {
		return err
	}
	slot := r.status.Slot
	if a.facts, err = pg.ReadFacts(ctx, a.target, slot); err != nil {
		return err
	}
	r.hearServer(a.facts.ServerTime)
	if err := stopped(r.findings(a.facts)); err != nil {
		return err
	}
	if a.conn, err = pg.Connect(ctx, a.target); err != nil {
		return err
	}
	defer a.conn.Abort()
	if a.sys, err = a.conn.IdentifySystem(ctx); err != nil {
		return err
	}
	if err := a.locate(ctx); err != nil {
		return err
	}
	// Only of a server that goes on from what is held; the position is newer than the time, as it has to be.
	r.update(func() { r.status.ServerTime, r.status.ServerLSN = a.facts.ServerTime, a.sys.Flushed })
	if err := a.secureSlot(ctx); err != nil {
		return err
	}
	return a.judge(ctx, a.stream(ctx))
}

// hearServer notes production's clock.
func (r *Recorder) hearServer(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said, r.heard = at, time.Now()
}

// end ends the present incarnation for a reason, and asks for a new start.
func (a *attempt) end(ctx context.Context, code sandglass.Code, format string, args ...any) error {
	why := &sandglass.Error{Code: code, Op: "continue recording", Message: fmt.Sprintf(format, args...),
		Remedy: "Nothing to do: a new stretch of history begins with a new image; what was recorded before stays restorable."}
	if err := a.r.endIncarnation(ctx, a.pos.inc, why); err != nil {
		return err
	}
	return errAgain
}

// locate finds the position to go on from, or begins an incarnation.
func (a *attempt) locate(ctx context.Context) error {
	r := a.r
	segmentSize, err := a.conn.SegmentSize(ctx)
	if err != nil {
		return err
	}
	inc, err := r.open(ctx)
	if err != nil {
		return err
	}
	if inc.ID == "" {
		if a.pos, err = r.beginIncarnation(ctx, a.sys, a.conn.Major(), segmentSize); err != nil {
			return err
		}
		return a.keepHistories(ctx)
	}
	a.pos.inc = inc
	switch {
	case inc.SystemIdentifier != a.sys.Identifier:
		return a.end(ctx, CodeReplaced, "The server is another system now (%d instead of %d).", a.sys.Identifier, inc.SystemIdentifier)
	case inc.Major != a.conn.Major() || inc.SegmentSize != segmentSize:
		return a.end(ctx, CodeReplaced, "The server is PostgreSQL %d with WAL segments of %d bytes now.", a.conn.Major(), segmentSize)
	}
	if a.pos, err = r.find(ctx, inc); err != nil {
		return err
	}
	if a.pos.tli == 0 {
		a.pos.tli, a.pos.first = r.begun(a.sys, inc)
		a.pos.whole = a.pos.first
	}
	for _, seg := range a.pos.undropped {
		if err := r.repo.DropParts(ctx, r.env.Name, inc.ID, a.pos.tli, seg); err != nil {
			return err
		}
	}
	if err := a.keepHistories(ctx); err != nil {
		return err
	}
	return a.followTimeline(ctx)
}

// begun is where an incarnation begins of which nothing is held yet: where the connection before began, because an image in the making
// needs its WAL from there on, or else the segment that is being written.
func (r *Recorder) begun(sys pg.System, inc sandglass.Incarnation) (sandglass.TimelineID, sandglass.SegmentNo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inc.ID == inc.ID {
		return r.status.Timeline, r.begin.Segment(inc.SegmentSize)
	}
	return sys.Timeline, sys.Flushed.Segment(inc.SegmentSize)
}

// keepHistories stores the history files of the server's timelines, which recovery needs.
func (a *attempt) keepHistories(ctx context.Context) error {
	if a.sys.Timeline == 1 {
		return nil
	}
	have, err := a.r.repo.Histories(ctx, a.r.env.Name, a.pos.inc.ID)
	if err != nil {
		return err
	}
	history, err := a.history(ctx)
	if err != nil {
		return err
	}
	want := []sandglass.TimelineID{a.sys.Timeline}
	for _, e := range history {
		want = append(want, e.Timeline)
	}
	for _, tli := range want {
		if tli == 1 || slices.Contains(have, tli) {
			continue
		}
		content, err := a.conn.TimelineHistory(ctx, tli)
		if err != nil {
			if tli != a.sys.Timeline {
				continue // an ancestor's file may be gone; the tip's names all of them
			}
			return err
		}
		if err := a.r.repo.PutHistory(ctx, a.r.env.Name, a.pos.inc.ID, tli, []byte(content)); err != nil {
			return fmt.Errorf("keep timeline history: %w", err)
		}
	}
	return nil
}

func (a *attempt) history(ctx context.Context) (sandglass.History, error) {
	if a.sys.Timeline == 1 {
		return nil, nil
	}
	content, err := a.conn.TimelineHistory(ctx, a.sys.Timeline)
	if err != nil {
		return nil, err
	}
	return sandglass.ParseHistory(content)
}

// followTimeline checks that the server's timeline goes on from what is held, and goes to
// the next one where the held one is complete.
func (a *attempt) followTimeline(ctx context.Context) error {
	p := &a.pos
	if a.sys.Timeline == p.tli {
		if held := max(p.durable, p.image.Redo, p.start(p.first)); a.sys.Flushed < held {
			return a.end(ctx, CodeWentBack, "The server has gone back in its history: its WAL ends at %s, while WAL up to %s was recorded.", a.sys.Flushed, held)
		}
		return nil
	}
	if a.sys.Timeline < p.tli {
		return a.end(ctx, CodeWentBack, "The server has gone back in its history: it is on timeline %d, while timeline %d was recorded.", a.sys.Timeline, p.tli)
	}
	history, err := a.history(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(history, func(e sandglass.HistoryEntry) bool { return e.Timeline == p.tli })
	if i < 0 || history[i].Switch < p.durable {
		return a.end(ctx, sandglass.CodeHistoryForked, "The server is on timeline %d, which does not go on from timeline %d at %s.", a.sys.Timeline, p.tli, p.durable)
	}
	if history[i].Switch == p.durable {
		next := a.sys.Timeline
		if i+1 < len(history) {
			next = history[i+1].Timeline
		}
		a.next(next, history[i].Switch)
	}
	return nil
}

// next goes to the next timeline. Its first segment repeats the WAL before the switch, under a new name.
func (a *attempt) next(tli sandglass.TimelineID, at sandglass.LSN) {
	seg := at.Segment(a.pos.inc.SegmentSize)
	a.r.log.Info("the server's timeline has changed", "from", a.pos.tli, "to", tli, "at", at)
	a.pos = position{inc: a.pos.inc, image: a.pos.image, tli: tli, first: seg, whole: seg}
}

// secureSlot makes sure that there is a slot which keeps what is not recorded yet.
func (a *attempt) secureSlot(ctx context.Context) error {
	r, slot := a.r, a.r.status.Slot
	held := a.pos.durable
	if most := int64(r.env.Recording.MaxSlotWAL); most > 0 && held > 0 && int64(a.sys.Flushed)-int64(held) > most {
		return a.giveUp(ctx)
	}
	if s := a.facts.Slot; s != nil {
		if s.WALStatus != "lost" {
			return nil
		}
		if err := a.conn.DropSlot(ctx, slot); err != nil {
			return err
		}
		if held > 0 {
			return a.lost(ctx, sandglass.CodeSlotLost, "Production has removed WAL that was not recorded yet: the slot was further behind than max_slot_wal_keep_size allows.")
		}
	}
	if _, err := a.conn.CreateSlot(ctx, slot); err != nil {
		return err
	}
	if held > 0 {
		a.recreated = true
		r.log.Warn("the replication slot was gone; a new one was made", "slot", slot)
		r.update(func() {
			r.status.LastError = &sandglass.Error{Code: sandglass.CodeSlotMissing, Op: "continue recording",
				Message: fmt.Sprintf("Replication slot %q was gone; a new one was made.", slot),
				Remedy:  "Find out who dropped it: without the slot, production removes WAL that is not recorded yet."}
		})
	}
	return nil
}

// lost ends the incarnation because WAL is gone. If that voids an image in the making, the next waits for a while.
func (a *attempt) lost(ctx context.Context, code sandglass.Code, why string) error {
	r := a.r
	r.mu.Lock()
	void := r.status.Image != nil || a.pos.image.ID == ""
	r.mu.Unlock()
	if err := a.end(ctx, code, "%s", why); !void || !errors.Is(err, errAgain) {
		return err
	}
	r.update(func() { r.voided++ })
	return &sandglass.Error{Code: CodeSlotSmall, Op: "take image", Err: errVoided,
		Message: fmt.Sprintf("Production removed WAL while an image was being made: it keeps %s for the recorder (max_slot_wal_keep_size), which was not enough. The next image begins in %s.",
			sandglass.Bytes(a.facts.MaxSlotWALKeep), r.voidedPause()),
		Remedy: "Set max_slot_wal_keep_size on production to more than it writes while an image is made, for example 64GB, and reload it."}
}

// giveUp drops the slot because production keeps more for us than was allowed.
func (a *attempt) giveUp(ctx context.Context) error {
	r := a.r
	a.conn.Abort() // a slot in use can't be dropped
	if err := dropSlot(ctx, a.target, r.status.Slot); err != nil && sandglass.CodeOf(err) != sandglass.CodeSlotMissing {
		return err
	}
	return a.end(ctx, CodeSlotGiven, "The recorder was more than %s behind (max_slot_wal), so production was let go of the WAL.", r.env.Recording.MaxSlotWAL)
}

// judge decides what the end of the stream means.
func (a *attempt) judge(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	switch code := sandglass.CodeOf(err); {
	case errors.Is(err, errGiveUp):
		return a.giveUp(ctx)
	case code == sandglass.CodeHistoryForked:
		return a.end(ctx, code, "The server's WAL differs from what was recorded before: its history has forked.")
	case code == sandglass.CodeSlotLost:
		a.conn.Abort()
		if err := dropSlot(ctx, a.target, a.r.status.Slot); err != nil && sandglass.CodeOf(err) != sandglass.CodeSlotMissing {
			return err
		}
		if a.recreated {
			return a.end(ctx, sandglass.CodeSlotMissing, "The replication slot was dropped, and production has removed WAL that was not recorded yet.")
		}
		return a.lost(ctx, code, "Production has removed WAL that was not recorded yet.")
	}
	return err
}

// DropSlot ends production's keeping of WAL for an environment's recorder, which must have
// ended. A slot that does not exist is no error; for any other, the remedy says how to do it by hand.
func DropSlot(ctx context.Context, env sandglass.Environment) error {
	return New(Config{Environment: env}).DropSlot(ctx)
}

// DropSlot is as the function, for the server that this recorder follows.
func (r *Recorder) DropSlot(ctx context.Context) error {
	slot := r.status.Slot
	t, err := targetOf(r.env, r.target)
	if err == nil {
		err = dropSlot(ctx, t, slot)
	}
	if err == nil || sandglass.CodeOf(err) == sandglass.CodeSlotMissing {
		return nil
	}
	e := *sandglass.AsError(err)
	e.Op, e.Err = "drop slot", err
	e.Message = fmt.Sprintf("Replication slot %q could not be dropped: %s", slot, e.Message)
	e.Remedy = fmt.Sprintf("Run this on the server, or its disk may fill with WAL kept for the recorder: SELECT pg_drop_replication_slot('%s');", slot)
	return &e
}

// dropSlot drops a slot over a connection of its own. A connection that has just ended may
// hold it a moment longer.
func dropSlot(ctx context.Context, t pg.Target, slot string) error {
	c, err := pg.Connect(ctx, t)
	if err != nil {
		return err
	}
	defer c.Close()
	for begun := time.Now(); ; {
		err := c.DropSlot(ctx, slot)
		if sandglass.CodeOf(err) != sandglass.CodeSlotTaken || time.Since(begun) > 5*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
