package repo

// This file writes images: a pipeline in which the caller reads chunks, workers digest and compress them, and one
// goroutine puts them into bundles in order. Its memory is that of its jobs.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"sandglass"
)

// ImageOptions say how an image is written.
type ImageOptions struct {
	// Dir is the local folder of the working files and of the new Digests, Dir/IMAGEID.manifest.
	Dir string
	// Known are the digests of the image that this one shares chunks with; nil makes a full image. An image of
	// the repository that is gone, or of another environment, is not used.
	Known *Digests
	// Workers digest and compress; 0 means as many as there are processors.
	Workers int
}

// job is a chunk on its way.
type job struct {
	raw   []byte // as read
	known ref    // of the parent, when has is set
	has   bool
	same  bool   // the parent's chunk is this one
	zero  bool   // nothing but zeros
	label []byte // skippable frame
	frame []byte // zstd frame
	sum   digest
	done  chan struct{}
}

// ImageWriter writes one image. Dir, File, Finish and Abort are called from one goroutine at a time.
type ImageWriter struct {
	repo     *Repository
	image    sandglass.Image
	known    *Digests
	manifest *manifestWriter
	bundles  *bundleWriter
	knownRef *refReader
	inherits map[uint32]uint32 // number of a bundle of the parent: its number here
	own      uint32            // number here of our own open bundle

	ctx    context.Context
	cancel context.CancelCauseFunc
	free   chan *job // bounds the memory
	work   chan *job // to the workers
	order  chan *job // to the appender
	wait   sync.WaitGroup

	refs  uint64 // given out
	files int
	bytes int64
	ended bool
}

// NewImage begins an image; its ID, Environment and Incarnation must be set. It is nothing to anybody until
// Finish has returned. ctx is that of the whole image.
func (r *Repository) NewImage(ctx context.Context, image sandglass.Image, o ImageOptions) (*ImageWriter, error) {
	if err := validID("an image", string(image.ID)); err != nil {
		return nil, fmt.Errorf("begin image: %w", err)
	}
	if _, err := r.begun(ctx, image.Environment, image.Incarnation); err != nil {
		return nil, fmt.Errorf("begin image: %w", err)
	}
	known, err := r.usable(ctx, image, o.Known)
	if err != nil {
		return nil, fmt.Errorf("begin image: %w", err)
	}
	mw, err := newManifestWriter(o.Dir, string(image.ID))
	if err != nil {
		return nil, fmt.Errorf("begin image: %w", diskError(o.Dir, err))
	}
	const mostWorkers = 8 // each has four chunks in memory
	workers := o.Workers
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), mostWorkers)
	}
	w := &ImageWriter{repo: r, image: image, known: known, manifest: mw, inherits: map[uint32]uint32{}}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.bundles = newBundleWriter(w.ctx, r, image.Environment, func(n int) string { return bundleName(image.Incarnation, image.ID, n) })
	jobs := 4*workers + 4
	w.free, w.work, w.order = make(chan *job, jobs), make(chan *job, jobs), make(chan *job, jobs)
	for range jobs {
		w.free <- &job{raw: make([]byte, 0, chunkSize), done: make(chan struct{}, 1)}
	}
	for range workers {
		w.wait.Go(w.digestAndCompress)
	}
	w.wait.Go(w.store)
	return w, nil
}

