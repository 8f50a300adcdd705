package repo

// This file is the last image's manifest as a local file, by which the next image finds unchanged chunks.

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sandglass"
)

// Digests are the file table and the chunk references of an image, in a local file. Losing the file costs one
// full image; a file that was changed is noticed and refused.
type Digests struct {
	*manifest
	file *os.File
	path string
}

// OpenDigests opens the file that an ImageWriter or FetchDigests made, and checks all of it.
func (r *Repository) OpenDigests(path string) (*Digests, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open digests: %w", err)
	}
	d, err := newDigests(file, path, r.digestKey)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open digests %s: %w", path, err)
	}
	return d, nil
}

func newDigests(file *os.File, path string, key []byte) (*Digests, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - manifestMAC
	if size < manifestHeader {
		return nil, errors.New("it is cut short")
	}
	want := make([]byte, manifestMAC)
	if err := fullAt(file, want, size); err != nil {
		return nil, err
	}
	mac, err := macOf(file, size, key)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(mac, want) {
		return nil, errors.New("it was changed, or is of another repository")
	}
	m, err := openManifest(file, size)
	if err == nil {
		err = m.loadBundles()
	}
	if err != nil {
		return nil, err
	}
	return &Digests{manifest: m, file: file, path: path}, nil
}

// FetchDigests gets an image's digests from the repository into dir, where they were lost; it needs an identity.
func (r *Repository) FetchDigests(ctx context.Context, env string, inc sandglass.IncarnationID, id sandglass.ImageID, dir string) (*Digests, error) {
	key := imageKey(env, inc, id)
	rc, err := r.store.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("fetch digests: %w", err)
	}
	defer rc.Close()
	plain, err := r.decrypt(&contextReader{ctx, rc})
	if err != nil {
		return nil, damaged(key, err)
	}
	path := filepath.Join(dir, string(id)+".manifest")
	file, err := os.OpenFile(path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("fetch digests: %w", err)
	}
	defer os.Remove(path + ".tmp")
	if _, err := io.Copy(file, plain); err != nil {
		file.Close()
		return nil, damaged(key, err)
	}
	d, err := newDigests(file, path, r.digestKey)
	if err != nil {
		file.Close()
		return nil, damaged(key, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		file.Close()
		return nil, fmt.Errorf("fetch digests: %w", err)
	}
	return d, nil
}

// Image is the image whose digests they are.
func (d *Digests) Image() sandglass.Image { return d.facts }

// Path is the local file.
func (d *Digests) Path() string { return d.path }

// Close closes the file and leaves it there.
func (d *Digests) Close() error { return d.file.Close() }

// Remove closes and removes the file.
func (d *Digests) Remove() error { return errors.Join(d.file.Close(), os.Remove(d.path)) }
