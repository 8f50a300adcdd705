package sandglass

import "time"

// Request asks for an operation, or for its plan.
type Request struct {
	Kind        OperationKind `json:"kind"`
	Environment string        `json:"environment"`      // the target; for a peek, the source
	Source      string        `json:"source,omitempty"` // default: the target's server.source
	Moment      *Moment       `json:"moment,omitempty"` // default: latest
	Accept      []Code        `json:"accept,omitempty"` // warnings accepted beforehand
	Reason      string        `json:"reason,omitempty"` // kept with the operation; a peek demands one
	TTL         Duration      `json:"ttl,omitempty"`    // of a peek; default one hour
	Volume      string        `json:"volume,omitempty"` // of an undo: the kept state to go back to; default the latest
	New         bool          `json:"new,omitempty"`    // of a start: make a new, empty cluster in an empty sandbox
}

// SandboxState is the state of a sandbox's server.
type SandboxState string

// The states.
const (
	SandboxEmpty   SandboxState = "empty"   // nothing was restored into it yet
	SandboxRunning SandboxState = "running" // open to all
	SandboxHeld    SandboxState = "held"    // open to its administrator until release
	SandboxStopped SandboxState = "stopped" // stopped on purpose
	SandboxDown    SandboxState = "down"    // should run and does not
)

// EnvironmentStatus is an environment with what it is doing now.
type EnvironmentStatus struct {
	Environment
	State        SandboxState    `json:"state,omitempty"`   // of sandboxes
	Address      string          `json:"address,omitempty"` // host:port clients use
	Socket       string          `json:"socket,omitempty"`  // folder of the private Unix socket
	Volume       *Volume         `json:"volume,omitempty"`
	Major        int             `json:"major,omitempty"`
	Operation    string          `json:"operation,omitempty"`     // the unfinished operation on it
	LastRestored string          `json:"last_restored,omitempty"` // the moment it shows, for people
	Recorder     *RecorderStatus `json:"recorder,omitempty"`
}

// RecorderState is what a recorder is doing.
type RecorderState string

// The states of a recorder.
const (
	RecorderOff        RecorderState = "off"        // not asked to record
	RecorderConnecting RecorderState = "connecting" // or waiting to try again, see LastError
	RecorderImaging    RecorderState = "imaging"    // streaming, and taking an image
	RecorderStreaming  RecorderState = "streaming"
	RecorderRefused    RecorderState = "refused" // production must be changed first, see LastError
)

// RecorderStatus is what a recorder knows of itself.
type RecorderStatus struct {
	State       RecorderState `json:"state"`
	Slot        string        `json:"slot,omitempty"`
	Incarnation IncarnationID `json:"incarnation,omitempty"`
	Timeline    TimelineID    `json:"timeline,omitempty"`
	// ServerLSN is production's WAL end when last heard, ReceivedLSN what the spool holds, DurableLSN what the repository holds.
	ServerLSN   LSN       `json:"server_lsn"`
	ReceivedLSN LSN       `json:"received_lsn"`
	DurableLSN  LSN       `json:"durable_lsn"`
	ServerTime  time.Time `json:"server_time,omitzero"` // production's clock when last heard
	LastImage   ImageID   `json:"last_image,omitempty"`
	Image       *Progress `json:"image,omitempty"` // of the image being taken
	LastError   *Error    `json:"last_error,omitempty"`
}

// Connection is how a person reaches a server.
type Connection struct {
	Environment string    `json:"environment"`
	Host        string    `json:"host"` // a name, or the folder of a Unix socket
	Port        int       `json:"port"`
	User        string    `json:"user,omitempty"`
	Database    string    `json:"database,omitempty"`
	Databases   []string  `json:"databases,omitempty"`
	PSQL        []string  `json:"psql"` // the command, argv by argv
	Until       time.Time `json:"until,omitzero"`
}

// PruneItem is one object, or one group of objects, that retention no longer needs.
type PruneItem struct {
	Environment string        `json:"environment"`
	Incarnation IncarnationID `json:"incarnation"`
	Kind        string        `json:"kind"` // image, bundle, wal, index, history, incarnation
	Name        string        `json:"name"`
	Objects     int           `json:"objects"`
	Bytes       int64         `json:"bytes"`
	Why         string        `json:"why"`
}

// PrunePlan is what a prune will remove; it is executed by its ID, once.
type PrunePlan struct {
	ID       string      `json:"id"`
	Made     time.Time   `json:"made"`
	Items    []PruneItem `json:"items"`
	Objects  int         `json:"objects"`
	Bytes    int64       `json:"bytes"`
	Executed bool        `json:"executed"`
	// Left are the environments of which nothing is removed, though retention may allow it, and why: an object that says what is
	// needed is damaged.
	Left map[string]string `json:"left,omitempty"`
}

// Damage is one object of the repository that can't be read as written, and what it costs.
type Damage struct {
	Object  string `json:"object"`
	Problem string `json:"problem"`
	// Costs says in a sentence which moments can no longer be restored.
	Costs string    `json:"costs"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
}

// VerifyReport is the result of reading the repository.
type VerifyReport struct {
	Objects int      `json:"objects"` // read now
	Skipped int      `json:"skipped"` // verified before and unchanged
	Bytes   int64    `json:"bytes"`
	Seconds float64  `json:"seconds"`
	Damaged []Damage `json:"damaged"`
}
