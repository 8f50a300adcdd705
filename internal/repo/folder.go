package repo

// This file is the Store in a folder. Durability is the point: an object is written to a hidden
// temporary file, synced, linked to its name, and the folder that names it is synced.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// tempFolder holds what is being written; nothing in it is an object.
const tempFolder = ".tmp"

// Folder is a Store in a folder of a local or network file system that has link(2).
type Folder struct {
	root    string
	buffers sync.Pool
}

// NewFolder is a Store in the folder at path, which need not exist yet: the first Put makes it.
// Temporary files that a killed writer left there are removed.
func NewFolder(path string) (*Folder, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open folder store: %w", err)
	}
	f := &Folder{root: root}
	f.buffers.New = func() any { b := make([]byte, 256<<10); return &b }
	if err := f.cleanTemporary(); err != nil {
		return nil, fmt.Errorf("open folder store: %w", err)
	}
	return f, nil
}

// Path is the folder.
func (f *Folder) Path() string { return f.root }

// cleanTemporary removes temporary files whose writer is gone: each writer holds a lock on its own.
func (f *Folder) cleanTemporary() error {
	dir := filepath.Join(f.root, tempFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 { // a killed writer's object may have its name, but not durably
		if err := syncFileSystem(dir); err != nil {
			return err
		}
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		file, err := os.Open(name)
		if err != nil {
			continue // its writer has just finished
		}
		// A writer locks right after it creates; a file younger than that may still be unlocked.
		info, err := file.Stat()
		if err == nil && time.Since(info.ModTime()) > 10*time.Second && unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(name)
		}
		file.Close()
	}
	return nil
}

func (f *Folder) path(key string) (string, error) {
	if key == "" || !filepath.IsLocal(key) || strings.HasPrefix(key, ".") || strings.Contains(key, "/.") {
		return "", fmt.Errorf("%q is not an object's key", key)
	}
	return filepath.Join(f.root, filepath.FromSlash(key)), nil
}

// Put implements Store.
func (f *Folder) Put(ctx context.Context, key string, r io.Reader, ifAbsent bool) error {
	dst, err := f.path(key)
	if err != nil {
		return err
	}
	if ifAbsent { // link decides; this only saves writing it all again
		if _, err := os.Lstat(dst); err == nil {
			if err := syncFolder(filepath.Dir(dst)); err != nil { // a killed writer's link may not be durable
				return putError(key, err)
			}
			return fmt.Errorf("put %s: %w", key, fs.ErrExist)
		}
	}
	if err := makeFolders(filepath.Join(f.root, tempFolder)); err != nil {
		return putError(key, err)
	}
	tmp, err := os.CreateTemp(filepath.Join(f.root, tempFolder), "put-*")
	if err != nil {
		return putError(key, err)
	}
	defer tmp.Close()
	defer os.Remove(tmp.Name())
	if err := unix.Flock(int(tmp.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return putError(key, fmt.Errorf("lock temporary file: %w", err))
	}
	buf := f.buffers.Get().(*[]byte)
	_, err = io.CopyBuffer(struct{ io.Writer }{tmp}, &contextReader{ctx, r}, *buf)
	f.buffers.Put(buf)
	if err == nil {
		err = tmp.Sync()
	}
	if err != nil {
		return putError(key, err)
	}
	if err := f.name(tmp.Name(), dst, ifAbsent); err != nil {
		return putError(key, err)
	}
	return nil
}

// name gives a synced temporary file its name, durably.
func (f *Folder) name(tmp, dst string, ifAbsent bool) error {
	dir := filepath.Dir(dst)
	for try := 0; ; try++ {
		err := makeFolders(dir)
		if err == nil && ifAbsent {
			err = os.Link(tmp, dst)
		} else if err == nil {
			err = os.Rename(tmp, dst)
		}
		if err == nil || errors.Is(err, fs.ErrExist) { // another's link may not be durable yet
			return errors.Join(syncFolder(dir), err)
		}
		// Delete may have removed the empty folder in between.
		if try == 3 || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// makeFolders makes a folder and its parents, each durably named.
func makeFolders(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeFolders(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncFileSystem makes all durable that the file system of a folder holds.
func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", dir, err)
	}
	return nil
}

// Open implements Store.
func (f *Folder) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name, err := f.path(key)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if n < 0 {
		n = 1<<63 - 1 - off
	}
	return &section{io.NewSectionReader(file, off, n), file}, nil
}

type section struct {
	*io.SectionReader
	file *os.File
}

func (s *section) Close() error { return s.file.Close() }

// Stat implements Store.
func (f *Folder) Stat(ctx context.Context, key string) (Object, error) {
	name, err := f.path(key)
	if err != nil {
		return Object{}, err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return Object{}, err
	}
	if !info.Mode().IsRegular() {
		return Object{}, fmt.Errorf("stat %s: not a plain file: %w", key, fs.ErrNotExist)
	}
	return Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// List implements Store. It holds the names of one folder at a time.
func (f *Folder) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
		f.list(ctx, dir, prefix, after, yield)
	}
}

// list walks the folder dir ("" or with a slash at its end); false means stop.
func (f *Folder) list(ctx context.Context, dir, prefix, after string, yield func(Object, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield(Object{}, err)
		return false
	}
	entries, err := os.ReadDir(filepath.Join(f.root, filepath.FromSlash(dir)))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		yield(Object{}, fmt.Errorf("list %s: %w", dir, err))
		return false
	}
	key := func(e fs.DirEntry) string {
		if e.IsDir() {
			return dir + e.Name() + "/"
		}
		return dir + e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(key(a), key(b)) })
	for _, e := range entries {
		k := key(e)
		if strings.HasPrefix(e.Name(), ".") || k == "lost+found/" {
			continue
		}
		if e.IsDir() {
			related := strings.HasPrefix(k, prefix) || strings.HasPrefix(prefix, k)
			if !related || (k < after && !strings.HasPrefix(after, k)) {
				continue
			}
			if !f.list(ctx, k, prefix, after, yield) {
				return false
			}
			continue
		}
		if !strings.HasPrefix(k, prefix) || k <= after || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since the folder was read
		}
		if err != nil {
			yield(Object{}, fmt.Errorf("list %s: %w", k, err))
			return false
		}
		if !yield(Object{Key: k, Size: info.Size(), ModTime: info.ModTime()}, nil) {
			return false
		}
	}
	return true
}

// Delete implements Store. Folders that became empty go too.
func (f *Folder) Delete(ctx context.Context, key string) error {
	name, err := f.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	for dir := filepath.Dir(name); dir != f.root; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break // not empty
		}
	}
	return nil
}

// contextReader ends with the context's error.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
