// The last step of a peek: the sealed, un-neutralized copy opens to its owner, read-only, over
// its private Unix socket.

package operation

import (
	"context"
	"fmt"
	"os/user"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/engine"
	"sandglass/internal/server"
)

// PeekRole reads everything in a peek and can change nothing.
const PeekRole = "sandglass_peek"

// openPeek makes the role and lets it in. The server stays sealed: only its socket leads to it.
func (h *Host) openPeek(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	e, img, err := h.sealedFor(ctx, run, m)
	if err != nil {
		return err
	}
	c, err := h.peekConfig(ctx, m, e, img)
	if err != nil {
		return err
	}
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := makePeekRole(ctx, c); err != nil {
		return err
	}
	return p.Reload(ctx, c)
}

func (h *Host) peekConfig(ctx context.Context, m memory, e sandglass.Environment, img sandglass.Image) (server.Config, error) {
	c, err := h.stagingConfig(ctx, m, e, img)
	if err != nil {
		return c, err
	}
	u, err := user.Current()
	if err != nil {
		return c, fmt.Errorf("find out who we are: %w", err)
	}
	c.Settings["default_transaction_read_only"] = "on"
	c.HBA = []string{"local all " + PeekRole + " peer map=" + PeekRole}
	c.Ident = []string{PeekRole + ` "` + u.Username + `" ` + PeekRole}
	return c, nil
}

func makePeekRole(ctx context.Context, c server.Config) error {
	conn, err := server.Connect(ctx, c, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, PeekRole).Scan(&there); err != nil {
		return fmt.Errorf("look for the role of peeks: %w", err)
	}
	verb := "CREATE"
	if there {
		verb = "ALTER"
	}
	role := pgx.Identifier{PeekRole}.Sanitize()
	for _, sql := range []string{
		"SET default_transaction_read_only = off",
		verb + " ROLE " + role + " LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS PASSWORD NULL",
		"GRANT pg_read_all_data TO " + role,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make the role of peeks: %w", err)
		}
	}
	return nil
}

// PeekConnection says how the owner of an open peek reaches it.
func (h *Host) PeekConnection(ctx context.Context, operation, environment, database string) (sandglass.Connection, error) {
	volumes, err := h.DB.Volumes(ctx, "")
	if err != nil {
		return sandglass.Connection{}, err
	}
	for _, v := range volumes {
		if v.Operation != operation || v.State != sandglass.VolumeStaging {
			continue
		}
		c, err := h.base(ctx, v.ID, v.Major)
		if err != nil {
			return sandglass.Connection{}, err
		}
		names, err := databases(ctx, c)
		if err != nil {
			return sandglass.Connection{}, err
		}
		if database == "" {
			database = First(names)
		}
		return sandglass.Connection{Environment: environment, Host: c.Run, Port: server.Port, User: PeekRole, Database: database, Databases: names,
			PSQL: PSQL(c.Run, server.Port, PeekRole, database)}, nil
	}
	return sandglass.Connection{}, &sandglass.Error{Code: sandglass.CodeOperationUnknown, Op: "find peek",
		Message: fmt.Sprintf("No peek %q is open.", operation), Remedy: "`sandglass peek ls` lists the open ones."}
}

// First prefers a database of the application to the one every cluster has.
func First(names []string) string {
	for _, name := range names {
		if name != "postgres" {
			return name
		}
	}
	return "postgres"
}

// PSQL is the psql command that reaches a database.
func PSQL(host string, port int, role, database string) []string {
	argv := []string{"psql", "-h", host, "-p", fmt.Sprint(port)}
	if role != "" {
		argv = append(argv, "-U", role)
	}
	return append(argv, "-d", database)
}

// PeekRuns says whether the server of an open peek runs. One that is only slow to answer does.
func (h *Host) PeekRuns(ctx context.Context, operation string) (bool, error) {
	volumes, err := h.DB.Volumes(ctx, "")
	if err != nil {
		return false, err
	}
	for _, v := range volumes {
		if v.Operation != operation || v.State != sandglass.VolumeStaging {
			continue
		}
		c, err := h.whatever(ctx, v.ID)
		if err != nil {
			return false, err
		}
		p, err := running(ctx, c)
		if err != nil || p == nil {
			return false, err
		}
		p.Close()
		return true, nil
	}
	return false, nil
}
