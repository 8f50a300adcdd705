// What a step is given: the operation, its log, its progress, its memory.

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sandglass"
	"sandglass/internal/db"
)

// Run is what a step is given.
type Run struct {
	// Operation is as it was when this attempt began, Request what was asked for.
	Operation sandglass.Operation
	Request   sandglass.Request
	Step      string
	Attempt   int // grows with each beginning of the step or of its undo
	// Log goes to the main log and to STEP.log in Dir.
	Log *slog.Logger
	// Dir is the operation's own folder; files that a step puts there are part of its logs.
	Dir string
	// DB is for rows that must commit with the step's own work.
	DB *db.DB

	file *os.File

	mu       sync.Mutex
	memory   json.RawMessage
	progress chan sandglass.Progress
	closing  chan struct{}
	writer   sync.WaitGroup
}

// progressEvery is the least time between two writes of progress.
const progressEvery = 200 * time.Millisecond

// Load gives what the operation's steps remembered last; the zero value before the first Save.
func Load[T any](r *Run) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var v T
	if len(r.memory) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(r.memory, &v); err != nil {
		return v, fmt.Errorf("read memory of operation %s: %w", r.Operation.ID, err)
	}
	return v, nil
}

// Save remembers v for the later steps, the undos and Finished of this operation; it is durable
// when Save returns.
func (r *Run) Save(ctx context.Context, v any) error { return r.save(ctx, r.DB.Queries, v) }

// SaveTx is Save in a transaction of r.DB, which must then be committed.
func (r *Run) SaveTx(ctx context.Context, tx *db.Tx, v any) error { return r.save(ctx, tx.Queries, v) }

func (r *Run) save(ctx context.Context, q db.Queries, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write memory of operation %s: %w", r.Operation.ID, err)
	}
	if err := q.SetMemory(ctx, r.Operation.ID, r.Step, r.Attempt, text); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memory = text
	return nil
}

// SetPlan keeps the plan with the operation.
func (r *Run) SetPlan(ctx context.Context, plan *sandglass.Plan) error {
	if err := r.DB.SetPlan(ctx, r.Operation.ID, plan); err != nil {
		return err
	}
	r.Operation.Plan = plan
	return nil
}

// SetResult keeps v, as JSON, as what the operation gives to people.
func (r *Run) SetResult(ctx context.Context, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write result of operation %s: %w", r.Operation.ID, err)
	}
	if err := r.DB.SetResult(ctx, r.Operation.ID, text); err != nil {
		return err
	}
	r.Operation.Result = text
	return nil
}

// Progress shows how far the step is. It never waits: the newest is written, a few times a second.
func (r *Run) Progress(p sandglass.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress == nil {
		return
	}
	select {
	case <-r.progress: // an older one that was not written yet
	default:
	}
	r.progress <- p
}

// newRun opens the step's log and begins to write progress; close ends both. A log that can't
// be opened (a full disk) is no reason not to do the step, and least of all not to undo it.
func (e *Engine) newRun(ctx context.Context, o db.Operation, step string, attempt int) *Run {
	r := &Run{Operation: o.Operation, Request: o.Request, Step: step, Attempt: attempt, Dir: filepath.Join(e.Dir, o.ID), DB: e.DB, memory: o.Memory}
	r.Log = e.Log.With("operation", o.ID, "step", step)
	err := os.MkdirAll(r.Dir, 0o700)
	if err == nil {
		r.file, err = os.OpenFile(filepath.Join(r.Dir, step+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err == nil {
		r.Log = slog.New(slog.NewMultiHandler(r.Log.Handler(), slog.NewTextHandler(r.file, &slog.HandlerOptions{Level: slog.LevelDebug})))
	} else {
		r.Log.Warn("the step has no log file of its own", "error", err)
	}
	r.progress, r.closing = make(chan sandglass.Progress, 1), make(chan struct{})
	progress := r.progress
	r.writer.Go(func() { r.writeProgress(ctx, progress) })
	return r
}

// writeProgress writes what comes, waiting a little after each; when the run is closed, the last one at once.
func (r *Run) writeProgress(ctx context.Context, progress <-chan sandglass.Progress) {
	for p := range progress {
		if err := r.DB.SetProgress(ctx, r.Operation.ID, r.Step, r.Attempt, p); err != nil && ctx.Err() == nil {
			r.Log.Warn("progress could not be written", "error", err)
		}
		select {
		case <-time.After(progressEvery):
		case <-r.closing:
		}
	}
}

// close writes the last progress and closes the log.
func (r *Run) close() {
	r.mu.Lock()
	close(r.progress)
	close(r.closing)
	r.progress = nil
	r.mu.Unlock()
	r.writer.Wait()
	if r.file != nil {
		r.file.Close()
	}
}
