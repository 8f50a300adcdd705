package repo

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"time"

	"filippo.io/age"

	"sandglass"
)

// Object is what a Store knows of an object without opening it.
type Object struct {
	Key     string
	Size    int64
	ModTime time.Time
}

// Store keeps named, immutable byte strings. Keys are slash-separated.
type Store interface {
	// Put writes the object durably before it returns. With ifAbsent an existing key gives fs.ErrExist and stays.
	Put(ctx context.Context, key string, r io.Reader, ifAbsent bool) error
	// Open reads n bytes from off (n < 0: to the end). A missing key gives fs.ErrNotExist.
	Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	Stat(ctx context.Context, key string) (Object, error)
	// List gives all objects whose key begins with prefix, in the byte order of their keys.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
	// Delete removes the object; a missing one is no error.
	Delete(ctx context.Context, key string) error
}

type Folder struct{}

// NewFolder is a Store in a folder; it need not exist yet (the first Put makes it).
func NewFolder(path string) (*Folder, error) { panic("not yet") }

func (f *Folder) Put(ctx context.Context, key string, r io.Reader, ifAbsent bool) error {
	panic("not yet")
}
func (f *Folder) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	panic("not yet")
}
func (f *Folder) Stat(ctx context.Context, key string) (Object, error)             { panic("not yet") }
func (f *Folder) List(ctx context.Context, prefix string) iter.Seq2[Object, error] { panic("not yet") }
func (f *Folder) Delete(ctx context.Context, key string) error                     { panic("not yet") }

// Keys are what a Repository is opened with. DigestKey may be left out where an identity is given.
// Recipients may be left out: then those named in the repository are used.
type Keys struct {
	Recipients []age.Recipient
	Identities []age.Identity
	DigestKey  []byte
}

type CreateOptions struct {
	// Recipients are age recipients in their text form ("age1...").
	Recipients []string
	// Identities let the new Repository be read by this process; may be empty.
	Identities []age.Identity
}

type Repository struct{}

func Create(ctx context.Context, s Store, o CreateOptions) (*Repository, error) { panic("not yet") }
func Open(ctx context.Context, s Store, k Keys) (*Repository, error)            { panic("not yet") }
func (r *Repository) ID() string                                                { panic("not yet") }
func (r *Repository) DigestKey() []byte                                         { panic("not yet") } // for a recorder without an identity

func (r *Repository) BeginIncarnation(ctx context.Context, inc sandglass.Incarnation) error {
	panic("not yet")
}
func (r *Repository) EndIncarnation(ctx context.Context, env string, id sandglass.IncarnationID, at time.Time, reason string) error {
	panic("not yet")
}
func (r *Repository) Incarnations(ctx context.Context, env string) ([]sandglass.Incarnation, error) {
	panic("not yet")
}                                                                        // oldest first
func (r *Repository) Environments(ctx context.Context) ([]string, error) { panic("not yet") }

// Gap is WAL that was never received, and why.
type Gap struct {
	Timeline sandglass.TimelineID `json:"timeline"`
	FromLSN  sandglass.LSN        `json:"from_lsn"`
	ToLSN    sandglass.LSN        `json:"to_lsn"`
	sandglass.Gap
}

func (r *Repository) PutGap(ctx context.Context, env string, inc sandglass.IncarnationID, g Gap) error {
	panic("not yet")
}
func (r *Repository) Gaps(ctx context.Context, env string, inc sandglass.IncarnationID) ([]Gap, error) {
	panic("not yet")
}

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

// Part is a stretch of WAL of an unfinished segment, with the keepalives heard meanwhile. Data may be empty.
// It must lie in one segment.
type Part struct {
	Timeline sandglass.TimelineID
	From     sandglass.LSN
	Data     []byte
	Beats    []sandglass.Beat
}

func (r *Repository) PutPart(ctx context.Context, env string, inc sandglass.IncarnationID, p Part) error {
	panic("not yet")
}

// CompactParts puts p and then removes the parts that it covers: those within [From, From+len(Data)] with no newer beat.
// The recorder calls it now and then with the segment's WAL so far (from its spool), so that a slow or idle stretch makes few objects.
func (r *Repository) CompactParts(ctx context.Context, env string, inc sandglass.IncarnationID, p Part) error {
	panic("not yet")
}

// DropParts removes the parts of a segment that is stored whole; refused when it is not.
func (r *Repository) DropParts(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) error {
	panic("not yet")
}
func (r *Repository) PutSegment(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, data io.ReadSeeker) error {
	panic("not yet")
}
func (r *Repository) PutIndex(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo, index []byte) error {
	panic("not yet")
}
func (r *Repository) Index(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) ([]byte, error) {
	panic("not yet")
}

// OpenWAL gives a segment whole, or assembled from its parts and zero-padded to the segment size; valid is the number of
// bytes from the segment's start that are WAL. fs.ErrNotExist only when it is certain that nothing of it is held.
func (r *Repository) OpenWAL(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) (rc io.ReadCloser, valid int64, err error) {
	panic("not yet")
}

// TailBeats are the keepalives kept in the parts of an unfinished segment, in time order.
func (r *Repository) TailBeats(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) ([]sandglass.Beat, error) {
	panic("not yet")
}

// SegmentInfo is what is held of a segment, known from the names of the objects alone.
type SegmentInfo struct {
	Timeline  sandglass.TimelineID
	Segment   sandglass.SegmentNo
	From, End sandglass.LSN // WAL held without a hole from From up to End
	Whole     bool
	Indexed   bool
	Parts     int   // not yet dropped
	Bytes     int64 // stored
}

// Segments are in order of timeline, then number. Needs no identity.
func (r *Repository) Segments(ctx context.Context, env string, inc sandglass.IncarnationID) iter.Seq2[SegmentInfo, error] {
	panic("not yet")
}

// SegmentsFrom begins at a timeline and segment.
func (r *Repository) SegmentsFrom(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, seg sandglass.SegmentNo) iter.Seq2[SegmentInfo, error] {
	panic("not yet")
}

func (r *Repository) PutHistory(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID, content []byte) error {
	panic("not yet")
}
func (r *Repository) History(ctx context.Context, env string, inc sandglass.IncarnationID, tli sandglass.TimelineID) ([]byte, error) {
	panic("not yet")
} // fs.ErrNotExist
func (r *Repository) Histories(ctx context.Context, env string, inc sandglass.IncarnationID) ([]sandglass.TimelineID, error) {
	panic("not yet")
}

func (r *Repository) PutOperation(ctx context.Context, op sandglass.Operation) error {
	panic("not yet")
}
func (r *Repository) Operations(ctx context.Context) ([]sandglass.Operation, error) { panic("not yet") }
func (r *Repository) PutOperationLog(ctx context.Context, id string, zip io.ReadSeeker) error {
	panic("not yet")
}
func (r *Repository) OperationLog(ctx context.Context, id string) (io.ReadCloser, error) {
	panic("not yet")
}

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
