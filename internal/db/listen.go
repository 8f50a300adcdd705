// Waiting for changes: one connection LISTENs and wakes the subscribers of a topic.

package db

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

type listener struct {
	config *pgx.ConnConfig
	log    *slog.Logger
	end    context.CancelFunc
	owner  sync.WaitGroup

	mu   sync.Mutex
	next int
	subs map[string]map[int]chan struct{}
}

func newListener(config *pgx.ConnConfig, log *slog.Logger) *listener {
	return &listener{config: config, log: log, subs: map[string]map[int]chan struct{}{}}
}

// start connects once in the caller's time, so that nothing committed after Open is missed.
func (l *listener) start(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	run, end := context.WithCancel(context.WithoutCancel(ctx))
	l.end = end
	l.owner.Go(func() { l.run(run, conn) })
	return nil
}

func (l *listener) close() {
	l.end()
	l.owner.Wait()
}

func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return nil, fmt.Errorf("connect to the metadata database to listen: %w", err)
	}
	if _, err := conn.Exec(ctx, `LISTEN sandglass`); err != nil {
		conn.Close(ctx)
		return nil, fmt.Errorf("listen on the metadata database: %w", err)
	}
	return conn, nil
}

// run passes notifications on until ctx ends, connecting again as often as it takes.
func (l *listener) run(ctx context.Context, conn *pgx.Conn) {
	for {
		err := l.pass(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("lost the metadata database's listening connection; connecting again", "error", err)
		for conn = nil; conn == nil; {
			if conn, err = l.connect(ctx); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
		l.wake("", true) // whatever was committed in between went unheard
	}
}

func (l *listener) pass(ctx context.Context, conn *pgx.Conn) error {
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		n, err := Await(ctx, conn)
		if err != nil {
			return err
		}
		l.wake(n.Payload, false)
	}
}

// aliveEvery is how often a silent connection is asked whether it still lives, and how long it may take to answer.
const aliveEvery = 15 * time.Second

// Await waits for a notification on a connection, or for its end. A peer that vanished without
// a word (its machine lost power, a firewall forgot the connection) is noticed by asking now and then.
func Await(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	for {
		silence, end := context.WithTimeout(ctx, aliveEvery)
		n, err := conn.WaitForNotification(silence)
		end()
		if err == nil || ctx.Err() != nil || !pgconn.Timeout(err) {
			return n, err
		}
		answer, end := context.WithTimeout(ctx, aliveEvery)
		err = conn.Ping(answer)
		end()
		if err != nil {
			return nil, fmt.Errorf("the metadata database does not answer: %w", err)
		}
	}
}

func (l *listener) wake(topic string, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t, subs := range l.subs {
		if !all && t != "" && t != topic {
			continue
		}
		for _, c := range subs {
			select {
			case c <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}

func (l *listener) subscribe(topic string) (<-chan struct{}, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, c := l.next, make(chan struct{}, 1)
	l.next++
	if l.subs[topic] == nil {
		l.subs[topic] = map[int]chan struct{}{}
	}
	l.subs[topic][id] = c
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.subs[topic], id); len(l.subs[topic]) == 0 {
			delete(l.subs, topic)
		}
	}
}
