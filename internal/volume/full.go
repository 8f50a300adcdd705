// The driver of plain copies, which works everywhere.

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sandglass"
)

// incomplete is the file that marks a volume which is being made or destroyed. It is there before
// anything else of the volume, and goes last.
const incomplete = "incomplete"

// Full keeps each volume as a plain folder, with all of its image's files.
type Full struct {
	dir string
	log *slog.Logger
}

var _ Driver = (*Full)(nil)

// NewFull keeps volumes in dir.
func NewFull(dir string, log *slog.Logger) *Full { return &Full{dir, log} }

// Name is "full".
func (f *Full) Name() string { return "full" }

// Layout is where a volume's parts are.
func (f *Full) Layout(id string) Layout { return layout(f.dir, id) }

// Complete says whether the volume is there and whole.
func (f *Full) Complete(ctx context.Context, id string) (bool, error) {
	if err := checkID(id); err != nil {
		return false, err
	}
	l := f.Layout(id)
	if _, err := os.Stat(l.Data); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look at volume: %w", err)
	}
	_, err := os.Stat(filepath.Join(l.Root, incomplete))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at volume: %w", err)
	}
	return false, nil
}

// Create makes a volume of an image.
func (f *Full) Create(ctx context.Context, id string, o Owner, s Source, progress func(doneBytes int64)) error {
	return f.create(ctx, id, func(l Layout) error {
		tablespace := func(oid string) string { return filepath.Join(l.Tablespaces, oid) }
		if err := s.Restore(ctx, l.Data, tablespace, progress); err != nil {
			return err
		}
		if err := redirectTablespaces(l); err != nil {
			return err
		}
		return own(ctx, l.Root, o)
	})
}

// CreateEmpty makes a volume with an empty data folder.
func (f *Full) CreateEmpty(ctx context.Context, id string, o Owner) error {
	return f.create(ctx, id, func(l Layout) error { return own(ctx, l.Root, o) })
}

// create makes the folders, has them filled, and takes the mark away once all is on the disk.
func (f *Full) create(ctx context.Context, id string, fill func(Layout) error) (err error) {
	done, err := f.Complete(ctx, id)
	if err != nil || done {
		return err
	}
	if err := f.Destroy(ctx, id); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if e := f.Destroy(context.WithoutCancel(ctx), id); e != nil {
			f.log.Error("remove half-made volume", "volume", id, "error", e)
		}
		err = explain(f.dir, err)
	}()
	l := f.Layout(id)
	if err := os.MkdirAll(l.Root, 0o711); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	if err := f.mark(l); err != nil {
		return err
	}
	for _, dir := range []string{l.Data, l.Tablespaces, l.Run, l.Log} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make volume: %w", err)
		}
	}
	if err := fill(l); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	if err := syncFS(l.Root); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	if err := os.Remove(filepath.Join(l.Root, incomplete)); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	return syncDir(l.Root)
}

// mark makes the volume an incomplete one, durably.
func (f *Full) mark(l Layout) error {
	file, err := os.OpenFile(filepath.Join(l.Root, incomplete), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("mark volume: %w", err)
	}
	return errors.Join(file.Sync(), file.Close(), syncDir(l.Root), syncDir(f.dir))
}

