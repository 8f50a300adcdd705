package sandglass

// RuleCheck is what a rule or a question of a pack meets in a live database.
type RuleCheck struct {
	Rule     string `json:"rule"`     // PACK/NAME
	Kind     string `json:"kind"`     // rule, assertion or quiesce
	Database string `json:"database"` // role
	Table    string `json:"table,omitempty"`
	// At is FILE:LINE of what is wrong, or else of the rule.
	At      string `json:"at"`
	Level   Level  `json:"level"` // warning: it has nothing to do here; stop: a restore would fail
	Code    Code   `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	// Rows are those that the rule would touch as it finds them; -1: not counted.
	Rows int64 `json:"rows"`
}
