// Package control is what `sandglass serve` is: the metadata cluster, the engine, the recorders,
// the supervisor of sandboxes and the API, brought up in order and taken down in reverse.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/operation"
	"sandglass/internal/repo"
	"sandglass/internal/server"
	"sandglass/internal/volume"
	"sandglass/internal/web"
)

// Config is what a control plane is told; `sandglass serve` fills it from config.yaml and flags.
type Config struct {
	State       string   // the state folder
	Repository  string   // the repository's folder
	Key         string   // file with the age identity
	Listen      string   // TCP address of the API; "": the Unix socket only
	TokenFile   string   // of the TCP API
	MetadataURL string   // the team's own PostgreSQL; "": a private cluster in the state folder
	Binaries    []string // folders with PostgreSQL binaries, before the usual places
	ServerUser  string   // operating system user of servers; "": postgres, or ourselves when not root
	VolumeUIDs  string   // range of user IDs that volumes get, as server.ParseUIDs reads it
	Host        string   // name of this host; "": what the system says
	Executable  string   // our own binary; "": os.Executable
	Version     string
	Log         *slog.Logger
	Ready       func() // called once the API answers; may be nil
}

// Control is a running control plane; it speaks for every part of the API.
type Control struct {
	Config
	db        *db.DB
	engine    *engine.Engine
	host      *operation.Host
	repo      *repo.Repository
	store     *repo.Folder
	recorders *recorders
	forgot    time.Time // when the supervisor last removed old rows
	verifying sync.Mutex
}

// Run brings the control plane up and serves until ctx ends. Sandboxes outlive it.
func Run(ctx context.Context, c Config) error {
	if c.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name: %w", err)
		}
		c.Host = name
	}
	if err := c.folders(); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	control := &Control{Config: c}
	if err := control.openRepository(ctx); err != nil {
		return err
	}
	uids, err := server.ParseUIDs(c.VolumeUIDs)
	if err != nil {
		return err
	}
	owner, err := server.ServerOwner(c.ServerUser)
	if err != nil {
		return err
	}
	url, metadataGone, stopMetadata, err := c.startMetadata(ctx, owner)
	if err != nil {
		return err
	}
	defer stopMetadata()
	if control.db, err = db.Open(ctx, url, c.Log); err != nil {
		return err
	}
	defer control.db.Close()
	if err := control.build(owner, uids); err != nil {
		return err
	}
	return control.serve(ctx, metadataGone)
}

// folders makes the state folder's parts. Servers' owner passes through the state folder, and reads nothing in it.
func (c *Config) folders() error {
	if err := os.MkdirAll(c.State, 0o711); err != nil {
		return stateError(err)
	}
	for name, mode := range map[string]os.FileMode{"bin": 0o755, "ops": 0o700, "recorder": 0o700, "volumes": 0o711, "meta": 0o711} {
		path := filepath.Join(c.State, name)
		if err := errors.Join(os.MkdirAll(path, mode), os.Chmod(path, mode)); err != nil {
			return stateError(err)
		}
	}
	return c.copyExecutable()
}

// stateError is of a state folder that can't be written.
func stateError(err error) error {
	return &sandglass.Error{Code: sandglass.CodeConfig, Op: "prepare state folder", Err: err,
		Message: fmt.Sprintf("The state folder can't be used: %v.", err), Remedy: "Run `sandglass serve` as its owner, on a disk that can be written, or name another with --state."}
}

// openRepository opens the repository with the key, when it is there.
func (c *Control) openRepository(ctx context.Context) error {
	store, err := repo.NewFolder(c.Repository)
	if err != nil {
		return err
	}
	keys, err := readKey(c.Key)
	if err != nil {
		return err
	}
	c.store = store
	c.repo, err = repo.Open(ctx, store, keys)
	return err
}

