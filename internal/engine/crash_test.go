//go:build crashpoints

package engine_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandglass"
)

// TestCrashMatrix kills the process at every crash point of every step, lets another continue,
// and expects the same end as without a crash.
func TestCrashMatrix(t *testing.T) {
	var points []string
	for _, step := range []string{"a", "b", "c", "d"} {
		points = append(points, "good/"+step+":before", "good/"+step+":after", "bad/"+step+":before", "bad/"+step+":undo-before", "bad/"+step+":undo-after")
		if step != "d" { // d fails: there is no after
			points = append(points, "bad/"+step+":after")
		}
	}
	for _, kind := range []string{"good", "bad"} {
		points = append(points, kind+"/finished:before", kind+"/finished:after")
	}
	d := open(t)
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			kind, _, _ := strings.Cut(point, "/")
			world, environment := t.TempDir(), fmt.Sprintf("crash-%d", i)
			arg := strings.Join([]string{cluster.ConnString("postgres"), environment, world, kind, environment}, "\n")
			if status := runChild(t, arg, point); !status.Signaled() || status.Signal() != syscall.SIGKILL {
				t.Fatalf("the first process was not killed at %s but ended with %v", point, status)
			}
			if status := runChild(t, arg, ""); status.ExitStatus() != 0 {
				t.Fatalf("the second process ended with %v", status)
			}
			checkWorld(t, world, kind)
			o, err := d.Operations(t.Context(), environment, 10)
			if err != nil || len(o) != 1 {
				t.Fatalf("operations: %v, %v", o, err)
			}
			want := "succeeded a=done b=done c=done d=done"
			if kind == "bad" {
				want = "failed " + string(sandglass.CodeHealthFailed) + " a=undone b=undone c=undone d=undone"
			}
			if got := show(o[0].Operation); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// runChild runs this binary as the toy world's process and says how it ended.
func runChild(t *testing.T, arg, crash string) syscall.WaitStatus {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+arg, "SANDGLASS_CRASH="+crash)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // how it ended is in its state
	if ctx.Err() != nil {
		t.Fatal("the process did not end")
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// checkWorld looks at what is left of the toy world.
func checkWorld(t *testing.T, world, kind string) {
	t.Helper()
	for _, name := range []string{"a", "b", "c", "d"} {
		_, err := os.Stat(filepath.Join(world, name))
		if there := err == nil; there != (kind == "good") {
			t.Errorf("file %s: %v", name, err)
		}
	}
	want := map[string]string{"good": "succeeded abcd", "bad": "failed abcd"}[kind]
	if got, err := os.ReadFile(filepath.Join(world, "finished")); err != nil || string(got) != want {
		t.Errorf("Finished saw %q (%v), want %q", got, err, want)
	}
}
