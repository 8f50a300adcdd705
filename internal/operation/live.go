// Promise 9: a live production is never a target, whatever it was declared as. What it turns out to be is asked of its server.

package operation

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/preflight"
	"sandglass/internal/recorder"
	"sandglass/internal/server"
)

// liveProduction names the recorded production that the server of a session is, because that production's recorder is
// connected to it or has its slot there, or that it follows as a standby; "" for none. A standby whose system identifier is no production's of
// ours is taken for one of source.
func (h *Host) liveProduction(ctx context.Context, conn *pgx.Conn, source string) (string, error) {
	environments, err := h.DB.Environments(ctx)
	if err != nil {
		return "", err
	}
	rows, err := conn.Query(ctx, `SELECT application_name FROM pg_stat_activity WHERE backend_type = 'walsender'`)
	if err != nil {
		return "", fmt.Errorf("read who follows the target: %w", err)
	}
	senders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("read who follows the target: %w", err)
	}
	rows, err = conn.Query(ctx, `SELECT slot_name::text FROM pg_replication_slots`)
	if err != nil {
		return "", fmt.Errorf("read the target's slots: %w", err)
	}
	slots, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("read the target's slots: %w", err)
	}
	var standby bool
	if err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
		return "", fmt.Errorf("ask whether the target is a standby: %w", err)
	}
	for _, e := range environments {
		name := e.Declaration.Name
		if e.Declaration.Kind != sandglass.Production {
			continue
		}
		// A recorder that was cut off a moment ago still has its slot; no copy has it.
		if slices.Contains(senders, recorder.Application(name)) || e.Recording && slices.Contains(slots, ownSlot(e, environments)) {
			return name, nil
		}
		if !standby {
			continue
		}
		if same, err := h.sameIdentifier(ctx, conn, name); err != nil || same {
			return name, err
		}
	}
	if standby {
		return source, nil
	}
	return "", nil
}

// ownSlot is the slot of an environment's recorder; "" when another environment declares one of that name.
func ownSlot(e db.Environment, all []db.Environment) string {
	slot := func(e db.Environment) string {
		if r := e.Declaration.WithDefaults().Recording; r != nil {
			return r.Slot
		}
		return ""
	}
	for _, other := range all {
		if other.Declaration.Name != e.Declaration.Name && slot(other) == slot(e) {
			return ""
		}
	}
	return slot(e)
}

// sameIdentifier says whether the server of a session has the system identifier of an environment's history.
func (h *Host) sameIdentifier(ctx context.Context, conn *pgx.Conn, environment string) (bool, error) {
	var signed int64
	if err := conn.QueryRow(ctx, `SELECT system_identifier FROM pg_control_system()`).Scan(&signed); err != nil {
		return false, fmt.Errorf("read the target's system identifier: %w", err)
	}
	incarnations, err := h.Repository.Incarnations(ctx, environment)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(incarnations, func(i sandglass.Incarnation) bool { return i.SystemIdentifier == uint64(signed) }), nil
}

// refuseLive refuses a cutover of what is a live production now; a server that does not run is none.
func (h *Host) refuseLive(ctx context.Context, e db.Environment) error {
	if e.Volume == "" {
		return nil
	}
	c, err := h.Sandbox(ctx, e)
	if err != nil {
		return err
	}
	p, err := running(ctx, c)
	if err != nil || p == nil {
		return err
	}
	defer p.Close()
	conn, err := server.Connect(ctx, c, "postgres")
	if err != nil { // nor can a recorder be connected to it, and an undo is the way out for people whose server is broken
		h.Log.Warn("the server can't be asked what it is", "environment", e.Declaration.Name, "error", err)
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	live, err := h.liveProduction(ctx, conn, e.Declaration.Server.Source)
	if err != nil {
		return err
	}
	if f, refused := preflight.LiveProduction(e.Declaration.Name, live); refused {
		return &sandglass.Error{Code: f.Code, Op: "check target", Message: f.Message, Remedy: f.Remedy}
	}
	return nil
}
