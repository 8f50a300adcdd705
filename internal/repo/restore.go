package repo

// This file restores images to a folder. A planner walks the files in the order in which they were stored, makes
// them at their size, and groups their chunks into runs: stretches of one bundle read at once. Workers read, decrypt,
// decompress, verify and write the runs.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	runBytes  = 2 << 20  // stored bytes of a run
	runPieces = 64       // bounds the files that are open
	runGap    = 64 << 10 // what is read and not needed, rather than beginning another run
	runsOpen  = 8        // bundles that runs are gathered from at the same time
)

// piece is a chunk that a run holds.
type piece struct {
	ref
	file *restoredFile
	at   int64 // in the file
	size int   // of the chunk
}

// run is a stretch of a bundle with the chunks in it that are needed.
type run struct {
	bundle   uint32
	off, end int64
	pieces   []piece
}

// restoredFile is a file being written; the last one to let go closes it.
type restoredFile struct {
	*os.File
	holders atomic.Int32
}

func (f *restoredFile) release() error {
	if f.holders.Add(-1) > 0 {
		return nil
	}
	// Begin writing it out, so that the sync at the end has little left to do.
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	return f.Close()
}

// Restore writes the image's files below root, which may exist already. The files of a tablespace go to the folder
// that tablespace names for its OID, with a link to it at pg_tblspc/OID; where it is nil or names none, they stay below root.
// progress gets the bytes done so far, by one goroutine at a time. When Restore returns, all is durable.
func (i *Image) Restore(ctx context.Context, root string, tablespace func(oid string) string, progress func(doneBytes int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	group, ctx := errgroup.WithContext(ctx)
	r := &restorer{ctx: ctx, image: i, root: root, tablespace: tablespace, progress: progress, links: map[string]string{}, runs: make(chan *run, 4)}
	group.Go(func() error {
		defer close(r.runs)
		return r.plan()
	})
	for range runtime.GOMAXPROCS(0) {
		group.Go(r.work)
	}
	err := group.Wait()
	for left := range r.runs { // what no worker took after an error
		r.drop(left)
	}
	if err == nil {
		err = r.sync()
	}
	if err != nil {
		return fmt.Errorf("restore image %s: %w", i.facts.ID, diskError(root+"/", err))
	}
	return nil
}

type restorer struct {
	ctx        context.Context
	image      *Image
	root       string
	tablespace func(oid string) string
	runs       chan *run
	gathering  []*run            // least recently extended first
	links      map[string]string // OID of a tablespace: its folder

	mu       sync.Mutex
	done     int64
	progress func(int64)
}

// place is where an entry goes.
func (r *restorer) place(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "pg_tblspc/")
	if !ok || r.tablespace == nil {
		return filepath.Join(r.root, path), nil
	}
	oid, below, _ := strings.Cut(rest, "/")
	dir, known := r.links[oid]
	if !known {
		dir = r.tablespace(oid)
		if dir != "" {
			if err := r.link(oid, dir); err != nil {
				return "", err
			}
		}
		r.links[oid] = dir
	}
	if dir == "" {
		return filepath.Join(r.root, path), nil
	}
	return filepath.Join(dir, below), nil
}

func (r *restorer) link(oid, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(r.root, "pg_tblspc"), 0o700); err != nil {
		return err
	}
	name := filepath.Join(r.root, "pg_tblspc", oid)
	if to, err := os.Readlink(name); err == nil && to == dir {
		return nil
	}
	return os.Symlink(dir, name)
}

// plan makes all files and folders, and the runs.
func (r *restorer) plan() error {
	defer func() {
		for _, g := range r.gathering { // after an error
			r.drop(g)
		}
	}()
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return err
	}
	var rr *refReader
	for e, err := range r.image.Entries(r.ctx) {
		if err != nil {
			return err
		}
		name, err := r.place(e.Path)
		if err != nil {
			return err
		}
		if e.Mode.IsDir() {
			if err := os.MkdirAll(name, 0o700); err != nil {
				return err
			}
			if err := os.Chmod(name, e.Mode.Perm()|0o700); err != nil {
				return err
			}
			continue
		}
		rr = r.image.refsOf(e, rr)
		if err := r.planFile(name, e, rr); err != nil {
			return err
		}
	}
	for len(r.gathering) > 0 {
		if err := r.send(0); err != nil {
			return err
		}
	}
	return nil
}

