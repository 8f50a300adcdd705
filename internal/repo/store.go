package repo

// This file says what a Store is: the one seam between the repository and where it is kept.

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"
)

// Object is what a Store knows of an object without opening it.
type Object struct {
	Key     string
	Size    int64
	ModTime time.Time
}

// Store keeps named byte strings. Keys are parts of [A-Za-z0-9._-] joined by slashes; no part
// begins with a dot. Every method may be called from several goroutines.
// The suite in storetest shows what is expected of one.
type Store interface {
	// Put writes an object; when it returns nil the object is durable, and before that nobody
	// sees any of it. With ifAbsent an existing key stays as it is and gives fs.ErrExist.
	Put(ctx context.Context, key string, r io.Reader, ifAbsent bool) error
	// Open reads n bytes from off, fewer at the object's end; n < 0 means to the end. A missing key
	// gives fs.ErrNotExist.
	Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	// Stat gives fs.ErrNotExist for a missing key.
	Stat(ctx context.Context, key string) (Object, error)
	// List gives the objects whose keys begin with prefix and come after the key after ("": all),
	// in the byte order of their keys. It ends at the first error.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	// Delete removes an object; a missing one is no error.
	Delete(ctx context.Context, key string) error
}

// readRange reads exactly len(p) bytes at off.
func readRange(ctx context.Context, s Store, key string, p []byte, off int64) error {
	rc, err := s.Open(ctx, key, off, int64(len(p)))
	if err != nil {
		return err
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, p); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// objectAt is an io.ReaderAt over an object. A read that is not in the window fetches at least
// ahead bytes from there. It is for one goroutine.
type objectAt struct {
	ctx    context.Context // of the reader that owns it
	store  Store
	key    string
	size   int64
	window *window
}

// window is the stretch of an object that was fetched last; several objectAt may share one.
type window struct {
	key   string
	off   int64
	data  []byte
	ahead int64
}

func (o *objectAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= o.size {
		return 0, io.EOF
	}
	w := o.window
	want := min(int64(len(p)), o.size-off)
	if w.key != o.key || off < w.off || off+want > w.off+int64(len(w.data)) {
		n := min(max(want, w.ahead), o.size-off)
		if int64(cap(w.data)) < n {
			w.data = make([]byte, n)
		}
		w.key, w.off, w.data = o.key, off, w.data[:n]
		if err := readRange(o.ctx, o.store, o.key, w.data, off); err != nil {
			w.key, w.data = "", w.data[:0]
			return 0, err
		}
	}
	n := copy(p, w.data[off-w.off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
