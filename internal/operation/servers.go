// The servers of a volume: how each is configured, found again, started and stopped.

package operation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/pg"
	"sandglass/internal/policy"
	"sandglass/internal/server"
	"sandglass/internal/walserve"
)

// base is what every server on a volume has in common.
func (h *Host) base(ctx context.Context, volumeID string, major int) (server.Config, error) {
	owner, err := h.owner(ctx, volumeID)
	if err != nil {
		return server.Config{}, err
	}
	found, err := h.Installed.Find(ctx)
	if err != nil {
		return server.Config{}, err
	}
	binaries, err := server.Pick(found, major)
	if err != nil {
		return server.Config{}, err
	}
	l := h.Volumes.Layout(volumeID)
	return server.Config{Binaries: binaries, Data: l.Data, Run: l.Run, Log: filepath.Join(l.Log, "postgresql.log"),
		Owner: owner, Helper: h.Helper}, nil
}

// seal closes the server in, as the environment declares.
func (h *Host) seal(c server.Config, volumeID string, e sandglass.Environment) server.Config {
	configOnly := e.Server != nil && e.Server.Seal == "config-only"
	c.Seal = &server.Seal{Volume: h.Volumes.Layout(volumeID).Root, ReadOnly: []string{h.Helper}, ConfigOnly: configOnly}
	return c
}

// recoveryConfig is of the sealed server that replays up to the moment.
func (h *Host) recoveryConfig(ctx context.Context, m memory, e sandglass.Environment, img sandglass.Image) (server.Config, error) {
	c, err := h.base(ctx, m.Volume, m.Major)
	if err != nil {
		return c, err
	}
	c = h.seal(c, m.Volume, e)
	c.Settings = server.RecoverySettings(m.Major, server.Recovery{Range: m.Range, Minimums: img.Minimums,
		RestoreCommand: walserve.RestoreCommand(h.Helper, h.walSocket(m.Volume)), Preload: preloadFor(img.Preload),
		MaxSlots: setting(img, "max_replication_slots"), MaxOrigins: setting(img, "max_active_replication_origins")})
	return c, nil
}

func (h *Host) walSocket(volumeID string) string {
	return filepath.Join(h.Volumes.Layout(volumeID).Run, "wal.sock")
}

// stagingConfig is of the sealed server after its promotion.
func (h *Host) stagingConfig(ctx context.Context, m memory, e sandglass.Environment, img sandglass.Image) (server.Config, error) {
	c, err := h.base(ctx, m.Volume, m.Major)
	if err != nil {
		return c, err
	}
	c = h.seal(c, m.Volume, e)
	c.Settings = server.StagingSettings(m.Major, img.Minimums.AtLeast(m.Range.Minimums), preloadFor(img.Preload))
	return c, nil
}

// sandboxConfig is of the sandbox's own server, closed to everybody but us: its HBA is empty. See opened.
func (h *Host) sandboxConfig(ctx context.Context, volumeID string, major int, e sandglass.Environment) (server.Config, error) {
	c, err := h.base(ctx, volumeID, major)
	if err != nil {
		return c, err
	}
	c.Port = e.Server.Port
	c.KeepAlterSystem = true
	c.Settings, err = server.SandboxSettings(major, *e.Server, sandglass.Parameters{})
	return c, err
}

// opened lets clients in: everybody the environment declares, or, while it is held, its administrator alone.
func opened(c server.Config, e sandglass.Environment, held bool) server.Config {
	if held {
		if e.Server.Administrator == "" { // the declaration was changed since
			return c
		}
		administrator := `"` + e.Server.Administrator + `"`
		c.HBA = []string{
			"local all " + administrator + " scram-sha-256",
			"host all " + administrator + " all scram-sha-256",
		}
		return c
	}
	c.HBA = e.Server.HBA
	if len(c.HBA) == 0 {
		c.HBA = []string{
			"local all all scram-sha-256",
			"host all all 127.0.0.1/32 scram-sha-256",
			"host all all ::1/128 scram-sha-256",
			"host all all samehost scram-sha-256",
		}
	}
	return c
}

// Sandbox is the configuration of an environment's current server, as it stands open to its clients. While it
// runs, that is with the port it was started with: a new one of the declaration is for its next start.
func (h *Host) Sandbox(ctx context.Context, e db.Environment) (server.Config, error) {
	v, err := h.DB.Volume(ctx, e.Volume)
	if err != nil {
		return server.Config{}, err
	}
	c, err := h.sandboxConfig(ctx, v.ID, v.Major, e.Declaration)
	if err != nil {
		return c, err
	}
	return opened(asItRuns(ctx, c), e.Declaration, e.Held), nil
}

// asItRuns is the configuration with the port of the server that runs by it, if one does. The port
// names the socket.
func asItRuns(ctx context.Context, c server.Config) server.Config {
	p, err := running(ctx, c)
	if err != nil || p == nil {
		return c
	}
	defer p.Close()
	if port, err := strconv.Atoi(postmasterLine(c.Data, 4)); err == nil && port > 0 { // LOCK_FILE_LINE_PORT in miscadmin.h
		c.Port = port
	}
	return c
}

// postmasterLine is a line, counted from 1, of the lock file that a running server keeps in its data folder; "" when it has none.
func postmasterLine(data string, n int) string {
	text, err := pg.ReadFile(filepath.Dir(data), filepath.Join(filepath.Base(data), "postmaster.pid"), 64<<10)
	lines := strings.Split(string(text), "\n")
	if err != nil || len(lines) < n {
		return ""
	}
	return strings.TrimSpace(lines[n-1])
}

