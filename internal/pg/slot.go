package pg

// Physical replication slots: what keeps WAL on production while the recorder is away.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// CreateSlot makes a physical slot that reserves WAL at once, so that a base backup begun
// after it finds all its WAL. A slot that exists already is not an error: created is false.
func (c *Conn) CreateSlot(ctx context.Context, name string) (created bool, err error) {
	command := fmt.Sprintf("CREATE_REPLICATION_SLOT %s PHYSICAL (RESERVE_WAL true)", quoteIdentifier(name))
	if c.major < 15 {
		command = fmt.Sprintf("CREATE_REPLICATION_SLOT %s PHYSICAL RESERVE_WAL", quoteIdentifier(name))
	}
	if _, err := c.command(ctx, command); err != nil {
		if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
			switch pe.Code {
			case "42710": // duplicate_object
				return false, nil
			case "55000": // CheckSlotRequirements: wal_level too low or no slots at all
				return false, walLevelError(c.where, err)
			}
		}
		return false, c.asError("create slot", name, err)
	}
	return true, nil
}

// DropSlot removes a slot; slot.missing if there is none, slot.taken while somebody uses it.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	if _, err := c.command(ctx, "DROP_REPLICATION_SLOT "+quoteIdentifier(name)); err != nil {
		return c.asError("drop slot", name, err)
	}
	return nil
}

// Slot is the answer of READ_REPLICATION_SLOT.
type Slot struct {
	Exists   bool
	Restart  sandglass.LSN // zero: nothing reserved, or invalidated
	Timeline sandglass.TimelineID
}

// ReadSlot reads a physical slot; majors 15 and later only (use ReadFacts before).
func (c *Conn) ReadSlot(ctx context.Context, name string) (Slot, error) {
	if c.major < 15 {
		return Slot{}, fmt.Errorf("read slot: PostgreSQL %d has no READ_REPLICATION_SLOT", c.major)
	}
	rows, err := c.command(ctx, "READ_REPLICATION_SLOT "+quoteIdentifier(name))
	if err != nil {
		return Slot{}, c.asError("read slot", name, err)
	}
	if len(rows) != 1 || len(rows[0]) != 3 || rows[0][0] == "" {
		return Slot{}, nil
	}
	s := Slot{Exists: true}
	if rows[0][1] != "" {
		if s.Timeline, s.Restart, err = parsePosition(rows[0][2], rows[0][1]); err != nil {
			return Slot{}, fmt.Errorf("read slot: %w", err)
		}
	}
	return s, nil
}

func walLevelError(where string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeProductionWALLevel, Op: "create slot", Err: err,
		Message: fmt.Sprintf("The server %s writes too little WAL to be recorded (wal_level = minimal).", where),
		Remedy:  "Set wal_level = replica and max_replication_slots above zero on production, and restart it."}
}
