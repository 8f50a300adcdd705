// A pack against the databases of an environment as they are now: of a production over its recording's connection, of a
// sandbox on its running server.

package operation

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
	"sandglass/internal/server"
)

// CheckPack says what each rule and question of the pack meets in the environment's databases. It changes nothing.
func (h *Host) CheckPack(ctx context.Context, e db.Environment, name string) ([]sandglass.RuleCheck, error) {
	p, err := pack.Open(h.Packs, name)
	if err != nil {
		return nil, err
	}
	all := []sandglass.RuleCheck{}
	for _, role := range slices.Sorted(maps.Keys(p.Databases)) {
		database, named := e.Declaration.Databases[role]
		if !named && !p.Databases[role].Must() {
			continue
		}
		if !named {
			return nil, &sandglass.Error{Code: pack.CodeRoleMissing, Op: "check pack", Message: fmt.Sprintf("%s names no database for the role %s of the pack %s.", e.Declaration.Name, role, name),
				Remedy: "Add the role to databases of the environment's declaration."}
		}
		found, err := h.checkIn(ctx, e, p, role, database)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (h *Host) checkIn(ctx context.Context, e db.Environment, p pack.Pack, role, database string) ([]sandglass.RuleCheck, error) {
	conn, err := h.enter(ctx, e, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return policy.Check(ctx, conn, p, role)
}

// enter opens a session in a database of an environment.
func (h *Host) enter(ctx context.Context, e db.Environment, database string) (*pgx.Conn, error) {
	if e.Declaration.Kind == sandglass.Sandbox {
		if e.Volume == "" {
			return nil, &sandglass.Error{Code: sandglass.CodeEnvironmentEmpty, Op: "enter database", Message: fmt.Sprintf("%s is empty: nothing was restored into it yet.", e.Declaration.Name),
				Remedy: "Restore it first, or check against its production."}
		}
		c, err := h.Sandbox(ctx, e)
		if err != nil {
			return nil, err
		}
		return server.Connect(ctx, c, database)
	}
	r := e.Declaration.Recording
	config, err := pgx.ParseConfig(r.Connection)
	if err != nil {
		return nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "enter database", Message: "The connection string of " + e.Declaration.Name + " can't be read.", Remedy: "Correct recording.connection."}
	}
	config.Database = database
	if r.PasswordFile != "" {
		text, err := os.ReadFile(r.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read password: %w", err)
		}
		config.Password = strings.TrimRight(string(text), "\r\n")
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, &sandglass.Error{Code: sandglass.CodeProductionUnreachable, Op: "enter database", Err: err,
			Message: fmt.Sprintf("The database %s of %s can't be entered as %s.", database, e.Declaration.Name, config.User),
			Remedy:  "Let the recorder's role connect to it (pg_hba.conf, CONNECT), or check directly: sandglass pack check PACK --database ROLE=CONNECTION."}
	}
	return conn, nil
}
