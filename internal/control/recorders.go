// The recorders of this host: goroutines that serve owns, each under an advisory lock for its
// environment, so that two control planes never record the same one.

package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/operation"
	"sandglass/internal/pg"
	"sandglass/internal/recorder"
	"sandglass/internal/window"
)

// lookAgain is how often wishes are compared with what runs, when nothing told of a change.
const lookAgain = 5 * time.Second

type recorders struct {
	control *Control
	changed chan struct{}

	mu       sync.Mutex
	sessions map[string]*session
	paused   map[string]bool
	pauses   int // how often Pause was called: what was read of the wishes before is outdated
}

// session is one running recorder.
type session struct {
	recorder *recorder.Recorder
	declared string // the declaration it was started with
	volume   string // of a sandbox: the volume it follows
	stop     context.CancelFunc
	ending   bool // it has been told to stop, and another may follow it once it is done
	done     chan struct{}
}

var _ operation.Recorders = (*recorders)(nil)

func newRecorders(c *Control) *recorders {
	return &recorders{control: c, changed: make(chan struct{}, 1), sessions: map[string]*session{}, paused: map[string]bool{}}
}

// run keeps what runs as it is wished, until ctx ends; then it ends every recorder and waits for it.
func (r *recorders) run(ctx context.Context) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	defer r.stopAll()
	for {
		if err := r.reconcile(ctx); err != nil && ctx.Err() == nil {
			r.control.Log.Error("recorders could not be looked after", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.changed:
		}
	}
}

