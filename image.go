package sandglass

import "time"

// ImageID names an image: a sortable, unique text of lower-case letters, digits and dashes.
type ImageID string

// Image is an immutable, complete physical state of a cluster. It exists once its manifest does.
type Image struct {
	ID          ImageID       `json:"id"`
	Environment string        `json:"environment"`
	Incarnation IncarnationID `json:"incarnation"`
	Parent      ImageID       `json:"parent,omitempty"` // the image whose chunks it shares
	Timeline    TimelineID    `json:"timeline"`
	// Redo is where replay starts. Consistent is the start of the record after which the copy is
	// consistent (XLOG_BACKUP_END, or the shutdown checkpoint of a stopped volume); End is where that record ends.
	Redo       LSN `json:"redo"`
	Consistent LSN `json:"consistent"`
	End        LSN `json:"end"`
	// Began and Ended are by production's clock.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`

	Files       int   `json:"files"`
	Bytes       int64 `json:"bytes"`        // as they lie in a data folder
	StoredBytes int64 `json:"stored_bytes"` // what this image added to the repository
	// Tablespaces maps the OID of each tablespace to its path on production.
	Tablespaces map[string]string `json:"tablespaces,omitempty"`
	// Minimums are from the image's pg_control.
	Minimums Parameters `json:"minimums"`
	// WrongPages says that page checksums of production did not hold, and its pages were copied as they are.
	WrongPages bool `json:"wrong_pages,omitempty"`
	// Preload is production's shared_preload_libraries, as it was.
	Preload string `json:"preload,omitempty"`
	// Databases are the databases in the image with their sizes in bytes, as far as production said.
	Databases map[string]int64 `json:"databases,omitempty"`
	// Address is where production said it was reached, when that was over a network; "" where unknown.
	Address string `json:"address,omitempty"`
	// Settings are production's settings that were not at their default, for the report.
	Settings map[string]string `json:"settings,omitempty"`
}
