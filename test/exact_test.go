package test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// history is a production's life whose every state is known.
type history struct {
	commits []pgtest.Commit
	notes   []string // of all rows, at the end
	idle    [2]time.Time
	point   int64 // commits when the restore point was made
}

// state is what LedgerChecksum gives after the first n commits.
func (h history) state(n int64) string {
	rows := make([]string, n)
	for i := range rows {
		r := int64(i + 1)
		note := fmt.Sprintf("written by %d", r)
		if later := fmt.Sprintf(", changed by %d", r+3); r+3 <= n && strings.HasSuffix(h.notes[i], later) {
			note += later
		}
		rows[i] = fmt.Sprintf("%d:%s", r, note)
	}
	sum := ""
	if n > 0 {
		b := md5.Sum([]byte(strings.Join(rows, ",")))
		sum = hex.EncodeToString(b[:])
	}
	return fmt.Sprintf("%d|%d|%s", n, n, sum)
}

// moment is a question with its only right answer.
type moment struct {
	name string
	m    sandglass.Moment
	want int64 // commits; -1: it must be refused with code
	code sandglass.Code
}

// Every restored state is the recorded one, or the moment is refused.
func TestEveryMomentIsExact(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE DATABASE bank")
	must(t, prod.PgbenchInit(ctx, "bank", 1))
	s := newSystem(t)
	ledger, err := pgtest.NewLedger(ctx, prod, "postgres")
	must(t, err)
	must(t, s.Record(ctx, "prod", prod, nil))
	_, err = s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)

	h := live(t, s, prod, ledger)
	for i, m := range moments(t, s, h) {
		// A peek recovers as a restore does, and is quicker: in the short form one moment in three is restored, the others are peeked at.
		how := inSandbox
		if !long && i%3 != 0 {
			how = inPeek
		}
		t.Run(m.name, func(t *testing.T) { exact(t, s, h, m, how) })
	}
}

// live makes the history: two busy stretches around an idle one, an image in the second, a restore point.
func live(t *testing.T, s *systest.System, prod *pgtest.Cluster, ledger *pgtest.Ledger) (h history) {
	ctx := t.Context()
	bank, stop := context.WithCancel(ctx)
	pgbench := prod.Pgbench(bank, "bank", 2, time.Minute, "-R", "200")
	must(t, pgbench.Start())
	ledger.Run(ctx, 4, time.Millisecond)
	time.Sleep(2 * time.Second) // the life of production, here and below
	must(t, ledger.Stop())

	h.idle[0] = serverTime(t, prod)
	time.Sleep(500 * time.Millisecond)
	prod.Exec(t, "postgres", "SELECT pg_create_restore_point('before the release')")
	fmt.Sscan(prod.Query(t, "postgres", "SELECT n FROM ledger_head"), &h.point)
	h.idle[1] = serverTime(t, prod)

	ledger.Run(ctx, 4, 0)
	must(t, s.Client.TakeImage(ctx, "prod"))
	must(t, s.AwaitImages(ctx, "prod", 2))
	time.Sleep(time.Second)
	must(t, ledger.Stop())
	stop()
	pgbench.Wait() // ended by us
	// pgbench was cut in the middle of transactions; they roll back.

	var err error
	h.commits, err = ledger.Commits(ctx)
	must(t, err)
	rows, err := prod.Conn(t, "postgres").Query(ctx, "SELECT note FROM ledger ORDER BY n")
	must(t, err)
	for rows.Next() {
		var note string
		must(t, rows.Scan(&note))
		h.notes = append(h.notes, note)
	}
	must(t, rows.Err())
	if got, want := h.state(int64(len(h.commits))), prod.Query(t, "postgres", pgtest.LedgerChecksum); got != want {
		t.Fatalf("the test's own arithmetic gives %s for the last state, production %s", got, want)
	}
	return h
}

func serverTime(t *testing.T, c *pgtest.Cluster) time.Time {
	t.Helper()
	var at time.Time
	must(t, c.Conn(t, "postgres").QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&at))
	return at
}

