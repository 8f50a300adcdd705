package sandglass

import (
	"encoding/json"
	"slices"
	"time"
)

// OperationKind is what a person can ask for.
type OperationKind string

// The kinds of operation.
const (
	KindRestore OperationKind = "restore"
	KindRefresh OperationKind = "refresh"
	KindUndo    OperationKind = "undo"
	KindRelease OperationKind = "release"
	KindPeek    OperationKind = "peek"
	KindStart   OperationKind = "start"
	KindStop    OperationKind = "stop"
)

// State is the state of an operation or of one of its steps.
type State string

// The states. An operation goes queued → running → succeeded, or → undoing → failed or
// cancelled; a step goes pending → running → done, or → failed, and from either → undone.
const (
	Queued    State = "queued"
	Running   State = "running"
	Undoing   State = "undoing"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"

	Pending State = "pending"
	Done    State = "done"
	Undone  State = "undone"
	Skipped State = "skipped"
)

var operationNext = map[State][]State{
	Queued:  {Running, Cancelled},
	Running: {Succeeded, Undoing, Failed, Cancelled},
	Undoing: {Failed, Cancelled},
	Failed:  {Undoing}, // a way back that was given up, taken up again
}

var stepNext = map[State][]State{
	Pending: {Running, Skipped},
	Running: {Done, Failed, Undoing},
	Done:    {Undoing},
	Failed:  {Undoing},
	Undoing: {Undone, Failed},
}

// OperationCanBecome says whether an operation may go from one state to the next.
func OperationCanBecome(from, to State) bool { return slices.Contains(operationNext[from], to) }

// StepCanBecome says whether a step may go from one state to the next.
func StepCanBecome(from, to State) bool { return slices.Contains(stepNext[from], to) }

// Finished says whether nothing more will happen to an operation in this state.
func (s State) Finished() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Progress is how far a step is. Total zero means: not known.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Unit  string `json:"unit"` // "bytes", "rows", "rules", ...
	Note  string `json:"note,omitempty"`
	// ETA is the expected time left in seconds; negative when not known.
	ETA float64 `json:"eta"`
}

// Step is one crash-safe act of an operation.
type Step struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	Attempt  int       `json:"attempt"`
	Progress *Progress `json:"progress,omitempty"`
	Began    time.Time `json:"began,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Error    *Error    `json:"error,omitempty"`
}

// Operation is a durable piece of work asked for by a person.
type Operation struct {
	ID          string          `json:"id"`
	Kind        OperationKind   `json:"kind"`
	Environment string          `json:"environment"` // the target
	Source      string          `json:"source,omitempty"`
	State       State           `json:"state"`
	AskedBy     string          `json:"asked_by"`
	Reason      string          `json:"reason,omitempty"`
	Request     *Request        `json:"request,omitempty"` // all that was asked for
	Created     time.Time       `json:"created"`
	Began       time.Time       `json:"began,omitzero"`
	Ended       time.Time       `json:"ended,omitzero"`
	Version     int64           `json:"version"` // grows with every change, for waiting
	Cancelling  bool            `json:"cancelling,omitempty"`
	Steps       []Step          `json:"steps"`
	Plan        *Plan           `json:"plan,omitempty"`
	Error       *Error          `json:"error,omitempty"`
	Result      json.RawMessage `json:"result,omitempty"`
}
