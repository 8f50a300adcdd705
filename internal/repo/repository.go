package repo

// This file makes and opens a repository: the object repo.json and the keys.

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"sandglass"
)

// formatVersion is the version of the format in docs/FORMAT.md.
const formatVersion = 1

const digestKeySize = 32

// Keys are what a repository is opened with.
type Keys struct {
	// Recipients are what new objects are encrypted to; empty: those that the repository names.
	Recipients []age.Recipient
	// Identities decrypt; without one nothing can be read.
	Identities []age.Identity
	// DigestKey is needed only where there is no identity: the repository keeps it encrypted.
	DigestKey []byte
}

// CreateOptions are what a new repository is made with.
type CreateOptions struct {
	// Recipients are age recipients in their text form ("age1..."); at least one.
	Recipients []string
	// Identities let this process read the new repository; may be empty.
	Identities []age.Identity
}

// Repository keeps images and WAL of environments. Its methods may be called from several goroutines.
type Repository struct {
	store      Store
	id         string
	recipients []age.Recipient
	identities []age.Identity
	digestKey  []byte
	codecs     *codecs

	// prune is held for writing while bundles are removed, and for reading while a manifest
	// that may refer to older bundles is being put.
	prune sync.RWMutex

	mu     sync.Mutex
	begins map[string]sandglass.Incarnation // by prefix of the incarnation; as their names say
	images map[string]sandglass.Image       // by manifest key
}

// rootFile is repo.json, the only object that is not encrypted.
type rootFile struct {
	Kind       string    `json:"kind"`   // "sandglass repository"
	Format     int       `json:"format"` // formatVersion
	ID         string    `json:"id"`
	Created    time.Time `json:"created"`
	Recipients []string  `json:"recipients"`
	DigestKey  string    `json:"digest_key"` // 32 bytes, encrypted to the recipients, armored
	MAC        string    `json:"mac"`        // keyed with the digest key, over format, id and recipients
}

const rootKind = "sandglass repository"

// mac lets whoever holds the digest key see that nobody has put in a recipient of their own.
func (f rootFile) mac(key []byte) string {
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "sandglass repository\n%d\n%s\n%s\n", f.Format, f.ID, strings.Join(f.Recipients, "\n"))
	return hex.EncodeToString(h.Sum(nil))
}

