// Package volume keeps writable private copies of images on a host.
package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"

	"sandglass"
)

// Source is an image to make a volume of.
type Source interface {
	// Bytes is the size of the image's files.
	Bytes() int64
	// Restore writes the image's files under root, those of a tablespace under tablespace(OID).
	Restore(ctx context.Context, root string, tablespace func(oid string) string, progress func(doneBytes int64)) error
}

// Driver makes and destroys volumes. All methods may be repeated, and called at once for different volumes.
type Driver interface {
	// Name is the driver's name, as volumes record it.
	Name() string
	// Create makes a volume of an image, all of it the owner's, whole and durable when it returns. A half-made one is made
	// anew, a complete one left as it is. A failure leaves nothing behind.
	Create(ctx context.Context, id string, o Owner, s Source, progress func(doneBytes int64)) error
	// CreateEmpty makes a volume with an empty data folder, for a new cluster. A complete one is left as it is.
	CreateEmpty(ctx context.Context, id string, o Owner) error
	// Layout is where a volume's parts are, whether it is there or not.
	Layout(id string) Layout
	// Complete says whether the volume is there and whole.
	Complete(ctx context.Context, id string) (bool, error)
	// Destroy removes a volume, whole or not. It refuses while a server runs on it (CodeVolumeInUse).
	Destroy(ctx context.Context, id string) error
	// Usage is the space the volume takes on the disk, in bytes; CodeVolumeUnknown where there is none.
	Usage(ctx context.Context, id string) (int64, error)
	// List gives the IDs of all volumes, half-made ones included, sorted.
	List(ctx context.Context) ([]string, error)
	// Free is the space left for volumes, in bytes.
	Free(ctx context.Context) (int64, error)
}

// Owner is the user and the group that a volume's files belong to: those of its servers.
type Owner struct{ UID, GID int }

// Layout is where a volume's parts are.
type Layout struct {
	Root        string // the volume
	Data        string // data folder
	Tablespaces string // the tablespaces, by OID
	Run         string // private socket, generated configuration
	Log         string // logs
}

func layout(dir, id string) Layout {
	root := filepath.Join(dir, id)
	return Layout{Root: root, Data: filepath.Join(root, "data"), Tablespaces: filepath.Join(root, "tablespaces"),
		Run: filepath.Join(root, "run"), Log: filepath.Join(root, "log")}
}

// volumeID is what a volume may be called: it becomes a folder.
var volumeID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func checkID(id string) error {
	if volumeID.MatchString(id) {
		return nil
	}
	return &sandglass.Error{Code: sandglass.CodeVolumeUnknown, Op: "find volume",
		Message: fmt.Sprintf("%q is not the name of a volume.", id), Remedy: "`sandglass volume ls` shows the volumes."}
}
