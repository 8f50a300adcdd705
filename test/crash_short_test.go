//go:build !long

package test

import (
	"testing"

	"sandglass"
)

// A part of the crash matrix that fits into `make test`: the steps of the undo, which are those of every cutover, and what leads to the
// cutover of a restore killed once each. `make test-long` has the whole.
func TestCrashes(t *testing.T) {
	t.Parallel()
	matrix(t, func(kind sandglass.OperationKind, _, when string) bool {
		return kind == sandglass.KindRestore && when == "after" || kind == sandglass.KindUndo && when == "before"
	})
}
