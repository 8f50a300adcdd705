package pgtest

// This file measures from outside for how long a server does not answer.

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Probe is a client that asks again and again, and measures for how long it got no answer. It keeps its session while that
// answers, as the pool of an application does, and connects anew when it does not.
type Probe struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	last   time.Time     // when an answer was last had
	gap    time.Duration // the longest time between two answers since the last reset
	asked  int64
}

const (
	probeEvery    = 20 * time.Millisecond
	probeAway     = 50 * time.Millisecond // while there is no answer: each attempt costs the host a process
	probePatience = 2 * time.Second
)

// StartProbe begins to ask the server at url the query, without a pause, until Stop.
func StartProbe(ctx context.Context, url, query string) *Probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &Probe{cancel: cancel, last: time.Now()}
	p.done.Go(func() {
		away := time.NewTicker(probeAway)
		defer away.Stop()
		for ctx.Err() == nil {
			p.session(ctx, url, query)
			await(ctx, away)
		}
	})
	return p
}

// session asks until there is no answer.
func (p *Probe) session(ctx context.Context, url, query string) {
	conn, err := connect(ctx, url)
	if err != nil {
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for ctx.Err() == nil && ask(ctx, conn, query) == nil {
		p.answered()
		await(ctx, tick)
	}
}

func await(ctx context.Context, tick *time.Ticker) {
	select {
	case <-ctx.Done():
	case <-tick.C:
	}
}

func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	return pgx.Connect(ctx, url)
}

func ask(ctx context.Context, conn *pgx.Conn, query string) error {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	_, err := conn.Exec(ctx, query)
	return err
}

// Ask asks once, in a session of its own, with two seconds' patience.
func Ask(ctx context.Context, url, query string) error {
	conn, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return ask(ctx, conn, query)
}

func (p *Probe) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.gap = max(p.gap, now.Sub(p.last)-probeEvery)
	p.last = now
	p.asked++
}

// Reset begins a new measurement.
func (p *Probe) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap, p.asked = 0, 0
}

// Longest is the longest time without an answer since the last Reset, and the count of answers.
func (p *Probe) Longest() (gap time.Duration, answers int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.gap, time.Since(p.last)-probeEvery), p.asked
}

// Stop ends it.
func (p *Probe) Stop() {
	p.cancel()
	p.done.Wait()
}
