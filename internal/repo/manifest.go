package repo

// This file reads manifests: the file table of an image and the references to its chunks, held so that
// one file's references can be found and read alone. The same bytes are an object of the repository
// (encrypted) and a local file (Digests).

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"time"

	"sandglass"
)

const (
	manifestMagic  = "SGIMAGE\x01" // the last byte is the version
	manifestHeader = 8 + 4 + 4 + 11*8
	manifestMAC    = 32 // HMAC-SHA256 of all before it ends a manifest
	refSize        = digestSize + 3*4
	slotSize       = 8
	entryFixed     = 2 + 1 + 4 + 8 + 8 + 8 // all of an entry but its path
)

// manifestHead says where the parts of a manifest are. All offsets are from its start.
type manifestHead struct {
	chunkSize               uint32
	entries                 uint64 // count
	entriesAt, entriesBytes uint64
	refs, refsAt            uint64 // count, offset
	slots, slotsAt          uint64 // count (a power of two), offset
	bundlesAt, bundlesBytes uint64
	factsAt, factsBytes     uint64
}

func (h manifestHead) marshal() []byte {
	b := append(make([]byte, 0, manifestHeader), manifestMagic...)
	b = binary.LittleEndian.AppendUint32(b, h.chunkSize)
	b = binary.LittleEndian.AppendUint32(b, 0)
	for _, v := range []uint64{h.entries, h.entriesAt, h.entriesBytes, h.refs, h.refsAt, h.slots, h.slotsAt, h.bundlesAt, h.bundlesBytes, h.factsAt, h.factsBytes} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func parseManifestHead(b []byte, size int64) (h manifestHead, err error) {
	if len(b) < manifestHeader || string(b[:8]) != manifestMagic {
		return h, errors.New("not a manifest of a known version")
	}
	h.chunkSize = binary.LittleEndian.Uint32(b[8:])
	for i, v := range []*uint64{&h.entries, &h.entriesAt, &h.entriesBytes, &h.refs, &h.refsAt, &h.slots, &h.slotsAt, &h.bundlesAt, &h.bundlesBytes, &h.factsAt, &h.factsBytes} {
		*v = binary.LittleEndian.Uint64(b[16+8*i:])
	}
	const most = 1 << 56
	fits := func(at, n uint64) bool { return at < most && n < most && at+n <= uint64(size) }
	if h.chunkSize != chunkSize || h.refs > most/refSize || h.slots > most/slotSize || h.slots == 0 || h.slots&(h.slots-1) != 0 ||
		!fits(h.entriesAt, h.entriesBytes) || !fits(h.refsAt, h.refs*refSize) || !fits(h.slotsAt, h.slots*slotSize) ||
		!fits(h.bundlesAt, h.bundlesBytes) || !fits(h.factsAt, h.factsBytes) || h.factsBytes > 64<<20 || h.bundlesBytes > 256<<20 {
		return h, errors.New("the header of the manifest is malformed")
	}
	return h, nil
}

// ref says where a chunk is.
type ref struct {
	digest digest
	bundle uint32 // number in the manifest's table of bundles, from 1; 0: the chunk is all zeros
	off    uint32 // of its zstd frame in the bundle's plain text
	n      uint32 // length of the frame
}

func (r ref) append(b []byte) []byte {
	b = append(b, r.digest[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.bundle)
	b = binary.LittleEndian.AppendUint32(b, r.off)
	return binary.LittleEndian.AppendUint32(b, r.n)
}

func parseRef(b []byte) ref {
	return ref{digest: digest(b[:digestSize]), bundle: binary.LittleEndian.Uint32(b[digestSize:]),
		off: binary.LittleEndian.Uint32(b[digestSize+4:]), n: binary.LittleEndian.Uint32(b[digestSize+8:])}
}

// bundleInfo is a row of a manifest's table of bundles.
type bundleInfo struct {
	name string // relative to the environment
	size int64  // of its plain text
}

// Entry is a file or folder of an image.
type Entry struct {
	Path  string      // relative to the data folder; tablespaces are under pg_tblspc/OID/
	Mode  fs.FileMode // permissions, and fs.ModeDir
	MTime time.Time
	Size  int64

	ref uint64 // number of its first reference
}

func (e Entry) chunks() uint64 { return uint64(e.Size+chunkSize-1) / chunkSize }

const (
	kindFile   = 0
	kindFolder = 1
)

func (e Entry) append(b []byte) []byte {
	kind := byte(kindFile)
	if e.Mode.IsDir() {
		kind = kindFolder
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.Path)))
	b = append(b, e.Path...)
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Mode.Perm()))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.MTime.UnixMicro()))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Size))
	return binary.LittleEndian.AppendUint64(b, e.ref)
}

// readEntry reads one entry; size is its length in the table.
func readEntry(r io.Reader, refs uint64) (e Entry, size int64, err error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return e, 0, err
	}
	path := int(binary.LittleEndian.Uint16(n[:]))
	b := make([]byte, path+entryFixed-2)
	if _, err := io.ReadFull(r, b); err != nil {
		return e, 0, fmt.Errorf("read an entry of the manifest: %w", err)
	}
	e.Path, b = string(b[:path]), b[path:]
	e.Mode = fs.FileMode(binary.LittleEndian.Uint32(b[1:])).Perm()
	if b[0] == kindFolder {
		e.Mode |= fs.ModeDir
	}
	e.MTime = time.UnixMicro(int64(binary.LittleEndian.Uint64(b[5:]))).UTC()
	e.Size = int64(binary.LittleEndian.Uint64(b[13:]))
	e.ref = binary.LittleEndian.Uint64(b[21:])
	if e.Size < 0 || e.ref > refs || e.chunks() > refs-e.ref || !filepath.IsLocal(e.Path) {
		return e, 0, fmt.Errorf("an entry of the manifest is malformed (%q)", e.Path)
	}
	return e, int64(path + entryFixed), nil
}

