package repo

// This file reads images: their facts, their files, single files.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"

	"sandglass"
)

// Images are the images of an incarnation, oldest first. When a manifest is damaged, the others are returned
// together with the error that names it.
func (r *Repository) Images(ctx context.Context, env string, inc sandglass.IncarnationID) ([]sandglass.Image, error) {
	var out []sandglass.Image
	var damage error
	for obj, err := range r.store.List(ctx, prefixOf(env, inc)+"image/", "") {
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		facts, err := r.facts(ctx, obj.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned since
		}
		if sandglass.CodeOf(err) == sandglass.CodeRepositoryDamaged {
			damage = err
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, facts)
	}
	slices.SortStableFunc(out, func(a, b sandglass.Image) int { return cmp.Or(a.Ended.Compare(b.Ended), cmp.Compare(a.ID, b.ID)) })
	return out, damage
}

// facts are those of a manifest; they never change, so they are kept in memory.
func (r *Repository) facts(ctx context.Context, key string) (sandglass.Image, error) {
	r.mu.Lock()
	facts, ok := r.images[key]
	r.mu.Unlock()
	if ok {
		return facts, nil
	}
	m, err := r.manifest(ctx, key, &window{})
	if err != nil {
		return facts, err
	}
	r.mu.Lock()
	if len(r.images) > 4096 {
		clear(r.images)
	}
	r.images[key] = m.facts
	r.mu.Unlock()
	return m.facts, nil
}

func (r *Repository) manifest(ctx context.Context, key string, w *window) (*manifest, error) {
	at, size, err := r.openAt(ctx, key, w)
	if err != nil {
		return nil, err
	}
	m, err := openManifest(at, size-manifestMAC)
	if err != nil {
		return nil, damaged(key, err)
	}
	return m, nil
}

// Image is an image open for reading. It is for one goroutine at a time; Restore uses more of its own.
type Image struct {
	repo *Repository
	ctx  context.Context
	key  string
	env  string
	*manifest
}

// OpenImage opens an image; ctx is for all reading of it.
func (r *Repository) OpenImage(ctx context.Context, env string, inc sandglass.IncarnationID, id sandglass.ImageID) (*Image, error) {
	key := imageKey(env, inc, id)
	m, err := r.manifest(ctx, key, &window{ahead: 128 << 10})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &sandglass.Error{Code: "image.not_found", Op: "open image", Message: fmt.Sprintf("The repository has no image %s of %s.", id, env),
			Remedy: "See `sandglass window` for the images that there are.", Err: err}
	}
	if err == nil {
		err = damaged(key, m.loadBundles())
	}
	if err != nil {
		return nil, err
	}
	return &Image{repo: r, ctx: ctx, key: key, env: env, manifest: m}, nil
}

// Facts are the image's facts.
func (i *Image) Facts() sandglass.Image { return i.facts }

// Bytes is the size of its files, as they will lie in a data folder.
func (i *Image) Bytes() int64 { return i.facts.Bytes }

// Close ends the reading.
func (i *Image) Close() error { return nil }

// Entries are the image's files and folders, as they were stored.
func (i *Image) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range i.entries() {
			if err == nil {
				err = ctx.Err()
			}
			if !yield(e, damaged(i.key, err)) || err != nil {
				return
			}
		}
	}
}

