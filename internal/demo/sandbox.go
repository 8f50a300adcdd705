package demo

// This file is the demo's sandbox uat as its users see it: own data, an own role with its own password,
// and a client that never stops asking.

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"

	"sandglass/internal/pgtest"
)

const (
	uatApp         = "uat_app"
	uatAppPassword = "only-uat-knows-this"
)

type sandbox struct {
	port   int
	digest string // of its own data, before the restore
	probe  *pgtest.Probe
}

func (s sandbox) url(role, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: "127.0.0.1:" + strconv.Itoa(s.port), Path: database}
	return u.String()
}

// uatSchema is what uat's team works with before the restore: a few test orders of their own.
var uatSchema = []string{
	`CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, city text NOT NULL)`,
	`CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, status text NOT NULL, amount numeric(10,2) NOT NULL, placed timestamptz NOT NULL)`,
	`CREATE TABLE payments (id bigint PRIMARY KEY, "order" bigint NOT NULL, amount numeric(10,2) NOT NULL, paid timestamptz NOT NULL)`,
	`CREATE TABLE test_runs (id int PRIMARY KEY, verdict text NOT NULL)`,
	`INSERT INTO orders SELECT i, i, 'test', i, now() FROM generate_series(1, 500) i`,
	`INSERT INTO test_runs SELECT i, CASE WHEN i % 9 = 0 THEN 'failed' ELSE 'passed' END FROM generate_series(1, 2000) i`,
	`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ` + uatApp,
}

const uatDigest = `SELECT md5(string_agg(id || verdict, ',' ORDER BY id)) || (SELECT count(*) FROM orders) FROM test_runs`

// fillSandbox makes uat's roles and data over a session that its operator opened.
func fillSandbox(ctx context.Context, connect func(ctx context.Context, database string) (*pgx.Conn, error)) (digest string, err error) {
	run := func(database string, statements ...string) error {
		conn, err := connect(ctx, database)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	}
	if err := run("postgres", "CREATE ROLE "+uatApp+" LOGIN PASSWORD '"+uatAppPassword+"'", "CREATE DATABASE erp", "CREATE DATABASE reporting"); err != nil {
		return "", err
	}
	if err := run("erp", uatSchema...); err != nil {
		return "", err
	}
	conn, err := connect(ctx, "erp")
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return pgtest.QueryText(ctx, conn, uatDigest)
}
