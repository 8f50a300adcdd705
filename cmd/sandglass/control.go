package main

// The seam to internal/control.

import (
	"context"
	"log/slog"

	"sandglass"
)

// runControl is replaced by control.Run once that exists.
func runControl(context.Context, string, config, *slog.Logger) error {
	return &sandglass.Error{Code: sandglass.CodeInternal, Message: "This build has no control plane."}
}