// Create makes a repository in an empty store.
func Create(ctx context.Context, s Store, o CreateOptions) (*Repository, error) {
	for obj, err := range s.List(ctx, "", "") {
		if err != nil {
			return nil, fmt.Errorf("create repository: %w", err)
		}
		if _, err := s.Stat(ctx, rootKey); err == nil {
			return nil, &sandglass.Error{Code: CodeRepositoryExists, Op: "create repository",
				Message: "There is a repository here already.", Remedy: "Use it as it is, or name another folder."}
		}
		return nil, foreign("create repository", fmt.Errorf("found %s", obj.Key))
	}
	recipients, err := parseRecipients(o.Recipients)
	if err != nil {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	key := make([]byte, digestKeySize)
	rand.Read(key)
	var sealed strings.Builder
	aw := armor.NewWriter(&sealed)
	w, err := age.Encrypt(aw, recipients...)
	if err == nil {
		_, err = w.Write(key)
		err = errors.Join(err, w.Close(), aw.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("create repository: encrypt the digest key: %w", err)
	}
	f := rootFile{Kind: rootKind, Format: formatVersion, ID: newID(time.Now()), Created: time.Now().UTC().Truncate(time.Second),
		Recipients: o.Recipients, DigestKey: sealed.String()}
	f.MAC = f.mac(key)
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	if err := s.Put(ctx, rootKey, bytes.NewReader(append(b, '\n')), true); err != nil {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	return Open(ctx, s, Keys{Recipients: recipients, Identities: o.Identities, DigestKey: key})
}

// Open opens the repository in a store.
func Open(ctx context.Context, s Store, k Keys) (*Repository, error) {
	f, err := readRoot(ctx, s)
	if err != nil {
		return nil, err
	}
	key, err := f.digestKey(k)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal([]byte(f.MAC), []byte(f.mac(key))) {
		if len(k.DigestKey) > 0 && len(k.Identities) == 0 {
			return nil, keyWrong("open repository", errors.New("the digest key does not fit"))
		}
		return nil, damaged(rootKey, errors.New("the MAC of its recipients does not fit"))
	}
	recipients := k.Recipients
	if len(recipients) == 0 {
		if recipients, err = parseRecipients(f.Recipients); err != nil {
			return nil, damaged(rootKey, err)
		}
	}
	return &Repository{store: s, id: f.ID, recipients: recipients, identities: k.Identities, digestKey: key, codecs: newCodecs(),
		begins: map[string]sandglass.Incarnation{}, images: map[string]sandglass.Image{}}, nil
}

// readRoot tells apart: nothing there, something else there, and a repository too new for us.
func readRoot(ctx context.Context, s Store) (rootFile, error) {
	var f rootFile
	rc, err := s.Open(ctx, rootKey, 0, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		for obj, err := range s.List(ctx, "", "") {
			if err != nil {
				return f, fmt.Errorf("open repository: %w", err)
			}
			return f, foreign("open repository", fmt.Errorf("found %s", obj.Key))
		}
		return f, &sandglass.Error{Code: sandglass.CodeRepositoryMissing, Op: "open repository",
			Message: "There is no repository here.", Remedy: "Check the path (is its disk mounted?), or make one with `sandglass init`.", Err: err}
	}
	if err != nil {
		return f, fmt.Errorf("open repository: %w", err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return f, fmt.Errorf("open repository: %w", err)
	}
	if err := json.Unmarshal(b, &f); err != nil || f.Kind != rootKind || f.Format == 0 {
		return f, foreign("open repository", err)
	}
	if f.Format > formatVersion {
		return f, &sandglass.Error{Code: CodeRepositoryNewer, Op: "open repository",
			Message: fmt.Sprintf("This repository has format %d; this Sandglass knows formats up to %d.", f.Format, formatVersion),
			Remedy:  "Use the newer Sandglass that wrote it."}
	}
	return f, nil
}

func (f rootFile) digestKey(k Keys) ([]byte, error) {
	if len(k.Identities) == 0 {
		if len(k.DigestKey) == 0 {
			return nil, keyMissing("open repository")
		}
		return k.DigestKey, nil
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(f.DigestKey)), k.Identities...)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, keyWrong("open repository", err)
		}
		return nil, damaged(rootKey, err)
	}
	key, err := io.ReadAll(r)
	if err != nil || len(key) != digestKeySize {
		return nil, damaged(rootKey, fmt.Errorf("its digest key can't be read: %w", err))
	}
	return key, nil
}

func foreign(op string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeRepositoryForeign, Op: op,
		Message: "This folder holds something else than a Sandglass repository.",
		Remedy:  "Name an empty folder for a new repository, or the folder that has the file repo.json.", Err: err}
}

func parseRecipients(text []string) ([]age.Recipient, error) {
	if len(text) == 0 {
		return nil, errors.New("no recipient given")
	}
	return age.ParseRecipients(strings.NewReader(strings.Join(text, "\n")))
}

// ID is the repository's own name, chosen when it was made.
func (r *Repository) ID() string { return r.id }

// DigestKey is what a recorder without an identity needs besides the recipients. It is secret: whoever has
// it can test guesses of what a chunk holds.
func (r *Repository) DigestKey() []byte { return bytes.Clone(r.digestKey) }

// newID is a sortable name: UTC time and four random characters.
func newID(now time.Time) string {
	return now.UTC().Format(idTime) + "-" + strings.ToLower(rand.Text()[:4])
}
