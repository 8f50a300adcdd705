package repo

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"time"

	"sandglass"
)

// Digests are the file table and chunk digests of the last image, in a local file.
type Digests struct{}

func OpenDigests(path string, key []byte) (*Digests, error) { panic("not yet") }
func (d *Digests) Image() sandglass.Image                   { panic("not yet") }
func (d *Digests) Path() string                             { panic("not yet") }
func (d *Digests) Close() error                             { panic("not yet") }

type ImageOptions struct {
	Dir     string   // local folder for the working files and the new Digests (Dir/IMAGEID.manifest)
	Known   *Digests // of the parent; nil: a full image
	Workers int      // 0: number of CPUs
}

type ImageWriter struct{}

// NewImage begins an image. ID, Environment and Incarnation must be set.
func (r *Repository) NewImage(ctx context.Context, image sandglass.Image, o ImageOptions) (*ImageWriter, error) {
	panic("not yet")
}
func (w *ImageWriter) Dir(path string, mode fs.FileMode) error { panic("not yet") }
func (w *ImageWriter) File(ctx context.Context, path string, mode fs.FileMode, mtime time.Time, size int64, r io.Reader) error {
	panic("not yet")
}

// Finish takes the image's facts as known at its end (Files, Bytes, StoredBytes and Parent are filled in), and writes the manifest.
func (w *ImageWriter) Finish(ctx context.Context, image sandglass.Image) (sandglass.Image, *Digests, error) {
	panic("not yet")
}
func (w *ImageWriter) Abort(ctx context.Context) error { panic("not yet") }

func (r *Repository) Images(ctx context.Context, env string, inc sandglass.IncarnationID) ([]sandglass.Image, error) {
	panic("not yet")
} // oldest first

// Entry is a file or folder of an image.
type Entry struct {
	Path  string // below the data folder; tablespaces under pg_tblspc/OID/
	Mode  fs.FileMode
	MTime time.Time
	Size  int64
}

type Image struct{}

func (r *Repository) OpenImage(ctx context.Context, env string, inc sandglass.IncarnationID, id sandglass.ImageID) (*Image, error) {
	panic("not yet")
}
func (i *Image) Facts() sandglass.Image                                    { panic("not yet") }
func (i *Image) Bytes() int64                                              { panic("not yet") }
func (i *Image) Entries(ctx context.Context) iter.Seq2[Entry, error]       { panic("not yet") }
func (i *Image) ReadFile(ctx context.Context, name string) ([]byte, error) { panic("not yet") }
func (i *Image) Restore(ctx context.Context, root string, tablespace func(oid string) string, progress func(doneBytes int64)) error {
	panic("not yet")
}
func (i *Image) Close() error { panic("not yet") }

// PlanPrune plans what retention no longer needs and keeps the plan in the repository, to be executed by its ID.
// retention gives a negative duration for "keep everything" (an unknown environment).
func (r *Repository) PlanPrune(ctx context.Context, retention func(env string) time.Duration, now time.Time) (*sandglass.PrunePlan, error) {
	panic("not yet")
}
func (r *Repository) PrunePlan(ctx context.Context, id string) (*sandglass.PrunePlan, error) {
	panic("not yet")
}
func (r *Repository) ExecutePrune(ctx context.Context, id string, progress func(sandglass.Progress)) (*sandglass.PrunePlan, error) {
	panic("not yet")
}

type VerifyOptions struct {
	State       string // file that remembers what was verified; "": read everything
	Environment string // "": all
	Again       bool   // read also what was verified before
}

func (r *Repository) Verify(ctx context.Context, o VerifyOptions, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
	panic("not yet")
}
