package systest

// This file lets an installation begin with metadata that another has made.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// metadata is the private metadata cluster's data folder.
func (s *System) metadata() string { return filepath.Join(s.State(), "meta", "data") }

// KeepMetadata stops `serve` and moves its metadata to a folder, for others to begin with.
func (s *System) KeepMetadata(to string) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return os.Rename(s.metadata(), to)
}

// BeginWith gives an installation that has not served yet metadata that another made: to make its own takes seconds.
func (s *System) BeginWith(ctx context.Context, metadata string) error {
	if err := os.MkdirAll(filepath.Dir(s.metadata()), 0o755); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", metadata, s.metadata()).CombinedOutput(); err != nil {
		return fmt.Errorf("copy metadata: %w\n%s", err, out)
	}
	return nil
}
