//go:build !long

package test

import (
	"testing"

	"sandglass"
)

// A part of the crash matrix that fits into `make test`: the steps of the undo, which are those of every cutover, and what leads to the
// cutover of a restore killed once each; of a first restore the recovery, and of it and its undo the cutover. `make test-long` has the whole.
func TestCrashes(t *testing.T) {
	t.Parallel()
	matrix(t, func(name string, kind sandglass.OperationKind, step, when string) bool {
		if name == "first" {
			return when == "after" && (step == "recover" || step == "cut over")
		}
		return kind == sandglass.KindRestore && when == "after" || kind == sandglass.KindUndo && when == "before"
	})
}