// redirectTablespaces makes all tablespaces lie in the volume: the links in pg_tblspc, and tablespace_map, from which
// the server's first start would make production's links again.
func redirectTablespaces(l Layout) error {
	entries, err := os.ReadDir(l.Tablespaces)
	if err != nil {
		return err
	}
	oids := map[string]bool{}
	for _, e := range entries {
		oids[e.Name()] = true
	}
	mapPath := filepath.Join(l.Data, "tablespace_map")
	b, err := os.ReadFile(mapPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(b)) {
		// "OID path"; a path with an end of line goes on, after a backslash, on a line that can begin with anything.
		if oid, _, ok := strings.Cut(line, " "); ok && isOID(oid) {
			oids[oid] = true
		}
	}
	links := filepath.Join(l.Data, "pg_tblspc")
	if err := os.MkdirAll(links, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(links)
	if err != nil {
		return err
	}
	for _, e := range there {
		if e.Type()&fs.ModeSymlink != 0 { // never leave one that leads outside; in-place tablespaces are folders
			oids[e.Name()] = true
		}
	}
	var text strings.Builder
	for _, oid := range slices.Sorted(maps.Keys(oids)) {
		target, link := filepath.Join(l.Tablespaces, oid), filepath.Join(links, oid)
		if !isOID(oid) {
			return fmt.Errorf("tablespace %q: not an OID", oid)
		}
		if err := os.MkdirAll(target, 0o700); err != nil {
			return err
		}
		if err := os.RemoveAll(link); err != nil {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
		// Backslash, end of line and carriage return are escaped (do_pg_backup_start in access/transam/xlog.c).
		fmt.Fprintf(&text, "%s %s\n", oid, strings.NewReplacer(`\`, `\\`, "\n", "\\\n", "\r", "\\\r").Replace(target))
	}
	if b == nil {
		return nil // an image of a stopped server: the links are all
	}
	return os.WriteFile(mapPath, []byte(text.String()), 0o600)
}

func isOID(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// own gives all files to their owner, and keeps others out of the folders that a server insists on. The volume's own folder
// stays ours: its owner, as whom programs of a sandbox may run, can't put anything in the place of one in it.
func own(ctx context.Context, root string, o Owner) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if path == root {
			return nil
		}
		return os.Lchown(path, o.UID, o.GID)
	})
	if err != nil {
		return err
	}
	if err := os.Chmod(root, 0o711); err != nil {
		return err
	}
	l := layout(filepath.Dir(root), filepath.Base(root))
	for _, dir := range []string{l.Data, l.Tablespaces, l.Run, l.Log} {
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Destroy removes a volume.
func (f *Full) Destroy(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	l := f.Layout(id)
	if _, err := os.Lstat(l.Root); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("destroy volume: %w", err)
	}
	if pid := serverIn(l.Data); pid != 0 {
		return &sandglass.Error{Code: sandglass.CodeVolumeInUse, Op: "destroy volume",
			Message: fmt.Sprintf("The volume %s is in use: a PostgreSQL process (%d) works in it.", id, pid),
			Remedy:  "Stop the server that runs on it first."}
	}
	if err := f.mark(l); err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) { // a full disk must not keep us from freeing it
		return err
	}
	entries, err := os.ReadDir(l.Root)
	if err != nil {
		return fmt.Errorf("destroy volume: %w", err)
	}
	for _, e := range entries {
		if e.Name() == incomplete {
			continue
		}
		if err := os.RemoveAll(filepath.Join(l.Root, e.Name())); err != nil {
			return fmt.Errorf("destroy volume: %w", err)
		}
	}
	if err := os.RemoveAll(l.Root); err != nil {
		return fmt.Errorf("destroy volume: %w", err)
	}
	return syncDir(f.dir)
}

// serverIn finds a PostgreSQL process that works in the data folder, 0 if there is none. A shell that
// somebody left there does not count, nor does what works in the folder around it, which anybody may enter.
func serverIn(data string) int {
	dirs := []string{data}
	if real, err := filepath.EvalSymlinks(data); err == nil {
		dirs = append(dirs, real)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cwd, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err != nil {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if err != nil || strings.TrimSpace(string(name)) != "postgres" {
			continue
		}
		for _, dir := range dirs {
			if cwd == dir || strings.HasPrefix(cwd, dir+"/") {
				return pid
			}
		}
	}
	return 0
}

// Usage is the space the volume takes on the disk, in bytes.
func (f *Full) Usage(ctx context.Context, id string) (int64, error) {
	if err := checkID(id); err != nil {
		return 0, err
	}
	root := f.Layout(id).Root
	if _, err := os.Stat(root); err != nil {
		return 0, &sandglass.Error{Code: sandglass.CodeVolumeUnknown, Op: "measure volume", Err: err,
			Message: fmt.Sprintf("There is no volume %s.", id), Remedy: "`sandglass volume ls` shows the volumes."}
	}
	var n int64
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a running server's files come and go
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512 // stat(2): units of 512 bytes, whatever the block size
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure volume: %w", err)
	}
	return n, nil
}

// List gives the IDs of all volumes.
func (f *Full) List(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && volumeID.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Free is the space left for volumes, in bytes.
func (f *Full) Free(ctx context.Context) (int64, error) {
	dir := f.dir
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			return 0, fmt.Errorf("look for free space in %s: %w", dir, err)
		}
		dir = filepath.Dir(dir) // the folder is made with the first volume
	}
}

// explain makes a full disk an error for people.
func explain(dir string, err error) error {
	if sandglass.CodeOf(err) != sandglass.CodeInternal || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return &sandglass.Error{Code: sandglass.CodeDiskFull, Op: "make volume", Err: err,
		Message: fmt.Sprintf("The disk of %s is full; the half-made volume was removed.", dir),
		Remedy:  "Free some space, for example by dropping kept states (sandglass volume drop), and try again."}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncFS brings the file system of dir to the disk: one call for all files.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
