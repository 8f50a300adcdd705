package demo

// This file is the demo's sandbox uat as its users see it: own data, an own role with its own password,
// and a client that never stops asking.

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

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
	probe  *probe
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

// probe is a client of uat that connects, asks and leaves, again and again, and measures for how long it got no answer.
type probe struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	last   time.Time     // when an answer was last had
	gap    time.Duration // the longest time between two answers since the last reset
	asked  int64
}

const probeEvery = 20 * time.Millisecond

func startProbe(ctx context.Context, url string) *probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &probe{cancel: cancel, last: time.Now()}
	p.done.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			if ask(ctx, url) == nil {
				p.answered()
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return p
}

func ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var n int64
	return conn.QueryRow(ctx, "SELECT count(*) FROM customers WHERE id = 1").Scan(&n)
}

func (p *probe) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.gap = max(p.gap, now.Sub(p.last)-probeEvery)
	p.last = now
	p.asked++
}

// reset begins a new measurement; longest ends it.
func (p *probe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap, p.asked = 0, 0
}

func (p *probe) longest() (gap time.Duration, answers int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.gap, time.Since(p.last)-probeEvery), p.asked
}

func (p *probe) stop() {
	p.cancel()
	p.done.Wait()
}
