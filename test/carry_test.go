package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// A password changed in the sandbox is never lost to a restore: before the rehearsal ends the copy gets
// it too; in the moments between rehearsal and cutover the restore goes back, and says why.
func TestRolesChangedDuringARestore(t *testing.T) {
	inLong(t)
	t.Parallel()
	ctx := t.Context()
	c := newCrashSite(t)
	change := func(attribute string) {
		conn, err := c.Connect(ctx, "uat", "postgres")
		must(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "ALTER ROLE tester "+attribute)
		must(t, err)
	}
	conn, err := c.Connect(ctx, "uat", "postgres")
	must(t, err)
	_, err = conn.Exec(ctx, "CREATE ROLE tester LOGIN PASSWORD 'one'")
	must(t, err)
	must(t, conn.Close(ctx))
	limit := func() string {
		got, err := c.Query(ctx, "uat", "postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'tester'")
		must(t, err)
		return got
	}

	for _, row := range []struct {
		killed, attribute, limit string
		state                    sandglass.State
		code                     sandglass.Code
		shows                    string
	}{
		{"neutralize:after", "CONNECTION LIMIT 3", "3", sandglass.Succeeded, "", c.fromProd},
		{"prove:before", "CONNECTION LIMIT 2 PASSWORD 'two'", "2", sandglass.Succeeded, "", c.fromProd},
		{"rehearse:after", "CONNECTION LIMIT 4", "4", sandglass.Failed, "carry.changed", c.fromProd},
	} {
		to, err := c.Client.Connect(ctx, "uat", "postgres")
		must(t, err)
		way := fmt.Sprintf("host=%s port=%d user=%s dbname=postgres", to.Host, to.Port, to.User)
		must(t, c.Stop())
		must(t, c.Serve(ctx, "SANDGLASS_CRASH=restore/"+row.killed))
		must(t, c.settle(ctx))
		op, err := c.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: latest})
		must(t, err)
		select {
		case <-c.Exited():
		case <-time.After(2 * time.Minute):
			t.Fatalf("serve was not killed at %s", row.killed)
		}
		must(t, c.Kill())
		// The sandbox outlives serve; its people go on using it.
		direct, err := pgx.Connect(ctx, way)
		must(t, err)
		_, err = direct.Exec(ctx, "ALTER ROLE tester "+row.attribute)
		must(t, err)
		must(t, direct.Close(ctx))
		must(t, c.Serve(ctx))
		op, err = c.Finish(ctx, op.ID)
		must(t, err)
		if op.State != row.state || row.code != "" && (op.Error == nil || op.Error.Code != row.code) {
			t.Fatalf("killed at %s: the restore is %s (%v), want %s %s", row.killed, op.State, op.Error, row.state, row.code)
		}
		c.is(t, row.shows)
		if got := limit(); got != row.limit {
			t.Errorf("killed at %s: tester's limit is %s, want %s", row.killed, got, row.limit)
		}
	}
	change("CONNECTION LIMIT 5") // it is open for changes again
}
