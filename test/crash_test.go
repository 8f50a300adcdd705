package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// crashSite is a sandbox with a life of its own, one that is declared and still empty, a production to restore from, and what each
// should look like.
type crashSite struct {
	*systest.System
	prod          *pgtest.Cluster
	own, fromProd string // what the sandbox's table says in the two states
	slot          string
	servers       int // that may run: the metadata's, and one of each sandbox that isn't empty
	locks         string
	memory        *sharedMemory
	// settings are what uat shows in the two states of the row that its pack sets, and of the printer that it keeps; nil without a pack.
	settings map[string]string
}

const (
	whoAmI = "SELECT who FROM identity"
	empty  = "" // the state of a sandbox without a server
)

func newCrashSite(t *testing.T) *crashSite {
	t.Helper()
	ctx := t.Context()
	c := &crashSite{prod: production(t, nil), own: "the sandbox", fromProd: "production", slot: sandglass.SlotName("prod")}
	c.prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who", "CREATE ROLE app LOGIN PASSWORD 'production'")
	c.System = newSystem(t)
	must(t, c.Record(ctx, "prod", c.prod, nil))
	newSandbox(t, c.System, "uat", nil)
	c.watch(t)
	return c
}

// watch begins to look at what may be left behind, when uat runs and there is nothing to do.
func (c *crashSite) watch(t *testing.T) {
	t.Helper()
	must(t, c.settle(t.Context()))
	c.servers, c.locks = 2, metadata(t, c.System, advisoryLocks)
	c.memory = watchSharedMemory(t, filepath.Join(c.State(), "volumes"))
}

const sitePack = `pack: site
version: 1
databases:
  business:
    what: printers and settings
rules:
  - {name: printers, why: a test, database: business, table: printer, keep: target}
  - {name: url, why: a test, database: business, table: setting, where: name = 'url', set: {value: "'of the pack'"}}
`

// withPack gives uat a pack and migrations, so that there is something to do in each step.
func (c *crashSite) withPack(t *testing.T) {
	t.Helper()
	const tables = "CREATE TABLE printer (id int PRIMARY KEY, name text); CREATE TABLE setting (name text PRIMARY KEY, value text); "
	c.prod.Exec(t, "postgres", "CREATE DATABASE shop OWNER app")
	c.prod.Exec(t, "shop", tables+"INSERT INTO printer VALUES (1, 'secret'), (2, 'secret'); INSERT INTO setting VALUES ('url', 'secret')")
	do(t, c.System, "uat", "postgres", "CREATE DATABASE shop")
	do(t, c.System, "uat", "shop", tables+"INSERT INTO printer VALUES (7, 'own'); INSERT INTO setting VALUES ('url', 'own')")
	folder := filepath.Join(c.State(), "packs", "site")
	must(t, os.MkdirAll(folder, 0o755))
	must(t, os.WriteFile(filepath.Join(folder, "pack.yaml"), []byte(sitePack), 0o644))
	redeclare(t, c.System, "prod", func(e *sandglass.Environment) {
		e.Databases = map[string]string{"business": "shop", "main": "postgres"}
	})
	redeclare(t, c.System, "uat", func(e *sandglass.Environment) {
		e.Databases, e.Packs = map[string]string{"business": "shop", "main": "postgres"}, []string{"site"}
		e.Server.Synchronize = &sandglass.Synchronize{Command: []string{"true"}, Role: "app"}
	})
	c.settings = map[string]string{c.own: "url own, 7 own", c.fromProd: "url of the pack, 7 own"}
	streaming(t, c.System, "prod") // a database that was made after the image
}

// state is what a sandbox shows; an empty one shows nothing.
func (c *crashSite) state(ctx context.Context, name string) (string, error) {
	e, err := c.Client.Environment(ctx, name)
	if err != nil || e.State == sandglass.SandboxEmpty {
		return empty, err
	}
	return c.Query(ctx, name, "postgres", whoAmI)
}

// is fails the test unless uat shows the state, and nothing is left over of the way there.
func (c *crashSite) is(t *testing.T, want string) {
	t.Helper()
	c.shows(t, "uat", want)
	c.nothingLeft(t)
}

func (c *crashSite) shows(t *testing.T, name, want string) {
	t.Helper()
	ctx := t.Context()
	var got string
	must(t, c.Await(ctx, 30*time.Second, name+" to answer", func() (ok bool, err error) {
		got, err = c.state(ctx, name)
		return err == nil, err
	}))
	if got != want {
		t.Errorf("%s shows %q, want %q", name, got, want)
	}
	if name != "uat" || c.settings == nil {
		return
	}
	got, err := c.Query(ctx, name, "shop", "SELECT (SELECT string_agg(name || ' ' || value, ', ') FROM setting) || ', ' || (SELECT string_agg(id || ' ' || name, ', ') FROM printer)")
	if err != nil || got != c.settings[want] {
		t.Errorf("%s has %q, want %q (%v)", name, got, c.settings[want], err)
	}
}

