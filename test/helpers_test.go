package test

// This file is what several tests need besides the system itself: a look into the repository and the
// metadata, and sessions as a person opens them.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/repo"
	"sandglass/internal/systest"
)

// openRepository opens the system's repository with its key, beside `serve`.
func openRepository(t *testing.T, s *systest.System) *repo.Repository {
	t.Helper()
	f, err := os.Open(filepath.Join(s.State(), "key.txt"))
	must(t, err)
	defer f.Close()
	identities, err := age.ParseIdentities(f)
	must(t, err)
	store, err := repo.NewFolder(s.Repository())
	must(t, err)
	r, err := repo.Open(t.Context(), store, repo.Keys{Identities: identities})
	must(t, err)
	return r
}

// metadata asks the private metadata cluster.
func metadata(t *testing.T, s *systest.System, sql string) string {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=5432 user=sandglass dbname=postgres", filepath.Join(s.State(), "meta", "run")))
	must(t, err)
	defer conn.Close(ctx)
	got, err := pgtest.QueryText(ctx, conn, sql)
	must(t, err)
	return got
}

// login tries a role and a password at a sandbox's address: "" when it gets in, else the SQLSTATE or the error.
func login(ctx context.Context, port int, role, password string) string {
	err := pgtest.Ask(ctx, fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/postgres?sslmode=disable", role, password, port), "SELECT 1")
	if code := pgtest.SQLState(err); code != "" {
		return code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// do runs statements in a sandbox as its operator.
func do(t *testing.T, s *systest.System, environment, database string, statements ...string) {
	t.Helper()
	ctx := t.Context()
	conn, err := s.Connect(ctx, environment, database)
	must(t, err)
	defer conn.Close(ctx)
	for _, sql := range statements {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		must(t, err)
	}
}

// succeeds runs an operation that must succeed.
func succeeds(t *testing.T, s *systest.System, r sandglass.Request) sandglass.Operation {
	t.Helper()
	op, err := s.Operate(t.Context(), r)
	must(t, err)
	if op.State != sandglass.Succeeded {
		t.Fatalf("%s of %s ended as %s: %v", r.Kind, r.Environment, op.State, op.Error)
	}
	return op
}

// ran runs a command that must end with 0.
func ran(t *testing.T, s *systest.System, args ...string) systest.Result {
	t.Helper()
	r := s.Run(t.Context(), args...)
	if r.Exit != 0 {
		t.Fatalf("sandglass %v: exit %d\n%s%s", args, r.Exit, r.Stdout, r.Stderr)
	}
	return r
}

// streaming waits until an environment's recorder streams and holds all that its server has written.
func streaming(t *testing.T, s *systest.System, name string) {
	t.Helper()
	must(t, s.AwaitRecorded(t.Context(), name))
}

// inLong leaves a test to `make test-long`: what it shows, another one shows a part of.
func inLong(t *testing.T) {
	t.Helper()
	if !long {
		t.Skip("done by make test-long")
	}
}
