// Scheduled jobs, with pg_cron as it is installed and running, and the tables of other schedulers in their real shape.

package policy_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

// needsCron skips where pg_cron is not installed for the PostgreSQL that tests run.
func needsCron(t *testing.T) {
	t.Helper()
	bin, _, err := pgtest.Binaries(0)
	if err != nil {
		t.Fatal(err)
	}
	share, err := exec.Command(filepath.Join(bin, "pg_config"), "--sharedir").Output()
	if err == nil {
		_, err = os.Stat(filepath.Join(strings.TrimSpace(string(share)), "extension", "pg_cron.control"))
	}
	if err != nil {
		pgtest.Missing(t, "pg_cron")
	}
}

// restartWith starts the cluster again with these settings above its own.
func restartWith(t *testing.T, c *pgtest.Cluster, settings string) {
	t.Helper()
	path := filepath.Join(c.Data(), "postgresql.conf")
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(text, settings...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err, c.Log())
	}
}

// TestCron has jobs of pg_cron that run whenever a server starts: in production they do, in the
// neutralized copy, with pg_cron running, they don't, until one is switched on on purpose.
func TestCron(t *testing.T) {
	t.Parallel()
	needsCron(t)
	c := cluster(t, map[string]string{"shared_preload_libraries": "pg_cron", "cron.database_name": "shop", "cron.use_background_workers": "on", "max_worker_processes": "20", "autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE app LOGIN`, `CREATE DATABASE shop`)
	c.Exec(t, "shop", `CREATE EXTENSION pg_cron`, `CREATE TABLE ran (what text)`, `GRANT ALL ON ran TO app`,
		`SELECT cron.schedule('starting', '@reboot', $$INSERT INTO public.ran VALUES ('starting')$$)`,
		`SELECT cron.schedule_in_database('elsewhere', '@reboot', $$INSERT INTO public.ran VALUES ('elsewhere')$$, 'shop', 'app')`,
		`SELECT cron.schedule('off already', '@reboot', 'SELECT 1')`, `SELECT cron.alter_job(3, active => false)`,
		`UPDATE cron.job SET nodename = 'db.prod.example', nodeport = 6432 WHERE jobid = 2`)
	ran := func(want string) {
		t.Helper()
		for ctx := within(t, 40*time.Second); ; {
			got := ask(t, c, "shop", `SELECT DISTINCT what FROM public.ran ORDER BY 1`)
			if got == want {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("ran: %q, want %q\n%s", got, want, c.Log())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`)
	restartWith(t, c, "")
	ran("elsewhere, starting")
	c.Exec(t, "shop", `TRUNCATE ran`, `TRUNCATE cron.job_run_details`)

	// From here on it is the copy: sealed, no library preloaded, no worker.
	restartWith(t, c, "shared_preload_libraries = ''\nmax_worker_processes = 0\n")
	contact(t, c)
	databases := map[string]string{"business": "shop"}
	in := policy.Input{Run: "20261122t190000-cron", Source: sandglass.Environment{Name: "prod", Databases: databases},
		Environment: sandglass.Environment{Name: "uat", Databases: databases, Server: &sandglass.Server{Port: c.Port}}}
	st := staging(c)
	const jobs = `SELECT concat_ws(' ', jobid, active, nodename, nodeport = current_setting('port')::int) FROM cron.job ORDER BY jobid`
	if got := ask(t, c, "shop", jobs); !strings.Contains(got, "1 t localhost") || !strings.Contains(got, "2 t db.prod.example f") || !strings.Contains(got, "3 f localhost") {
		t.Errorf("before: %s", got)
	}
	if stops := strings.Join(prove(t, st, in), "\n"); !strings.Contains(stops, "proof.scheduled_jobs") {
		t.Errorf("jobs of the untouched copy pass: %s", stops)
	}
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err, c.Log())
	}
	if got := ask(t, c, "shop", jobs); got != "1 f localhost t, 2 f localhost t, 3 f localhost t" {
		t.Errorf("after: %s", got)
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if found := files(t, c, "db.prod.example"); found != nil {
		t.Errorf("production's address is still in %v", found)
	}
	// The sandbox's own configuration runs pg_cron again. Its launcher has read the jobs when a job that is made now has run.
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := st.Connect(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `SET session_replication_role = replica; INSERT INTO cron.job (schedule, command, nodeport, username) VALUES ('@reboot', $$INSERT INTO public.ran VALUES ('made in the sandbox')$$, 1, 'sandglass')`)
	conn.Close(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	restartWith(t, c, "shared_preload_libraries = 'pg_cron'\nmax_worker_processes = 20\n")
	ran("made in the sandbox")
	if got := ask(t, c, "shop", `SELECT count(*)::text FROM cron.job_run_details WHERE jobid < 4`); got != "0" {
		t.Errorf("%s jobs of production ran in the sandbox", got)
	}
}

// TestSchedulers has the tables of other schedulers, and queues that only a pack can empty.
func TestSchedulers(t *testing.T) {
	t.Parallel()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE shop`)
	c.Exec(t, "shop", `CREATE SCHEMA timetable; CREATE TABLE timetable.chain (chain_id bigint, chain_name text, live boolean DEFAULT false); INSERT INTO timetable.chain VALUES (1, 'send', true), (2, 'off', false), (3, 'unset', NULL);
		CREATE TABLE timetable.task (task_id bigint, command text, database_connection text); INSERT INTO timetable.task VALUES (1, 'x', 'host=other.prod.example password=p'), (2, 'y', NULL)`,
		`CREATE SCHEMA pgagent; CREATE TABLE pgagent.pga_job (jobid int, jobenabled boolean NOT NULL DEFAULT true); INSERT INTO pgagent.pga_job VALUES (1);
		CREATE TABLE pgagent.pga_jobstep (jstid int, jstconnstr text NOT NULL DEFAULT ''); INSERT INTO pgagent.pga_jobstep VALUES (1, 'host=other.prod.example'), (2, '')`,
		`CREATE SCHEMA net; CREATE TABLE net.http_request_queue (id bigint, url text); INSERT INTO net.http_request_queue VALUES (1, 'https://hook.prod.example')`,
		`CREATE SCHEMA _timescaledb_config; CREATE TABLE _timescaledb_config.bgw_job (id int, scheduled boolean); INSERT INTO _timescaledb_config.bgw_job VALUES (1, true)`,
		`CREATE TABLE river_job (id bigint, kind text, args jsonb, scheduled_at timestamptz); CREATE TABLE jobs (id int, title text); CREATE SCHEMA oban; CREATE TABLE oban.oban_jobs (worker text, args jsonb, scheduled_at timestamptz)`)
	contact(t, c)
	databases := map[string]string{"business": "shop"}
	in := policy.Input{Run: "20261122t190000-jobs", Source: sandglass.Environment{Name: "prod", Databases: databases}, Environment: sandglass.Environment{Name: "uat", Databases: databases}}
	st := staging(c)
	queues := func() string {
		t.Helper()
		findings, _, err := policy.Inspect(t.Context(), st, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range findings {
			if f.Code == policy.CodeQueues {
				return f.Message
			}
		}
		return ""
	}
	if said := queues(); !strings.Contains(said, "oban.oban_jobs (Oban), public.river_job (River).") {
		t.Errorf("queues: %q", said)
	}
	p := ownPack(t, "rules:\n"+ownRule("river", "river_job", "empty: true"))
	in.Packs = append(in.Packs, p)
	if said := queues(); strings.Contains(said, "river") || !strings.Contains(said, "oban") {
		t.Errorf("queues with a rule for one of them: %q", said)
	}
	if _, err := policy.Neutralize(t.Context(), st, in); err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]string{
		`SELECT chain_id || ' ' || live FROM timetable.chain ORDER BY 1`:                 "1 false, 2 false, 3 false",
		`SELECT coalesce(database_connection, '-') FROM timetable.task ORDER BY task_id`: "-, -",
		`SELECT jobenabled::text FROM pgagent.pga_job`:                                   "false",
		`SELECT '<' || jstconnstr || '>' FROM pgagent.pga_jobstep ORDER BY jstid`:        "<>, <>",
		`SELECT count(*)::text FROM net.http_request_queue`:                              "0",
		`SELECT scheduled::text FROM _timescaledb_config.bgw_job`:                        "false",
	} {
		if got := ask(t, c, "shop", sql); got != want {
			t.Errorf("%s\n got %s\nwant %s", sql, got, want)
		}
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
	for _, back := range []struct{ sql, says string }{
		{`UPDATE timetable.chain SET live = true WHERE chain_id = 1`, "timetable.chain by live"}, {`UPDATE timetable.task SET database_connection = 'x'`, "timetable.task by database_connection"},
		{`UPDATE pgagent.pga_jobstep SET jstconnstr = 'x'`, "pgagent.pga_jobstep by jstconnstr"}, {`INSERT INTO net.http_request_queue VALUES (2, 'u')`, "net.http_request_queue by url"},
	} {
		ask(t, c, "shop", back.sql+" RETURNING ''")
		if stops := strings.Join(prove(t, st, in), "\n"); !strings.Contains(stops, back.says) {
			t.Errorf("%s is not seen: %s", back.sql, stops)
		}
	}
}