func moments(t *testing.T, s *systest.System, h history) (all []moment) {
	t.Helper()
	ctx := t.Context()
	w, err := s.Client.Window(ctx, "prod")
	must(t, err)
	first, last := h.commits[0], h.commits[len(h.commits)-1]
	at := func(name string, when time.Time) {
		when = when.Truncate(time.Microsecond)
		all = append(all, moment{name: name, m: sandglass.Moment{Kind: sandglass.AtTime, Time: when}, want: pgtest.At(h.commits, when)})
	}
	for i := range randomTimes {
		at(fmt.Sprintf("random time %d", i+1), first.Time.Add(rand.N(last.Time.Sub(first.Time))))
	}
	a := h.commits[len(h.commits)/3]
	at("the microsecond of a commit", a.Time)
	at("the microsecond before it", a.Time.Add(-time.Microsecond))
	at("the microsecond after it", a.Time.Add(time.Microsecond))
	b := sameMillisecond(t, h.commits)
	at("between two commits of a millisecond", b.Time)
	at("idle", h.idle[0].Add(100*time.Millisecond))
	at("idle, later", h.idle[1])
	at("right after an image", w.Images[len(w.Images)-1].Ended)
	at("a second before the end", last.Time.Add(-time.Second))
	at("the last commit", last.Time)
	x := h.commits[rand.IntN(len(h.commits))]
	all = append(all,
		moment{name: "just after a transaction", m: sandglass.Moment{Kind: sandglass.AtXID, XID: x.XID}, want: x.N},
		moment{name: "just before a transaction", m: sandglass.Moment{Kind: sandglass.AtXID, XID: x.XID, Before: true}, want: x.N - 1},
		moment{name: "a restore point", m: sandglass.Moment{Kind: sandglass.AtName, Name: "before the release"}, want: h.point},
		moment{name: "latest", m: sandglass.Moment{Kind: sandglass.AtLatest}, want: int64(len(h.commits))},
		moment{name: "after the last commit", m: sandglass.Moment{Kind: sandglass.AtTime, Time: last.Time.Add(2 * time.Second)}, want: int64(len(h.commits))},
		moment{name: "the start of a commit record", m: sandglass.Moment{Kind: sandglass.AtLSN, LSN: commitLSN(t, s, a)}, want: a.N - 1},
		moment{name: "before the window", m: sandglass.Moment{Kind: sandglass.AtTime, Time: w.Earliest.Add(-time.Hour)}, want: -1, code: sandglass.CodeMomentBefore},
		moment{name: "in the future", m: sandglass.Moment{Kind: sandglass.AtTime, Time: time.Now().Add(time.Hour)}, want: -1, code: sandglass.CodeMomentFuture},
		moment{name: "no such transaction", m: sandglass.Moment{Kind: sandglass.AtXID, XID: last.XID + 1000000}, want: -1, code: sandglass.CodeMomentNotFound},
		moment{name: "no such restore point", m: sandglass.Moment{Kind: sandglass.AtName, Name: "never made"}, want: -1, code: sandglass.CodeMomentNotFound})
	return all
}

// sameMillisecond is the commit that is followed soonest by another of the same millisecond. Several sessions that write
// without a pause make many such pairs; a history without one is no test of what lies between them.
func sameMillisecond(t *testing.T, commits []pgtest.Commit) pgtest.Commit {
	t.Helper()
	best, least := commits[0], time.Hour
	for i, c := range commits[1:] {
		d := c.Time.Sub(commits[i].Time)
		if same := c.Time.Truncate(time.Millisecond).Equal(commits[i].Time.Truncate(time.Millisecond)); same && d > 0 && d < least {
			best, least = commits[i], d
		}
	}
	if least >= time.Millisecond {
		t.Fatalf("of %d commits no two are of the same millisecond", len(commits))
	}
	t.Logf("of %d commits the closest two are %s apart", len(commits), least)
	return best
}

