package pg

// The mapping of PostgreSQL's errors to Sandglass's codes, by SQLSTATE only: the texts
// come in the server's language.

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// CodeProductionSlots means that max_replication_slots is used up.
const CodeProductionSlots sandglass.Code = "production.no_replication_slots"

// CodeHistoryFile means that a timeline's history file is gone from the server.
const CodeHistoryFile sandglass.Code = "production.no_history_file"

// connectError is why a connection could not be had.
func connectError(op, where string, err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return unreachable(op, where, err)
	}
	e := &sandglass.Error{Op: op, Err: err}
	switch {
	case pe.Code == "28P01":
		e.Code, e.Message = sandglass.CodeProductionPassword, fmt.Sprintf("The server %s does not accept the password.", where)
		e.Remedy = "Put the role's password into the file that recording.password_file names, and check the role's name."
	case pe.Code == "28000":
		e.Code, e.Message = sandglass.CodeProductionGrants, fmt.Sprintf("The server %s does not let this role in.", where)
		e.Remedy = "Check that the role exists and may log in, and add lines for it to production's pg_hba.conf, one for the database and one for \"replication\"."
	case pe.Code == "42501":
		return grantsError(op, where, err)
	case pe.Code == "53300":
		e.Code, e.Message = sandglass.CodeProductionSenders, fmt.Sprintf("The server %s has no free connection for a recorder.", where)
		e.Remedy = "Raise max_wal_senders (and max_connections) on production, or end a replication connection that is no longer needed."
	case pe.Code == "3D000":
		e.Code, e.Message = sandglass.CodeConfig, fmt.Sprintf("The database that the connection to %s names does not exist.", where)
		e.Remedy = "Name an existing database (dbname) in recording.connection; it is used for catalog queries only."
	default: // 57P03 cannot_connect_now, 57P01 admin_shutdown, 08xxx, ...
		return unreachable(op, where, err)
	}
	return e
}

func unreachable(op, where string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeProductionUnreachable, Op: op, Err: err,
		Message: fmt.Sprintf("The server %s can't be reached.", where),
		Remedy:  "Check that it runs, and the host, port and network of recording.connection."}
}

func grantsError(op, where string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeProductionGrants, Op: op, Err: err,
		Message: fmt.Sprintf("The role of %s may not replicate.", where),
		Remedy:  "On production: ALTER ROLE ... REPLICATION; GRANT pg_monitor TO ...;"}
}

// lostError is a connection that broke under a command.
func lostError(where string, err error) error { return unreachable("talk to server", where, err) }

// asError gives a server's answer to a replication command its code; slot names the slot it was about.
func (c *Conn) asError(op, slot string, err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("%s: %w", op, err)
	}
	e := &sandglass.Error{Op: op, Err: err}
	switch {
	case pe.Code == "42501":
		return grantsError(op, c.where, err)
	case slot != "" && pe.Code == "42704":
		e.Code, e.Message = sandglass.CodeSlotMissing, fmt.Sprintf("Replication slot %q does not exist on %s.", slot, c.where)
		e.Remedy = "Nothing to do: the recorder makes a new one and a new image; the window shows the gap."
	case slot != "" && pe.Code == "55006":
		e.Code, e.Message = sandglass.CodeSlotTaken, fmt.Sprintf("Replication slot %q on %s is in use by another connection.", slot, c.where)
		e.Remedy = "End the other connection (see pg_replication_slots.active_pid), or give recording.slot another name."
	case slot != "" && (pe.Code == "58P01" || pe.Code == "55000"):
		e.Code, e.Message = sandglass.CodeSlotLost, fmt.Sprintf("The server %s no longer has the WAL that was asked for.", c.where)
		e.Remedy = "Nothing to do: the recorder begins again with a new image; the window shows the gap. A larger max_slot_wal_keep_size keeps it from happening again."
	case pe.Code == "53400":
		e.Code, e.Message = CodeProductionSlots, fmt.Sprintf("All replication slots of %s are in use.", c.where)
		e.Remedy = "Raise max_replication_slots on production, or drop a slot that is no longer needed."
	case strings.HasPrefix(pe.Code, "57P"), strings.HasPrefix(pe.Code, "08"):
		return unreachable(op, c.where, err)
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
	return e
}
