// What only the recovered copy can answer, before anything in it is changed.

package policy

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// Codes of Inspect's findings.
const (
	CodeDatabaseInvalid   sandglass.Code = "inspect.database_invalid"
	CodePrepared          sandglass.Code = "inspect.prepared_transactions"
	CodeSubscriptions     sandglass.Code = "inspect.subscriptions"
	CodeForeignServers    sandglass.Code = "inspect.foreign_servers"
	CodeEventTriggers     sandglass.Code = "inspect.event_triggers"
	CodePublications      sandglass.Code = "inspect.publications"
	CodeTablespaces       sandglass.Code = "inspect.tablespaces"
	CodeSecurityLabels    sandglass.Code = "inspect.security_labels"
	CodeNoSandboxRoles    sandglass.Code = "inspect.no_sandbox_roles"
	CodeReachingFunctions sandglass.Code = "inspect.functions_reach_out"
	CodeCollation         sandglass.Code = "inspect.collation_version"
	CodeExtensionMissing  sandglass.Code = "inspect.extension_missing"
	CodeLibraryMissing    sandglass.Code = "inspect.library_missing"
	CodeUnlogged          sandglass.Code = "inspect.unlogged_tables"
	CodeInvalidIndex      sandglass.Code = "inspect.invalid_indexes"
	CodeSecretStore       sandglass.Code = "inspect.secret_store"
	CodeTemplateUsed      sandglass.Code = "inspect.template_used"
	CodeQueues            sandglass.Code = "inspect.queues"
)

// look is one question to a database (or to the cluster): the names its query gives are what
// the finding is about; no name, no finding.
type look struct {
	code         sandglass.Code
	level        sandglass.Level
	says, remedy string // says is followed by the names
	sql          string
	minimum      int // the first major the query is for
}

// clusterLooks are about what all databases share.
func clusterLooks() []look {
	return []look{
		{code: CodePrepared, level: sandglass.OK, says: "Prepared transactions are in the copy and will be rolled back",
			sql: `SELECT database || ': ' || gid FROM pg_prepared_xacts ORDER BY 1`},
		{code: CodeSubscriptions, level: sandglass.OK, says: "Subscriptions are in the copy and will be dropped without reaching their publishers",
			sql: `SELECT datname || ': ' || subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid ORDER BY 1`},
		{code: CodeTablespaces, level: sandglass.OK, says: "Tablespaces of production lie inside the copy's volume",
			sql: `SELECT spcname::text FROM pg_tablespace WHERE oid >= 16384 ORDER BY 1`},
		{code: CodeSecurityLabels, level: sandglass.OK, says: "Security labels on roles or databases came along, of the providers",
			sql: `SELECT DISTINCT provider FROM pg_shseclabel ORDER BY 1`},
		{code: CodeDatabaseInvalid, level: sandglass.OK, says: "Databases whose drop was interrupted in production will be dropped",
			sql: `SELECT datname::text FROM pg_database WHERE datconnlimit = -2 ORDER BY 1`},
	}
}

const userSchema = `NOT starts_with(nspname, 'pg_') AND nspname NOT IN ('information_schema', 'sandglass')`

