// Package engine does operations: durable workflows of steps, each of which may be killed at
// any instant and is continued or undone by another process.
//
// Truth is the operation's and its steps' rows in the metadata database. One River job does one
// step, once; the step's new state and the job of the next step commit in one transaction. So
// there is always exactly one job for an unfinished operation, and the rows say what it means.
//
// A host's operations are done by one process, the one that holds the host's advisory lock.
// On taking the lock it makes the jobs that a dead process left running available at once.
// A step begun before asks Done first, and Do and Undo must bear being repeated.
package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"sandglass"
	"sandglass/internal/db"
)

// Codes of the engine's own.
const (
	// CodeTimeout is a step that took longer than it may.
	CodeTimeout sandglass.Code = "operation.step_timeout"
	// CodeUndoFailed is an operation whose way back failed for good; a person must look.
	CodeUndoFailed sandglass.Code = "operation.undo_incomplete"
)

// Workflow is a kind of operation: its steps in order.
type Workflow struct {
	Kind  sandglass.OperationKind
	Steps []Step
	// Shared lets operations of this kind run beside others on the same environment (a peek);
	// without it there is at most one unfinished operation for each environment.
	Shared bool
	// Finished, when set, runs after the operation has succeeded, failed or been cancelled
	// (Run.Operation.State says which), as a durable job: repeated until it returns nil, and
	// never changing the outcome.
	Finished func(ctx context.Context, run *Run) error
}

// DefaultTimeout is the time a step may take when it names none.
const DefaultTimeout = time.Hour

// Step is one crash-safe act. Do and Undo may be killed at any instant and are then called
// again, so both must bear being repeated, and Undo also being called when Do did little or nothing.
type Step struct {
	Name string
	Do   func(ctx context.Context, run *Run) error
	// Undo takes back what Do did. On a failure the failed step and then all earlier ones
	// that are done are undone, last first. Nil: there is nothing to take back.
	Undo func(ctx context.Context, run *Run) error
	// Done says whether it is already so; then Do is not called. Nil: Do is always called.
	Done func(ctx context.Context, run *Run) (bool, error)
	// Timeout bounds each attempt of Do and of Undo; 0 means DefaultTimeout.
	Timeout time.Duration
	// NoReturn says that from the beginning of this step a cancel is refused.
	NoReturn bool
}

// Refused is the error of a step that declined before it changed anything: the operation fails
// and this step is not undone. A sandglass.Error of CodePreflight is treated the same.
type Refused struct{ Err *sandglass.Error }

// Error is the text for logs.
func (r *Refused) Error() string { return r.Err.Error() }

// Unwrap gives the refusal as people see it.
func (r *Refused) Unwrap() error { return r.Err }

// Config is what an Engine needs.
type Config struct {
	DB   *db.DB
	Host string // names the queue and the lock
	Dir  string // where ops/ID folders are made: DIR/ID
	Log  *slog.Logger
	// Workflows are what the engine can do; kinds and the names of a workflow's steps are unique.
	Workflows []Workflow
	// Finished, when set, runs after each operation of any kind, after its workflow's own.
	Finished func(ctx context.Context, run *Run) error

	// UndoTries is how often a failing Undo is tried; 0 means 8. UndoBackoff is the wait after
	// the first failure, doubled each time; 0 means one second.
	UndoTries   int
	UndoBackoff time.Duration
	// Workers is how many operations run side by side; 0 means 8.
	Workers int
}

// Engine starts and does operations.
type Engine struct {
	Config
	queue     string
	workflows map[sandglass.OperationKind]*Workflow
	inserter  *river.Client[pgx.Tx]
}

// New checks the configuration. Operations can be started, read, awaited and cancelled from now
// on; Run does them.
func New(c Config) (*Engine, error) {
	if c.UndoTries == 0 {
		c.UndoTries = 8
	}
	if c.UndoBackoff == 0 {
		c.UndoBackoff = time.Second
	}
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.DB == nil || c.Log == nil || c.Host == "" || c.Dir == "" {
		return nil, errors.New("engine: DB, Host, Dir and Log are needed")
	}
	e := &Engine{Config: c, queue: queueOf(c.Host), workflows: map[sandglass.OperationKind]*Workflow{}}
	for _, w := range c.Workflows {
		if e.workflows[w.Kind] != nil || len(w.Steps) == 0 {
			return nil, fmt.Errorf("engine: workflow %q is there twice or has no steps", w.Kind)
		}
		names := map[string]bool{}
		for _, s := range w.Steps {
			if !stepName.MatchString(s.Name) || s.Name == phaseFinished || names[s.Name] || s.Do == nil || s.Timeout < 0 {
				return nil, fmt.Errorf("engine: step %q of workflow %q has a bad or repeated name, no Do, or a negative timeout", s.Name, w.Kind)
			}
			names[s.Name] = true
		}
		e.workflows[w.Kind] = &w
	}
	inserter, err := river.NewClient(riverpgxv5.New(c.DB.Pool), &river.Config{Schema: db.Schema, Logger: c.Log,
		FetchCooldown: river.FetchCooldownMin, // River also sends no more than one notification of new jobs in this time
	})
	if err != nil {
		return nil, fmt.Errorf("make River client: %w", err)
	}
	e.inserter = inserter
	return e, nil
}

// stepName keeps names fit for log files and job arguments; "finished" is the engine's.
var stepName = regexp.MustCompile(`^[a-z0-9][a-z0-9 _-]{0,62}$`)

var plainQueue = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// queueOf names a host's queue. River allows letters, digits and single dashes, up to 64; a
// host's name that is not like that is shown by its digest.
func queueOf(host string) string {
	if len(host) <= 50 && plainQueue.MatchString(host) {
		return "host-" + host
	}
	sum := sha256.Sum256([]byte(host))
	return "hostid-" + hex.EncodeToString(sum[:16])
}

// step is the definition of a step; the zero Step when this version of Sandglass has none of
// that name (the operation then fails, and what is known of it is undone).
func (e *Engine) step(kind sandglass.OperationKind, name string) Step {
	if w := e.workflows[kind]; w != nil {
		for _, s := range w.Steps {
			if s.Name == name {
				return s
			}
		}
	}
	return Step{}
}
