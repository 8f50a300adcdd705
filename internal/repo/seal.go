package repo

// This file writes and reads sealed objects: age around zstd, so that `age -d -i key.txt OBJECT | zstd -d`
// opens them. The age header carries a keyed digest of the contents in a stanza of its own, which age
// authenticates and its other readers skip: by it a thing sent again is recognised without an identity.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// digestStanza is the type of our stanza; its only argument is the digest in hexadecimal, its body is empty.
const digestStanza = "sandglass-digest"

// skippableMagic begins a skippable frame (RFC 8878, section 3.1.2), which zstd passes over.
const skippableMagic = 0x184D2A57

// marked is a recipient that adds the digest's stanza to its own.
type marked struct {
	age.Recipient
	digest digest
}

func (m marked) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	s, _, err := m.WrapWithLabels(fileKey)
	return s, err
}

func (m marked) WrapWithLabels(fileKey []byte) (s []*age.Stanza, labels []string, err error) {
	if l, ok := m.Recipient.(age.RecipientWithLabels); ok {
		s, labels, err = l.WrapWithLabels(fileKey)
	} else {
		s, err = m.Recipient.Wrap(fileKey)
	}
	return append(s, &age.Stanza{Type: digestStanza, Args: []string{hex.EncodeToString(m.digest[:])}}), labels, err
}

func (r *Repository) marked(d digest) []age.Recipient {
	out := append([]age.Recipient(nil), r.recipients...)
	out[0] = marked{out[0], d}
	return out
}

// appendSkippable appends a skippable frame around b.
func appendSkippable(out, b []byte) []byte {
	out = binary.LittleEndian.AppendUint32(out, skippableMagic)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b)))
	return append(out, b...)
}

// putBytes seals data. An object that is there already with the same contents is success; with others it is history.forked.
func (r *Repository) putBytes(ctx context.Context, key string, data []byte) error {
	_, err := r.putFramed(ctx, key, new([]byte), nil, data, newDigester(r.digestKey).of(data))
	return err
}

// putFramed is putBytes of data whose digest is d, with head before it in a skippable frame unless it is nil. The data's frame
// is returned; it lies in buf, which grows as it needs.
func (r *Repository) putFramed(ctx context.Context, key string, buf *[]byte, head, data []byte, d digest) (frame []byte, err error) {
	plain := (*buf)[:0]
	if head != nil {
		plain = appendSkippable(plain, head)
	}
	n := len(plain)
	enc := r.codecs.encoder()
	plain = enc.EncodeAll(data, plain)
	r.codecs.doneEncoding(enc)
	*buf = plain
	sealed, err := age.EncryptReader(bytes.NewReader(plain), r.marked(d)...)
	if err != nil {
		return nil, fmt.Errorf("encrypt %s: %w", key, err)
	}
	return plain[n:], r.putOnce(ctx, key, sealed, d)
}

// putStream seals a draft and after it what data holds. What the draft has no room for is read twice: for the digest, which
// comes before all else in an object, and for itself.
func (r *Repository) putStream(ctx context.Context, key string, draft *Draft, data io.ReadSeeker) error {
	f := r.codecs.framing(data)
	defer r.codecs.doneFraming(f)
	err := draft.fill(f)
	if err == nil {
		var start int64
		if start, err = data.Seek(0, io.SeekCurrent); err == nil {
			_, err = io.Copy(draft.h, data)
		}
		if err == nil {
			_, err = data.Seek(start, io.SeekStart)
		}
	}
	if err != nil && err != io.EOF {
		return fmt.Errorf("read what is to become %s: %w", key, err)
	}
	d := digest(draft.h.Sum(nil)[:digestSize])
	sealed, err := age.EncryptReader(io.MultiReader(bytes.NewReader(draft.frames), f), r.marked(d)...)
	if err != nil {
		return fmt.Errorf("encrypt %s: %w", key, err)
	}
	return r.putOnce(ctx, key, sealed, d)
}

func (r *Repository) putOnce(ctx context.Context, key string, sealed io.Reader, d digest) error {
	err := r.store.Put(ctx, key, sealed, true)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	held, err := r.digestOf(ctx, key)
	if err != nil {
		return err
	}
	if held != d {
		return forked(key)
	}
	return nil
}

// digestOf reads an object's digest from its header alone.
func (r *Repository) digestOf(ctx context.Context, key string) (digest, error) {
	rc, err := r.store.Open(ctx, key, 0, maxHeader)
	if err != nil {
		return digest{}, err
	}
	defer rc.Close()
	_, d, err := readHeader(bufio.NewReader(rc))
	if err != nil {
		return digest{}, damaged(key, err)
	}
	return d, nil
}

// maxHeader bounds an age header; a post-quantum recipient takes about 1.6 KB of it.
const maxHeader = 64 << 10

