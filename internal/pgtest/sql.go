package pgtest

// This file is how tests talk to a cluster.

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// ConnString is the libpq connection string of the superuser over the Unix socket.
func (c *Cluster) ConnString(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Socket(), c.Port, Superuser, database)
}

// URL is a connection URL over TCP, for a role with a password.
func (c *Cluster) URL(role, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: "127.0.0.1:" + strconv.Itoa(c.Port), Path: database,
		RawQuery: "sslmode=disable"} // or pgx asks for TLS first, and is a session more for the server
	return u.String()
}

// Connect opens a session of the superuser.
func (c *Cluster) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.ConnString(database))
}

// Do runs statements as the superuser, each in a transaction of its own.
func (c *Cluster) Do(ctx context.Context, database string, statements ...string) error {
	conn, err := c.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// Conn is a session of the superuser that ends with the test.
func (c *Cluster) Conn(t TB, database string) *pgx.Conn {
	t.Helper()
	conn, err := c.Connect(t.Context(), database)
	if err != nil {
		t.Fatalf("connect to %s: %v", database, err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// Exec runs statements as the superuser and fails the test if one fails.
func (c *Cluster) Exec(t TB, database string, statements ...string) {
	t.Helper()
	if err := c.Do(t.Context(), database, statements...); err != nil {
		t.Fatalf("%v", err)
	}
}

// Query is the first row of a query as text, columns joined by "|"; "" if there is no row.
func (c *Cluster) Query(t TB, database, sql string, args ...any) string {
	t.Helper()
	conn, err := c.Connect(t.Context(), database)
	if err != nil {
		t.Fatalf("connect to %s: %v", database, err)
	}
	defer conn.Close(t.Context())
	s, err := QueryText(t.Context(), conn, sql, args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

// QueryText is the first row of a query as text, columns joined by "|"; "" if there is no row.
func QueryText(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (string, error) {
	rows, err := conn.Query(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	defer rows.Close()
	text := ""
	if rows.Next() {
		for i, v := range rows.RawValues() {
			if i > 0 {
				text += "|"
			}
			text += string(v)
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	return text, nil
}

// RecorderRole makes the role that README tells people to make for recording, and gives the
// connection string it is reached by over TCP, without its password.
func (c *Cluster) RecorderRole(ctx context.Context, password string) (conninfo string, err error) {
	err = c.Do(ctx, "postgres",
		"CREATE ROLE sandglass_recorder LOGIN REPLICATION PASSWORD '"+password+"'",
		"GRANT pg_monitor TO sandglass_recorder")
	return fmt.Sprintf("host=127.0.0.1 port=%d user=sandglass_recorder dbname=postgres", c.Port), err
}
