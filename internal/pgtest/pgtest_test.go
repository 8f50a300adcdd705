package pgtest_test

import (
	"os"
	"testing"
	"time"

	"sandglass/internal/pgtest"
)

func TestClusterLife(t *testing.T) {
	ctx := t.Context()
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"track_commit_timestamp": "on"}})
	other := pgtest.New(t, pgtest.Options{})
	const identifier = "SELECT system_identifier FROM pg_control_system()"
	if a, b := c.Query(t, "postgres", identifier), other.Query(t, "postgres", identifier); a == b {
		t.Errorf("two clusters share the system identifier %s", a)
	}

	l, err := pgtest.NewLedger(ctx, c, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	l.Run(ctx, 3, 0)
	time.Sleep(300 * time.Millisecond) // the load's own time
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	before := c.Query(t, "postgres", pgtest.LedgerChecksum)
	commits, err := l.Commits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(commits) == 0 {
		t.Fatal("the ledger wrote nothing")
	}
	for i, k := range commits {
		if k.N != int64(i+1) || i > 0 && k.Time.Before(commits[i-1].Time) {
			t.Fatalf("commit %d is %+v after %+v: not in order", i+1, k, commits[i-1])
		}
	}
	if n := pgtest.At(commits, commits[len(commits)/2].Time); n < int64(len(commits)/2+1) {
		t.Errorf("At leaves out the commit of that very time: %d", n)
	}

	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if after := c.Query(t, "postgres", pgtest.LedgerChecksum); after != before {
		t.Errorf("after a crash the ledger is %s, before it was %s", after, before)
	}
	adopted, err := pgtest.Open(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if adopted.PID() != c.PID() || adopted.Port != c.Port {
		t.Errorf("adopted pid %d port %d, want %d and %d", adopted.PID(), adopted.Port, c.PID(), c.Port)
	}
	if _, err := os.Stat(c.Socket()); err != nil {
		t.Error(err)
	}
}
