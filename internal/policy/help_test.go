// Real clusters for the tests: a production's copy full of what must not come along, and a
// running sandbox with roles, settings and grants of its own.

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

func cluster(t testing.TB, settings map[string]string) *pgtest.Cluster {
	return pgtest.New(t, pgtest.Options{Settings: settings, HBA: []string{"local all " + policy.OurRole + " trust"}})
}

// staging is the cluster as the rest of Sandglass gives it to the policy.
func staging(c *pgtest.Cluster) policy.Staging {
	return policy.Staging{Major: c.Major,
		Connect: func(ctx context.Context, database string) (*pgx.Conn, error) {
			cfg, err := config(c, database)
			if err != nil {
				return nil, err
			}
			return pgx.ConnectConfig(ctx, cfg)
		},
		SingleUser: func(ctx context.Context, database string, sql ...string) (string, error) {
			cmd := c.Command(ctx, "postgres", "--single", "-j", "-D", c.Data(), "-c", "exit_on_error=on", database)
			cmd.Stdin = strings.NewReader(strings.Join(sql, ";\n\n") + ";\n\n")
			out, err := cmd.CombinedOutput()
			return string(out), err
		},
	}
}

func config(c *pgtest.Cluster, database string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig("host=" + c.Socket() + " port=" + strconv.Itoa(c.Port) + " user=" + policy.OurRole + " sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.Database = database
	cfg.RuntimeParams = map[string]string{"session_preload_libraries": "", "local_preload_libraries": "", "search_path": "pg_catalog",
		"default_transaction_read_only": "off", "role": "none", "statement_timeout": "0"}
	return cfg, nil
}

// as gives a connection as another role, with a password, over TCP.
func as(ctx context.Context, c *pgtest.Cluster, role, password, database string) error {
	conn, err := pgx.Connect(ctx, c.URL(role, password, database))
	if err == nil {
		err = conn.Close(ctx)
	}
	return err
}

// checkRecords reads, as an ordinary role, in each database what it is a copy of.
func checkRecords(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	for _, database := range []string{"shop_uat", "reports", "closed"} {
		conn, err := pgx.Connect(t.Context(), c.URL("app", "uat-own-app", database))
		if err != nil {
			t.Fatal(err)
		}
		var origin string
		if err := conn.QueryRow(t.Context(), `SELECT concat_ws(', ', operation, source, target, moment, split_part(policies[1], ' sha256:', 1), (SELECT count(*) FROM sandglass.changed_columns)) FROM sandglass.origin`).Scan(&origin); err != nil || origin != "20261122t000000-aaaa, prod, uat, 2026-11-22 18:00:00 UTC, postgresql 1, 0" {
			t.Errorf("database %s is a copy of %q, %v", database, origin, err)
		}
		if _, err := conn.Exec(t.Context(), `SELECT FROM sandglass.rule_done`); err == nil {
			t.Errorf("database %s: anybody can read the notes of the rules", database)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func contact(t testing.TB, c *pgtest.Cluster) policy.Contact {
	t.Helper()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	got, err := policy.FirstContact(t.Context(), staging(c))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err, c.Log())
	}
	return got
}

// ask is a query of one text column in the cluster, joined by ", ", as our own superuser.
func ask(t testing.TB, c *pgtest.Cluster, database, sql string) string {
	t.Helper()
	conn, err := staging(c).Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[*string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var b []string
	for _, n := range names {
		if n == nil {
			b = append(b, "NULL")
		} else {
			b = append(b, *n)
		}
	}
	return strings.Join(b, ", ")
}

var (
	prod = sandglass.Environment{Name: "prod", Kind: sandglass.Production, Databases: map[string]string{"business": "shop", "reporting": `re"port`, "ledger": "closed"}}
	uat  = sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Databases: map[string]string{"business": "shop_uat", "reporting": "reports", "ledger": "closed"},
		Server: &sandglass.Server{Port: 1, RolesMap: map[string][]string{"uat_app": {"shop_owner", "nobody_there", "postgres"}}}}
)

// copySettings let the fixture be made.
func copySettings() map[string]string {
	return map[string]string{"max_prepared_transactions": "5", "wal_level": "logical", "max_logical_replication_workers": "0", "autovacuum": "off"}
}

// makeCopy fills a cluster with everything a rule is about, and makes the first contact.
func makeCopy(t testing.TB) (*pgtest.Cluster, policy.Contact) {
	t.Helper()
	c := cluster(t, copySettings())
	c.Exec(t, "postgres",
		`CREATE DATABASE shop`, `CREATE DATABASE "re""port"`, `CREATE DATABASE junk IS_TEMPLATE true`, `CREATE DATABASE closed`,
		`CREATE TABLE left_over (x int)`, `CREATE TABLE spare (x int)`, `DROP TABLE spare`,
		`CREATE ROLE shop_owner LOGIN PASSWORD 'prod-owner' CREATEROLE CREATEDB REPLICATION`,
		`CREATE ROLE app LOGIN PASSWORD 'prod-app' BYPASSRLS CONNECTION LIMIT 7`,
		`CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'prod-boss'`, `CREATE ROLE "we""ird" LOGIN PASSWORD 'prod-weird'`,
		`CREATE ROLE readers`, `CREATE ROLE sandglass REPLICATION LOGIN PASSWORD 'prod-recorder'`, `GRANT sandglass TO app`,
		`GRANT readers TO app WITH ADMIN OPTION`, `SET ROLE app; GRANT readers TO shop_owner; RESET ROLE`, `GRANT pg_read_all_data TO app`, `GRANT readers TO pg_monitor`,
		`ALTER ROLE ALL SET default_transaction_read_only = on`, `ALTER DATABASE shop SET session_preload_libraries = 'no_such_library'`,
		`ALTER ROLE app SET search_path = prod_only`, `ALTER ROLE sandglass SET role = 'app'`, `ALTER DATABASE shop OWNER TO shop_owner`,
		`ALTER SYSTEM SET work_mem = '77MB'`, `ALTER SYSTEM SET archive_cleanup_command = 'false'`,
		`SELECT pg_replication_origin_create('from_far')`, `SELECT pg_create_physical_replication_slot('old_standby')`)
	// Settings that already bite are overridden here by a fresh session's options.
	for _, db := range []string{"shop", "junk"} {
		raw(t, c, db, `CREATE TABLE goods (id int, price numeric); INSERT INTO goods SELECT i, i FROM generate_series(1, 50) i; ALTER TABLE goods OWNER TO shop_owner;
			CREATE TABLE private (id int); CREATE SEQUENCE numbers; CREATE FUNCTION price_of(int) RETURNS numeric LANGUAGE sql AS 'SELECT 1.0';
			REVOKE ALL ON FUNCTION price_of(int) FROM PUBLIC; CREATE SCHEMA "Odd ""one"; CREATE TABLE "Odd ""one"."T" (a int, b int)`,
			`CREATE SUBSCRIPTION feed CONNECTION 'host=/nonexistent dbname=x password=feed-secret' PUBLICATION p WITH (connect = false)`,
			`CREATE PUBLICATION all_of_it FOR ALL TABLES`)
	}
	raw(t, c, "shop", `ANALYZE pg_authid`,
		`CREATE EXTENSION postgres_fdw; CREATE EXTENSION dblink; CREATE EXTENSION file_fdw`,
		`CREATE SERVER erp FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'erp.prod.example', port '5432', dbname 'erp', fetch_size '77')`,
		`CREATE USER MAPPING FOR app SERVER erp OPTIONS (user 'svc', password 'fdw-secret')`, `CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (user 'all')`,
		`CREATE SERVER local_one FOREIGN DATA WRAPPER dblink_fdw`,
		`CREATE FUNCTION own_handler() RETURNS fdw_handler LANGUAGE c AS '$libdir/postgres_fdw', 'postgres_fdw_handler'`,
		`CREATE FOREIGN DATA WRAPPER strange HANDLER own_handler`, `CREATE SERVER other FOREIGN DATA WRAPPER strange OPTIONS (address '10.1.2.3', token 'abc', port '99', format 'csv')`,
		`CREATE SERVER files FOREIGN DATA WRAPPER file_fdw`, `CREATE FOREIGN TABLE output (line text) SERVER files OPTIONS (program 'id')`,
		`CREATE FOREIGN TABLE far (id int) SERVER erp OPTIONS (table_name 'goods')`,
		`CREATE SCHEMA cron; CREATE TABLE cron.job (jobid int, schedule text, command text, active boolean NOT NULL DEFAULT true); INSERT INTO cron.job VALUES (1, '* * * * *', 'x', true), (2, '* * * * *', 'y', false);
			CREATE FUNCTION cron.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''fired''; END'; CREATE TRIGGER cache BEFORE UPDATE ON cron.job EXECUTE FUNCTION cron.refuse()`,
		`CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''event trigger fired''; END'`,
		`CREATE FUNCTION reach() RETURNS text LANGUAGE sql AS $$ SELECT * FROM dblink('host=prod', 'select 1') AS t(x text) $$`,
		`CREATE FUNCTION elsewhere() RETURNS fdw_handler LANGUAGE c AS '$libdir/postgres_fdw', 'postgres_fdw_handler'`,
		`UPDATE pg_proc SET probin = '$libdir/not_on_this_machine' WHERE proname = 'elsewhere'`,
		`INSERT INTO pg_extension SELECT 60000, 'not_packaged_here', 10, oid, true, '1.0', NULL, NULL FROM pg_namespace WHERE nspname = 'public'`,
		`CREATE UNLOGGED TABLE volatile (x int)`, `CREATE SCHEMA vault; CREATE TABLE vault.secrets (secret text)`,
		`CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION tell()`, `ALTER EVENT TRIGGER watch ENABLE ALWAYS`)
	for _, db := range []string{"shop", "junk"} {
		raw(t, c, db, `BEGIN; INSERT INTO public.goods VALUES (999, 1); PREPARE TRANSACTION 'half done in `+db+`'`)
	}
	raw(t, c, "template1", `CREATE TABLE in_template (x int)`)
	raw(t, c, "postgres", `ALTER DATABASE closed ALLOW_CONNECTIONS false`)
	return c, contact(t, c)
}

// raw runs statements as the cluster's superuser against whatever settings the fixture made.
func raw(t testing.TB, c *pgtest.Cluster, database string, statements ...string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(c.ConnString(database))
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams = map[string]string{"session_preload_libraries": "", "default_transaction_read_only": "off"}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// makeTarget is a running sandbox with roles, rights and settings of its own.
func makeTarget(t testing.TB) *pgtest.Cluster {
	t.Helper()
	c := cluster(t, nil)
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE shop_uat`,
		`CREATE ROLE uat_app LOGIN PASSWORD 'uat-app' CONNECTION LIMIT 3 VALID UNTIL '2099-01-01'`, `CREATE ROLE app LOGIN PASSWORD 'uat-own-app'`,
		`CREATE ROLE testers`, `CREATE ROLE shop_dba SUPERUSER LOGIN PASSWORD 'dba'`, `GRANT testers TO uat_app WITH ADMIN OPTION`,
		`SET ROLE uat_app; GRANT testers TO app; RESET ROLE`, `GRANT pg_monitor TO app`,
		`ALTER ROLE uat_app SET search_path = "$user", 'Odd "one', public`, `ALTER ROLE app IN DATABASE shop_uat SET work_mem = '9MB'`, `ALTER DATABASE shop_uat SET my.own = 'it''s \ here'`,
		`ALTER DATABASE shop_uat OWNER TO uat_app`, `REVOKE CONNECT ON DATABASE shop_uat FROM PUBLIC`, `GRANT CONNECT ON DATABASE shop_uat TO app`, `ALTER DATABASE shop_uat CONNECTION LIMIT 20`)
	c.Exec(t, "shop_uat", `CREATE TABLE goods (id int, price numeric); CREATE TABLE only_here (x int); CREATE SEQUENCE numbers; CREATE FUNCTION price_of(int) RETURNS numeric LANGUAGE sql AS 'SELECT 2.0'`,
		`CREATE SCHEMA "Odd ""one"; CREATE TABLE "Odd ""one"."T" (a int, b int); ALTER TABLE goods OWNER TO uat_app`,
		`GRANT USAGE ON SCHEMA "Odd ""one" TO app; GRANT SELECT (a), UPDATE (a, b) ON "Odd ""one"."T" TO app; GRANT SELECT, INSERT ON only_here TO app`,
		`CREATE SCHEMA sandglass; CREATE TABLE sandglass.rule_done (x int); CREATE TABLE sandglass.of_before (x int)`, // of a restore before: none of its rights are given again
		`GRANT USAGE ON SCHEMA sandglass TO PUBLIC, app; GRANT SELECT ON sandglass.rule_done, sandglass.of_before TO PUBLIC, app; GRANT SELECT (x) ON sandglass.rule_done TO app`,
		`GRANT USAGE ON SEQUENCE numbers TO testers WITH GRANT OPTION; REVOKE ALL ON FUNCTION price_of(int) FROM PUBLIC; GRANT EXECUTE ON FUNCTION price_of(int) TO app`,
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO app`,
		`ALTER DEFAULT PRIVILEGES FOR ROLE uat_app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; ALTER DEFAULT PRIVILEGES FOR ROLE uat_app IN SCHEMA public GRANT SELECT ON TABLES TO testers`)
	return c
}

func readTarget(t testing.TB, c *pgtest.Cluster) *policy.Target {
	t.Helper()
	target, err := policy.ReadTarget(t.Context(), staging(c).Connect)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// state is all of a cluster that rules can change, for comparison.
func state(t testing.TB, c *pgtest.Cluster) map[string]string {
	t.Helper()
	got := map[string]string{}
	shared := map[string]string{
		"roles":       `SELECT concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil) FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1`,
		"memberships": `SELECT concat_ws(' ', roleid::regrole, member::regrole, grantor::regrole, admin_option) FROM pg_auth_members ORDER BY 1`,
		"settings":    `SELECT concat_ws(' ', setrole::regrole, (SELECT datname FROM pg_database d WHERE d.oid = setdatabase), setconfig) FROM pg_db_role_setting ORDER BY 1`,
		"databases":   `SELECT concat_ws(' ', datname, datdba::regrole, datallowconn, datistemplate, datconnlimit, datacl) FROM pg_database ORDER BY 1`,
		"origins":     `SELECT roname FROM pg_replication_origin`, "slots": `SELECT slot_name::text FROM pg_replication_slots`,
		"subscriptions": `SELECT subname::text FROM pg_subscription`, "prepared": `SELECT gid FROM pg_prepared_xacts`,
	}
	for what, sql := range shared {
		got[what] = ask(t, c, "postgres", sql)
	}
	for _, db := range strings.Split(ask(t, c, "postgres", `SELECT quote_ident(datname) FROM pg_database WHERE datallowconn ORDER BY 1`), ", ") {
		for what, sql := range map[string]string{
			"relations": `SELECT concat_ws(' ', oid::regclass, relkind, relowner::regrole, relacl) FROM pg_class WHERE relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace) ORDER BY 1`,
			"functions": `SELECT concat_ws(' ', oid::regprocedure, proacl) FROM pg_proc WHERE proacl IS NOT NULL ORDER BY 1`, "defaults": `SELECT concat_ws(' ', defaclrole::regrole, defaclnamespace, defaclobjtype, defaclacl) FROM pg_default_acl ORDER BY 1`,
			"servers": `SELECT concat_ws(' ', srvname, srvoptions) FROM pg_foreign_server ORDER BY 1`, "mappings": `SELECT srvname::text FROM pg_user_mappings`,
			"events": `SELECT concat_ws(' ', evtname, evtenabled) FROM pg_event_trigger`, "publications": `SELECT pubname::text FROM pg_publication`,
			"rules": `SELECT rule FROM sandglass.rule_done ORDER BY 1`, "columns": `SELECT concat_ws(' ', attrelid::regclass, attname, attacl) FROM pg_attribute WHERE attacl IS NOT NULL AND attnum > 0 ORDER BY 1`,
		} {
			got[db+" "+what] = ask(t, c, db, sql)
		}
	}
	return got
}

func files(t testing.TB, c *pgtest.Cluster, needle string) (found []string) {
	t.Helper()
	var look func(path string, d os.DirEntry, err error) error
	look = func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "pg_wal") {
			return err
		}
		if d.Type()&os.ModeSymlink != 0 { // a tablespace
			folder, err := filepath.EvalSymlinks(path)
			return errors.Join(err, filepath.WalkDir(folder, look))
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), needle) {
			found = append(found, path)
		}
		return err
	}
	if err := filepath.WalkDir(c.Data(), look); err != nil {
		t.Fatal(err)
	}
	return found
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func levels(findings []sandglass.Finding, level sandglass.Level) (codes []string) {
	for _, f := range findings {
		if f.Level == level {
			codes = append(codes, fmt.Sprintf("%s: %s", f.Code, f.Message))
		}
	}
	return codes
}
