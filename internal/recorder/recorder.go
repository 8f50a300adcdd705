// Package recorder follows one environment: it streams its WAL into the repository, indexes
// it on the way, and takes base images.
//
// WAL goes to a spool on local disk first, then to the repository: whole segments as they
// are finished, the unfinished one about every second or when the server asks for an
// answer. Only what the repository holds is acknowledged as flushed, so production's slot
// keeps everything else. After a crash the recorder finds its place from the repository
// alone; the spool saves it from asking for WAL again.
//
// The goroutines, each waited for by its owner:
//
//	Run         connects, decides where to go on, waits before it tries again
//	  follow    receive: stream to spool and index; store: spool to repository; watch:
//	            statuses, keepalives, and the end of a connection that makes no progress
//	  images    takes an image when one is due, over a connection of its own, also across
//	            reconnects of the stream
package recorder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/repo"
)

// Codes that only the recorder gives.
const (
	CodeStuck      sandglass.Code = "recorder.no_progress"
	CodeStandby    sandglass.Code = "production.is_standby"
	CodeSlotGiven  sandglass.Code = "slot.given_up"
	CodeWentBack   sandglass.Code = "history.went_back"
	CodeReplaced   sandglass.Code = "history.other_system"
	CodeNotShown   sandglass.Code = "history.not_shown"
	CodePageWrites sandglass.Code = "production.full_page_writes_off"
	CodeVoid       sandglass.Code = "image.void"
	CodeSlotSmall  sandglass.Code = "production.slot_cap_small"
)

// Config is what a recorder works on.
type Config struct {
	Environment sandglass.Environment
	Repository  *repo.Repository
	// Dir is the recorder's own folder: spool, and the digests of the last image.
	Dir string
	Log *slog.Logger
	// Target overrides the environment's connection: the private way into a sandbox's server.
	Target *pg.Target
	// Incarnation is the one to go on with; empty: the newest that has not ended, or a new one.
	Incarnation sandglass.IncarnationID
	// LookEvery is how often the server's settings are looked at while it is recorded; default: a minute.
	LookEvery time.Duration
}

// Limits of a recorder.
const (
	flushEvery   = time.Second      // between two parts of an unfinished segment
	stuckAfter   = 10 * time.Second // without progress: disconnect
	silentAfter  = 30 * time.Second // without a word from the server: disconnect
	lookEvery    = time.Minute      // between two looks at the server's settings
	idlePart     = time.Minute      // between two parts that hold keepalives only
	maxBacklog   = 32 << 20         // bytes received and not yet in the repository
	maxPart      = 8 << 20          // bytes in one part
	compactAfter = 60               // parts of a segment, before they are made one
	retryFirst   = 500 * time.Millisecond
	retryMost    = 5 * time.Second
	imageRetry   = 30 * time.Second
	voidedFirst  = 30 * time.Second // after production removed the WAL of an image that was being made,
	voidedMost   = 10 * time.Minute // doubled each time it happens again
	leastCap     = 4                // segments that max_slot_wal_keep_size must leave us
)

// Recorder follows one environment.
type Recorder struct {
	env    sandglass.Environment
	repo   *repo.Repository
	dir    string
	log    *slog.Logger
	target *pg.Target
	want   sandglass.IncarnationID
	look   time.Duration
	soon   chan struct{} // wakes store: wanted has changed

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change that somebody may wait for
	wanted  sandglass.LSN // somebody waits until WAL up to here is durable, so it is stored at once
	status  sandglass.RecorderStatus
	inc     sandglass.Incarnation
	begin   sandglass.LSN // where the incarnation's WAL begins, for MaxSlotWAL before the first part
	said    time.Time     // production's clock when last heard, and
	heard   time.Time     // our clock then
	live    *indexing     // of the stream; nil while there is none
	last    sandglass.Image
	ask     int // images asked for by TakeImage
	taken   int // images begun after that many were asked for
	failed  error
	voided  int           // images in a row whose WAL production removed while they were being made
	spaces  sandglass.LSN // of the newest tablespace created or dropped in this incarnation
}

// New makes a recorder; Run makes it work.
func New(c Config) *Recorder {
	env := c.Environment
	if env.Recording == nil {
		env.Recording = &sandglass.Recording{}
	}
	env = env.WithDefaults()
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Recorder{env: env, repo: c.Repository, dir: c.Dir, log: log.With("environment", env.Name), target: c.Target,
		want: c.Incarnation, look: cmp.Or(c.LookEvery, lookEvery), changed: make(chan struct{}), soon: make(chan struct{}, 1),
		status: sandglass.RecorderStatus{State: sandglass.RecorderOff, Slot: env.Recording.Slot}}
}

// Application is the application_name of an environment's recorder, by which a server shows
// that it is being recorded.
func Application(environment string) string { return "sandglass-" + environment }