// commitLSN is where a transaction's commit record starts, as the window's index says.
func commitLSN(t *testing.T, s *systest.System, c pgtest.Commit) sandglass.LSN {
	t.Helper()
	found, err := s.Client.Commits(t.Context(), "prod", sandglass.CommitQuery{From: c.Time.Add(-time.Millisecond), To: c.Time.Add(time.Millisecond), Limit: 1000})
	must(t, err)
	for _, f := range found {
		if uint32(f.XID) == uint32(c.XID) {
			return f.LSN
		}
	}
	t.Fatalf("transaction %d of %s is not among the %d commits around it", c.XID, c.Time, len(found))
	return 0
}

// exact sees that a moment is refused, or that the state it is brought back as is the recorded one.
func exact(t *testing.T, s *systest.System, h history, m moment, how func(*testing.T, *systest.System, sandglass.Moment, func(connect))) {
	ctx := t.Context()
	if m.want < 0 {
		_, err := s.Client.Resolve(ctx, "prod", m.m)
		if got := sandglass.CodeOf(err); got != m.code {
			t.Errorf("%s is answered with %q, want %s", m.m, got, m.code)
		}
		return
	}
	// What is too young is refused, and settles in about ten seconds.
	must(t, s.Await(ctx, 30*time.Second, "the moment to settle", func() (bool, error) {
		_, err := s.Client.Resolve(ctx, "prod", m.m)
		switch sandglass.CodeOf(err) {
		case sandglass.CodeMomentUnsettled, sandglass.CodeMomentNotHeld:
			return false, err
		}
		return true, nil
	}))
	how(t, s, m.m, func(to connect) {
		copied, err := to("postgres")
		must(t, err)
		defer copied.Close(ctx)
		got, err := pgtest.QueryText(ctx, copied, pgtest.LedgerChecksum)
		must(t, err)
		if want := h.state(m.want); got != want {
			t.Errorf("brought back as of %s: the state is %s, want %s", m.m, got, want)
		}
		bank, err := to("bank")
		must(t, err)
		defer bank.Close(ctx)
		if err := pgtest.PgbenchBalanced(ctx, bank); err != nil {
			t.Errorf("brought back as of %s: %v", m.m, err)
		}
	})
}

// connect opens a session in a database of what was brought back.
type connect func(database string) (*pgx.Conn, error)

// inSandbox restores the moment into uat, and has its files checked.
func inSandbox(t *testing.T, s *systest.System, m sandglass.Moment, look func(connect)) {
	_, err := s.Restore(t.Context(), "uat", m)
	must(t, err)
	look(func(database string) (*pgx.Conn, error) { return s.Connect(t.Context(), "uat", database) })
	for _, database := range []string{"postgres", "bank"} {
		sound(t, s, database)
	}
}

// inPeek opens the moment for reading, for as long as the look takes.
func inPeek(t *testing.T, s *systest.System, m sandglass.Moment, look func(connect)) {
	ctx := t.Context()
	op := succeeds(t, s, sandglass.Request{Kind: sandglass.KindPeek, Environment: "prod", Moment: &m, Reason: "is it exact?"})
	p, err := s.Client.Peek(ctx, op.ID)
	must(t, err)
	look(func(database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s", p.Connection.Host, p.Connection.Port, p.Connection.User, database))
	})
	must(t, s.Client.EndPeek(ctx, op.ID))
}

// sound has PostgreSQL's own checker look at every table and index of a restored database.
func sound(t *testing.T, s *systest.System, database string) {
	ctx := t.Context()
	conn, err := s.Connect(ctx, "uat", database)
	must(t, err)
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE EXTENSION amcheck"); pgtest.SQLState(err) == "0A000" || pgtest.SQLState(err) == "58P01" { // its files are not there
		pgtest.Missing(t, "amcheck")
	} else {
		must(t, err)
	}
	_, err = conn.Exec(ctx, `SELECT bt_index_check(i.indexrelid, heapallindexed => true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence <> 't' AND i.indisvalid`)
	if err != nil {
		t.Errorf("an index of %s: %v", database, err)
	}
	found, err := pgtest.QueryText(ctx, conn, `SELECT coalesce(string_agg(c.oid::regclass || ': ' || v.msg, '; '), '') FROM pg_class c, verify_heapam(c.oid, check_toast => true) v
		WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence <> 't'`)
	must(t, err)
	if found != "" {
		t.Errorf("tables of %s: %s", database, found)
	}
}
