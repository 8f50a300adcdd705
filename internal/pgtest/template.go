package pgtest

// This file makes data folders quickly: initdb runs once for each major and set of arguments, its
// result is kept in the user's cache folder, and every cluster is a copy with a system identifier of its own.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// owner is the OS user that runs the servers: postgres when we are root, else ourselves.
type owner struct {
	uid, gid int
	other    bool // not ourselves
}

func serverOwner() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return owner{}, fmt.Errorf("PostgreSQL does not run as root, and there is no OS user postgres: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return owner{}, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return owner{uid: uid, gid: gid, other: true}, err
}

func (o owner) credential() *syscall.Credential {
	if !o.other {
		return nil
	}
	return &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
}

func (o owner) own(path string) error {
	if !o.other {
		return nil
	}
	return os.Lchown(path, o.uid, o.gid)
}

func (o owner) write(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	return o.own(path)
}

// fromTemplate fills the data folder.
func (c *Cluster) fromTemplate(ctx context.Context, extra []string) error {
	if _, err := os.Stat(filepath.Join(c.Bin, "pg_resetwal")); err != nil { // server packages from npm lack it
		return run(c.Command(ctx, "initdb", append(initArgs(c.Data()), extra...)...))
	}
	template, err := c.template(ctx, extra)
	if err != nil {
		return err
	}
	if err := copyTree(template, c.Data(), c.owner); err != nil {
		return err
	}
	if err := newSystemIdentifier(filepath.Join(c.Data(), "global", "pg_control")); err != nil {
		return err
	}
	// The WAL of the copy still bears the template's identifier; pg_resetwal begins it anew, as pg_createsubscriber does.
	return run(c.Command(ctx, "pg_resetwal", "-f", "-D", c.Data()))
}

func initArgs(data string) []string {
	return []string{"-D", data, "-U", Superuser, "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync", "--data-checksums"}
}

// template is the folder of a fresh cluster, made unless it is there.
func (c *Cluster) template(ctx context.Context, extra []string) (string, error) {
	version, err := exec.CommandContext(ctx, filepath.Join(c.Bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask postgres for its version: %w", err)
	}
	sum := sha256.Sum256([]byte(string(version) + c.Bin + strings.Join(extra, "\x00")))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "sandglass", "pgtest")
	dir := filepath.Join(cache, strconv.Itoa(c.Major)+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return dir, nil
	}
	if err := run(c.Command(ctx, "initdb", append(initArgs(c.Data()), extra...)...)); err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := copyTree(c.Data(), filepath.Join(fresh, "data"), owner{}); err != nil {
		return "", err
	}
	if err := os.RemoveAll(c.Data()); err != nil {
		return "", err
	}
	// Another process may have been quicker; then its template serves.
	if err := os.Rename(filepath.Join(fresh, "data"), dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", err
	}
	return dir, nil
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}

func copyTree(from, to string, o owner) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if d.IsDir() {
			err = os.Mkdir(dst, 0o700)
		} else {
			err = copyFile(path, dst)
		}
		if err != nil {
			return err
		}
		return o.own(dst)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// newSystemIdentifier changes the first field of pg_control, and its CRC-32C, which is the last
// field of ControlFileData (catalog/pg_control.h) and so lies elsewhere in each major: it is found by its value.
func newSystemIdentifier(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := 200; at < 512 && at+4 <= len(b); at += 4 {
		if crc32.Checksum(b[:at], table) != binary.NativeEndian.Uint32(b[at:]) {
			continue
		}
		// As BootStrapXLOG does: seconds in the upper half, chance in the lower.
		var chance [4]byte
		rand.Read(chance[:])
		binary.NativeEndian.PutUint64(b, uint64(time.Now().Unix())<<32|uint64(binary.NativeEndian.Uint32(chance[:])))
		binary.NativeEndian.PutUint32(b[at:], crc32.Checksum(b[:at], table))
		return os.WriteFile(path, b, 0o600)
	}
	return errors.New("pg_control: no CRC found")
}
