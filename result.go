package sandglass

import "time"

// Result is what a finished restore, refresh or undo left, in Operation.Result.
type Result struct {
	// Moment is what the target now shows, for people; CommitTime the time of its last commit.
	Moment     string    `json:"moment,omitempty"`
	CommitTime time.Time `json:"commit_time,omitzero"`
	// ReachedLSN is where recovery ended, inside the plan's range.
	ReachedLSN LSN `json:"reached_lsn,omitempty"`
	// Unreachable is how long clients could not connect to the target, in seconds.
	Unreachable float64 `json:"unreachable_seconds"`
	// Kept is the volume to go back to with undo, and until when; "" when the target was empty before.
	Kept      string    `json:"kept,omitempty"`
	UndoUntil time.Time `json:"undo_until,omitzero"`
	// Held says that only the administrator may connect until `sandglass release`.
	Held bool `json:"held,omitempty"`
	// Findings are those of the checks on the recovered copy, and what could not be re-applied.
	Findings []Finding `json:"findings,omitempty"`
}
