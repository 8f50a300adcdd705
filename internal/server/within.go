// Writing and reading below a server's own folders. They belong to the server's user, as whom a superuser of its databases can run
// programs and put links where we will write: one must never lead root out of them.

package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"sandglass/internal/pg"
)

// within opens the folder in which the server's parts lie side by side, which its user can't replace, and gives the
// path's name in it. What is not below that folder is named in its own.
func (c Config) within(path string) (*os.Root, string, error) {
	top := filepath.Dir(c.Data)
	name, err := filepath.Rel(top, path)
	if err != nil || !filepath.IsLocal(name) {
		top, name = filepath.Dir(path), filepath.Base(path)
		if err := os.MkdirAll(top, 0o700); err != nil {
			return nil, "", err
		}
	}
	r, err := os.OpenRoot(top)
	return r, name, err
}

// open opens an ordinary file of the server's own folders for reading.
func (c Config) open(path string) (*os.File, error) {
	top := filepath.Dir(c.Data)
	name, err := filepath.Rel(top, path)
	if err != nil || !filepath.IsLocal(name) {
		top, name = filepath.Dir(path), filepath.Base(path)
	}
	return pg.Open(top, name)
}

// makeFolder makes a folder that is ours, or the server's user's, and nobody else's.
func (c Config) makeFolder(path string, theirs bool) error {
	r, name, err := c.within(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.MkdirAll(name, 0o700); err != nil || !theirs {
		return err
	}
	return errors.Join(r.Chown(name, c.Owner.UID, c.Owner.GID), r.Chmod(name, 0o700))
}

func (c Config) chmod(path string, mode fs.FileMode) error {
	r, name, err := c.within(path)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.Chmod(name, mode)
}

// writeFile replaces a file as a whole, so that a reload never reads half of one; it is the owner's, and nobody else may read it.
func (c Config) writeFile(path, content string) error {
	r, name, err := c.within(path)
	if err != nil {
		return err
	}
	defer r.Close()
	tmp := name + ".new"
	if err := r.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Chown(c.Owner.UID, c.Owner.GID), f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = r.Rename(tmp, name)
	}
	if err != nil {
		_ = r.Remove(tmp)
	}
	return err
}