// Port is where the sandbox's server is reached: as it runs, or as it will.
func (h *Host) Port(ctx context.Context, e db.Environment) int {
	if e.Volume != "" {
		if c, err := h.Sandbox(ctx, e); err == nil {
			return c.Port
		}
	}
	return e.Declaration.Server.Port
}

// whatever finds the server of a volume as it is, sealed or not, to stop it.
func (h *Host) whatever(ctx context.Context, volumeID string) (server.Config, error) {
	owner, err := h.owner(ctx, volumeID)
	l := h.Volumes.Layout(volumeID)
	return server.Config{Data: l.Data, Run: l.Run, Log: filepath.Join(l.Log, "postgresql.log"), Owner: owner, Helper: h.Helper,
		Seal: &server.Seal{Volume: l.Root, ConfigOnly: true}}, err
}

// stopServer stops the server of a volume, whatever it is, if one runs.
func (h *Host) stopServer(ctx context.Context, volumeID string, mode server.StopMode) error {
	c, err := h.whatever(ctx, volumeID)
	if err != nil {
		return err
	}
	return ensureStopped(ctx, c, mode)
}

// running finds the server of the configuration; nil when none runs.
func running(ctx context.Context, c server.Config) (*server.Postmaster, error) {
	p, err := server.Adopt(ctx, c)
	if errors.Is(err, server.ErrNotRunning) {
		return nil, nil
	}
	return p, err
}

// ensureRunning finds or starts the server and waits until it accepts connections.
func ensureRunning(ctx context.Context, c server.Config) (*server.Postmaster, error) {
	p, err := running(ctx, c)
	if err != nil {
		return nil, err
	}
	if p == nil {
		if p, err = server.Start(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := p.Ready(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// ensureStopped stops the server of the configuration if one runs.
func ensureStopped(ctx context.Context, c server.Config, mode server.StopMode) error {
	p, err := running(ctx, c)
	if err != nil || p == nil {
		return err
	}
	defer p.Close()
	return p.Stop(ctx, mode)
}

// policyServer is the policy's view of a server.
func policyServer(c server.Config, log *slog.Logger) policy.Staging {
	return policy.Staging{Connect: connector(c), Major: c.Binaries.Major, Log: log,
		SingleUser: func(ctx context.Context, database string, sql ...string) (string, error) {
			return server.SingleUser(ctx, c, database, sql...)
		}}
}

// connector opens sessions of our own role on a server.
func connector(c server.Config) policy.Connect {
	return func(ctx context.Context, database string) (*pgx.Conn, error) { return server.Connect(ctx, c, database) }
}

// Role is our own superuser in every cluster that Sandglass runs.
const Role = server.Role

// locks has one lock for each environment: what starts and what stops its server take turns.
type locks struct {
	mu  sync.Mutex
	all map[string]chan struct{} // each holds one token while its environment is locked
}

// lock waits for its turn, or until ctx ends.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.all == nil {
		l.all = map[string]chan struct{}{}
	}
	if l.all[name] == nil {
		l.all[name] = make(chan struct{}, 1)
	}
	held := l.all[name]
	l.mu.Unlock()
	select {
	case held <- struct{}{}:
		return func() { <-held }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the turn at %s: %w", name, context.Cause(ctx))
	}
}

// Runs says whether the sandbox's current server runs.
func (h *Host) Runs(ctx context.Context, e db.Environment) bool {
	c, err := h.Sandbox(ctx, e)
	if err != nil {
		return false
	}
	p, err := running(ctx, c)
	if err != nil || p == nil {
		return false
	}
	p.Close()
	return true
}

// KeepRunning starts the sandbox's server when it should run and does not. While an operation
// starts, stops or swaps it, it is left alone.
func (h *Host) KeepRunning(ctx context.Context, name string) error {
	unlock, err := h.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := h.environment(ctx, name)
	if err != nil || e.Removing || e.Volume == "" || e.Server != db.WishRunning || h.Runs(ctx, e) {
		return err
	}
	if o, err := h.unfinished(ctx, name); err != nil || handlesServer(o) {
		return err
	}
	h.Log.Info("starting sandbox", "environment", name)
	return h.Open(ctx, e)
}

// unfinished is the operation that is at work on an environment; the zero one when there is none.
func (h *Host) unfinished(ctx context.Context, name string) (sandglass.Operation, error) {
	id, err := h.DB.Unfinished(ctx, name)
	if err != nil || id == "" {
		return sandglass.Operation{}, err
	}
	o, err := h.DB.Operation(ctx, id)
	return o.Operation, err
}

// Swapping says whether an operation is between the sandbox's two servers just now.
func (h *Host) Swapping(ctx context.Context, name string) (bool, error) {
	o, err := h.unfinished(ctx, name)
	return atCutover(o), err
}

// handlesServer says whether the operation is at the sandbox's own server just now.
func handlesServer(o sandglass.Operation) bool {
	switch o.Kind {
	case sandglass.KindStart, sandglass.KindStop, sandglass.KindRelease:
		return true
	}
	return atCutover(o)
}

func atCutover(o sandglass.Operation) bool {
	for _, s := range o.Steps {
		if s.Name == "cut over" && s.State != sandglass.Pending && s.State != sandglass.Done && s.State != sandglass.Undone {
			return true
		}
	}
	return false
}

// Databases are the databases of the sandbox's running server.
func (h *Host) Databases(ctx context.Context, e db.Environment) ([]string, error) {
	c, err := h.Sandbox(ctx, e)
	if err != nil {
		return nil, err
	}
	return databases(ctx, c)
}
