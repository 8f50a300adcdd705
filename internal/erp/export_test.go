package erp

import (
	"crypto/sha256"
	"io"
)

// Digests sum up what would be copied into each table.
func Digests(o Options) (map[string][32]byte, error) {
	w, sums := newWorld(o), map[string][32]byte{}
	for _, f := range append(w.fillers(), w.reporting()...) {
		b, err := io.ReadAll(w.stream(f, true, true))
		if err != nil {
			return nil, err
		}
		sums[f.table] = sha256.Sum256(b)
	}
	return sums, nil
}
