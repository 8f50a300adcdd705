// Fencing: closing a running server to everybody but us, and opening it again.

package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// Channel is where a server's sessions are told that they will be ended, by NOTIFY.
const Channel = "sandglass"

// auxiliary are the server's own processes, which a fence leaves alone (GetBackendTypeDesc in utils/init/miscinit.c).
var auxiliary = []string{"autovacuum launcher", "autovacuum worker", "logical replication launcher", "checkpointer", "background writer",
	"walwriter", "walreceiver", "archiver", "startup", "io worker", "slotsync worker", "walsummarizer", "logger"}

// Fence refuses new sessions and ends all others but those of Role; it returns once none is left.
// On the way it notifies each database's listeners with the message. What writes and can't be ended for good, such
// as a background worker, finds transactions read-only by default.
func (p *Postmaster) Fence(ctx context.Context, message string) error {
	conn, err := connectAny(ctx, p.config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := p.notifyAll(ctx, conn, message); err != nil {
		return err
	}
	if err := p.reload(ctx, true); err != nil {
		return err
	}
	return p.endSessions(ctx, conn)
}

// Unfence opens the server again, as its Config says.
func (p *Postmaster) Unfence(ctx context.Context) error { return p.reload(ctx, false) }

// Reload writes the configuration anew and waits until the server has taken it. Settings that
// need a restart wait for one.
func (p *Postmaster) Reload(ctx context.Context, c Config) error {
	p.config = c
	return p.reload(ctx, false)
}

// connectAny opens a session for questions about the whole cluster, in a database that is usually there.
func connectAny(ctx context.Context, c Config) (*pgx.Conn, error) {
	conn, err := Connect(ctx, c, "postgres")
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "3D000" { // no such database
		return Connect(ctx, c, "template1")
	}
	return conn, err
}

// reload writes the configuration, asks the postmaster to read it and waits until it has: a backend
// started after that shows the time of it (pg_conf_load_time), and was let in by the new pg_hba.conf, which the
// postmaster reads right after (process_pm_reload_request in postmaster/postmaster.c).
func (p *Postmaster) reload(ctx context.Context, fenced bool) error {
	if err := p.config.write(fenced, false); err != nil {
		return err
	}
	before, err := p.loadTime(ctx)
	if err != nil {
		return err
	}
	if err := p.signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload server: %w", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		now, err := p.loadTime(ctx)
		if err != nil {
			return err
		}
		if now.After(before) {
			return nil
		}
		if err := p.pause(ctx, wait); err != nil {
			return fmt.Errorf("reload server: %w", err)
		}
	}
}

// loadTime is when the postmaster last read its configuration; a broken pg_hba.conf, which it would not take, is an error.
func (p *Postmaster) loadTime(ctx context.Context) (time.Time, error) {
	conn, err := connectAny(ctx, p.config)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var at time.Time
	var bad *string
	err = conn.QueryRow(ctx, `SELECT pg_conf_load_time(), (SELECT string_agg(format('line %s: %s', line_number, error), '; ')
		FROM pg_hba_file_rules WHERE error IS NOT NULL)`).Scan(&at, &bad)
	if err != nil {
		return time.Time{}, fmt.Errorf("reload server: %w", err)
	}
	if bad != nil {
		return time.Time{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "reload server",
			Message: "The server does not take the lines of pg_hba.conf: " + *bad + ".", Remedy: "Correct server.hba and apply the declaration again."}
	}
	return at, nil
}

// pause waits a little, less if the server ends.
func (p *Postmaster) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.Exited():
		return p.explain(nil)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// notifyAll tells the listeners of each database that has sessions; a channel is of one database. A database we
// can't enter has none to tell.
func (p *Postmaster) notifyAll(ctx context.Context, conn *pgx.Conn, message string) error {
	rows, err := conn.Query(ctx, `SELECT DISTINCT datname::text FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND datname IS NOT NULL AND usename <> $1`, Role)
	if err != nil {
		return fmt.Errorf("list sessions: %w", err)
	}
	databases, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list sessions: %w", err)
	}
	for _, database := range databases {
		c, err := Connect(ctx, p.config, database)
		if err != nil {
			continue
		}
		_, err = c.Exec(ctx, "SELECT pg_notify($1, $2)", Channel, message)
		if err = errors.Join(err, c.Close(ctx)); err != nil {
			return fmt.Errorf("notify sessions of %s: %w", database, err)
		}
	}
	return nil
}

// endSessions ends all sessions but those of Role, those still logging in by the old pg_hba.conf too, until none is left.
func (p *Postmaster) endSessions(ctx context.Context, conn *pgx.Conn) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		left := 0
		for _, pid := range children(p.PID()) {
			// A backend that is logging in has this title (PerformAuthentication in utils/init/postinit.c), and no row yet.
			if title := cmdline(pid); strings.HasSuffix(title, " authentication") && !strings.Contains(title, " "+Role+" ") {
				left++
				endChild(pid)
			}
		}
		var ended int
		err := conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND usename IS DISTINCT FROM $1 AND NOT backend_type = ANY ($2)`, Role, auxiliary).Scan(&ended)
		if err != nil {
			return fmt.Errorf("end sessions: %w", err)
		}
		if left+ended == 0 {
			return nil
		}
		if err := p.pause(ctx, wait); err != nil {
			return fmt.Errorf("end sessions: %w", err)
		}
	}
}

// endChild asks one backend to end.
func endChild(pid int) {
	if w, err := watchProcess(pid); err == nil {
		w.signal(syscall.SIGTERM)
		w.close()
	}
}
