// Doing a host's operations: the lock, taking over from a dead process, River's client.

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"sandglass/internal/db"
)

// errStopping ends the steps at work because this process stops working, by wish or because it
// lost the lock. The steps are not at fault: another process, or this one later, continues them.
var errStopping = errors.New("this process stops working")

// lockRetry is the wait before the lock is asked for again after a failure.
const lockRetry = time.Second

// Run does this host's operations until ctx ends, and returns once nothing of it runs any more.
// While another process holds the host's lock it waits; whatever goes wrong is logged and tried again.
func (e *Engine) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		lock, err := e.lock(ctx)
		if err == nil {
			err = e.work(ctx, lock)
		}
		if ctx.Err() != nil {
			return nil
		}
		e.Log.Warn("operations stand still; trying again", "host", e.Host, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(lockRetry):
		}
	}
	return nil
}

// lock takes the host's advisory lock on a connection of its own, waiting while another process has it.
func (e *Engine) lock(ctx context.Context) (*pgx.Conn, error) {
	conn, err := e.DB.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect for the lock of host %s: %w", e.Host, err)
	}
	var got bool
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('sandglass host ' || $1, 0))`, e.Host).Scan(&got)
	if err == nil && !got {
		e.Log.Info("another process does this host's operations; waiting for it to end", "host", e.Host)
		_, err = conn.Exec(ctx, `SELECT pg_advisory_lock(hashtextextended('sandglass host ' || $1, 0))`, e.Host)
	}
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("take the lock of host %s: %w", e.Host, err)
	}
	return conn, nil
}

// work does operations until ctx ends or the lock is lost. The lock's connection is closed
// only after the last step has returned.
func (e *Engine) work(ctx context.Context, lock *pgx.Conn) error {
	calm := context.WithoutCancel(ctx)
	defer lock.Close(calm)
	// A job gets a new ID, so that a process which lost the lock but has not noticed can't
	// write to the job any more (River completes by ID, while running).
	tag, err := lock.Exec(ctx, `UPDATE sandglass.river_job SET id = nextval(pg_get_serial_sequence('sandglass.river_job', 'id')),
		state = 'available', scheduled_at = now(), attempt = greatest(attempt - 1, 0) WHERE queue = $1 AND state = 'running'`, e.queue)
	if err != nil {
		return fmt.Errorf("take over the jobs of host %s: %w", e.Host, err)
	}
	if n := tag.RowsAffected(); n > 0 {
		e.Log.Info("continuing steps that an earlier process left", "steps", n)
	}

	session, end := context.WithCancelCause(calm)
	defer end(errStopping)
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{Engine: e, session: session})
	client, err := river.NewClient(riverpgxv5.New(e.DB.Pool), &river.Config{
		Schema: db.Schema, Logger: e.Log, Workers: workers,
		Queues:        map[string]river.QueueConfig{e.queue: {MaxWorkers: e.Workers}},
		FetchCooldown: 10 * time.Millisecond, // a step follows the one before at once
	})
	if err != nil {
		return fmt.Errorf("make River client: %w", err)
	}
	if err := client.Start(calm); err != nil {
		return fmt.Errorf("start River client: %w", err)
	}

	watch, unwatch := context.WithCancel(calm)
	lost := make(chan error, 1)
	go func() {
		var err error
		for err == nil { // none comes: it returns when the connection ends
			_, err = db.Await(watch, lock)
		}
		lost <- err
	}()
	var reason error
	select {
	case <-ctx.Done():
	case reason = <-lost:
		reason = fmt.Errorf("lost the lock of host %s: %w", e.Host, reason)
		lost <- nil
	}
	end(errStopping)
	err = client.StopAndCancel(calm) // waits for all steps
	unwatch()
	<-lost
	return errors.Join(reason, err)
}
