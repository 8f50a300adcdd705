// Our own binary, where servers' owner can execute it: it seals servers, and answers their restore_command.

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"sandglass/internal/pg"
)

// copyExecutable puts our binary where servers' owner can execute it, under a name of its content's
// size and time, so that a server in recovery keeps the one it was started with.
func (c *Config) copyExecutable() error {
	if c.Executable == "" {
		path, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find our own binary: %w", err)
		}
		c.Executable = path
	}
	info, err := os.Stat(c.Executable)
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	path := filepath.Join(c.State, "bin", fmt.Sprintf("sandglass-%x-%x", info.Size(), info.ModTime().UnixNano()))
	if there, err := os.Stat(path); err == nil && there.Size() == info.Size() {
		c.Executable = path
		return nil
	}
	in, err := os.Open(c.Executable)
	if err != nil {
		return fmt.Errorf("copy our own binary: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copy our own binary: %w", err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("copy our own binary: %w", err)
	}
	c.Executable = path
	return nil
}

// removeOldExecutables removes the copies of other versions that nothing uses any more: no process runs from one, and no
// server's configuration names one. A server in recovery keeps the one it was started with.
func (c *Control) removeOldExecutables(ctx context.Context) error {
	copies, err := filepath.Glob(filepath.Join(c.State, "bin", "sandglass-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range copies {
		if path == c.Executable {
			continue
		}
		used, err := c.executableUsed(ctx, path)
		if err == nil && !used {
			c.Log.Info("removing an old copy of our binary", "path", path)
			err = os.Remove(path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Control) executableUsed(ctx context.Context, path string) (bool, error) {
	for _, pattern := range []string{"/proc/[0-9]*/exe", "/proc/[0-9]*/cmdline"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return true, err
		}
		if slices.ContainsFunc(found, func(name string) bool { // a process may end meanwhile
			if target, err := os.Readlink(name); err == nil {
				return target == path
			}
			text, _ := os.ReadFile(name)
			return filepath.Base(name) == "cmdline" && bytes.Contains(text, []byte(path))
		}) {
			return true, nil
		}
	}
	ids, err := c.host.Volumes.List(ctx)
	if err != nil {
		return true, err
	}
	for _, id := range ids {
		text, err := pg.ReadFile(c.host.Volumes.Layout(id).Run, "postgresql.conf", 1<<20)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return true, fmt.Errorf("look for the use of %s: %w", path, err)
		}
		if bytes.Contains(text, []byte(path)) {
			return true, nil
		}
	}
	return false, nil
}
