// Package db is the metadata database of Sandglass: PostgreSQL, always, reached by pgx.
// It holds what was asked for (environments and wishes) and everything that must be known
// after a SIGKILL (volumes, operations, steps, recorders, audit). A row here precedes every
// side effect. River's tables live in the same schema, so that a step's row and the job that
// does the next step change in one transaction.
package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"sandglass"
)

// Schema is where all tables are, River's too.
const Schema = "sandglass"

// querier is what a pool and a transaction have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Queries are the typed queries; they are the same on a DB and in a Tx.
type Queries struct{ q querier }

// DB is the metadata database. It is safe for use by many goroutines.
type DB struct {
	Queries
	Pool *pgxpool.Pool

	listener *listener
}

// Tx is a transaction on the metadata database.
type Tx struct {
	Queries
	pgx.Tx
}

// Open connects to the database named by a libpq connection string or URL, brings its schema
// up to date (one process at a time, under an advisory lock) and begins to listen for changes.
// Close must be called.
func Open(ctx context.Context, url string, log *slog.Logger) (*DB, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read the metadata database's URL: %w", err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "sandglass"
	config.MaxConns = max(config.MaxConns, 16)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the metadata database: %w", err)
	}
	if err := migrate(ctx, pool, log); err != nil {
		pool.Close()
		return nil, err
	}
	db := &DB{Queries: Queries{pool}, Pool: pool, listener: newListener(pool.Config().ConnConfig, log)}
	if err := db.listener.start(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return db, nil
}

// Close ends listening and closes all connections.
func (db *DB) Close() {
	db.listener.close()
	db.Pool.Close()
}

// Connect opens a connection of its own beside the pool, for a session-level advisory lock.
// The caller closes it.
func (db *DB) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, db.Pool.Config().ConnConfig)
}

// Do runs f in a transaction: committed when f returns nil, rolled back otherwise.
func (db *DB) Do(ctx context.Context, f func(tx *Tx) error) error {
	return pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error { return f(&Tx{Queries{tx}, tx}) })
}

// Subscribe gives a channel that receives after each change of the topic is committed, and
// whenever a change may have been missed. Changes that come together are received once.
// The topics are those of Topic functions, "" is every change. The second result ends it.
func (db *DB) Subscribe(topic string) (<-chan struct{}, func()) { return db.listener.subscribe(topic) }

// OperationTopic changes with an operation and its steps.
func OperationTopic(id string) string { return "operation/" + id }

// CancelTopic changes when an operation is asked to end early.
func CancelTopic(id string) string { return "cancel/" + id }

// EnvironmentTopic changes with an environment's declaration, wishes or volumes.
func EnvironmentTopic(name string) string { return "environment/" + name }

// Notify tells subscribers of the topic, once the transaction is committed.
func (q Queries) Notify(ctx context.Context, topic string) error {
	_, err := q.q.Exec(ctx, `SELECT pg_notify('sandglass', $1)`, topic)
	return wrap("notify", err)
}

// wrap adds what was being done; sandglass.Errors and nil pass as they are.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*sandglass.Error](err); ok {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// timePtr makes the zero time NULL.
func timePtr(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// timeOf makes NULL the zero time, and all others UTC.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// violates says whether err is a violation of the named unique index.
func violates(err error, index string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23505" && e.ConstraintName == index
}
