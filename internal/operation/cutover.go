// Step 8 of a restore, and the whole of an undo: the swap of two volumes, and the way back.
//
// cutOver and rollBack may be killed at any instant and are then called again, so each act in
// them first looks whether it is already so. Which volume is current is one row, changed in
// one transaction, after the new server has answered and before it is opened.

package operation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/policy"
	"sandglass/internal/server"
)

// rehearse is 8a: while the old server still serves, the new one is started once, still sealed,
// with the configuration it will have in the open, so that what can't start fails here.
func (h *Host) rehearse(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	if err := h.stopStaging(ctx, run); err != nil { // of an attempt before
		return err
	}
	st, in, target, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	if err := policy.Finish(ctx, st); err != nil {
		return err
	}
	if err := h.newSegment(ctx, st.Connect); err != nil {
		return err
	}
	if err := h.stopStagingCleanly(ctx, m.Volume); err != nil {
		return err
	}
	if target.Recording && m.Incarnation == "" {
		if m.Incarnation, err = h.Recorders.Adopt(ctx, target.Declaration.Name, h.Volumes.Layout(m.Volume), run.Progress); err != nil {
			return err
		}
		if err := run.Save(ctx, m); err != nil {
			return err
		}
	}
	c, err := h.sandboxConfig(ctx, m.Volume, m.Major, in.Environment)
	if err != nil {
		return err
	}
	c = h.seal(c, m.Volume, in.Environment)
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := healthy(ctx, c, in.Environment); err != nil {
		return err
	}
	if target.Recording {
		if err := reserveSlot(ctx, c, in.Environment.Recording.Slot); err != nil {
			return err
		}
	}
	if err := h.checkpoint(ctx, connector(c)); err != nil {
		return err
	}
	run.Log.Info("the new server starts with the sandbox's configuration")
	return h.checkpointTarget(ctx, target)
}

// unrehearse undoes rehearse: an incarnation that was begun for the copy is ended.
func (h *Host) unrehearse(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil || m.Incarnation == "" {
		return err
	}
	return h.Repository.EndIncarnation(ctx, run.Request.Environment, m.Incarnation, time.Now(), "the cutover it was made for did not happen")
}

// stopStagingCleanly shuts the staging server down, so that its volume is a plain, consistent data folder.
func (h *Host) stopStagingCleanly(ctx context.Context, volumeID string) error {
	return ensureStopped(ctx, h.whatever(volumeID), server.Fast)
}

func (h *Host) checkpoint(ctx context.Context, connect policy.Connect) error {
	return execute(ctx, connect, "CHECKPOINT")
}

// newSegment begins a segment of WAL that holds nothing of before, and removes all older ones: they hold
// what the rules took out. The sandbox's
// own history begins in it.
func (h *Host) newSegment(ctx context.Context, connect policy.Connect) error {
	return execute(ctx, connect, "CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT")
}

func execute(ctx context.Context, connect policy.Connect, statements ...string) error {
	conn, err := connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// checkpointTarget leaves the running sandbox little to write when it is stopped.
func (h *Host) checkpointTarget(ctx context.Context, target db.Environment) error {
	if target.Volume == "" {
		return nil
	}
	c, err := h.Sandbox(ctx, target)
	if err != nil {
		return err
	}
	p, err := running(ctx, c)
	if err != nil || p == nil {
		return err
	}
	defer p.Close()
	return h.checkpoint(ctx, connector(c))
}

// reserveSlot makes the recorder's slot before the first client can write.
func reserveSlot(ctx context.Context, c server.Config, slot string) error {
	conn, err := server.Connect(ctx, c, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true)
		WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, slot)
	if err != nil {
		return fmt.Errorf("make slot %s: %w", slot, err)
	}
	return nil
}

// cutOver swaps the current volume for the one in the memory; "" leaves the sandbox empty.
func (h *Host) cutOver(ctx context.Context, run *engine.Run) error {
	defer h.locks.lock(run.Request.Environment)()
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	if m.Fenced.IsZero() {
		m.Previous, m.Fenced = target.Volume, time.Now()
		// The supervisor leaves the environment alone from now until the operation has ended.
		if err := run.Save(ctx, m); err != nil {
			return err
		}
	}
	var next server.Config
	if m.Volume != "" {
		if next, err = h.sandboxConfig(ctx, m.Volume, m.Major, target.Declaration); err != nil {
			return err
		}
	}
	if target.Volume != m.Volume || m.Volume == "" {
		if err := h.closeOld(ctx, run, &m, target); err != nil {
			return err
		}
		if m.Volume != "" {
			if err := h.startNext(ctx, run, next, target.Declaration); err != nil {
				return err
			}
		}
		if err := h.swap(ctx, run, m, target); err != nil {
			return err
		}
	}
	if m.Volume != "" {
		held := target.Declaration.Server.Release == "manual" && run.Request.Kind != sandglass.KindUndo
		p, err := ensureRunning(ctx, next)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Reload(ctx, opened(next, target.Declaration, held)); err != nil {
			return err
		}
	}
	m.Opened = time.Now()
	run.Log.Info("opened", "unreachable", m.Opened.Sub(m.Fenced).String())
	h.Recorders.Resume(target.Declaration.Name)
	return run.Save(ctx, m)
}