// targetOf is the way to the environment's server.
func targetOf(env sandglass.Environment, override *pg.Target) (pg.Target, error) {
	t := pg.Target{Application: Application(env.Name)}
	if override != nil {
		t.Conninfo, t.Password = override.Conninfo, override.Password
		return t, nil
	}
	if env.Recording == nil || env.Recording.Connection == "" {
		return t, &sandglass.Error{Code: sandglass.CodeConfig, Op: "find connection", Message: fmt.Sprintf("Environment %q has no recording.connection.", env.Name),
			Remedy: "Declare it and apply the declaration again."}
	}
	t.Conninfo = env.Recording.Connection
	if file := env.Recording.PasswordFile; file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return t, &sandglass.Error{Code: sandglass.CodeProductionPassword, Op: "read password", Err: err,
				Message: fmt.Sprintf("The password file %s can't be read.", file), Remedy: "Put the role's password into it, readable by the user that runs sandglass serve."}
		}
		t.Password = strings.TrimRight(string(b), "\r\n")
	}
	return t, nil
}

// Run records until ctx ends, and then returns nil. It reconnects by itself.
func (r *Recorder) Run(ctx context.Context) error {
	defer r.update(func() { r.status.State, r.live = sandglass.RecorderOff, nil })
	var g errgroup.Group
	g.Go(func() error { r.images(ctx); return nil })
	wait, again := retryFirst, 0
	for ctx.Err() == nil {
		r.update(func() { r.status.State = sandglass.RecorderConnecting })
		began := time.Now()
		err := r.record(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errAgain) && again < 3 {
			again++
			continue
		}
		again = 0
		if time.Since(began) > silentAfter {
			wait = retryFirst
		}
		if !errors.Is(err, errAgain) {
			r.note(err)
		}
		pause := wait
		if errors.Is(err, errVoided) {
			pause = r.voidedPause()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		wait = min(2*wait, retryMost)
	}
	return g.Wait()
}

// errAgain asks Run to connect again at once: a timeline or an incarnation has ended.
var errAgain = errors.New("connect again")

// errVoided means that production removed WAL that an image in the making needs. To try again at once would most likely
// end the same way, at production's expense.
var errVoided = errors.New("the image is void")

// voidedPause is how long to wait before the next image is tried.
func (r *Recorder) voidedPause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(voidedFirst<<max(0, min(r.voided, 10)-1), voidedMost)
}

// note shows and logs why the recorder is not streaming.
func (r *Recorder) note(err error) {
	if err == nil {
		return
	}
	e := shown(err)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		e = &sandglass.Error{Code: CodeStuck, Message: "The server or the repository did not answer in time.", Remedy: "Nothing to do if it passes; the recorder tries again.", Err: err}
	}
	r.update(func() {
		r.status.LastError, r.live = e, nil
		r.status.State = sandglass.RecorderConnecting
		if refused[e.Code] {
			r.status.State = sandglass.RecorderRefused
		}
	})
	r.log.Warn("not recording", "code", e.Code, "error", err)
}

// shown is an error as people may see it. What has no code by now and tells of a full disk
// comes from the repository: the spool's errors have theirs.
func shown(err error) *sandglass.Error {
	if e, ok := errors.AsType[*sandglass.Error](err); ok {
		return e
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &sandglass.Error{Code: sandglass.CodeRepositoryFull, Op: "record", Err: err, Message: "The repository's disk is full.",
			Remedy: "Make room on it, or shorten the retention and run `sandglass repo prune`; recording goes on by itself then."}
	}
	return sandglass.AsError(err)
}

// update changes the state and tells everybody who waits.
func (r *Recorder) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait returns when done says so, which is asked at every change.
func (r *Recorder) wait(ctx context.Context, done func() bool) error {
	for {
		r.mu.Lock()
		ok, changed := done(), r.changed
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// Status is what the recorder knows of itself. ServerTime and ServerLSN belong together: all WAL
// that was on production's disk at that time lies before that position.
func (r *Recorder) Status() sandglass.RecorderStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	if s.Image != nil {
		p := *s.Image
		s.Image = &p
		if s.State == sandglass.RecorderStreaming {
			s.State = sandglass.RecorderImaging
		}
	}
	return s
}

// WaitDurable waits until the repository holds the WAL of the present incarnation up to lsn.
func (r *Recorder) WaitDurable(ctx context.Context, lsn sandglass.LSN) error {
	r.hurry(lsn)
	return r.wait(ctx, func() bool { return r.status.DurableLSN >= lsn })
}

// hurry has WAL up to lsn stored as soon as it is received.
func (r *Recorder) hurry(lsn sandglass.LSN) {
	r.mu.Lock()
	r.wanted = max(r.wanted, lsn)
	r.mu.Unlock()
	wake(r.soon)
}

// serverNow is production's clock, as far as it was heard. Called with the lock held.
func (r *Recorder) serverNow() time.Time {
	if r.said.IsZero() {
		return time.Now().UTC()
	}
	return r.said.Add(time.Since(r.heard))
}

// clock is production's clock.
func (r *Recorder) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.serverNow()
}
