package recorder

// The file that says which digests in the recorder's folder are those of the last image.

import (
	"errors"
	"os"
	"path/filepath"
)

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
