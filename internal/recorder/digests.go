package recorder

// The file that says which digests in the recorder's folder are those of the last image.

import (
	"errors"
	"os"
	"path/filepath"

	"sandglass/internal/repo"
)

// digestsFile names the digests of the last image in the recorder's folder.
const digestsFile = "digests"

// keepDigests makes a manifest file in a recorder's folder the one that the next image
// shares chunks with. Losing it costs one full image, no more.
func keepDigests(dir, name string) error {
	temporary := filepath.Join(dir, digestsFile+".new")
	if err := os.WriteFile(temporary, []byte(name), 0o600); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, digestsFile)); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.manifest"))
	for _, path := range old {
		if filepath.Base(path) != name {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// digests opens the digests of the last image; nil when there are none, or they are of no use: then the image is a full one.
func (r *Recorder) digests() *repo.Digests {
	d, err := lastDigests(r.repo, r.dir)
	if err != nil {
		r.log.Warn("the digests of the last image can't be used, so the next image is a full one", "error", err)
		return nil
	}
	return d
}

// lastDigests are those of the last image that was made in a recorder's folder; nil when there are none.
func lastDigests(r *repo.Repository, dir string) (*repo.Digests, error) {
	name, err := os.ReadFile(filepath.Join(dir, digestsFile))
	if err != nil {
		return nil, nil
	}
	return r.OpenDigests(filepath.Join(dir, filepath.Base(string(name))))
}

// keepDigests remembers the digests of a new image, and removes older ones.
func (r *Recorder) keepDigests(d *repo.Digests) {
	err := d.Close()
	if err == nil {
		err = keepDigests(r.dir, filepath.Base(d.Path()))
	}
	if err != nil {
		r.log.Warn("the digests of the image could not be kept, so the next image may be a full one", "error", err)
	}
}
