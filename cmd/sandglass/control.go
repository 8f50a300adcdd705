package main

// What `sandglass serve` runs.

import (
	"context"
	"log/slog"
	"path/filepath"

	"sandglass/internal/control"
)

func runControl(ctx context.Context, state string, c config, log *slog.Logger) error {
	return control.Run(ctx, control.Config{State: state, Repository: c.Repository.Path, Key: filepath.Join(state, keyFile), Listen: c.Listen, TokenFile: c.TokenFile,
		MetadataURL: c.MetadataURL, Binaries: c.Binaries, ServerUser: c.ServerUser, VolumeUIDs: c.VolumeUIDs, Host: c.Host, Version: version, Log: log})
}