// slotOf is where the search for a path begins.
func slotOf(path string, slots uint64) uint64 {
	h := fnv.New64a()
	io.WriteString(h, path)
	return h.Sum64() & (slots - 1)
}

// manifest reads a manifest. Only its table of bundles and its facts are in memory.
type manifest struct {
	at      io.ReaderAt
	head    manifestHead
	bundles []bundleInfo
	facts   sandglass.Image
}

func openManifest(at io.ReaderAt, size int64) (*manifest, error) {
	b := make([]byte, manifestHeader)
	if err := fullAt(at, b, 0); err != nil {
		return nil, err
	}
	head, err := parseManifestHead(b, size)
	if err != nil {
		return nil, err
	}
	m := &manifest{at: at, head: head}
	b = make([]byte, head.factsBytes)
	if err := fullAt(at, b, int64(head.factsAt)); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &m.facts); err != nil {
		return nil, fmt.Errorf("the facts of the manifest are malformed: %w", err)
	}
	return m, nil
}

// loadBundles reads the table of bundles: for each its plain size, the length of its name, and the name.
func (m *manifest) loadBundles() error {
	if m.bundles != nil || m.head.bundlesBytes == 0 {
		return nil
	}
	b := make([]byte, m.head.bundlesBytes)
	if err := fullAt(m.at, b, int64(m.head.bundlesAt)); err != nil {
		return err
	}
	var out []bundleInfo
	for len(b) > 0 {
		if len(b) < 10 || len(b) < 10+int(binary.LittleEndian.Uint16(b[8:])) {
			return errors.New("the table of bundles is malformed")
		}
		end := 10 + int(binary.LittleEndian.Uint16(b[8:]))
		out = append(out, bundleInfo{string(b[10:end]), int64(binary.LittleEndian.Uint64(b))})
		b = b[end:]
	}
	m.bundles = out
	return nil
}

func (b bundleInfo) append(out []byte) []byte {
	out = binary.LittleEndian.AppendUint64(out, uint64(b.size))
	out = binary.LittleEndian.AppendUint16(out, uint16(len(b.name)))
	return append(out, b.name...)
}

// entries are in the order in which they were stored.
func (m *manifest) entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := bufio.NewReaderSize(io.NewSectionReader(m.at, int64(m.head.entriesAt), int64(m.head.entriesBytes)), 64<<10)
		for range m.head.entries {
			e, _, err := readEntry(r, m.head.refs)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// lookup finds an entry by its path: a table of slots, each zero or one more than the offset of an entry in the
// table of entries, searched from the path's hash on.
func (m *manifest) lookup(path string) (e Entry, found bool, err error) {
	slot := slotOf(path, m.head.slots)
	for range m.head.slots {
		var b [slotSize]byte
		if err := fullAt(m.at, b[:], int64(m.head.slotsAt+slot*slotSize)); err != nil {
			return e, false, err
		}
		v := binary.LittleEndian.Uint64(b[:])
		if v == 0 {
			return e, false, nil
		}
		if v > m.head.entriesBytes {
			return e, false, errors.New("a slot of the manifest is malformed")
		}
		at := int64(m.head.entriesAt + v - 1)
		e, _, err := readEntry(io.NewSectionReader(m.at, at, int64(m.head.entriesAt+m.head.entriesBytes)-at), m.head.refs)
		if err != nil {
			return e, false, err
		}
		if e.Path == path {
			return e, true, nil
		}
		slot = (slot + 1) & (m.head.slots - 1)
	}
	return e, false, nil
}

// readRefs reads len(b)/refSize references from number first on.
func (m *manifest) readRefs(b []byte, first uint64) error {
	return fullAt(m.at, b, int64(m.head.refsAt+first*refSize))
}

// refReader reads the references of files. It reads ahead, because the references of the next file mostly follow
// those of this one.
type refReader struct {
	m          *manifest
	next, end  uint64 // of the file
	buf        []byte
	first, has uint64 // what buf holds: number of the first reference, and count
}

func (m *manifest) refsOf(e Entry, rr *refReader) *refReader {
	if rr == nil {
		rr = &refReader{m: m, buf: make([]byte, 2048*refSize)}
	}
	rr.next, rr.end = e.ref, e.ref+e.chunks()
	return rr
}

func (r *refReader) read() (ref, error) {
	if r.next == r.end {
		return ref{}, io.EOF
	}
	if r.next < r.first || r.next >= r.first+r.has {
		r.first, r.has = r.next, min(uint64(len(r.buf)/refSize), r.m.head.refs-r.next)
		if err := r.m.readRefs(r.buf[:r.has*refSize], r.first); err != nil {
			r.has = 0
			return ref{}, err
		}
	}
	v := parseRef(r.buf[(r.next-r.first)*refSize:])
	r.next++
	return v, nil
}

// fullAt reads all of b.
func fullAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