// closeOld is 8b and the first half of 8d: the old server is fenced and stopped, and the sealed
// new one beside it, each cleanly.
func (h *Host) closeOld(ctx context.Context, run *engine.Run, m *memory, target db.Environment) error {
	if target.Volume == "" {
		return h.stopStagingCleanly(ctx, m.Volume)
	}
	c, err := h.Sandbox(ctx, target)
	if err != nil {
		return err
	}
	old, err := running(ctx, c)
	if err != nil {
		return err
	}
	both, ctx := errgroup.WithContext(ctx)
	if m.Volume != "" {
		both.Go(func() error { return h.stopStagingCleanly(ctx, m.Volume) })
	}
	if old != nil {
		defer old.Close()
		m.Fenced = time.Now()
		both.Go(func() error {
			if err := old.Fence(ctx, "cutover"); err != nil {
				return err
			}
			return old.Stop(ctx, server.Fast)
		})
	}
	if err := both.Wait(); err != nil {
		return err
	}
	run.Log.Info("old server stopped", "seconds", time.Since(m.Fenced).Seconds())
	return h.Recorders.Pause(ctx, target.Declaration.Name)
}

// startNext is the second half of 8d: the new server is at the environment's address, and
// answers the health check only.
func (h *Host) startNext(ctx context.Context, run *engine.Run, c server.Config, e sandglass.Environment) error {
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	run.Log.Info("new server started")
	if err := healthy(ctx, c, e); err != nil {
		return err
	}
	return listening(ctx, e)
}

// swap writes, in one transaction, that the new volume is current and the old one kept.
func (h *Host) swap(ctx context.Context, run *engine.Run, m memory, target db.Environment) error {
	name, keep := target.Declaration.Name, time.Now().Add(time.Duration(target.Declaration.Server.Keep))
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		if m.Volume == "" {
			if err := tx.VolumeBecome(ctx, target.Volume, sandglass.VolumeKept, keep); err != nil {
				return err
			}
		} else if err := tx.Swap(ctx, m.Volume, sandglass.VolumeKept, keep); err != nil {
			return err
		}
		moment := ""
		if m.Volume != "" {
			v, err := tx.Volume(ctx, m.Volume)
			if err != nil {
				return err
			}
			moment = v.Moment
		}
		return tx.UpdateEnvironment(ctx, name, func(e *db.Environment) error {
			e.HasPrevious, e.Previous = true, m.Previous
			e.Restored, e.RestoredAt, e.RestoredFrom = moment, time.Now(), run.Operation.Source
			e.Held = m.Volume != "" && target.Declaration.Server.Release == "manual" && run.Request.Kind != sandglass.KindUndo
			e.Incarnation = m.Incarnation
			e.Server = db.WishRunning
			if m.Volume == "" {
				e.Server = db.WishStopped
			}
			return nil
		})
	})
}