// wake makes run look now.
func (r *recorders) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// reconcile makes what runs as it is wished. What goes wrong with one environment does not touch another.
func (r *recorders) reconcile(ctx context.Context) error {
	r.mu.Lock()
	seen := r.pauses
	r.mu.Unlock()
	environments, err := r.control.db.Environments(ctx)
	if err != nil {
		return err
	}
	wished := map[string]bool{}
	var errs []error
	for _, e := range environments {
		e.Declaration = e.Declaration.WithDefaults()
		name := e.Declaration.Name
		if wished[name] = r.wished(e); !wished[name] {
			continue
		}
		// In the middle of a swap, what runs stays (until it is paused), but nothing begins: which
		// history the server's WAL belongs to is only known after it.
		swapping, err := r.control.host.Swapping(ctx, name)
		if err == nil && !swapping {
			err = r.ensure(ctx, e, seen)
		}
		if err == nil && !swapping {
			err = r.noteIncarnation(ctx, e)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("start recorder of %s: %w", name, err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, s := range r.sessions {
		if !wished[name] || r.paused[name] {
			s.end()
		}
	}
	return errors.Join(errs...)
}

// end tells the recorder to stop. It is not waited for here: one that is slow to end keeps no other from
// being looked after. The lock of recorders is held.
func (s *session) end() {
	s.ending = true
	s.stop()
}

// wished says whether the environment should be recorded now.
func (r *recorders) wished(e db.Environment) bool {
	if !e.Recording || e.Declaration.Recording == nil {
		return false
	}
	return e.Declaration.Kind == sandglass.Production || e.Volume != "" && e.Server == db.WishRunning
}

// noteIncarnation keeps which incarnation the recorder has begun, so that it goes on with that one
// even when a newer one is being prepared for a cutover.
func (r *recorders) noteIncarnation(ctx context.Context, e db.Environment) error {
	r.mu.Lock()
	s := r.sessions[e.Declaration.Name]
	over := s == nil || s.ending
	r.mu.Unlock()
	if over || s.volume != e.Volume || s.recorder.Status().Incarnation == e.Incarnation {
		return nil
	}
	return r.note(ctx, e.Declaration.Name, s)
}

// note writes down the incarnation of a recorder, if its environment is a sandbox that still shows the volume it follows.
func (r *recorders) note(ctx context.Context, environment string, s *session) error {
	id := s.recorder.Status().Incarnation
	if id == "" || s.volume == "" {
		return nil
	}
	return r.control.db.UpdateEnvironment(ctx, environment, func(now *db.Environment) error {
		if now.Volume == s.volume {
			now.Incarnation = id
		}
		return nil
	})
}

// ensure starts the environment's recorder unless it runs with this very declaration. seen is how
// often recorders had been paused when e was read.
func (r *recorders) ensure(ctx context.Context, e db.Environment, seen int) error {
	name := e.Declaration.Name
	port := 0
	if e.Declaration.Kind == sandglass.Sandbox {
		port = r.control.host.Port(ctx, e)
	}
	declared := fmt.Sprintf("%+v %+v %s %d", *e.Declaration.Recording, e.Declaration.Accept, e.Volume, port)
	r.mu.Lock()
	old := r.sessions[name]
	outdated := r.paused[name] || r.pauses != seen
	if !outdated && old != nil && old.declared != declared {
		old.end()
	}
	r.mu.Unlock()
	if outdated || old != nil { // when the old one has ended, run looks again
		return nil
	}
	config, err := r.config(ctx, e)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &session{recorder: recorder.New(config), declared: declared, volume: e.Volume, stop: stop, done: make(chan struct{})}
	r.mu.Lock()
	if r.paused[name] || r.pauses != seen { // e may be another by now; run looks again
		r.mu.Unlock()
		stop()
		r.wake()
		return nil
	}
	r.sessions[name] = s
	r.mu.Unlock()
	go func() {
		defer close(s.done)
		if err := r.underLock(running, name, s.recorder); err != nil && running.Err() == nil {
			config.Log.Error("the recorder ended", "error", err)
		}
		r.mu.Lock()
		if r.sessions[name] == s {
			delete(r.sessions, name)
		}
		ending := s.ending
		r.mu.Unlock()
		if ending { // another may wait to begin; one that ended by itself is started again at the next look
			r.wake()
		}
	}()
	return nil
}

// config is what the recorder of an environment is told.
func (r *recorders) config(ctx context.Context, e db.Environment) (recorder.Config, error) {
	c := recorder.Config{Environment: e.Declaration, Repository: r.control.repo, Dir: filepath.Join(r.control.State, "recorder", e.Declaration.Name),
		Log: r.control.Log.With("environment", e.Declaration.Name, "part", "recorder")}
	if e.Declaration.Kind == sandglass.Sandbox {
		server, err := r.control.host.Sandbox(ctx, e)
		if err != nil {
			return c, err
		}
		c.Target = &pg.Target{Conninfo: fmt.Sprintf("host='%s' port=%d user=%s", server.Run, server.Port, operation.Role)}
		c.Incarnation = e.Incarnation
	}
	return c, nil
}

// underLock runs a recorder while it holds the environment's advisory lock.
func (r *recorders) underLock(ctx context.Context, name string, rec *recorder.Recorder) error {
	conn, err := r.control.db.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtextextended($1, 0))`, "sandglass recorder "+name); err != nil {
		return fmt.Errorf("lock the recording: %w", err)
	}
	running, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		var err error
		for err == nil { // none comes: it returns when the connection ends
			_, err = db.Await(running, conn)
		}
		stop(fmt.Errorf("lost the lock of the recording: %w", err))
	})
	err = rec.Run(running)
	if running.Err() != nil && ctx.Err() == nil {
		err = context.Cause(running)
	}
	stop(nil)
	watch.Wait()
	return err
}

func (r *recorders) stopAll() {
	r.mu.Lock()
	all := r.sessions
	r.sessions = map[string]*session{}
	r.mu.Unlock()
	for _, s := range all {
		s.stop()
	}
	for _, s := range all {
		<-s.done
	}
}

func (r *recorders) get(name string) *recorder.Recorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[name]; s != nil && !s.ending {
		return s.recorder
	}
	return nil
}

// Live is the newest the environment's recorder knows; nil when it does not record.
func (r *recorders) Live(environment string) window.Live {
	if rec := r.get(environment); rec != nil {
		return rec
	}
	return nil
}

// Pause ends the environment's recorder and waits for it. What it had begun is written down then.
func (r *recorders) Pause(ctx context.Context, environment string) error {
	r.mu.Lock()
	r.paused[environment] = true
	r.pauses++
	s := r.sessions[environment]
	if s != nil {
		s.end()
	}
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	select {
	case <-s.done:
		return r.note(ctx, environment, s)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Resume lets the environment be recorded again.
func (r *recorders) Resume(environment string) {
	r.mu.Lock()
	delete(r.paused, environment)
	r.mu.Unlock()
	r.wake()
}

// status is what the environment's recorder says of itself.
func (r *recorders) status(e db.Environment) *sandglass.RecorderStatus {
	if rec := r.get(e.Declaration.Name); rec != nil {
		s := rec.Status()
		return &s
	}
	if e.Declaration.Kind == sandglass.Sandbox && e.Declaration.Recording == nil {
		return nil
	}
	return &sandglass.RecorderStatus{State: sandglass.RecorderOff}
}