// usable is known, or nil when its image can't be shared with.
func (r *Repository) usable(ctx context.Context, image sandglass.Image, known *Digests) (*Digests, error) {
	if known == nil || known.facts.Environment != image.Environment {
		return nil, nil
	}
	_, err := r.store.Stat(ctx, imageKey(known.facts.Environment, known.facts.Incarnation, known.facts.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return known, err
}

// Dir adds a folder.
func (w *ImageWriter) Dir(path string, mode fs.FileMode) error {
	e := Entry{Path: filepath.ToSlash(filepath.Clean(path)), Mode: mode.Perm() | fs.ModeDir, MTime: w.image.Began}
	if err := w.check(e); err != nil {
		return err
	}
	return diskError(w.manifest.path, w.manifest.entry(e, w.refs))
}

func (w *ImageWriter) check(e Entry) error {
	if !filepath.IsLocal(e.Path) || len(e.Path) > 4096 || e.Size < 0 {
		return fmt.Errorf("%q of %d bytes can't be in an image", e.Path, e.Size)
	}
	return nil
}

// File adds a file of exactly size bytes, read from r.
func (w *ImageWriter) File(ctx context.Context, path string, mode fs.FileMode, mtime time.Time, size int64, r io.Reader) error {
	e := Entry{Path: filepath.ToSlash(filepath.Clean(path)), Mode: mode.Perm(), MTime: mtime, Size: size}
	if err := w.check(e); err != nil {
		return err
	}
	knownLeft := uint64(0)
	if w.known != nil {
		k, found, err := w.known.lookup(e.Path)
		if err != nil {
			return fmt.Errorf("look up %s in the digests: %w", e.Path, err)
		}
		if found && !k.Mode.IsDir() {
			w.knownRef = w.known.refsOf(k, w.knownRef)
			knownLeft = k.chunks()
		}
	}
	if err := w.manifest.entry(e, w.refs); err != nil {
		return diskError(w.manifest.path, err)
	}
	w.refs += e.chunks()
	w.files++
	w.bytes += size
	for left := size; left > 0; {
		var j *job
		select {
		case j = <-w.free:
		case <-ctx.Done():
			return ctx.Err()
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
		j.raw = j.raw[:min(left, chunkSize)]
		if _, err := io.ReadFull(r, j.raw); err != nil {
			err = fmt.Errorf("read %s: %w", path, err)
			w.cancel(err)
			return err
		}
		left -= int64(len(j.raw))
		j.has = false
		if knownLeft > 0 {
			var err error
			if j.known, err = w.knownRef.read(); err != nil {
				err = fmt.Errorf("look up %s in the digests: %w", path, err)
				w.cancel(err)
				return err
			}
			j.has = true
			knownLeft--
		}
		w.work <- j // never blocks: there are no more jobs than its capacity
		w.order <- j
	}
	return nil
}

var zeros [chunkSize]byte

// digestAndCompress is a worker.
func (w *ImageWriter) digestAndCompress() {
	enc := w.repo.codecs.encoder()
	defer w.repo.codecs.doneEncoding(enc)
	dg := newDigester(w.repo.digestKey)
	for j := range w.work {
		j.same, j.zero = false, bytes.Equal(j.raw, zeros[:len(j.raw)])
		if !j.zero {
			j.sum = dg.of(j.raw)
			j.same = j.has && j.known.bundle != 0 && j.known.digest == j.sum
			if !j.same {
				j.frame = enc.EncodeAll(j.raw, j.frame[:0])
				j.label = appendLabel(j.label[:0], j.sum, len(j.raw), len(j.frame))
			}
		}
		j.done <- struct{}{}
	}
}

// store puts the chunks into bundles, and their references into the manifest, in order. After an error it only
// hands the jobs back.
func (w *ImageWriter) store() {
	var scratch []byte
	for j := range w.order {
		<-j.done
		if w.ctx.Err() == nil {
			v, err := w.place(j)
			if err == nil {
				scratch = v.append(scratch[:0])
				w.manifest.head.refs++
				_, err = w.manifest.refs.Write(scratch)
				err = diskError(w.manifest.path, err)
			}
			if err != nil {
				w.cancel(err)
			}
		}
		w.free <- j
	}
}

// place is where a chunk is, or now gets.
func (w *ImageWriter) place(j *job) (ref, error) {
	if j.zero {
		return ref{}, nil
	}
	if j.same {
		n, err := w.inherit(j.known.bundle)
		v := j.known
		v.bundle = n
		return v, err
	}
	off, began, err := w.bundles.add(j.label, j.frame)
	if err != nil {
		return ref{}, err
	}
	if began {
		w.manifest.bundles = append(w.manifest.bundles, bundleInfo{name: w.bundles.name(w.bundles.count)})
		w.own = uint32(len(w.manifest.bundles))
	}
	w.manifest.bundles[w.own-1].size = w.bundles.off
	return ref{digest: j.sum, bundle: w.own, off: uint32(off), n: uint32(len(j.frame))}, nil
}

// inherit is the number here of a bundle of the parent.
func (w *ImageWriter) inherit(bundle uint32) (uint32, error) {
	if n, ok := w.inherits[bundle]; ok {
		return n, nil
	}
	if int(bundle) > len(w.known.bundles) {
		return 0, errors.New("the digests name a bundle that they do not list")
	}
	w.manifest.bundles = append(w.manifest.bundles, w.known.bundles[bundle-1])
	n := uint32(len(w.manifest.bundles))
	w.inherits[bundle] = n
	return n, nil
}

// stop ends the pipeline and waits for it.
func (w *ImageWriter) stop() {
	close(w.work)
	close(w.order)
	w.wait.Wait()
	w.ended = true
}

// Finish takes the image's facts as they are known at its end; ID, environment and incarnation stay, and Parent,
// Files, Bytes and StoredBytes are filled in. When it returns, the image is durable and the new digests are open.
func (w *ImageWriter) Finish(ctx context.Context, facts sandglass.Image) (sandglass.Image, *Digests, error) {
	if w.ended {
		return facts, nil, errors.New("finish image: it has ended already")
	}
	w.stop()
	err := context.Cause(w.ctx)
	if err == nil {
		err = w.bundles.finish()
	} else if e := w.bundles.abort(err); sandglass.CodeOf(e) == sandglass.CodeRepositoryFull {
		err = e // the cause of the pipe's error
	}
	if err == nil && w.manifest.head.refs != w.refs {
		err = errors.New("not all chunks arrived")
	}
	if err != nil {
		w.cancel(err)
		w.manifest.discard()
		return facts, nil, fmt.Errorf("finish image: %w", err)
	}
	facts.ID, facts.Environment, facts.Incarnation, facts.Parent = w.image.ID, w.image.Environment, w.image.Incarnation, ""
	if w.known != nil {
		facts.Parent = w.known.facts.ID
	}
	facts.Files, facts.Bytes, facts.StoredBytes = w.files, w.bytes, w.bundles.stored
	d, err := w.putManifest(ctx, facts)
	w.cancel(nil)
	if err != nil {
		return facts, nil, fmt.Errorf("finish image: %w", err)
	}
	return facts, d, nil
}

func (w *ImageWriter) putManifest(ctx context.Context, facts sandglass.Image) (_ *Digests, err error) {
	file, size, err := w.manifest.finish(facts, w.repo.digestKey)
	if err != nil {
		return nil, diskError(w.manifest.path, err)
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(w.manifest.path + ".tmp")
		}
	}()
	// From here until the manifest is there no prune may remove a bundle that it refers to.
	w.repo.prune.RLock()
	defer w.repo.prune.RUnlock()
	for _, b := range w.manifest.bundles {
		key := environmentPrefix(w.image.Environment) + b.name
		if _, err := w.repo.store.Stat(ctx, key); err != nil {
			return nil, fmt.Errorf("check %s: %w", key, err)
		}
	}
	if err := w.repo.putAge(ctx, imageKey(facts.Environment, facts.Incarnation, facts.ID), io.NewSectionReader(file, 0, size)); err != nil {
		return nil, err
	}
	// The image exists now; what follows can cost only the next image's savings.
	if err := os.Rename(w.manifest.path+".tmp", w.manifest.path); err != nil {
		return nil, diskError(w.manifest.path, err)
	}
	m, err := openManifest(file, size-manifestMAC)
	if err == nil {
		err = m.loadBundles()
	}
	if err != nil {
		return nil, err
	}
	return &Digests{manifest: m, file: file, path: w.manifest.path}, nil
}

// Abort gives the image up. The bundles that it has written are removed, or else by a prune a day later.
func (w *ImageWriter) Abort(ctx context.Context) error {
	if !w.ended {
		w.cancel(errors.New("the image was given up"))
		w.stop()
		w.bundles.abort(errors.New("the image was given up"))
		w.manifest.discard()
	}
	_, err := w.repo.store.Stat(ctx, imageKey(w.image.Environment, w.image.Incarnation, w.image.ID))
	if err == nil {
		return nil // it was finished after all
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give up image: %w", err)
	}
	for n := range w.bundles.count {
		key := environmentPrefix(w.image.Environment) + w.bundles.name(n+1)
		if err := w.repo.store.Delete(ctx, key); err != nil {
			return fmt.Errorf("give up image: %w", err)
		}
	}
	return nil
}

// diskError gives a full local disk its code.
func diskError(path string, err error) error {
	if err == nil || !isFull(err) {
		return err
	}
	return &sandglass.Error{Code: sandglass.CodeDiskFull, Op: "write " + path, Message: "The disk of " + filepath.Dir(path) + " is full.",
		Remedy: "Make room on it and try again.", Err: err}
}