// databaseLooks are about each database that stays.
func databaseLooks() []look {
	const reindex = "In the sandbox: REINDEX the indexes on these collations, then ALTER DATABASE or ALTER COLLATION ... REFRESH VERSION. Or run Sandglass on the operating system version production has."
	return []look{
		{code: CodeForeignServers, level: sandglass.OK, says: "Foreign servers will lead nowhere and lose their user mappings",
			sql: `SELECT srvname::text FROM pg_foreign_server ORDER BY 1`},
		{code: CodeEventTriggers, level: sandglass.OK, says: "Event triggers will be disabled",
			sql: `SELECT evtname::text FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1`},
		{code: CodePublications, level: sandglass.OK, says: "Publications will be dropped",
			sql: `SELECT pubname::text FROM pg_publication ORDER BY 1`},
		{code: CodeSecurityLabels, level: sandglass.OK, says: "Security labels came along, of the providers",
			sql: `SELECT DISTINCT provider FROM pg_seclabel ORDER BY 1`},
		{code: CodeReachingFunctions, level: sandglass.Warning, says: "Functions mention dblink, programs or HTTP calls; an address written into their code stays as it is",
			remedy: "Read these functions; a sandbox that must not reach out needs a network that doesn't let it.",
			sql: `SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace JOIN pg_language l ON l.oid = prolang WHERE ` + userSchema + ` AND lanname <> 'c'
				AND lanname <> 'internal' AND prosrc ~* '\m(dblink(_\w+)?|http_(get|post|put|delete|patch)|net\.http_\w+)\s*\(|\mprogram\s+''' ORDER BY 1`},
		{code: CodeCollation, level: sandglass.Warning, says: "Text sorts by another collation version here than where these were built, so indexes may miss rows: the database's default", remedy: reindex, minimum: 15,
			sql: `SELECT datcollversion || ' there, ' || coalesce(pg_database_collation_actual_version(oid), 'unknown') || ' here' FROM pg_database
				WHERE datname = current_database() AND datcollversion IS NOT NULL AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)`},
		{code: CodeCollation, level: sandglass.Warning, says: "Text sorts by another collation version here than where these were built, so indexes may miss rows: collations used by indexes", remedy: reindex,
			sql: `SELECT DISTINCT collname::text FROM pg_index CROSS JOIN unnest(indcollation::oid[]) u (coll) JOIN pg_collation c ON c.oid = coll
				WHERE collversion IS NOT NULL AND collprovider <> 'd' AND collversion IS DISTINCT FROM pg_collation_actual_version(c.oid) ORDER BY 1`},
		{code: CodeExtensionMissing, level: sandglass.Warning, says: "Extensions of production are not installed on this machine; what needs their code will fail",
			remedy: "Install the packages of these extensions for this PostgreSQL major on the machine that runs the sandbox.",
			sql:    `SELECT extname::text || ' ' || extversion FROM pg_extension WHERE NOT EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = extname) ORDER BY 1`},
		{code: CodeLibraryMissing, level: sandglass.Warning, says: "Libraries that functions of production call are not on this machine",
			remedy: "Install the packages that bring these libraries for this PostgreSQL major, or expect their functions to fail.",
			// $libdir as the dynamic loader expands it (utils/fmgr/dfmgr.c); other forms of the name are not checked.
			sql: `SELECT probin FROM (SELECT DISTINCT probin FROM pg_proc p JOIN pg_language l ON l.oid = prolang WHERE lanname = 'c' AND (probin LIKE '$libdir/%' OR probin LIKE '/%')) f
				WHERE NOT EXISTS (SELECT FROM unnest(ARRAY['', '.so', '.dylib', '.dll']) suffix
				WHERE (pg_stat_file(replace(probin, '$libdir', (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR')) || suffix, true)).size IS NOT NULL) ORDER BY 1`},
		{code: CodeUnlogged, level: sandglass.Warning, says: "Unlogged tables are empty after a recovery",
			remedy: "Fill them in the sandbox as the application does after a crash.",
			sql: `SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
				WHERE relpersistence = 'u' AND relkind = 'r' ORDER BY 1`},
		// Their keys lie outside the database: the values are readable here where the host has the same key, else to nobody.
		{code: CodeSecretStore, level: sandglass.Warning, says: "Extensions keep production's secrets or keys in the copy, which are readable where their root key is, and else lost",
			remedy: "Empty these tables by a rule of a pack (docs/PACKS.md), and never give the sandbox production's root key; what pg_tde encrypts needs it to be read at all.",
			sql: `SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
				WHERE relkind IN ('r', 'p') AND (nspname, relname) IN (('vault', 'secrets'), ('pgsodium', 'key'))
				UNION ALL SELECT extname::text FROM pg_extension WHERE extname = 'pg_tde' ORDER BY 1`},
		{code: CodeInvalidIndex, level: sandglass.Warning, says: "Indexes are invalid, as they were in production at that moment",
			remedy: "REINDEX them in the sandbox if you need them; production may have been building them.",
			sql: `SELECT format('%I.%I', nspname, relname) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace
				WHERE NOT indisvalid AND relkind = 'i' ORDER BY 1`},
	}
}

// Inspect asks the copy, after FirstContact and before Neutralize, what only it can answer. It
// changes nothing. Findings of level ok tell what Neutralize will see to.
func Inspect(ctx context.Context, st Staging, in Input) ([]sandglass.Finding, Facts, error) {
	i := &inspector{st: st, in: in}
	j := &job{st: st, in: in}
	if err := j.maintenance(ctx, func(conn *pgx.Conn) error { return i.cluster(ctx, conn) }); err != nil {
		return nil, Facts{}, fmt.Errorf("inspect the copy: %w", err)
	}
	for n := range i.facts.Databases {
		d := &i.facts.Databases[n]
		if d.Final == "" {
			continue
		}
		if err := st.in(ctx, d.Name, func(conn *pgx.Conn) error { return i.database(ctx, conn, d) }); err != nil {
			return nil, Facts{}, fmt.Errorf("inspect database %q: %w", d.Name, err)
		}
	}
	return i.findings, i.facts, nil
}

