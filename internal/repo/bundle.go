package repo

// This file writes bundles: an age stream of zstd frames, one for each chunk, each after a skippable frame
// with the chunk's digest. `age -d | zstd -d` gives the chunks one after the other.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

const (
	// bundleSize is the plain size that a bundle does not exceed.
	bundleSize = 64 << 20
	// labelSize is the skippable frame before a chunk: 8 bytes of frame header, the digest, the lengths of the
	// chunk and of its frame.
	labelSize = 8 + digestSize + 4 + 4
)

// appendLabel appends the skippable frame of a chunk of n bytes, whose own frame has m bytes.
func appendLabel(b []byte, d digest, n, m int) []byte {
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, labelSize-8)
	b = append(b, d[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	return binary.LittleEndian.AppendUint32(b, uint32(m))
}

// parseLabel reads a label back.
func parseLabel(b []byte) (d digest, n, m int, err error) {
	if binary.LittleEndian.Uint32(b) != skippableMagic || binary.LittleEndian.Uint32(b[4:]) != labelSize-8 {
		return d, 0, 0, errors.New("a chunk has no label")
	}
	n, m = int(binary.LittleEndian.Uint32(b[8+digestSize:])), int(binary.LittleEndian.Uint32(b[12+digestSize:]))
	if n == 0 || n > chunkSize || m == 0 || m > 2*chunkSize {
		return d, 0, 0, errors.New("the label of a chunk is malformed")
	}
	return digest(b[8:]), n, m, nil
}

// bundleWriter puts bundles one after the other. While one is written, the one before it may still be becoming durable.
type bundleWriter struct {
	ctx    context.Context // of the image being written
	repo   *Repository
	env    string
	name   func(n int) string
	count  int
	off    int64 // plain size of the open bundle
	stored int64 // encrypted bytes written in all

	pipe *io.PipeWriter
	age  io.WriteCloser
	puts chan error // the results of Puts that were begun, in order
	open int        // Puts whose results were not taken yet
}

func newBundleWriter(ctx context.Context, r *Repository, env string, name func(int) string) *bundleWriter {
	return &bundleWriter{ctx: ctx, repo: r, env: env, name: name, puts: make(chan error, 2)}
}

// add writes a label and its frame and says where the frame is; full says that a new bundle was begun for it.
func (w *bundleWriter) add(label, frame []byte) (off int64, began bool, err error) {
	if w.pipe != nil && w.off+int64(len(label)+len(frame)) > bundleSize {
		if err := w.end(); err != nil {
			return 0, false, err
		}
	}
	if w.pipe == nil {
		if err := w.begin(); err != nil {
			return 0, false, err
		}
		began = true
	}
	for _, b := range [][]byte{label, frame} {
		if _, err := w.age.Write(b); err != nil {
			return 0, began, fmt.Errorf("write bundle: %w", err)
		}
	}
	off = w.off + int64(len(label))
	w.off = off + int64(len(frame))
	return off, began, nil
}

func (w *bundleWriter) begin() error {
	for w.open > 1 { // at most the one before
		if err := w.take(); err != nil {
			return err
		}
	}
	w.count++
	pr, pw := io.Pipe()
	key := environmentPrefix(w.env) + w.name(w.count)
	w.open++
	go func() { // ends with the pipe; finish and abort wait for its result
		err := w.repo.store.Put(w.ctx, key, pr, true)
		pr.CloseWithError(errors.Join(err, errPutEnded))
		w.puts <- err
	}()
	var err error
	w.pipe, w.off = pw, 0
	w.age, err = age.Encrypt(&countingWriter{pw, &w.stored}, w.repo.recipients...)
	if err != nil {
		return fmt.Errorf("encrypt bundle: %w", err)
	}
	return nil
}

var errPutEnded = errors.New("the store has stopped reading")

// end completes the open bundle; it is durable once finish has returned.
func (w *bundleWriter) end() error {
	err := w.age.Close()
	w.pipe.CloseWithError(err)
	w.pipe = nil
	return err
}

func (w *bundleWriter) take() error {
	w.open--
	return <-w.puts
}

// finish completes the last bundle and waits until all are durable.
func (w *bundleWriter) finish() error {
	var err error
	if w.pipe != nil {
		err = w.end()
	}
	for w.open > 0 {
		// The Put's own error says more than the pipe's.
		if e := w.take(); e != nil {
			err = e
		}
	}
	return err
}

// abort gives up the open bundle.
func (w *bundleWriter) abort(cause error) error {
	if w.pipe != nil {
		w.pipe.CloseWithError(cause)
		w.pipe = nil
	}
	var first error
	for w.open > 0 {
		if err := w.take(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

type countingWriter struct {
	w io.Writer
	n *int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	*c.n += int64(n)
	return n, err
}
