// What the recorders do with volumes whose server is stopped: the first image of a sandbox's history, and the
// last WAL of one.

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sandglass"
	"sandglass/internal/operation"
	"sandglass/internal/pg"
	"sandglass/internal/recorder"
	"sandglass/internal/repo"
)

// Adopt makes an image of a stopped volume the first of a new incarnation of its environment: the
// sandbox's own history begins with it, and holds nothing of before.
func (r *recorders) Adopt(ctx context.Context, environment string, id sandglass.IncarnationID, v operation.Layout, facts sandglass.Image, progress func(sandglass.Progress)) error {
	raw, err := pg.ReadFile(v.Data, pg.ControlFile, pg.ControlFileSize)
	if err != nil {
		return fmt.Errorf("read control file: %w", err)
	}
	control, err := pg.ParseControl(raw)
	if err != nil {
		return err
	}
	tablespaces, err := tablespacesOf(v)
	if err != nil {
		return err
	}
	inc := sandglass.Incarnation{ID: id, Environment: environment, SystemIdentifier: control.SystemIdentifier, Major: control.Major,
		SegmentSize: control.SegmentSize, Began: time.Now().UTC()}
	// It begins as one that is not shown: only a cutover makes it part of the environment's history.
	if err := r.control.repo.LeaveIncarnation(ctx, environment, id, sandglass.Absence{From: inc.Began, Reason: "prepared for a cutover"}); err != nil {
		return err
	}
	if err := r.control.repo.BeginIncarnation(ctx, inc); err != nil {
		return err
	}
	progress(sandglass.Progress{Unit: "bytes", Note: "first image of the sandbox's history", ETA: -1})
	dir := filepath.Join(r.control.State, "recorder", environment)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make recorder folder: %w", err)
	}
	facts.ID, facts.Environment, facts.Incarnation = sandglass.ImageID(id), environment, id
	_, digests, err := recorder.ImageStopped(ctx, r.control.repo, facts,
		v.Data, tablespaces, repo.ImageOptions{Dir: dir})
	if err != nil || digests == nil {
		return err
	}
	return digests.Close()
}

// tablespacesOf are the tablespaces of a volume by OID.
func tablespacesOf(v operation.Layout) (map[string]string, error) {
	entries, err := os.ReadDir(v.Tablespaces)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	all := map[string]string{}
	for _, e := range entries {
		all[e.Name()] = filepath.Join(v.Tablespaces, e.Name())
	}
	return all, err
}

// Drain sees that the repository holds all WAL of a stopped volume, whose incarnation nobody records meanwhile.
func (r *recorders) Drain(ctx context.Context, environment string, id sandglass.IncarnationID, v operation.Layout) error {
	dir, err := os.MkdirTemp(filepath.Join(r.control.State, "recorder"), drainTemporary)
	if err != nil {
		return fmt.Errorf("make folder to drain a volume: %w", err)
	}
	defer os.RemoveAll(dir)
	config := recorder.Config{Environment: sandglass.Environment{Name: environment}, Repository: r.control.repo, Dir: dir, Incarnation: id,
		Log: r.control.Log.With("part", "recorder")}
	_, err = recorder.New(config).Drain(ctx, v.Data)
	return err
}

// drainTemporary is the pattern of folders in which WAL of stopped volumes is on its way to the repository.
const drainTemporary = ".drain-*"
