// The process that the crash matrix kills: this test binary again, doing one operation of a
// toy world that is files in a folder.

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
)

// childEnv holds "connection string\nhost\nfolder\nkind\nenvironment".
const childEnv = "SANDGLASS_ENGINE_TEST_CHILD"

// fileStep makes a file, and remembers in the operation's memory that it did.
func fileStep(world, name string) engine.Step {
	path := filepath.Join(world, name)
	return engine.Step{Name: name,
		Done: func(context.Context, *engine.Run) (bool, error) {
			_, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return err == nil, err
		},
		Do: func(ctx context.Context, run *engine.Run) error {
			made, err := engine.Load[[]string](run)
			if err != nil {
				return err
			}
			if len(made) == 0 || made[len(made)-1] != name {
				if err := run.Save(ctx, append(made, name)); err != nil {
					return err
				}
			}
			return os.WriteFile(path, nil, 0o600)
		},
		Undo: func(context.Context, *engine.Run) error {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		},
	}
}

// toyWorld has a workflow that succeeds and one whose last step fails after it did its work.
func toyWorld(world string) []engine.Workflow {
	var steps []engine.Step
	for _, name := range []string{"a", "b", "c", "d"} {
		steps = append(steps, fileStep(world, name))
	}
	failing := append([]engine.Step(nil), steps...)
	failing[3].Done = nil
	failing[3].Do = func(ctx context.Context, run *engine.Run) error {
		if err := steps[3].Do(ctx, run); err != nil {
			return err
		}
		return &sandglass.Error{Code: sandglass.CodeHealthFailed, Message: "It is not healthy."}
	}
	finished := func(ctx context.Context, run *engine.Run) error {
		made, err := engine.Load[[]string](run)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(world, "finished"), []byte(string(run.Operation.State)+" "+strings.Join(made, "")), 0o600)
	}
	return []engine.Workflow{
		{Kind: "good", Steps: steps, Finished: finished},
		{Kind: "bad", Steps: failing, Finished: finished},
	}
}

// child starts the operation, unless an earlier child did, and does it to its end.
func child() int {
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	args := strings.Split(os.Getenv(childEnv), "\n")
	url, host, world, kind, environment := args[0], args[1], args[2], args[3], args[4]
	ctx, end := context.WithCancel(context.Background())
	defer end()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	d, err := db.Open(ctx, url, log)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	over := make(chan struct{}, 1)
	e, err := engine.New(engine.Config{DB: d, Host: host, Dir: filepath.Join(world, "ops"), Log: log, Workflows: toyWorld(world),
		Finished: func(context.Context, *engine.Run) error { over <- struct{}{}; return nil }})
	if err != nil {
		return fail(err)
	}
	ops, err := e.List(ctx, environment, 10)
	if err != nil {
		return fail(err)
	}
	if len(ops) == 0 {
		if _, err := e.Start(ctx, sandglass.Request{Kind: sandglass.OperationKind(kind), Environment: environment}, "child", nil); err != nil {
			return fail(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	<-over // by then the operation is finished
	end()
	if err := <-ended; err != nil {
		return fail(err)
	}
	return 0
}
