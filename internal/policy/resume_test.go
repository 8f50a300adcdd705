// Neutralize cut off at any statement.

package policy_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

// cutOff cancels its context at the n-th statement of all sessions.
type cutOff struct {
	left   atomic.Int64
	cancel context.CancelFunc
}

func (c *cutOff) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return ctx
}

func (c *cutOff) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// cutting is the server with sessions that c traces.
func cutting(server *pgtest.Cluster, c *cutOff) policy.Staging {
	st := staging(server)
	st.Connect = func(ctx context.Context, database string) (*pgx.Conn, error) {
		cfg, err := config(server, database)
		if err != nil {
			return nil, err
		}
		cfg.Tracer = c
		return pgx.ConnectConfig(ctx, cfg)
	}
	return st
}

// TestApplied: while roles that the sandbox's people have changed are being given to the copy, it is neither as it was nor as it shall be.
func TestApplied(t *testing.T) {
	t.Parallel()
	sandbox := makeTarget(t)
	before := policy.Input{Run: "20261122t000000-dddd", Source: prod, Environment: uat, Target: readTarget(t, sandbox)}
	copied, _ := makeCopy(t)
	if _, err := policy.Neutralize(t.Context(), staging(copied), before); err != nil {
		t.Fatal(err)
	}
	sandbox.Exec(t, "postgres", "ALTER ROLE uat_app PASSWORD 'another'")
	after := before
	after.Target = readTarget(t, sandbox)
	is := func(what string, in policy.Input, want bool) {
		t.Helper()
		if got, err := policy.Applied(t.Context(), staging(copied), in); err != nil || got != want {
			t.Errorf("%s: %t, want %t (%v)", what, got, want, err)
		}
	}
	is("neutralized", before, true)
	is("changed since", after, false)
	for at := int64(20); ; at += 20 {
		ctx, cancel := context.WithCancel(t.Context())
		cut := &cutOff{cancel: cancel}
		cut.left.Store(at)
		_, err := policy.Neutralize(ctx, cutting(copied, cut), after)
		cancel()
		if err == nil {
			break
		}
		is(fmt.Sprintf("cut off at %d", at), after, false)
	}
	is("of before", before, false)
	is("given", after, true)
	if stops := prove(t, staging(copied), after); stops != nil {
		t.Errorf("proof: %q", stops)
	}
}

// TestResume cuts the work off at statement after statement, each time further on, sometimes
// with the whole server killed, and compares the end state with that of undisturbed work.
func TestResume(t *testing.T) {
	t.Parallel()
	target := readTarget(t, makeTarget(t))
	calm, _ := makeCopy(t)
	in := policy.Input{Run: "20261122t000000-bbbb", Source: prod, Environment: uat, Target: target}
	calmReport, err := policy.Neutralize(t.Context(), staging(calm), in)
	if err != nil {
		t.Fatal(err)
	}
	again, err := policy.Neutralize(t.Context(), staging(calm), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range again.Rules {
		if !r.Skipped {
			t.Errorf("rule %s applied twice in %q", r.Rule, r.Database)
		}
	}
	rough, _ := makeCopy(t)
	var report policy.Report
	attempts := 0
	for done := false; !done; attempts++ {
		ctx, cancel := context.WithCancel(t.Context())
		cut := &cutOff{cancel: cancel}
		cut.left.Store(int64(6 + attempts*5*oneIn))
		report, err = policy.Neutralize(ctx, cutting(rough, cut), in)
		done = err == nil
		if !done && ctx.Err() == nil {
			t.Fatalf("attempt %d: %v", attempts, err)
		}
		cancel()
		if attempts%max(3, 12/oneIn) == 2 {
			if err := rough.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := rough.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if attempts > 200 {
			t.Fatal("no end")
		}
	}
	t.Logf("%d attempts", attempts)
	if diff := cmp.Diff(state(t, calm), state(t, rough)); diff != "" {
		t.Error("end state", diff)
	}
	if diff := cmp.Diff(calmReport.NotReapplied, report.NotReapplied); diff != "" {
		t.Error("report", diff)
	}
	proof, err := policy.Prove(t.Context(), staging(rough), in)
	if err != nil {
		t.Fatal(err)
	}
	if stops := levels(proof, sandglass.Stop); stops != nil {
		t.Errorf("proof: %q", strings.Join(stops, "\n"))
	}
}
