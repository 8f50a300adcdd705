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
	// Away are the stretches, oldest first, in which the environment showed another state: a
	// sandbox's volume that a cutover put aside goes on with its own incarnation after an undo.
	Away []Absence `json:"away,omitempty"`
}

// Absence is a stretch of time in which an environment showed another state than an incarnation's.
type Absence struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to,omitzero"` // zero while it lasts
	// LSN is where the incarnation's WAL ended when the absence began; zero when that is not known.
	LSN    LSN    `json:"lsn,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Span is the time from From up to, but not including, To; To is zero while it goes on.
type Span struct{ From, To time.Time }

// Shown are the stretches, oldest first, in which the environment showed the incarnation's state;
// none of one that was prepared for a cutover which did not happen (yet).
func (i Incarnation) Shown() []Span {
	var spans []Span
	from, open := i.Began, true
	for _, a := range i.Away {
		if a.From.After(from) {
			spans = append(spans, Span{from, a.From})
		}
		from, open = a.To, !a.To.IsZero()
	}
	if open && (i.Ended.IsZero() || i.Ended.After(from)) {
		spans = append(spans, Span{from, i.Ended})
	}
	return spans
}

// Current says whether the environment shows the incarnation's state now.
func (i Incarnation) Current() bool {
	n := len(i.Away)
	return i.Ended.IsZero() && (n == 0 || !i.Away[n-1].To.IsZero())
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
