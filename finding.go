package sandglass

// Level is how a finding weighs.
type Level string

// The levels. A stop ends an operation; a warning must be accepted beforehand (--accept CODE) or is recorded.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Stop    Level = "stop"
)

// Finding is one answer of preflight or inspect.
type Finding struct {
	Code     Code   `json:"code"`
	Level    Level  `json:"level"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy,omitempty"`
	Accepted bool   `json:"accepted,omitempty"`
}

// PlanLine is one thing the operation will do, or leave out, in people's words.
type PlanLine struct {
	Step    string  `json:"step"` // of what is not copied: the pack that says so
	What    string  `json:"what"`
	Why     string  `json:"why,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
	Rows    int64   `json:"rows,omitempty"`
	Seen    int64   `json:"seen,omitempty"`    // of a result: the rows that the rule's table had before
	Seconds float64 `json:"seconds,omitempty"` // expected, an estimate; of a result: taken
}

// Plan is what an operation will do, made before anything changes.
type Plan struct {
	Moment    Moment     `json:"moment"`
	Range     *Range     `json:"range,omitempty"`
	Findings  []Finding  `json:"findings"`
	Lines     []PlanLine `json:"lines"`
	NotCopied []PlanLine `json:"not_copied"`
	// Databases are source databases with the role and the name they will have; Dropped have no role and go first.
	Databases map[string]string `json:"databases,omitempty"`
	Dropped   []string          `json:"dropped,omitempty"`
	Seconds   float64           `json:"seconds"` // expected in all; an estimate
}

// Stopped says whether any finding ends the operation.
func (p *Plan) Stopped() bool {
	for _, f := range p.Findings {
		if f.Level == Stop {
			return true
		}
	}
	return false
}