// crash starts an operation on a `serve` that will kill itself at a point, starts another `serve`, and gives how the operation ended.
func (c *crashSite) crash(t *testing.T, r sandglass.Request, point string) sandglass.Operation {
	t.Helper()
	ctx := t.Context()
	must(t, c.Stop())
	must(t, c.Serve(ctx, "SANDGLASS_CRASH="+point))
	must(t, c.settle(ctx))
	op, err := c.Client.Start(ctx, r)
	must(t, err)
	select {
	case <-c.Exited():
	case <-time.After(2 * time.Minute):
		op, _ = c.Client.Operation(ctx, op.ID)
		t.Fatalf("serve was not killed at %s; the operation is %s", point, op.State)
	}
	must(t, c.Kill())
	must(t, c.Serve(ctx))
	op, err = c.Finish(ctx, op.ID)
	must(t, err)
	return op
}

// settle waits until the recorder streams again, so that latest can be restored.
func (c *crashSite) settle(ctx context.Context) error {
	return c.Await(ctx, 30*time.Second, "the recorder to stream", func() (bool, error) {
		e, err := c.Client.Environment(ctx, "prod")
		return err == nil && e.Recorder != nil && e.Recorder.State == sandglass.RecorderStreaming, err
	})
}

// matrix kills `serve` before and after each step of restore, refresh and undo, and of a first restore and its undo. Each operation must
// end as it does without, and leave nothing behind. Steps are taken from a real run, so a new step is covered on the day it is written.
func matrix(t *testing.T, chosen func(name string, kind sandglass.OperationKind, step, when string) bool) {
	c := newCrashSite(t)
	c.withPack(t)
	_, err := c.Sandbox(t.Context(), "first", "prod", nil)
	must(t, err)
	for _, row := range []struct {
		name   string // of the sandbox
		kind   sandglass.OperationKind
		before string // the state the operation begins with and, undone, comes back to
		after  string
	}{
		{"uat", sandglass.KindRestore, c.own, c.fromProd},
		{"uat", sandglass.KindUndo, c.fromProd, c.own},
		{"uat", sandglass.KindRefresh, c.own, c.fromProd},
		{"first", sandglass.KindRestore, empty, c.fromProd},
		{"first", sandglass.KindUndo, c.fromProd, empty},
	} {
		r := c.request(row.name, row.kind)
		ends := func(t *testing.T) {
			t.Helper()
			c.expect(row.name, row.after)
			c.shows(t, row.name, row.after)
			c.nothingLeft(t)
		}
		c.bring(t, row.name, row.before)
		op, err := c.Operate(t.Context(), r)
		must(t, err)
		if op.State != sandglass.Succeeded {
			t.Fatalf("%s of %s without a crash: %s %v", r.Kind, row.name, op.State, op.Error)
		}
		ends(t)
		for _, step := range op.Steps {
			for _, when := range []string{"before", "after"} {
				if !chosen(row.name, row.kind, step.Name, when) || step.State == sandglass.Skipped {
					continue
				}
				point := fmt.Sprintf("%s/%s:%s", r.Kind, step.Name, when)
				t.Run(row.name+" "+point, func(t *testing.T) {
					c.bring(t, row.name, row.before)
					op := c.crash(t, r, point)
					if op.State != sandglass.Succeeded {
						t.Errorf("the operation ended as %s: %v", op.State, op.Error)
					}
					ends(t)
				})
			}
		}
	}
}

func (c *crashSite) request(name string, kind sandglass.OperationKind) sandglass.Request {
	r := sandglass.Request{Kind: kind, Environment: name}
	if kind == sandglass.KindRestore {
		r.Moment = &sandglass.Moment{Kind: sandglass.AtLatest}
	}
	return r
}

// expect counts the servers that run once the sandbox is in a state; uat always has one.
func (c *crashSite) expect(name, state string) {
	if name == "first" {
		c.servers = 2
		if state != empty {
			c.servers = 3
		}
	}
}

// bring brings a sandbox into a state, by the operation that leads there.
func (c *crashSite) bring(t *testing.T, name, want string) {
	t.Helper()
	ctx := t.Context()
	must(t, c.settle(ctx))
	got, err := c.state(ctx, name)
	must(t, err)
	if got != want {
		kind := sandglass.KindUndo
		if want == c.fromProd {
			kind = sandglass.KindRestore
		}
		op, err := c.Operate(ctx, c.request(name, kind))
		must(t, err)
		if op.State != sandglass.Succeeded {
			t.Fatalf("%s between two crashes: %s %v", kind, op.State, op.Error)
		}
	}
	c.expect(name, want)
	// Kept states would fill the disk in so many rounds; only the newest is needed for the way back, and none by a sandbox
	// that is to be as one that was never restored.
	volumes, err := c.Client.Volumes(ctx, name)
	must(t, err)
	slices.SortFunc(volumes, func(a, b sandglass.Volume) int { return b.KeptSince.Compare(a.KeptSince) })
	kept := 0
	for _, v := range volumes {
		if v.State == sandglass.VolumeKept {
			if kept++; kept > 1 || want == empty {
				must(t, c.Client.DropVolume(ctx, v.ID, false))
			}
		}
	}
}
