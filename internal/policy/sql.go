// Sessions on the staging server, quoting, and the few query helpers all rules share.

package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// querier is a session or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// sessionSettings make a session independent of whatever settings the sandbox's own roles and
// databases carry (a database may even SET role), keep user triggers and row security out of
// the way, and keep password hashes out of the server's log. Our queries are short: to compile
// one, or to start processes for it, takes longer than the query.
const sessionSettings = `SET ROLE NONE; SET search_path = pg_catalog; SET session_replication_role = replica;
SET default_transaction_read_only = off; SET transaction_read_only = off; SET row_security = off;
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '60s';
SET jit = off; SET max_parallel_workers_per_gather = 0; SET standard_conforming_strings = on; SET log_statement = 'none'; SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1; SET log_duration = off; SET default_tablespace = ''; SET DateStyle = 'ISO'; SET synchronous_commit = on`

// open connects and prepares the session.
func (connect Connect) open(ctx context.Context, database string) (*pgx.Conn, error) {
	conn, err := connect(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("connect to database %q: %w", database, err)
	}
	if _, err := conn.Exec(ctx, sessionSettings); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("prepare session in database %q: %w", database, err)
	}
	return conn, nil
}

// in runs do in a session of the database.
func (connect Connect) in(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := connect.open(ctx, database)
	if err != nil {
		return err
	}
	// A context that has ended must still let the session say goodbye.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return do(conn)
}

// ident quotes an identifier.
func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal quotes a string so that it reads the same whatever standard_conforming_strings is.
func literal(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// identOrPublic quotes a grantee; "" is PUBLIC.
func identOrPublic(role string) string {
	if role == "" {
		return "PUBLIC"
	}
	return ident(role)
}

// column reads a query of one text column.
func column(ctx context.Context, q querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// structs reads a query whose columns are the struct's fields, in order.
func structs[T any](ctx context.Context, q querier, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// try runs one statement, and no second one that a name may bring along, in a savepoint: a refusal by the server (an unknown setting, a
// privilege another major lacks) is returned as refused and leaves the transaction usable.
func try(ctx context.Context, tx pgx.Tx, sql string) (refused string, err error) {
	sub, err := tx.Begin(ctx)
	if err != nil {
		return "", err
	}
	// The extended protocol takes one statement only.
	if _, err := sub.Conn().PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Close(); err != nil {
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || !strings.HasPrefix(pgErr.Code, "42") && !strings.HasPrefix(pgErr.Code, "22") && !strings.HasPrefix(pgErr.Code, "0L") &&
			!strings.HasPrefix(pgErr.Code, "0P") && !strings.HasPrefix(pgErr.Code, "2B") && !strings.HasPrefix(pgErr.Code, "0A") && pgErr.Code != "55000" {
			return "", err
		}
		return pgErr.Message, sub.Rollback(ctx)
	}
	return "", sub.Commit(ctx)
}

// some names the first few of a long list.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
