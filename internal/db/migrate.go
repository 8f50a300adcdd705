// Bringing the schema up to date: our own migrations first, then River's.

package db

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"path"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"sandglass"
)

//go:embed migrations/*.sql
var migrations embed.FS

// CodeNewer is given when the database was migrated by a newer Sandglass.
const CodeNewer sandglass.Code = "metadata.newer"

// migrate applies what is missing. A session-level advisory lock makes processes wait for one
// another; each migration commits together with its row in sandglass.migration.
func migrate(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to the metadata database: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtextextended('sandglass migrate', 0))`); err != nil {
		return fmt.Errorf("lock the metadata database for migration: %w", err)
	}
	defer conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtextextended('sandglass migrate', 0))`)

	if err := migrateOwn(ctx, conn.Conn(), log); err != nil {
		return err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: Schema, Logger: log})
	if err != nil {
		return fmt.Errorf("prepare River's migrations: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate River's tables: %w", err)
	}
	return nil
}

func migrateOwn(ctx context.Context, conn *pgx.Conn, log *slog.Logger) error {
	// Asked first: an ordinary role may use a schema made for it without the right to make one.
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('sandglass.migration') IS NOT NULL`).Scan(&there); err != nil {
		return fmt.Errorf("look for the metadata schema: %w", err)
	}
	if !there {
		if _, err := conn.Exec(ctx, `DO $$ BEGIN
			IF to_regnamespace('sandglass') IS NULL THEN CREATE SCHEMA sandglass; END IF;
			END $$;
			CREATE TABLE sandglass.migration (name text PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())`); err != nil {
			return fmt.Errorf("make the metadata schema: %w", err)
		}
	}
	names, err := migrations.ReadDir("migrations") // sorted by name
	if err != nil {
		return err
	}
	known := make([]string, 0, len(names))
	for _, entry := range names {
		known = append(known, entry.Name())
		text, err := migrations.ReadFile(path.Join("migrations", entry.Name()))
		if err != nil {
			return err
		}
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `INSERT INTO sandglass.migration (name) VALUES ($1) ON CONFLICT DO NOTHING`, entry.Name())
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			log.Info("migrating the metadata database", "migration", entry.Name())
			_, err = tx.Exec(ctx, string(text))
			return err
		})
		if err != nil {
			return fmt.Errorf("apply migration %s: %w", entry.Name(), err)
		}
	}
	var newer *string
	if err := conn.QueryRow(ctx, `SELECT max(name) FROM sandglass.migration WHERE name <> ALL($1)`, known).Scan(&newer); err != nil {
		return fmt.Errorf("read the migrations applied: %w", err)
	}
	if newer != nil {
		return &sandglass.Error{Code: CodeNewer, Op: "migrate metadata",
			Message: fmt.Sprintf("The metadata database was made by a newer Sandglass (it has migration %s).", *newer),
			Remedy:  "Start the newer version of sandglass again; going back needs a metadata database of its own."}
	}
	return nil
}
