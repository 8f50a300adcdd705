package main

// The binary as a person types it: scripts in testdata/script, each against a control plane in memory behind the real API.

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sandglass"
	"sandglass/internal/web"
	"sandglass/internal/web/webtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("SANDGLASS_TEST_MAIN") != "" { // this is the command, on a test's terminal
		main()
	}
	testscript.Main(m, map[string]func(){"sandglass": main})
}

func TestScripts(t *testing.T) {
	root, err := os.MkdirTemp("/tmp", "sg") // short: a Unix socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", WorkdirRoot: root, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("SANDGLASS_STATE", filepath.Join(e.WorkDir, "state"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LC_ALL", "C.UTF-8")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// exits CODE COMMAND...: runs the command and checks its exit code.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				code := "0"
				if err != nil {
					code = ""
					if x, ok := err.(interface{ ExitCode() int }); ok {
						code = strconv.Itoa(x.ExitCode())
					}
				}
				if code != args[0] {
					ts.Fatalf("exit code %s (%v), want %s", code, err, args[0])
				}
			},
			// control OUTCOME: runs a control plane whose operations end so, until the script ends.
			"control": func(ts *testscript.TestScript, _ bool, args []string) { serveControl(ts, sandglass.State(args[0])) },
		},
	})
}

// serveControl runs the API over a control plane in memory, at the script's state folder.
func serveControl(ts *testscript.TestScript, outcome sandglass.State) {
	state := ts.Getenv("SANDGLASS_STATE")
	ts.Check(os.MkdirAll(state, 0o711))
	c := sampleControl(outcome)
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	server, err := web.Listen(web.Config{Socket: filepath.Join(state, socketFile), Version: "dev", Parts: c.Parts(), Log: log})
	ts.Check(err)
	done := make(chan error, 2)
	go func() { done <- server.Serve(ctx) }()
	go func() { // time goes by
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			c.Next()
		}
		done <- nil
	}()
	ts.Defer(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				ts.Logf("serve: %v", err)
			}
		}
	})
}

// sampleControl is a control plane with a production, a sandbox and something to tell of each.
func sampleControl(outcome sandglass.State) *webtest.Control {
	c := webtest.New(
		sandglass.EnvironmentStatus{Environment: sandglass.Environment{Name: "prod", Kind: sandglass.Production, Zone: "Europe/Vienna", Recording: &sandglass.Recording{Connection: "host=db"}}.WithDefaults(),
			Recorder: &sandglass.RecorderStatus{State: sandglass.RecorderStreaming, Slot: "sandglass_prod", ServerLSN: 0x5A40110, DurableLSN: 0x5A40110, LastImage: "20261122t123000-bbbb"}},
		sandglass.EnvironmentStatus{Environment: sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Zone: "Europe/Vienna", Server: &sandglass.Server{Port: 5433, Source: "prod"}}.WithDefaults(),
			State: sandglass.SandboxRunning, Address: "localhost:5433"},
		sandglass.EnvironmentStatus{Environment: sandglass.Environment{Name: "play", Kind: sandglass.Sandbox, Server: &sandglass.Server{Port: 5434}}.WithDefaults(), State: sandglass.SandboxEmpty})
	c.Window, c.Plan = sampleWindow(), samplePlan()
	c.Range = *c.Plan.Range
	c.Script = []sandglass.Operation{sampleOperation(sandglass.Running), sampleOperation(outcome)}
	c.Commits = []sandglass.Commit{{XID: 81236, LSN: 0x5A3F2B8, Time: at("10:41:59.812345"), Rows: []sandglass.RelationRows{{Database: "erp", Relation: "public.orders", Deleted: 1204}}}}
	c.Kept = []sandglass.Volume{{ID: "a1b2c3d4", Environment: "uat", State: sandglass.VolumeKept, Bytes: 1 << 30, Major: 15, Created: at("09:00:00")}}
	c.Prune = sandglass.PrunePlan{ID: "p1", Objects: 3, Bytes: 7 << 30, Items: []sandglass.PruneItem{{Environment: "prod", Kind: "image", Name: "old", Objects: 3, Bytes: 7 << 30, Why: "older than 28d"}}}
	c.Verify = sandglass.VerifyReport{Objects: 5, Bytes: 1 << 20, Seconds: 1}
	if outcome == sandglass.Failed {
		c.Verify.Damaged = []sandglass.Damage{{Object: "env/prod/x", Problem: "Its bytes were changed.", Costs: "Nothing can be restored."}}
		c.Plan.Findings = append(c.Plan.Findings, sandglass.Finding{Code: "preflight.port_taken", Level: sandglass.Warning, Message: "The port is taken."})
	}
	if outcome == "stopped" {
		c.Plan.Findings = []sandglass.Finding{{Code: "preflight.disk_space", Level: sandglass.Stop, Message: "The disk has room for 1 GiB.", Remedy: "Make room for 5 GiB."}}
		c.Findings = c.Plan.Findings
	}
	c.Peek = sandglass.Peek{ID: "20261122t104307-0001", Environment: "prod", Moment: "2026-11-22T09:42:00Z", Reason: "lost rows", AskedBy: "anna",
		Connection: sandglass.Connection{PSQL: []string{"psql", "host=/tmp/x dbname=erp"}, Until: time.Now().Add(2 * time.Second)}}
	return c
}
