package repo

// This file is for what an operation keeps beside the repository for a while, and nobody but the repository's
// owner may read.

import (
	"fmt"
	"io"

	"filippo.io/age"
)

// Encrypt gives a writer of an age file to the repository's recipients; closing it ends the file.
func (r *Repository) Encrypt(w io.Writer) (io.WriteCloser, error) {
	out, err := age.Encrypt(w, r.recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return out, nil
}

// Decrypt reads what Encrypt has written; it needs an identity.
func (r *Repository) Decrypt(in io.Reader) (io.Reader, error) {
	out, err := age.Decrypt(in, r.identities...)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return out, nil
}
