package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
)

// trap is a listener that counts who knocks: where a copy that reaches out would be heard.
type trap struct {
	net.Listener
	knocks atomic.Int64
}

func newTrap(t *testing.T, network, address string) *trap {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	x := &trap{Listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			x.knocks.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return x
}

// Nothing that production had set up acts in the copy, or opens it, during the restore or after.
func TestNothingOfProductionActsInTheCopy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	publisher := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "logical", "log_connections": "on"}})
	markers, err := os.MkdirTemp("/tmp", "sg")
	must(t, err)
	defer os.RemoveAll(markers)
	must(t, os.Chmod(markers, 0o777))
	tcp := newTrap(t, "tcp", "127.0.0.1:0")
	port := tcp.Addr().(*net.TCPAddr).Port
	unix := newTrap(t, "unix", filepath.Join(markers, fmt.Sprintf(".s.PGSQL.%d", port)))
	must(t, os.Chmod(filepath.Join(markers, fmt.Sprintf(".s.PGSQL.%d", port)), 0o777))

	include := filepath.Join(markers, "included.conf")
	must(t, os.WriteFile(include, []byte("external_pid_file = '"+markers+"/pid'\nmaintenance_work_mem = '78MB'\n"), 0o644))
	prod := production(t, map[string]string{"archive_mode": "on", "archive_command": "touch " + markers + "/archived", "wal_level": "logical",
		"include": include, "synchronous_commit": "local"}) // so that commits do not wait for the synchronous standby that there is none of
	if _, err := os.Stat(filepath.Join(markers, "pid")); err != nil {
		t.Fatalf("production does not read the file that is included: %v", err)
	}
	publisher.Exec(t, "postgres", "CREATE TABLE live (id int PRIMARY KEY)", "CREATE TABLE late (id int PRIMARY KEY)",
		"INSERT INTO live SELECT generate_series(1, 100)", "INSERT INTO late SELECT generate_series(1, 100)", "CREATE PUBLICATION pub FOR ALL TABLES")
	prod.Exec(t, "postgres",
		"CREATE TABLE live (id int PRIMARY KEY)", "CREATE TABLE late (id int PRIMARY KEY)",
		"CREATE ROLE app LOGIN SUPERUSER PASSWORD 'of production'",
		"CREATE EXTENSION postgres_fdw",
		fmt.Sprintf("CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%d')", markers, port),
		"CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'x', password 'y')",
		"CREATE FOREIGN TABLE far (id int) SERVER elsewhere",
		fmt.Sprintf("CREATE SUBSCRIPTION knocks CONNECTION 'host=127.0.0.1 port=%d dbname=postgres' PUBLICATION pub WITH (connect = false, enabled = false)", port),
		"ALTER SUBSCRIPTION knocks ENABLE",
		"ALTER SYSTEM SET work_mem = '77MB'", "ALTER SYSTEM SET listen_addresses = '*'", "ALTER SYSTEM SET synchronous_standby_names = 'far_away'", "SELECT pg_reload_conf()",
		"ALTER SYSTEM SET archive_command = 'touch "+markers+"/archived-by-alter-system'",
		"CREATE DATABASE other", "ALTER DATABASE other SET session_preload_libraries = 'no_such_library'",
		"CREATE FUNCTION shout() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'an event trigger fired'; END$$",
		"CREATE TABLE mine (id int)")
	prod.Exec(t, "postgres", "INSERT INTO mine VALUES (0)",
		// The initial copy of this table hangs at its first row: the subscription stays in mid-sync, with a slot for it.
		"CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(3600); RETURN NEW; END$$",
		"CREATE TRIGGER hang BEFORE INSERT ON late FOR EACH ROW EXECUTE FUNCTION hang()", "ALTER TABLE late ENABLE REPLICA TRIGGER hang",
		fmt.Sprintf("CREATE SUBSCRIPTION live CONNECTION '%s' PUBLICATION pub", publisher.ConnString("postgres")),
		"CREATE EVENT TRIGGER shout ON ddl_command_start EXECUTE FUNCTION shout()")
	prepared := prod.Conn(t, "postgres")
	for _, sql := range []string{"BEGIN", "INSERT INTO mine VALUES (1)", "PREPARE TRANSACTION 'forgotten'"} {
		_, err := prepared.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		must(t, err)
	}

	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	uatPort, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)

	must(t, s.Await(ctx, time.Minute, "one table to be ready and one in mid-sync", func() (bool, error) {
		return prod.Query(t, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1" &&
			prod.Query(t, "postgres", "SELECT srsubstate FROM pg_subscription_rel WHERE srrelid = 'live'::regclass AND srsubid = (SELECT oid FROM pg_subscription WHERE subname = 'live')") == "r", nil
	}))

	// Production goes; what knocks from now on is the copy.
	must(t, prod.Stop())
	must(t, s.Await(ctx, time.Minute, "the publisher to be alone", func() (bool, error) {
		n := publisher.Query(t, "postgres", "SELECT count(*) FROM pg_replication_slots WHERE active")
		return n == "0", nil
	}))
	if n := publisher.Query(t, "postgres", "SELECT count(*) FROM pg_replication_slots"); n != "2" {
		t.Fatalf("the publisher has %s slots, want that of the subscription and that of the synchronization", n)
	}
	slots := publisher.Query(t, "postgres", "SELECT string_agg(concat(slot_name, confirmed_flush_lsn, restart_lsn), ',' ORDER BY slot_name) FROM pg_replication_slots")
	must(t, os.RemoveAll(filepath.Join(markers, "archived")))
	must(t, os.RemoveAll(filepath.Join(markers, "archived-by-alter-system")))
	tcp.knocks.Store(0)
	unix.knocks.Store(0)
	heard := strings.Count(publisher.Log(), "connection authorized")

	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	time.Sleep(3 * time.Second) // time for a worker, an archiver or a subscription to act, if one were there

	if n := tcp.knocks.Load() + unix.knocks.Load(); n > 0 {
		t.Errorf("the copy reached out %d times", n)
	}
	for _, name := range []string{"archived", "archived-by-alter-system", "pid"} {
		if _, err := os.Stat(filepath.Join(markers, name)); err == nil {
			t.Errorf("the copy ran production's archive_command, or has its external_pid_file: %s", name)
		}
	}
	if n := strings.Count(publisher.Log(), "connection authorized") - heard; n > 0 {
		t.Errorf("the publisher was visited %d times", n)
	}
	if now := publisher.Query(t, "postgres", "SELECT string_agg(concat(slot_name, confirmed_flush_lsn, restart_lsn), ',' ORDER BY slot_name) FROM pg_replication_slots"); now != slots {
		t.Errorf("the publisher's slots moved from %s to %s", slots, now)
	}
	for _, row := range []struct{ what, sql, want string }{
		{"subscriptions", "SELECT count(*) FROM pg_subscription", "0"},
		{"prepared transactions", "SELECT count(*) FROM pg_prepared_xacts", "0"},
		{"replication origins", "SELECT count(*) FROM pg_replication_origin", "0"},
		{"replication slots", "SELECT count(*) FROM pg_replication_slots", "0"},
		{"user mappings with a password", "SELECT count(*) FROM pg_user_mapping", "0"},
		{"settings of roles and databases", "SELECT count(*) FROM pg_db_role_setting", "0"},
		{"roles of production that may log in", "SELECT count(*) FROM pg_authid WHERE rolname = 'app' AND (rolcanlogin OR rolpassword IS NOT NULL)", "0"},
		{"production's ALTER SYSTEM", "SELECT current_setting('work_mem') = '77MB'", "f"},
		{"production's synchronous standby", "SELECT current_setting('synchronous_standby_names')", ""},
		{"production's include file", "SELECT current_setting('maintenance_work_mem') = '78MB'", "f"},
		{"listening everywhere", "SELECT current_setting('listen_addresses')", "127.0.0.1"},
		{"the archiver", "SELECT current_setting('archive_command') IN ('', '(disabled)') OR current_setting('archive_mode') = 'off'", "t"},
	} {
		got, err := s.Query(ctx, "uat", "postgres", row.sql)
		must(t, err)
		if got != row.want {
			t.Errorf("%s: %s, want %s", row.what, got, row.want)
		}
	}
	// The one password that production's role had opens nothing.
	_, err = pgx.Connect(ctx, fmt.Sprintf("postgres://app:of%%20production@127.0.0.1:%d/postgres?sslmode=disable", uatPort))
	if code := pgtest.SQLState(err); code != "28P01" && code != "28000" {
		t.Errorf("production's role and password: %v", err)
	}
}