// rollBack undoes cutOver: the server before it is current, running and open again.
func (h *Host) rollBack(ctx context.Context, run *engine.Run) error {
	defer h.locks.lock(run.Request.Environment)()
	m, err := engine.Load[memory](run)
	if err != nil || m.Fenced.IsZero() {
		return err
	}
	if m.Volume != "" {
		if err := h.stopStagingCleanly(ctx, m.Volume); err != nil {
			return err
		}
	}
	if err := h.swapBack(ctx, run, m); err != nil {
		return err
	}
	h.Recorders.Resume(run.Request.Environment)
	if m.Previous == "" {
		return nil
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil || target.Server != db.WishRunning {
		return err
	}
	if err := h.Open(ctx, target); err != nil {
		return err
	}
	run.Log.Info("the sandbox is as it was", "volume", m.Previous)
	return nil
}

// swapBack takes back the transaction of swap, if it was committed.
func (h *Host) swapBack(ctx context.Context, run *engine.Run, m memory) error {
	then := sandglass.VolumeStaging // discarded by the undo of stage
	if run.Request.Kind == sandglass.KindUndo {
		then = sandglass.VolumeKept
	}
	return h.DB.Do(ctx, func(tx *db.Tx) error {
		e, err := tx.Environment(ctx, run.Request.Environment)
		if err != nil || e.Volume == m.Previous {
			return err
		}
		until := time.Now().Add(time.Duration(e.Declaration.WithDefaults().Server.Keep))
		if m.Previous == "" {
			err = tx.VolumeBecome(ctx, e.Volume, then, until)
		} else {
			err = tx.Swap(ctx, m.Previous, then, until)
		}
		if err != nil {
			return err
		}
		return tx.UpdateEnvironment(ctx, run.Request.Environment, func(e *db.Environment) error {
			e.Held = false
			e.Server = db.WishRunning
			if m.Previous == "" {
				e.Server, e.HasPrevious = db.WishStopped, false
			}
			return nil
		})
	})
}

// Open sees that the environment's current server runs, at its address, open to whom it should be.
func (h *Host) Open(ctx context.Context, e db.Environment) error {
	c, err := h.Sandbox(ctx, e)
	if err != nil {
		return err
	}
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Reload(ctx, c)
}

// healthy connects to every database and asks what the environment declares.
func healthy(ctx context.Context, c server.Config, e sandglass.Environment) error {
	names, err := databases(ctx, c)
	if err != nil {
		return healthError("postgres", err)
	}
	for _, name := range names {
		if err := ask(ctx, c, name, append([]string{"SELECT 1"}, e.Server.Health[name]...)); err != nil {
			return healthError(name, err)
		}
	}
	for name := range e.Server.Health {
		if !strings.Contains("\x00"+strings.Join(names, "\x00")+"\x00", "\x00"+name+"\x00") {
			return healthError(name, errors.New("no such database"))
		}
	}
	return nil
}

func databases(ctx context.Context, c server.Config) ([]string, error) {
	conn, err := server.Connect(ctx, c, "postgres")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func ask(ctx context.Context, c server.Config, database string, queries []string) error {
	conn, err := server.Connect(ctx, c, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on; SET search_path TO DEFAULT"); err != nil {
		return err
	}
	for _, q := range queries {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("health query %q: %w", q, err)
		}
	}
	return nil
}

func healthError(database string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeHealthFailed, Op: "health check", Err: err,
		Message: fmt.Sprintf("The new server did not pass its health check in database %q: %v.", database, err),
		Remedy:  "The sandbox is as it was. See the PostgreSQL log of the operation (sandglass ops logs)."}
}

// listening sees that something accepts connections at the environment's address.
func listening(ctx context.Context, e sandglass.Environment) error {
	host := DialHost(e.Server.Listen)
	if host == "" {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(e.Server.Port)))
	if err != nil {
		return &sandglass.Error{Code: sandglass.CodeHealthFailed, Op: "health check", Err: err,
			Message: fmt.Sprintf("The new server does not listen on %s port %d.", host, e.Server.Port),
			Remedy:  "The sandbox is as it was. Look at server.listen and server.port of its declaration."}
	}
	return conn.Close()
}

// DialHost is an address on this host by which a server with these listen_addresses is reached; "" for none.
func DialHost(listen string) string {
	first, _, _ := strings.Cut(listen, ",")
	switch first = strings.TrimSpace(first); first {
	case "*", "0.0.0.0":
		return "127.0.0.1"
	case "::":
		return "::1"
	}
	return first
}

// finish writes what the operation came to.
func (h *Host) finish(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	result := sandglass.Result{Volume: m.Volume, Kept: m.Previous, UnreachableSeconds: m.Opened.Sub(m.Fenced).Seconds()}
	for _, id := range []string{m.Volume, m.Previous} {
		if id == "" {
			continue
		}
		bytes, err := h.Volumes.Usage(ctx, id)
		if err != nil {
			return err
		}
		if err := h.DB.SetVolumeBytes(ctx, id, bytes); err != nil {
			return err
		}
	}
	if m.Previous != "" {
		v, err := h.DB.Volume(ctx, m.Previous)
		if err != nil {
			return err
		}
		result.KeptUntil = v.KeptUntil
	}
	if m.Volume != "" {
		v, err := h.DB.Volume(ctx, m.Volume)
		if err != nil {
			return err
		}
		result.Moment = v.Moment
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	result.Held = target.Held
	report := readJSON[policy.Report](run.Dir, "neutralize.json")
	for _, r := range report.Rules {
		if r.Rows > 0 {
			result.Rules = append(result.Rules, sandglass.PlanLine{Step: "neutralize", What: strings.TrimSpace(r.Rule + " " + r.Database), Why: r.Why, Rows: r.Rows, Seconds: r.Seconds})
		}
	}
	result.NotReapplied = report.NotReapplied
	if run.Operation.Plan != nil {
		result.Findings = run.Operation.Plan.Findings
	}
	if m.Volume != "" {
		keepLog(h.Volumes.Layout(m.Volume).Log+"/postgresql.log", run.Dir)
	}
	return run.SetResult(ctx, result)
}
