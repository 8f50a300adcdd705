// The private metadata cluster, and the lock of the state folder.

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/server"
)

// lock sees that one process at a time serves a state folder.
func (c *Config) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.State, "serve.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, stateError(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &sandglass.Error{Code: sandglass.CodeEnvironmentBusy, Op: "lock state folder", Err: err,
			Message: fmt.Sprintf("Another `sandglass serve` already uses %s.", c.State), Remedy: "Stop it first, or name another state folder with --state."}
	}
	return func() { f.Close() }, nil
}

// startMetadata starts the private metadata cluster, or finds it running, and gives its URL. With
// a URL in the configuration it only passes that on. gone is closed when the cluster has ended; nil where it is not ours.
func (c *Config) startMetadata(ctx context.Context, owner server.Owner) (address string, gone <-chan struct{}, stop func(), err error) {
	if c.MetadataURL != "" {
		return c.MetadataURL, nil, func() {}, nil
	}
	config, err := c.metadataConfig(ctx, owner)
	if err != nil {
		return "", nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(config.Data, "PG_VERSION")); errors.Is(err, fs.ErrNotExist) {
		c.Log.Info("making the metadata cluster", "folder", config.Data, "major", config.Binaries.Major)
		if err := makeMetadata(ctx, config); err != nil {
			return "", nil, nil, err
		}
	}
	p, err := server.Adopt(ctx, config)
	if errors.Is(err, server.ErrNotRunning) {
		p, err = server.Start(ctx, config)
	}
	if err != nil {
		return "", nil, nil, err
	}
	if err := p.Ready(ctx); err != nil {
		p.Close()
		return "", nil, nil, err
	}
	stop = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := p.Stop(ctx, server.Fast); err != nil {
			c.Log.Error("the metadata cluster did not stop", "error", err)
		}
		p.Close()
	}
	u := url.URL{Scheme: "postgres", User: url.User(server.Role), Path: "/postgres",
		RawQuery: url.Values{"host": {config.Run}, "port": {strconv.Itoa(server.Port)}, "application_name": {"sandglass"}}.Encode()}
	return u.String(), p.Exited(), stop, nil
}

// makeMetadata makes the cluster beside its place and moves it there, so that one that is there is whole,
// whenever an earlier life of ours was killed.
func makeMetadata(ctx context.Context, config server.Config) error {
	data := config.Data
	config.Data += ".new"
	if err := server.Discard(ctx, config); err != nil { // initdb outlives us
		return err
	}
	if err := os.RemoveAll(config.Data); err != nil {
		return fmt.Errorf("make metadata cluster: %w", err)
	}
	if err := server.InitDB(ctx, config, server.InitOptions{}); err != nil {
		return err
	}
	if err := os.Rename(config.Data, data); err != nil {
		return fmt.Errorf("make metadata cluster: %w", err)
	}
	return nil
}

// metadataConfig pins the major that the cluster was made with.
func (c *Config) metadataConfig(ctx context.Context, owner server.Owner) (server.Config, error) {
	dir := filepath.Join(c.State, "meta")
	config := server.Config{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Log: filepath.Join(dir, "log", "postgresql.log"), Owner: owner, Helper: c.Executable}
	found, err := server.Look(c.Binaries...).Find(ctx)
	if err != nil {
		return config, err
	}
	major := 0
	if text, err := os.ReadFile(filepath.Join(config.Data, "PG_VERSION")); err == nil {
		major, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	} else {
		for m := range found {
			major = max(major, m)
		}
	}
	if major == 0 {
		major = server.MaxMajor
	}
	config.Binaries, err = server.Pick(found, major)
	if err != nil {
		return config, err
	}
	config.Settings = server.MetaSettings(major)
	return config, nil
}
