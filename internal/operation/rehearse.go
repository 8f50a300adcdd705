// Step 8a of a restore and of an undo: what will be current is started once, still sealed, as it
// will run in the open, so that what can't start fails while the old server still serves.

package operation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

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
	if run.Attempt > 1 || m.Synchronized { // it may run as it will in the open; sessions of migrations end
		if err := h.stopStaging(ctx, run); err != nil {
			return err
		}
	}
	st, in, target, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	if !m.Closed {
		if err := h.carryRoles(ctx, run, st, &in, target, &m); err != nil {
			return err
		}
	} else if in.Target, err = h.readTarget(ctx, target, run.Request.Accept); err != nil {
		return err
	}
	looked, err := h.lookFor(ctx, run, m, in)
	if err != nil {
		return err
	}
	if err := h.searchHidden(ctx, run, st, looked); err != nil {
		return err
	}
	if err := policy.Finish(ctx, st); err != nil {
		return err
	}
	if err := h.newSegment(ctx, st.Connect); err != nil {
		return err
	}
	facts, err := h.factsOfCopy(ctx, st.Connect, m, target)
	if err != nil {
		return err
	}
	if err := h.stopStagingCleanly(ctx, m.Volume); err != nil {
		return err
	}
	if err := h.search(ctx, run, m, in, looked); err != nil {
		return err
	}
	if err := h.stopStagingCleanly(ctx, m.Volume); err != nil { // where something was found, and accepted
		return err
	}
	if target.Recording {
		if err := h.adopt(ctx, run, &m, facts); err != nil {
			return err
		}
	}
	return h.tryOut(ctx, run, m, target)
}

// carryRoles applies once more, and proves, what the sandbox's people changed of their roles, rights and
// rows since neutralize. cutOver compares with what was read here, once nobody can change it any more.
func (h *Host) carryRoles(ctx context.Context, run *engine.Run, st policy.Staging, in *policy.Input, target db.Environment, m *memory) (err error) {
	if in.Target, err = h.readTarget(ctx, target, run.Request.Accept); err != nil {
		return err
	}
	if in.FromTarget, err = h.fromTarget(ctx, target, in.Target); err != nil {
		return err
	}
	report, err := policy.Neutralize(ctx, st, *in)
	if err != nil {
		return err
	}
	first := readJSON[policy.Report](run.Dir, "neutralize.json")
	first.NotReapplied = report.NotReapplied // of all rules, those of before too
	if err := writeJSON(run.Dir, "neutralize.json", renewed(first, report)); err != nil {
		return err
	}
	findings, err := policy.Prove(ctx, st, *in)
	if err != nil {
		return err
	}
	if err := h.judge(ctx, run, findings, target.Declaration.Accept); err != nil {
		return err
	}
	m.Carried, m.Closed = digest(in.Target, target.Declaration.Databases), true
	return run.Save(ctx, *m)
}

// CodeCarryChanged is a sandbox that was changed in the last moments before its cutover.
const CodeCarryChanged = policy.CodeCarryChanged

// digest tells, from what policy.ReadShared reads, whether two readings of a sandbox's roles, and of who may enter the databases it names, are the same;
// "" is of none. Grants on objects are left out: they come and go with the objects that clients make.
func digest(t *policy.Target, named map[string]string) string {
	if t == nil {
		return ""
	}
	all := []any{t.Roles, t.Memberships, t.Settings}
	for _, d := range t.Databases {
		if slices.Contains(slices.Collect(maps.Values(named)), d.Name) {
			all = append(all, d.Name, d.Owner, d.ConnLimit, d.AllowConn, d.Access)
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// sameRoles is 8c: what the fenced sandbox's people have of roles and settings must be what the copy was
// given. A change in the last second is not lost but ends the cutover, which goes back.
func (h *Host) sameRoles(ctx context.Context, c server.Config, m memory, named map[string]string) error {
	now, err := policy.ReadShared(ctx, connector(c))
	if err != nil {
		return err
	}
	if digest(now, named) == m.Carried {
		return nil
	}
	return &sandglass.Error{Code: CodeCarryChanged, Op: "carry over", Message: "Roles, passwords, settings or access to databases of the sandbox were changed while it was about to be swapped; the copy does not have the change.",
		Remedy: "The sandbox is as it was. Start the restore again once its roles are left alone."}
}

// rehearseKept is 8a of an undo: the kept state is started once, sealed, with the configuration of
// now, so that a declaration with which nothing starts any more fails here, and not between two servers.
func (h *Host) rehearseKept(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil || m.Volume == "" {
		return err
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	if err := h.stopStagingCleanly(ctx, m.Volume); err != nil { // of an attempt before
		return err
	}
	return h.tryOut(ctx, run, m, target)
}

// unrehearseKept undoes rehearseKept.
func (h *Host) unrehearseKept(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil || m.Volume == "" {
		return err
	}
	return h.stopStagingCleanly(ctx, m.Volume)
}

// tryOut starts the volume that is to be current, still sealed, as it will run in the open.
func (h *Host) tryOut(ctx context.Context, run *engine.Run, m memory, target db.Environment) error {
	m.Declared = &target.Declaration // what is applied from now on is not for this cutover
	if err := run.Save(ctx, m); err != nil {
		return err
	}
	c, err := h.sandboxConfig(ctx, m.Volume, m.Major, target.Declaration)
	if err != nil {
		return err
	}
	c = h.seal(c, m.Volume, target.Declaration)
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := healthy(ctx, c, target.Declaration); err != nil {
		return err
	}
	if target.Recording && target.Declaration.Recording != nil {
		if err := reserveSlot(ctx, c, target.Declaration.Recording.Slot); err != nil {
			return err
		}
	}
	// Lines of pg_hba.conf that no server takes would keep the old one, too, from coming back.
	if err := p.Reload(ctx, opened(c, target.Declaration, false)); err != nil {
		return err
	}
	if err := h.checkpoint(ctx, connector(c)); err != nil {
		return err
	}
	run.Log.Info("the new server starts with the sandbox's configuration")
	return h.checkpointTarget(ctx, target)
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
