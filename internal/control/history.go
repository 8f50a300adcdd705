// The history of finished operations outlives this host in the repository, and comes back from it:
// a metadata cluster that was lost is begun anew, and knows the old operations again.

package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
)

// logTemporary is the pattern of files that hold an operation's zip on its way to the repository.
const logTemporary = ".log-*"

// record puts a finished operation and its logs into the repository.
func (c *Control) record(ctx context.Context, run *engine.Run) error {
	if run.Operation.Kind != sandglass.KindPeek {
		c.recorders.Resume(run.Operation.Environment) // also after a way back that could not be gone to its end
	}
	if err := c.repo.PutOperation(ctx, run.Operation); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.State, logTemporary)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := c.engine.Logs(ctx, run.Operation.ID, f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return c.repo.PutOperationLog(ctx, run.Operation.ID, f)
}

// Logs writes the zip: of this host's folder, or, once that is gone, of the repository.
func (c operations) Logs(ctx context.Context, id string, w io.Writer) error {
	if _, err := c.engine.Get(ctx, id); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.State, "ops", id)); err == nil {
		return c.engine.Logs(ctx, id, w)
	}
	zip, err := c.repo.OperationLog(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return c.engine.Logs(ctx, id, w) // at least what the metadata knows
	}
	if err != nil {
		return err
	}
	defer zip.Close()
	_, err = io.Copy(w, zip)
	return err
}

// importHistory gives the metadata the finished operations that only the repository knows.
func (c *Control) importHistory(ctx context.Context) error {
	known, err := c.db.KnownOperations(ctx)
	if err != nil {
		return err
	}
	missing, err := c.missingOperations(ctx, known)
	if err != nil || missing == 0 {
		return err
	}
	all, err := c.repo.Operations(ctx)
	if sandglass.CodeOf(err) == sandglass.CodeRepositoryDamaged {
		c.Log.Error("records of operations are damaged; see `sandglass repo verify`", "error", err)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read the repository's operations: %w", err)
	}
	n := 0
	for _, o := range all {
		if known[o.ID] || forgotten(o.ID, time.Now()) {
			continue
		}
		if err := c.db.Do(ctx, func(tx *db.Tx) error { return tx.ImportOperation(ctx, c.Host, o) }); err != nil {
			return err
		}
		n++
	}
	c.Log.Info("operations of before are known again, from the repository", "operations", n)
	return nil
}

// remembered is how long the metadata keeps finished operations and the audit. The repository keeps the records for ever.
const remembered = 400 * 24 * time.Hour

// forgotten says whether an operation began, by its ID, before what the metadata keeps.
func forgotten(id string, now time.Time) bool {
	const layout = "20060102t150405" // see engine's newID
	if len(id) < len(layout) {
		return false
	}
	began, err := time.Parse(layout, id[:len(layout)])
	return err == nil && now.Sub(began) > remembered
}

// forget removes from the metadata, once a day, what is older than it keeps.
func (c *Control) forget(ctx context.Context) error {
	if time.Since(c.forgot) < 24*time.Hour {
		return nil
	}
	now := time.Now()
	n, err := c.db.Forget(ctx, now.Add(-remembered))
	if err != nil {
		return err
	}
	folders, err := os.ReadDir(filepath.Join(c.State, "ops"))
	for _, f := range folders {
		if forgotten(f.Name(), now) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.State, "ops", f.Name())))
		}
	}
	if err != nil {
		return err
	}
	c.forgot = now
	if n > 0 {
		c.Log.Info("removed old operations and audit rows from the metadata", "rows", n)
	}
	return nil
}

// removeTemporary removes what a process that was killed left on its way to the repository.
func (c *Control) removeTemporary() {
	for _, pattern := range []string{logTemporary, filepath.Join("recorder", drainTemporary)} {
		stale, _ := filepath.Glob(filepath.Join(c.State, pattern))
		for _, path := range stale {
			os.RemoveAll(path)
		}
	}
}

// missingOperations counts, by names alone, the repository's records that the metadata has not.
func (c *Control) missingOperations(ctx context.Context, known map[string]bool) (n int, err error) {
	for object, err := range c.store.List(ctx, "operation/", "") {
		if err != nil {
			return 0, fmt.Errorf("list the repository's operations: %w", err)
		}
		id, isRecord := strings.CutSuffix(strings.TrimPrefix(object.Key, "operation/"), "/record")
		if isRecord && !known[id] && !forgotten(id, time.Now()) {
			n++
		}
	}
	return n, nil
}
