package demo

// This file is the demo's sandbox uat as its users see it: an ERP of its own with its own printers, servers, mail and
// users, a role with its own password, and a client that never stops asking.

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"

	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

const (
	uatApp         = "uat_app"
	uatAppPassword = "only-uat-knows-this"
)

type sandbox struct {
	port   int
	digest string // of its own data, before the restore
	shows  string // what Sandglass says that it shows, before the restore
	own    []ownRows
	probe  *pgtest.Probe
}

// ownRows are rows that an environment sets for itself.
type ownRows struct {
	what, query string
	sum         string // of uat's, before the restore
}

// ownTables are what uat has set for itself, in people's words.
func ownTables() []ownRows {
	return []ownRows{
		{what: "servers", query: "SELECT serverid FROM sysserverconfig"},
		{what: "server sessions", query: "SELECT aosid, instance_name FROM sysserversessions"},
		{what: "batch servers", query: "SELECT serverid, maxbatchsessions FROM batchserverconfig"},
		{what: "servers of batch groups", query: "SELECT groupid, serverid FROM batchservergroup"},
		{what: "printers", query: "SELECT printername, printerpath FROM syscorpnetprinters"},
		{what: "mail server settings", query: "SELECT key, smtprelayservername, smtpusername, smtpportnumber, smtprequiressl, mailernoninteractive FROM sysemailparameters"},
		{what: "mail password", query: "SELECT aosid, instancename, password FROM sysemailsmtppassword"},
		{what: "administrator's sign-in", query: "SELECT networkalias, networkdomain FROM userinfo WHERE id = 'Admin'"},
		{what: "tenant and service addresses", query: "SELECT name, value FROM sysserviceconfigurationsetting WHERE upper(name) = 'TENANTID' OR value LIKE '%://%'"},
	}
}

func (o ownRows) read(ctx context.Context, conn *pgx.Conn) (string, error) {
	return pgtest.QueryText(ctx, conn, fmt.Sprintf("SELECT count(*) || ' ' || coalesce(md5(string_agg(r::text, ',' ORDER BY r::text)), '') FROM (%s) r", o.query))
}

func (s sandbox) url(role, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: "127.0.0.1:" + strconv.Itoa(s.port), Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// uatDigest sums up what uat's team works with: the test runs they keep, their vendors, users, jobs and settings.
const uatDigest = `SELECT concat_ws(' ',
	(SELECT md5(string_agg(r::text, ',' ORDER BY recid)) FROM vendtable r), (SELECT md5(string_agg(r::text, ',' ORDER BY recid)) FROM userinfo r),
	(SELECT md5(string_agg(r::text, ',' ORDER BY recid)) FROM batchjob r), (SELECT md5(string_agg(r::text, ',' ORDER BY recid)) FROM sysemailparameters r),
	(SELECT md5(string_agg(r::text, ',' ORDER BY id)) FROM test_runs r))`

// migration is what uat's newer code needs of the database; its team runs it, and so does every restore (synchronize).
const migration = `-- 0042: a risk class for customers, and an index for the payment proposal
ALTER TABLE custtable ADD COLUMN IF NOT EXISTS riskclass integer NOT NULL DEFAULT 0;
CREATE INDEX IF NOT EXISTS vendtrans_due ON vendtrans (dataareaid, duedate) WHERE closed = '1900-01-01';
`

// migrated says whether it has run.
const migrated = `SELECT count(*) FROM pg_attribute JOIN pg_class i ON i.relname = 'vendtrans_due' WHERE attrelid = 'custtable'::regclass AND attname = 'riskclass'`

// fill makes uat's role and data over sessions that its operator opened.
func (s *sandbox) fill(ctx context.Context, operator erp.Connect) error {
	if err := runIn(ctx, operator, "postgres", "CREATE ROLE "+uatApp+" LOGIN PASSWORD '"+uatAppPassword+"'",
		"CREATE DATABASE "+erp.Business+" OWNER "+uatApp, "CREATE DATABASE "+erp.Reporting+" OWNER "+uatApp); err != nil {
		return err
	}
	app := func(ctx context.Context, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, s.url(uatApp, uatAppPassword, database))
	}
	if err := erp.Fill(ctx, app, erp.Options{Seed: 2, Scale: 0.01, Name: "uat"}); err != nil {
		return err
	}
	if err := runIn(ctx, app, erp.Business, migration, `CREATE TABLE test_runs (id integer PRIMARY KEY, verdict text NOT NULL)`,
		`INSERT INTO test_runs SELECT i, CASE WHEN i % 9 = 0 THEN 'failed' ELSE 'passed' END FROM generate_series(1, 2000) i`); err != nil {
		return err
	}
	conn, err := app(ctx, erp.Business)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s.own = ownTables()
	for i, o := range s.own {
		if s.own[i].sum, err = o.read(ctx, conn); err != nil {
			return err
		}
	}
	s.digest, err = pgtest.QueryText(ctx, conn, uatDigest)
	return err
}

func runIn(ctx context.Context, connect erp.Connect, database string, statements ...string) error {
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}
