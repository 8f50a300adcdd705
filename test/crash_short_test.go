//go:build !long

package test

import (
	"slices"
	"testing"

	"sandglass"
)

// A part of the crash matrix that fits into `make test`: the steps of a restore that leave most behind, and the cutovers of an undo, of a first
// restore and of its undo. `make test-long` has the whole.
func TestCrashes(t *testing.T) {
	t.Parallel()
	matrix(t, func(name string, kind sandglass.OperationKind, step, when string) bool {
		switch {
		case name == "first":
			return when == "after" && step == "cut over"
		case kind == sandglass.KindRestore:
			return when == "after" && slices.Contains([]string{"neutralize", "cut over"}, step)
		}
		return kind == sandglass.KindUndo && when == "before" && step == "cut over"
	})
}
