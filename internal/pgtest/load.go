package pgtest

// This file is the workloads: one whose commit order is known exactly, for the tests of
// exactness, and pgbench, whose balances must agree at every moment.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Commit is one committed transaction of a Ledger.
type Commit struct {
	N    int64 // its place in the commit order, from 1 without a hole
	XID  uint64
	Time time.Time // of its commit record, microseconds, by track_commit_timestamp
}

// Ledger is a workload that knows its own commit order. Every transaction takes the next number
// from one row and holds that row's lock until its commit record is written, so that the
// numbers are the order of the commit records in the WAL. A state is exact when it holds the rows 1 to
// n and nothing else. Some transactions roll back, some update and delete, so that a wrong prefix shows in Checksum too.
type Ledger struct {
	c        *Cluster
	database string
	cancel   context.CancelFunc
	done     sync.WaitGroup
	mu       sync.Mutex
	err      error
}

// LedgerChecksum is the query that sums up a state of the ledger: the count of commits, and a digest of all rows.
const LedgerChecksum = `SELECT (SELECT n FROM ledger_head), (SELECT count(*) FROM ledger),
	(SELECT coalesce(md5(string_agg(n || ':' || note, ',' ORDER BY n)), '') FROM ledger)`

// NewLedger makes the ledger's tables; the cluster must have track_commit_timestamp=on.
func NewLedger(ctx context.Context, c *Cluster, database string) (*Ledger, error) {
	l := &Ledger{c: c, database: database}
	return l, c.Do(ctx, database,
		"CREATE TABLE ledger_head (n bigint NOT NULL, check_sum bigint NOT NULL)",
		"INSERT INTO ledger_head VALUES (0, 0)",
		"CREATE TABLE ledger (n bigint PRIMARY KEY, xid xid8 NOT NULL, note text NOT NULL)")
}

// Run writes with so many sessions until Stop, as fast as pause between two transactions of one session allows.
func (l *Ledger) Run(ctx context.Context, sessions int, pause time.Duration) {
	ctx, l.cancel = context.WithCancel(ctx)
	for range sessions {
		l.done.Go(func() {
			if err := l.write(ctx, pause); err != nil && ctx.Err() == nil {
				l.mu.Lock()
				l.err = errors.Join(l.err, err)
				l.mu.Unlock()
			}
		})
	}
}

// Stop ends the writers and waits for them.
func (l *Ledger) Stop() error {
	if l.cancel != nil {
		l.cancel()
	}
	l.done.Wait()
	return l.err
}

func (l *Ledger) write(ctx context.Context, pause time.Duration) error {
	conn, err := l.c.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for ctx.Err() == nil {
		// A transaction under way is not cut: its fate would be unknown.
		if err := l.one(context.WithoutCancel(ctx), conn); err != nil {
			return err
		}
		if pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
	return nil
}

var errRollback = errors.New("roll back on purpose")

func (l *Ledger) one(ctx context.Context, conn *pgx.Conn) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var n int64
		if err := tx.QueryRow(ctx, "UPDATE ledger_head SET n = n + 1, check_sum = (check_sum * 31 + n) % 1000000007 RETURNING n").Scan(&n); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO ledger VALUES ($1::bigint, pg_current_xact_id(), 'written by ' || $1::bigint)", n); err != nil {
			return err
		}
		switch rand.IntN(8) {
		case 0:
			return errRollback
		case 1:
			_, err := tx.Exec(ctx, "UPDATE ledger SET note = note || ', changed by ' || $1::bigint WHERE n = $1::bigint - 3", n)
			return err
		}
		return nil
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// Commits are all commits so far, in commit order.
func (l *Ledger) Commits(ctx context.Context) ([]Commit, error) {
	conn, err := l.c.Connect(ctx, l.database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT n, xid::text::bigint, pg_xact_commit_timestamp(xid::xid) FROM ledger ORDER BY n")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Commit, err error) {
		err = row.Scan(&c.N, &c.XID, &c.Time)
		return c, err
	})
}

// At is the count of commits that the state at a time holds, as recovery_target_time counts: up to
// the first commit, in WAL order, whose timestamp is later.
func At(commits []Commit, t time.Time) int64 {
	i := slices.IndexFunc(commits, func(c Commit) bool { return c.Time.After(t) })
	if i < 0 {
		i = len(commits)
	}
	return int64(i)
}

// PgbenchInit makes pgbench's tables; a scale is about 15 MB.
func (c *Cluster) PgbenchInit(ctx context.Context, database string, scale int) error {
	return run(c.Command(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(scale), database))
}

// Pgbench is a run of pgbench that writes; start it, and wait for it or end it.
func (c *Cluster) Pgbench(ctx context.Context, database string, clients int, length time.Duration, extra ...string) *exec.Cmd {
	args := append([]string{"-n", "-c", strconv.Itoa(clients), "-j", "2", "-T", strconv.Itoa(int(length.Seconds()))}, extra...)
	return c.Command(ctx, "pgbench", append(args, database)...)
}

// PgbenchBalanced says whether the sums agree, as they must in every committed state.
func PgbenchBalanced(ctx context.Context, conn *pgx.Conn) error {
	var accounts, tellers, branches, history int64
	err := conn.QueryRow(ctx, `SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts), (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers),
		(SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)`).
		Scan(&accounts, &tellers, &branches, &history)
	if err != nil {
		return err
	}
	if accounts != tellers || tellers != branches || branches != history {
		return fmt.Errorf("pgbench balances differ: accounts %d, tellers %d, branches %d, history %d", accounts, tellers, branches, history)
	}
	return nil
}

// SQLState is the SQLSTATE of an error of the server, "" of any other.
func SQLState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
