//go:build long

package test

import (
	"testing"

	"sandglass"
)

// The whole crash matrix: before and after each step of restore, undo and refresh, a first restore included.
func TestCrashes(t *testing.T) {
	t.Parallel()
	matrix(t, func(string, sandglass.OperationKind, string, string) bool { return true })
}