// A tablespace made after the image, with production on the same host: its files stay as they are.
func TestTablespacesOfProductionAreUntouched(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	early, late := filepath.Join(prod.Dir, "early"), filepath.Join(prod.Dir, "late")
	for _, d := range []string{early, late} {
		must(t, prod.MakeDir(d))
	}
	prod.Exec(t, "postgres", "CREATE TABLESPACE early LOCATION '"+early+"'", "CREATE TABLE a (id int, note text) TABLESPACE early",
		"INSERT INTO a SELECT i, 'of production' FROM generate_series(1, 1000) i")
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)

	conn, err := s.Connect(ctx, "uat", "postgres")
	must(t, err)
	defer conn.Close(ctx)
	var location string
	must(t, conn.QueryRow(ctx, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'early'").Scan(&location))
	if !strings.HasPrefix(location, s.State()) {
		t.Errorf("the copy's tablespace lies in %s, not in its volume", location)
	}
	_, err = conn.Exec(ctx, "UPDATE a SET note = 'of the sandbox'")
	must(t, err)
	_, err = conn.Exec(ctx, "CHECKPOINT")
	must(t, err)

	prod.Exec(t, "postgres", "CREATE TABLESPACE late LOCATION '"+late+"'", "CREATE TABLE b (id int, note text) TABLESPACE late",
		"INSERT INTO b SELECT i, 'of production' FROM generate_series(1, 1000) i")
	xid := prod.Query(t, "postgres", "SELECT pg_current_xact_id()")
	// Either it is refused, or a new image was taken at once that holds the tablespace.
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	if err != nil && sandglass.CodeOf(err) != sandglass.CodeMomentTablespace && sandglass.CodeOf(err) != sandglass.CodePreflight {
		t.Errorf("a restore beyond transaction %s: %v", xid, err)
	}
	// With the image that follows at once it can be reached, and what the copy does with that tablespace stays in its volume.
	must(t, s.AwaitImages(ctx, "prod", 2))
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	if location, err = s.Query(ctx, "uat", "postgres", "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'late'"); err != nil || !strings.HasPrefix(location, s.State()) {
		t.Errorf("the copy's later tablespace lies in %q, not in its volume: %v", location, err)
	}
	do(t, s, "uat", "postgres", "UPDATE b SET note = 'of the sandbox'", "CHECKPOINT", "DROP TABLE a", "CHECKPOINT")
	must(t, prod.Restart(ctx)) // forget what is cached
	for _, table := range []string{"a", "b"} {
		if got := prod.Query(t, "postgres", "SELECT count(*) FROM "+table+" WHERE note = 'of production'"); got != "1000" {
			t.Errorf("production's table %s has %s of its 1000 rows", table, got)
		}
	}
}