type inspector struct {
	st       Staging
	in       Input
	findings []sandglass.Finding
	facts    Facts
}

func (i *inspector) cluster(ctx context.Context, conn *pgx.Conn) error {
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version'), (SELECT rolname::text FROM pg_authid WHERE oid = 10)`).Scan(&i.facts.Version, &i.facts.Superuser); err != nil {
		return err
	}
	type row struct {
		Name  string
		Bytes int64
	}
	rows, err := structs[row](ctx, conn, `SELECT datname::text, pg_database_size(oid) FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1`)
	if err != nil {
		return err
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	keep, _, err := MapDatabases(i.in.Source, i.in.Environment, names)
	if err != nil {
		e := sandglass.AsError(err)
		i.findings = append(i.findings, sandglass.Finding{Code: e.Code, Level: sandglass.Stop, Message: e.Message, Remedy: e.Remedy})
	}
	for _, r := range rows {
		final := keep[r.Name]
		if r.Name == "template1" {
			final = r.Name
		}
		i.facts.Databases = append(i.facts.Databases, DatabaseFact{Name: r.Name, Final: final, Bytes: r.Bytes})
	}
	for _, fact := range []struct {
		into *[]string
		sql  string
	}{
		{&i.facts.LoginRoles, `SELECT rolname::text FROM pg_authid WHERE rolcanlogin AND rolname <> '` + OurRole + `' ORDER BY 1`},
		{&i.facts.Prepared, `SELECT database || ': ' || gid FROM pg_prepared_xacts ORDER BY 1`},
		{&i.facts.Subscriptions, `SELECT datname || ': ' || subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid ORDER BY 1`},
		{&i.facts.Tablespaces, `SELECT spcname::text FROM pg_tablespace WHERE oid >= 16384 ORDER BY 1`},
	} {
		if *fact.into, err = column(ctx, conn, fact.sql); err != nil {
			return err
		}
	}
	if t := i.in.Target; t == nil || !slices.ContainsFunc(t.Roles, func(r Role) bool { return r.Login }) {
		i.add(sandglass.Finding{Code: CodeNoSandboxRoles, Level: sandglass.Warning,
			Message: "The sandbox has no role that can log in, and production's roles will not be able to.",
			Remedy:  "After the restore, make the sandbox's roles with `sandglass connect`; every later restore keeps them."})
	}
	return i.ask(ctx, conn, "", clusterLooks())
}

func (i *inspector) database(ctx context.Context, conn *pgx.Conn, d *DatabaseFact) (err error) {
	if d.Extensions, err = column(ctx, conn, `SELECT extname || ' ' || extversion FROM pg_extension ORDER BY 1`); err != nil {
		return err
	}
	if d.Name == "template1" {
		names, err := column(ctx, conn, `SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relkind IN ('r', 'p', 'm', 'f') AND `+userSchema+` ORDER BY 1`)
		if err == nil && len(names) > 0 {
			i.add(sandglass.Finding{Code: CodeTemplateUsed, Level: sandglass.OK, Message: "template1 holds tables of its own: " + some(names) + "."})
		}
		return err
	}
	if err := i.ask(ctx, conn, d.Name, databaseLooks()); err != nil {
		return err
	}
	if err := i.queues(ctx, conn, d); err != nil {
		return err
	}
	return i.quiet(ctx, conn, d)
}

func (i *inspector) ask(ctx context.Context, conn *pgx.Conn, database string, looks []look) error {
	for _, l := range looks {
		if i.st.Major < l.minimum {
			continue
		}
		names, err := column(ctx, conn, l.sql)
		if err != nil {
			return fmt.Errorf("%s: %w", l.code, err)
		}
		if len(names) == 0 {
			continue
		}
		where := ""
		if database != "" {
			where = database + ": "
		}
		i.add(sandglass.Finding{Code: l.code, Level: l.level, Message: where + l.says + ": " + some(names) + ".", Remedy: l.remedy})
	}
	return nil
}

func (i *inspector) add(f sandglass.Finding) {
	f.Accepted = f.Level == sandglass.Warning && slices.Contains(i.in.Environment.Accept, f.Code)
	i.findings = append(i.findings, f)
}
