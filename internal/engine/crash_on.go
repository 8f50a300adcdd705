//go:build crashpoints

// Crash points, for the crash matrix only: the process kills itself at a named instant.

package engine

import (
	"fmt"
	"os"

	"sandglass"
)

// crashAt sends the process SIGKILL when SANDGLASS_CRASH is "kind/step:point". The points are
// before (the step's row says running, Do was not called), after (Do returned, the row still
// says running), undo-before and undo-after. The job after an operation is the step "finished".
func crashAt(kind sandglass.OperationKind, step, point string) {
	if os.Getenv("SANDGLASS_CRASH") != fmt.Sprintf("%s/%s:%s", kind, step, point) {
		return
	}
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	panic(fmt.Sprint("the process outlived SIGKILL: ", err))
}
