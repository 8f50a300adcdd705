package recorder

// The file that says which digests in the recorder's folder are those of the last image.

import (
	"os"
	"path/filepath"
	"strings"
)

// KeepDigests makes a manifest file in a recorder's folder the one that the next image
// shares chunks with. Losing it costs one full image, so problems are only reported.
func KeepDigests(dir, name string, warn func(msg string, args ...any)) {
	temporary := filepath.Join(dir, digestsFile+".new")
	err := os.WriteFile(temporary, []byte(name), 0o600)
	if err == nil {
		err = os.Rename(temporary, filepath.Join(dir, digestsFile))
	}
	if err != nil {
		warn("the digests of the image could not be kept", "error", err)
		return
	}
	old, _ := filepath.Glob(filepath.Join(dir, "*.manifest"))
	for _, path := range old {
		if base := filepath.Base(path); base != name && !strings.HasPrefix(base, ".") {
			_ = os.Remove(path)
		}
	}
}
