package pgtest

// This file measures from outside for how long a server does not answer.

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Probe is a client that connects, asks and leaves, again and again, and measures for how long it got no answer.
type Probe struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	last   time.Time     // when an answer was last had
	gap    time.Duration // the longest time between two answers since the last reset
	asked  int64
}

const probeEvery = 20 * time.Millisecond

// StartProbe begins to ask the server at url the query, without a pause, until Stop.
func StartProbe(ctx context.Context, url, query string) *Probe {
	return StartProbeEvery(ctx, url, query, probeEvery)
}

// StartProbeEvery is StartProbe at another pace: each question is a session of its own, and takes the server some time.
func StartProbeEvery(ctx context.Context, url, query string, every time.Duration) *Probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &Probe{cancel: cancel, last: time.Now()}
	p.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for ctx.Err() == nil {
			if Ask(ctx, url, query) == nil {
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

// Ask asks once, in a session of its own, with two seconds' patience.
func Ask(ctx context.Context, url, query string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, query)
	return err
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
