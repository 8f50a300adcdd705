package recorder

// Images of a stopped server's data folder: the beginning of a sandbox's history.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/repo"
	"sandglass/internal/wal"
)

// ImageStopped takes an image of a cleanly stopped server's data folder: replay begins at its
// shutdown checkpoint, at which the copy is also consistent. tablespaces maps the OID of each
// tablespace to its folder. The image carries what image says (ID, Environment and Incarnation
// must be set; Settings, Databases and Preload may be). o.Dir must be the recorder's folder: the image shares chunks with
// the last one that was made there, unless o.Known says another, and the next one with this. Whose incarnation they are
// of does not matter: a chunk is named with its incarnation.
//
// No WAL is part of an image. The segment that holds the checkpoint must come into the
// repository by the recorder of the same incarnation, which begins with it: nothing that
// must not be kept may be in that segment.
func ImageStopped(ctx context.Context, r *repo.Repository, image sandglass.Image, dataDir string, tablespaces map[string]string, o repo.ImageOptions) (sandglass.Image, *repo.Digests, error) {
	c, err := readControl(dataDir)
	if err != nil {
		return image, nil, fmt.Errorf("image stopped server: %w", err)
	}
	if c.State != pg.StateShutDown {
		return image, nil, fmt.Errorf("image stopped server: its state is %q, not %q", c.State, pg.StateShutDown)
	}
	image.Timeline, image.Redo, image.Consistent, image.Minimums = c.Timeline, c.RedoLSN, c.CheckpointLSN, c.Minimums
	if image.End, err = checkpointEnd(dataDir, c); err != nil {
		return image, nil, fmt.Errorf("image stopped server: %w", err)
	}
	image.Began, image.Ended, image.Tablespaces = time.Now().UTC(), time.Now().UTC(), tablespaces
	if o.Known == nil {
		if last, err := lastDigests(r, o.Dir); err == nil && last != nil { // else it is a full one
			defer last.Close()
			o.Known = last
		}
	}
	w, err := r.NewImage(ctx, image, o)
	if err != nil {
		return image, nil, err
	}
	top := filepath.Dir(dataDir)
	err = copyFolder(ctx, w, top, dataDir, "")
	for oid, folder := range tablespaces {
		if err == nil {
			err = copyFolder(ctx, w, top, folder, "pg_tblspc/"+oid)
		}
	}
	if err != nil {
		_ = w.Abort(context.WithoutCancel(ctx))
		return image, nil, fmt.Errorf("image stopped server: %w", err)
	}
	image, digests, err := w.Finish(ctx, image)
	if err == nil && digests != nil {
		if err := keepDigests(o.Dir, filepath.Base(digests.Path())); err != nil {
			return image, digests, fmt.Errorf("image stopped server: keep its digests: %w", err)
		}
	}
	return image, digests, err
}

// checkpointEnd reads where the last checkpoint's record ends, from the data folder's WAL.
func checkpointEnd(dataDir string, c pg.Control) (end sandglass.LSN, err error) {
	at := c.CheckpointLSN &^ (wal.PageSize - 1)
	reader, err := wal.NewReader(wal.Config{Major: c.Major, SegmentSize: c.SegmentSize, Timeline: c.Timeline, Start: at}, func(r *wal.Record) error {
		if r.LSN != c.CheckpointLSN {
			return nil
		}
		end = r.End
		return errFound
	})
	if err != nil {
		return 0, err
	}
	for range 2 { // the record may cross into the next segment
		err := feed(reader, dataDir, c)
		if errors.Is(err, errFound) {
			return end, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("the checkpoint at %s is not in its WAL", c.CheckpointLSN)
}

var errFound = errors.New("found")

// copyFolder adds what belongs to an image of a folder below top. Links are not followed, nor does one that the server's user puts in
// the place of a folder or a file meanwhile lead out of top.
func copyFolder(ctx context.Context, w *repo.ImageWriter, top, root, prefix string) error {
	return filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(filepath.Join(prefix, rel))
		if rel == "." && prefix == "" {
			return nil
		}
		if rel != "." && !wanted(name, d.IsDir()) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return w.Dir(name, info.Mode().Perm())
		case info.Mode().IsRegular():
			below, err := filepath.Rel(top, full)
			if err != nil {
				return err
			}
			f, err := pg.Open(top, below)
			if err != nil {
				return err
			}
			defer f.Close()
			return w.File(ctx, name, info.Mode().Perm(), info.ModTime(), info.Size(), f)
		}
		return nil // tablespace links
	})
}