// ReadFile reads a small file as a whole; fs.ErrNotExist when the image has none of that name.
func (i *Image) ReadFile(ctx context.Context, name string) ([]byte, error) {
	e, found, err := i.lookup(name)
	if err != nil {
		return nil, damaged(i.key, err)
	}
	if !found || e.Mode.IsDir() {
		return nil, fmt.Errorf("read %s of the image: %w", name, fs.ErrNotExist)
	}
	if e.Size > 1<<30 {
		return nil, fmt.Errorf("read %s of the image: it has %d bytes", name, e.Size)
	}
	b := make([]byte, e.Size)
	c := newChunkReader(ctx, i)
	defer c.close()
	rr := i.refsOf(e, nil)
	for off := int64(0); off < e.Size; off += chunkSize {
		v, err := rr.read()
		if err != nil {
			return nil, damaged(i.key, err)
		}
		if err := c.read(v, b[off:min(off+chunkSize, e.Size)]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// chunkReader reads chunks from bundles and verifies them. It is for one goroutine.
type chunkReader struct {
	ctx    context.Context
	image  *Image
	window window
	open   []openBundle // most recently used last
	dec    *frameDecoder
	stored []byte
	base   int64 // what stored holds, of which bundle
	of     uint32
}

type openBundle struct {
	number uint32
	at     io.ReaderAt
	size   int64
}

// openBundles is how many bundles a chunkReader keeps open: chunks of an image with ancestors come from several in turn.
const openBundles = 8

func newChunkReader(ctx context.Context, i *Image) *chunkReader {
	return &chunkReader{ctx: ctx, image: i, dec: newFrameDecoder(i.repo)}
}

func (c *chunkReader) close() { c.dec.close() }

func (c *chunkReader) key(bundle uint32) string {
	if bundle == 0 || int(bundle) > len(c.image.bundles) {
		return c.image.key
	}
	return environmentPrefix(c.image.env) + c.image.bundles[bundle-1].name
}

func (c *chunkReader) bundle(n uint32) (openBundle, error) {
	if j := slices.IndexFunc(c.open, func(b openBundle) bool { return b.number == n }); j >= 0 {
		b := c.open[j]
		c.open = append(slices.Delete(c.open, j, j+1), b)
		return b, nil
	}
	if int(n) > len(c.image.bundles) {
		return openBundle{}, damaged(c.image.key, fmt.Errorf("it refers to bundle %d of %d", n, len(c.image.bundles)))
	}
	key := c.key(n)
	at, size, err := c.image.repo.openAt(c.ctx, key, &c.window)
	if errors.Is(err, fs.ErrNotExist) {
		return openBundle{}, missing(key, err)
	}
	if err != nil {
		return openBundle{}, err
	}
	if len(c.open) == openBundles {
		c.open = slices.Delete(c.open, 0, 1)
	}
	b := openBundle{n, at, size}
	c.open = append(c.open, b)
	return b, nil
}

// load fetches a stretch of a bundle's plain text, from which chunk then serves.
func (c *chunkReader) load(n uint32, off, end int64) error {
	b, err := c.bundle(n)
	if err != nil {
		return err
	}
	if off < 0 || end < off || end > b.size || end-off > bundleSize {
		return damaged(c.image.key, fmt.Errorf("it refers to %d to %d of bundle %d of %d bytes", off, end, n, b.size))
	}
	if int64(cap(c.stored)) < end-off {
		c.stored = make([]byte, end-off)
	}
	c.stored, c.base, c.of = c.stored[:end-off], off, n
	// What age reads around it: its chunks of 64 KiB and 16 bytes.
	c.window.ahead = (end-off)/(64<<10)*(64<<10+16) + 2*(64<<10+16)
	if err := fullAt(b.at, c.stored, off); err != nil {
		c.of = 0
		if errors.Is(err, fs.ErrNotExist) {
			return missing(c.key(n), err)
		}
		return damaged(c.key(n), err)
	}
	return nil
}

// chunk decodes a chunk of the loaded stretch into b, whose length is the chunk's.
func (c *chunkReader) chunk(v ref, b []byte) error {
	from := int64(v.off) - c.base
	if c.of != v.bundle || from < 0 || from+int64(v.n) > int64(len(c.stored)) {
		return fmt.Errorf("chunk at %d of bundle %d is not in what was loaded", v.off, v.bundle)
	}
	return damaged(c.key(v.bundle), c.dec.decode(c.stored[from:from+int64(v.n)], b, v.digest))
}

// read reads one chunk.
func (c *chunkReader) read(v ref, b []byte) error {
	if v.bundle == 0 {
		clear(b)
		return nil
	}
	if err := c.load(v.bundle, int64(v.off), int64(v.off)+int64(v.n)); err != nil {
		return err
	}
	return c.chunk(v, b)
}
