package repo

// This file writes manifests to a local file, in bounded memory: references as they come, entries beside
// them, the rest at the end.

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sandglass"
)

// manifestWriter collects an image's entries and references.
type manifestWriter struct {
	path          string // of the finished file
	file, table   *os.File
	refs, entries *bufio.Writer
	head          manifestHead
	bundles       []bundleInfo
	scratch       []byte
}

func newManifestWriter(dir, name string) (_ *manifestWriter, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w := &manifestWriter{path: filepath.Join(dir, name+".manifest")}
	if w.file, err = os.OpenFile(w.path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	if w.table, err = os.OpenFile(w.path+".entries.tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		w.discard()
		return nil, err
	}
	w.refs, w.entries = bufio.NewWriterSize(w.file, 64<<10), bufio.NewWriterSize(w.table, 64<<10)
	w.head.chunkSize, w.head.refsAt = chunkSize, manifestHeader
	if _, err := w.refs.Write(make([]byte, manifestHeader)); err != nil {
		w.discard()
		return nil, err
	}
	return w, nil
}

func (w *manifestWriter) discard() {
	w.file.Close()
	os.Remove(w.path + ".tmp")
	if w.table != nil {
		w.table.Close()
		os.Remove(w.path + ".entries.tmp")
	}
}

// entry adds a file or folder; its references must follow in the order of the entries.
func (w *manifestWriter) entry(e Entry, firstRef uint64) error {
	e.ref = firstRef
	w.scratch = e.append(w.scratch[:0])
	w.head.entries++
	w.head.entriesBytes += uint64(len(w.scratch))
	_, err := w.entries.Write(w.scratch)
	return err
}

// finish completes the local file and leaves it open for reading.
func (w *manifestWriter) finish(facts sandglass.Image, key []byte) (file *os.File, size int64, err error) {
	defer func() {
		if err != nil {
			w.discard()
		}
	}()
	if err := errors.Join(w.refs.Flush(), w.entries.Flush()); err != nil {
		return nil, 0, err
	}
	h := &w.head
	h.entriesAt = h.refsAt + h.refs*refSize
	if _, err := w.table.Seek(0, io.SeekStart); err != nil {
		return nil, 0, err
	}
	if _, err := io.Copy(w.file, w.table); err != nil {
		return nil, 0, err
	}
	h.slotsAt, h.slots = h.entriesAt+h.entriesBytes, 1
	for h.slots < 2*h.entries {
		h.slots *= 2
	}
	h.bundlesAt = h.slotsAt + h.slots*slotSize
	if err := w.file.Truncate(int64(h.bundlesAt)); err != nil {
		return nil, 0, err
	}
	if err := w.fillSlots(); err != nil {
		return nil, 0, err
	}
	var rest []byte
	for _, b := range w.bundles {
		rest = b.append(rest)
	}
	h.bundlesBytes = uint64(len(rest))
	h.factsAt = h.bundlesAt + h.bundlesBytes
	f, err := json.Marshal(facts)
	if err != nil {
		return nil, 0, err
	}
	h.factsBytes = uint64(len(f))
	if _, err := w.file.WriteAt(append(rest, f...), int64(h.bundlesAt)); err != nil {
		return nil, 0, err
	}
	if _, err := w.file.WriteAt(h.marshal(), 0); err != nil {
		return nil, 0, err
	}
	size = int64(h.factsAt + h.factsBytes)
	mac, err := macOf(w.file, size, key)
	if err != nil {
		return nil, 0, err
	}
	if _, err := w.file.WriteAt(mac, size); err != nil {
		return nil, 0, err
	}
	w.table.Close()
	if err := os.Remove(w.path + ".entries.tmp"); err != nil {
		return nil, 0, err
	}
	return w.file, size + manifestMAC, nil
}

// fillSlots makes the table by which an entry is found from its path. It works on the file, not in memory.
func (w *manifestWriter) fillSlots() error {
	h := &w.head
	m := &manifest{at: w.file, head: *h}
	r := bufio.NewReaderSize(io.NewSectionReader(w.file, int64(h.entriesAt), int64(h.entriesBytes)), 64<<10)
	var off uint64
	for range h.entries {
		e, n, err := readEntry(r, h.refs)
		if err != nil {
			return err
		}
		slot := slotOf(e.Path, h.slots)
		for {
			var b [slotSize]byte
			at := int64(h.slotsAt + slot*slotSize)
			if err := fullAt(w.file, b[:], at); err != nil {
				return err
			}
			v := binary.LittleEndian.Uint64(b[:])
			if v == 0 {
				binary.LittleEndian.PutUint64(b[:], off+1)
				if _, err := w.file.WriteAt(b[:], at); err != nil {
					return err
				}
				break
			}
			other, _, err := readEntry(io.NewSectionReader(m.at, int64(h.entriesAt+v-1), 1<<17), h.refs)
			if err != nil {
				return err
			}
			if other.Path == e.Path {
				return fmt.Errorf("%q was given twice", e.Path)
			}
			slot = (slot + 1) & (h.slots - 1)
		}
		off += uint64(n)
	}
	return nil
}

func macOf(r io.ReaderAt, size int64, key []byte) ([]byte, error) {
	h := hmac.New(sha256.New, key)
	n, err := io.Copy(h, io.NewSectionReader(r, 0, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return h.Sum(nil), err
}
