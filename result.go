package sandglass

import "time"

// Result is what a finished restore, refresh or undo left, in Operation.Result.
type Result struct {
	Moment string `json:"moment,omitempty"` // what the target now shows, for people
	Volume string `json:"volume,omitempty"` // now current
	Kept   string `json:"kept,omitempty"`   // the state before, for undo; "" when the target was empty
	// KeptUntil is when the state before goes away by itself.
	KeptUntil time.Time `json:"kept_until,omitzero"`
	// UnreachableSeconds is from the closing of the old server to the opening of the new one.
	UnreachableSeconds float64 `json:"unreachable_seconds"`
	Held               bool    `json:"held,omitempty"` // open to the administrator only, until `sandglass release`
	// Rules is what the policy did; NotReapplied what of the sandbox could not be given to the copy.
	Rules []PlanLine `json:"rules,omitempty"`
	// Carried is what stayed the target's own: rows of its own that the copy has in the place of production's.
	Carried      []PlanLine `json:"carried,omitempty"`
	NotReapplied []string   `json:"not_reapplied,omitempty"`
	Findings     []Finding  `json:"findings,omitempty"`
	// Checklist is what the packs leave for people to do.
	Checklist []string `json:"checklist,omitempty"`
}