// create makes an empty file of the entry's size: what no chunk is written to stays zeros.
func (r *restorer) create(name string, e Entry) (*restoredFile, error) {
	open := func() (*os.File, error) {
		return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	}
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, err
		}
		f, err = open()
	}
	if err != nil {
		return nil, err
	}
	if e.Size > 0 {
		err = f.Truncate(e.Size)
	}
	if err == nil {
		err = f.Chmod(e.Mode.Perm())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	file := &restoredFile{File: f}
	file.holders.Store(1)
	return file, nil
}

func (r *restorer) planFile(name string, e Entry, rr *refReader) (err error) {
	file, err := r.create(name, e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.release()) }()
	var zero int64
	for off := int64(0); off < e.Size; off += chunkSize {
		v, err := rr.read()
		if err != nil {
			return damaged(r.image.key, err)
		}
		size := min(chunkSize, e.Size-off)
		if v.bundle == 0 {
			zero += size
			continue
		}
		file.holders.Add(1)
		if err := r.gather(piece{ref: v, file: file, at: off, size: int(size)}); err != nil {
			return err
		}
	}
	r.report(zero)
	return nil
}

// gather puts a piece into the run of its bundle.
func (r *restorer) gather(p piece) error {
	off, end := int64(p.off), int64(p.off)+int64(p.n)
	j := slices.IndexFunc(r.gathering, func(g *run) bool { return g.bundle == p.bundle })
	if j >= 0 {
		g := r.gathering[j]
		if off >= g.end && off-g.end <= runGap && end-g.off <= runBytes && len(g.pieces) < runPieces {
			g.end, g.pieces = end, append(g.pieces, p)
			r.gathering = append(slices.Delete(r.gathering, j, j+1), g)
			return nil
		}
		if err := r.send(j); err != nil {
			return errors.Join(err, p.file.release())
		}
	} else if len(r.gathering) == runsOpen {
		if err := r.send(0); err != nil {
			return errors.Join(err, p.file.release())
		}
	}
	r.gathering = append(r.gathering, &run{bundle: p.bundle, off: off, end: end, pieces: []piece{p}})
	return nil
}

// send hands a run to the workers.
func (r *restorer) send(j int) error {
	g := r.gathering[j]
	select {
	case r.runs <- g:
		r.gathering = slices.Delete(r.gathering, j, j+1)
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// drop lets go of the files of a run that will not be written.
func (r *restorer) drop(g *run) {
	for _, p := range g.pieces {
		p.file.release()
	}
}

// work writes runs until there are no more.
func (r *restorer) work() error {
	c := newChunkReader(r.ctx, r.image)
	defer c.close()
	buf := make([]byte, chunkSize)
	for g := range r.runs {
		err := r.ctx.Err()
		if err == nil {
			err = c.load(g.bundle, g.off, g.end)
		}
		var done int64
		for _, p := range g.pieces {
			if err == nil {
				err = c.chunk(p.ref, buf[:p.size])
			}
			if err == nil {
				_, err = p.file.WriteAt(buf[:p.size], p.at)
			}
			if e := p.file.release(); err == nil {
				err = e
			}
			done += int64(p.size)
		}
		if err != nil {
			return err
		}
		r.report(done)
	}
	return nil
}

func (r *restorer) report(n int64) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	r.progress(r.done)
}

// sync makes all that was written durable: once for each file system, not once for each file.
func (r *restorer) sync() error {
	dirs := []string{r.root}
	for _, dir := range r.links {
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	synced := map[uint64]bool{}
	for _, dir := range dirs {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Fstat(int(f.Fd()), &st)
		if err == nil && !synced[uint64(st.Dev)] {
			synced[uint64(st.Dev)] = true
			err = unix.Syncfs(int(f.Fd()))
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return nil
}