// readKey reads the age identity; without one, nothing can be restored.
func readKey(path string) (repo.Keys, error) {
	f, err := os.Open(path)
	if err != nil {
		return repo.Keys{}, &sandglass.Error{Code: sandglass.CodeKeyMissing, Op: "read key", Err: err,
			Message: fmt.Sprintf("The repository's key %s can't be read.", path),
			Remedy:  "Put back the key that `sandglass init` made; without it the repository can't be read."}
	}
	defer f.Close()
	identities, err := age.ParseIdentities(f)
	if err != nil {
		return repo.Keys{}, &sandglass.Error{Code: sandglass.CodeKeyWrong, Op: "read key", Err: err,
			Message: fmt.Sprintf("%s is not an age identity.", path), Remedy: "Put back the key that `sandglass init` made."}
	}
	keys := repo.Keys{Identities: identities}
	for _, id := range identities {
		if x, ok := id.(*age.X25519Identity); ok {
			keys.Recipients = append(keys.Recipients, x.Recipient())
		}
	}
	return keys, nil
}

// CodeMetadataGone is a metadata cluster that ended while we needed it.
const CodeMetadataGone sandglass.Code = "serve.metadata_gone"

// build puts the parts together.
func (c *Control) build(owner server.Owner, uids server.UIDs) error {
	c.recorders = newRecorders(c)
	c.host = &operation.Host{Name: c.Host, DB: c.db, Repository: c.repo, Recorders: c.recorders, Owner: owner, UIDs: uids, Helper: c.Executable,
		Volumes: volume.NewFull(filepath.Join(c.State, "volumes"), c.Log), Installed: server.Look(c.Binaries...), Packs: filepath.Join(c.State, "packs"),
		Hidden: []string{c.State, c.Repository}, Log: c.Log}
	var err error
	c.engine, err = engine.New(engine.Config{DB: c.db, Host: c.Host, Dir: filepath.Join(c.State, "ops"), Log: c.Log,
		Workflows: c.host.Workflows(), Finished: c.record})
	return err
}

// serve runs everything until ctx ends or a part fails. Without the metadata nothing can be done; another life starts it again.
func (c *Control) serve(ctx context.Context, metadataGone <-chan struct{}) error {
	api, err := web.Listen(web.Config{Socket: filepath.Join(c.State, "api.sock"), Listen: c.Listen, TokenFile: c.TokenFile, Version: c.Version, Log: c.Log,
		Parts: web.Parts{Environments: environments{c}, Operations: operations{c}, Recordings: c, Windows: windows{c}, Volumes: volumes{c},
			Repository: repository{c}, Peeks: peeks{c}, Doctor: doctor{c}}})
	if err != nil {
		return err
	}
	c.removeTemporary()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-metadataGone:
			return &sandglass.Error{Code: CodeMetadataGone, Op: "serve", Message: "The server of the metadata has ended.",
				Remedy: "Start `sandglass serve` again, as systemd does by itself; its log, meta/log/postgresql.log in the state folder, says why it ended."}
		}
	})
	group.Go(func() error { return c.supervise(ctx) })
	group.Go(func() error {
		if err := c.importHistory(ctx); err != nil && ctx.Err() == nil { // nothing else needs it
			c.Log.Error("operations of before could not be read from the repository", "error", err)
		}
		return nil
	})
	group.Go(func() error {
		if err := c.removeOldExecutables(ctx); err != nil && ctx.Err() == nil { // they only take room
			c.Log.Warn("old copies of our binary could not be removed", "error", err)
		}
		return nil
	})
	group.Go(func() error { return c.recorders.run(ctx) })
	group.Go(func() error { return c.engine.Run(ctx) })
	group.Go(func() error { return api.Serve(ctx) })
	c.Log.Info("serving", "socket", filepath.Join(c.State, "api.sock"), "listen", c.Listen, "host", c.Host)
	if c.Ready != nil {
		c.Ready()
	}
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// logger is a part's log.
func (c *Control) logger(part string) *slog.Logger { return c.Log.With("part", part) }