// readHeader takes an age header off the reader, with the digest that it names
// (age-encryption.org/v1, "Header": text lines up to the one that begins with "---").
func readHeader(br *bufio.Reader) (header []byte, d digest, err error) {
	found := false
	for {
		line, err := br.ReadSlice('\n')
		header = append(header, line...)
		if err != nil {
			return nil, d, fmt.Errorf("read header: %w", err)
		}
		if len(header) > maxHeader {
			return nil, d, errors.New("read header: it has no end")
		}
		text := strings.TrimSuffix(string(line), "\n")
		if arg, ok := strings.CutPrefix(text, "-> "+digestStanza+" "); ok {
			b, err := hex.DecodeString(arg)
			if err != nil || len(b) != digestSize {
				return nil, d, errors.New("read header: its digest is malformed")
			}
			d, found = digest(b), true
		}
		if strings.HasPrefix(text, "---") {
			break
		}
	}
	if !found {
		return nil, d, errors.New("read header: it names no digest")
	}
	return header, d, nil
}

// decrypt opens an age stream with the repository's identities.
func (r *Repository) decrypt(src io.Reader) (io.Reader, error) {
	if len(r.identities) == 0 {
		return nil, keyMissing("decrypt")
	}
	return age.Decrypt(src, r.identities...)
}

// openSealed opens a sealed object: the contents of the skippable frame before its data when withHead is set,
// and its data. The digest is checked at the end of the data.
func (r *Repository) openSealed(ctx context.Context, key string, withHead bool) (head []byte, rc io.ReadCloser, err error) {
	obj, err := r.store.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			obj.Close()
		}
	}()
	br := bufio.NewReader(&contextReader{ctx, obj})
	header, want, err := readHeader(br)
	if err != nil {
		return nil, nil, damaged(key, err)
	}
	plain, err := r.decrypt(io.MultiReader(bytes.NewReader(header), br))
	if err != nil {
		return nil, nil, damaged(key, err)
	}
	if withHead {
		if head, err = readSkippable(plain); err != nil {
			return nil, nil, damaged(key, err)
		}
	}
	dec := r.codecs.decoder()
	if err = dec.Reset(plain); err != nil {
		r.codecs.doneDecoding(dec)
		return nil, nil, damaged(key, err)
	}
	s := &sealedReader{repo: r, key: key, obj: obj, plain: plain, dec: dec, h: hmac.New(sha256.New, r.digestKey), want: want}
	return head, s, nil
}

func readSkippable(r io.Reader) ([]byte, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, fmt.Errorf("read skippable frame: %w", err)
	}
	n := binary.LittleEndian.Uint32(prefix[4:])
	if binary.LittleEndian.Uint32(prefix[:]) != skippableMagic || n > 64<<20 {
		return nil, errors.New("read skippable frame: it is not ours")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read skippable frame: %w", err)
	}
	return b, nil
}

// sealedReader reads a sealed object's data; it gives io.EOF only when the digest is right.
type sealedReader struct {
	repo  *Repository
	key   string
	obj   io.Closer
	plain io.Reader
	dec   *zstd.Decoder
	h     hash.Hash
	want  digest
}

func (s *sealedReader) Read(p []byte) (int, error) {
	n, err := s.dec.Read(p)
	s.h.Write(p[:n])
	if err == io.EOF {
		if digest(s.h.Sum(nil)[:digestSize]) != s.want {
			return n, damaged(s.key, errors.New("its contents do not have its digest"))
		}
		return n, io.EOF
	}
	return n, damaged(s.key, err)
}

func (s *sealedReader) Close() error {
	if s.dec != nil {
		s.repo.codecs.doneDecoding(s.dec)
		s.dec = nil
	}
	return s.obj.Close()
}

// readBytes reads a small sealed object as a whole.
func (r *Repository) readBytes(ctx context.Context, key string, withHead bool) (head, data []byte, err error) {
	head, rc, err := r.openSealed(ctx, key, withHead)
	if err != nil {
		return nil, nil, err
	}
	defer rc.Close()
	data, err = io.ReadAll(rc)
	return head, data, err
}

func (r *Repository) putJSON(ctx context.Context, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return r.putBytes(ctx, key, b)
}

func (r *Repository) readJSON(ctx context.Context, key string, v any) error {
	_, b, err := r.readBytes(ctx, key, false)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return damaged(key, err)
	}
	return nil
}

// openAt opens an age object for reading by ranges; size is that of its plain text.
func (r *Repository) openAt(ctx context.Context, key string, w *window) (ra io.ReaderAt, size int64, err error) {
	if len(r.identities) == 0 {
		return nil, 0, keyMissing("read " + key)
	}
	obj, err := r.store.Stat(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	src := &objectAt{ctx: ctx, store: r.store, key: key, size: obj.Size, window: w}
	ra, size, err = age.DecryptReaderAt(src, obj.Size, r.identities...)
	if err != nil {
		return nil, 0, damaged(key, err)
	}
	return ra, size, nil
}

var _ age.RecipientWithLabels = marked{}

// putAge puts an object that is age alone, without zstd and digest: a manifest, whose own MAC is at its end.
func (r *Repository) putAge(ctx context.Context, key string, data io.Reader) error {
	sealed, err := age.EncryptReader(data, r.recipients...)
	if err != nil {
		return fmt.Errorf("encrypt %s: %w", key, err)
	}
	return r.store.Put(ctx, key, sealed, true)
}
