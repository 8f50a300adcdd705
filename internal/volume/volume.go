// Package volume keeps writable private copies of images on a host.
package volume

import (
	"context"
	"log/slog"
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
	// Create makes a volume of an image; a half-made one is made anew, a complete one left as it is.
	Create(ctx context.Context, id string, s Source, progress func(doneBytes int64)) error
	// CreateEmpty makes a volume with an empty data folder, for a new cluster.
	CreateEmpty(ctx context.Context, id string) error
	// Layout is where a volume's parts are.
	Layout(id string) Layout
	// Complete says whether the volume is there and whole.
	Complete(ctx context.Context, id string) (bool, error)
	// Destroy removes a volume, whole or not; it refuses while a process works in it.
	Destroy(ctx context.Context, id string) error
	// Usage is the space the volume takes, in bytes.
	Usage(ctx context.Context, id string) (int64, error)
	// List gives the IDs of all volumes, half-made ones included.
	List(ctx context.Context) ([]string, error)
	// Free is the space left for volumes, in bytes.
	Free(ctx context.Context) (int64, error)
}

// Layout is where a volume's parts are.
type Layout struct {
	Root, Data, Tablespaces, Run, Log string
}

// Full is the driver of plain copies.
type Full struct{}

var _ Driver = (*Full)(nil)

// NewFull keeps volumes in dir, for servers that run as uid and gid.
func NewFull(dir string, uid, gid int, log *slog.Logger) *Full { return &Full{} }

func (f *Full) Name() string { return "full" }
func (f *Full) Create(ctx context.Context, id string, s Source, progress func(doneBytes int64)) error {
	return nil
}
func (f *Full) CreateEmpty(ctx context.Context, id string) error      { return nil }
func (f *Full) Layout(id string) Layout                               { return Layout{} }
func (f *Full) Complete(ctx context.Context, id string) (bool, error) { return false, nil }
func (f *Full) Destroy(ctx context.Context, id string) error          { return nil }
func (f *Full) Usage(ctx context.Context, id string) (int64, error)   { return 0, nil }
func (f *Full) List(ctx context.Context) ([]string, error)            { return nil, nil }
func (f *Full) Free(ctx context.Context) (int64, error)               { return 0, nil }
