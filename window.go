package sandglass

import "time"

// IncarnationID names a stretch of one environment's history: a sortable, unique text of
// lower-case letters, digits and dashes, chosen when the stretch begins.
type IncarnationID string

// Incarnation is a stretch of one environment's history in the repository. Positions of
// different incarnations can't be compared, even on the same timeline.
type Incarnation struct {
	ID               IncarnationID `json:"id"`
	Environment      string        `json:"environment"`
	SystemIdentifier uint64        `json:"system_identifier,string"`
	Major            int           `json:"major"`        // PostgreSQL major, 14 to 18
	SegmentSize      int64         `json:"segment_size"` // bytes
	Began            time.Time     `json:"began"`
	Ended            time.Time     `json:"ended,omitzero"` // zero while it goes on
	EndReason        string        `json:"end_reason,omitempty"`
}

// Gap is a stretch of time that can't be restored, and why.
type Gap struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Code   Code      `json:"code"`
	Reason string    `json:"reason"`
}

// Beat is a keepalive of production kept as evidence: at Time, by production's clock, its
// WAL ended at LSN.
type Beat struct {
	Time time.Time `json:"time"`
	LSN  LSN       `json:"lsn"`
}

// Window is what can be restored of one environment.
type Window struct {
	Environment  string        `json:"environment"`
	Earliest     time.Time     `json:"earliest,omitzero"` // zero: nothing can be restored yet
	Latest       time.Time     `json:"latest,omitzero"`   // newest settled moment, by production's clock
	EarliestLSN  LSN           `json:"earliest_lsn"`
	LatestLSN    LSN           `json:"latest_lsn"` // end of the WAL held
	Gaps         []Gap         `json:"gaps"`
	Images       []Image       `json:"images"`
	Incarnations []Incarnation `json:"incarnations"`
	// LagBytes and LagSeconds say how far the repository is behind production; -1 when not recording.
	LagBytes   int64   `json:"lag_bytes"`
	LagSeconds float64 `json:"lag_seconds"`
}
