package sandglass

import "time"

// VolumeState is the state of a volume.
type VolumeState string

// The states: staging is private to an operation, current is the sandbox's own, kept is a state to go back to.
const (
	VolumeStaging VolumeState = "staging"
	VolumeCurrent VolumeState = "current"
	VolumeKept    VolumeState = "kept"
	VolumeGone    VolumeState = "gone"
)

// Volume is a writable private copy of an image on a host.
type Volume struct {
	ID          string      `json:"id"`
	Environment string      `json:"environment"`
	Operation   string      `json:"operation,omitempty"` // that made it
	State       VolumeState `json:"state"`
	Driver      string      `json:"driver"`
	Path        string      `json:"path"`
	Major       int         `json:"major"`
	Bytes       int64       `json:"bytes"`
	Created     time.Time   `json:"created"`
	KeptSince   time.Time   `json:"kept_since,omitzero"`
	KeptUntil   time.Time   `json:"kept_until,omitzero"`
	// Moment is what the volume was made from, for people.
	Moment string `json:"moment,omitempty"`
}
