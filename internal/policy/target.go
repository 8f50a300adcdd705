// What of a running sandbox stays its own across a restore: roles with their passwords,
// memberships, settings, the databases' owners and limits, grants and default privileges.
//
// A Target holds password hashes: it is read when needed, kept in memory and never stored.

package policy

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// Target is what a restore leaves as it is in the sandbox.
type Target struct {
	Major       int
	Superuser   string // the bootstrap superuser's name
	Roles       []Role
	Memberships []Membership
	Settings    []Setting
	Databases   []Database
	// Grants on what belongs to the whole cluster: tablespaces and (15 and later) parameters.
	Grants []Grant
}

// Role is a role with its attributes as in pg_authid.
type Role struct {
	Name                                                                    string
	Superuser, Inherit, CreateRole, CreateDB, Login, Replication, BypassRLS bool
	ConnLimit                                                               int
	Password                                                                *string // the hash
	ValidUntil                                                              *string
}

// Membership makes Member a member of Role. Inherit and Set are options of their own from 16 on.
type Membership struct {
	Role, Member        string
	Grantor             string // "": the bootstrap superuser, or not known
	Admin, Inherit, Set bool
}

// Setting is one ALTER ROLE/DATABASE SET; empty Role or Database: for all.
type Setting struct{ Role, Database, Name, Value string }

// Database is one database with what its name carries.
type Database struct {
	Name, Owner string
	ConnLimit   int
	AllowConn   bool
	Access      []Grant // on the database itself, complete
	Grants      []Grant
	Defaults    []DefaultPrivilege
	Owned       []Owned
}

// Owned counts the relations a role owns.
type Owned struct {
	Role      string
	Relations int64
}

// Grant gives privileges on one object, named as GRANT takes it.
type Grant struct {
	Kind       string // TABLE, SEQUENCE, COLUMN (of the table Object), ROUTINE, SCHEMA, TYPE, LANGUAGE, DATABASE, TABLESPACE, PARAMETER
	Object     string
	Column     string
	Grantee    string // "" is PUBLIC
	Privileges string // comma-separated
	Grantable  bool
}

// DefaultPrivilege is one ALTER DEFAULT PRIVILEGES statement.
type DefaultPrivilege struct {
	Role, Schema string // Schema "": for all
	Kind         string // TABLES, SEQUENCES, FUNCTIONS, TYPES, SCHEMAS, LARGE OBJECTS
	Grantee      string
	Privileges   string
	Grantable    bool
	Revoke       bool
}

// CodeUnsound is a sandbox whose server does not answer as PostgreSQL does.
const CodeUnsound sandglass.Code = "carry.unsound"

// closedRoles is where a neutralized cluster remembers which roles came from production.
const closedRoles = "sandglass.closed_role"

// ReadTarget reads the running sandbox. Roles that an earlier restore brought from production
// and closed don't count as the sandbox's own, unless somebody has opened them since.
func ReadTarget(ctx context.Context, connect Connect) (*Target, error) {
	t, names, err := readShared(ctx, connect)
	if err != nil {
		return nil, err
	}
	for i := range t.Databases {
		d := &t.Databases[i]
		if !d.AllowConn {
			continue // its contents can't be read without opening it, and the target is not changed
		}
		if err := connect.in(ctx, d.Name, func(conn *pgx.Conn) error { return d.readGrants(ctx, conn, names) }); err != nil {
			return nil, fmt.Errorf("read the grants of database %q: %w", d.Name, err)
		}
	}
	return t, nil
}

// ReadShared reads of the sandbox what all databases share, and nothing of what is in each: it takes one session, and little time.
func ReadShared(ctx context.Context, connect Connect) (*Target, error) {
	t, _, err := readShared(ctx, connect)
	return t, err
}

func readShared(ctx context.Context, connect Connect) (t *Target, grantees []string, err error) {
	t = &Target{}
	err = connect.in(ctx, home, func(conn *pgx.Conn) (err error) {
		grantees, err = t.readCluster(ctx, conn)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the sandbox's roles and settings: %w", err)
	}
	return t, grantees, nil
}

// readCluster reads what is shared, in one snapshot, and returns the names of the roles whose
// grants matter: the sandbox's own that are no superusers.
func (t *Target) readCluster(ctx context.Context, conn *pgx.Conn) (grantees []string, err error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := tx.QueryRow(ctx, `SELECT current_setting('server_version_num')::int / 10000, (SELECT rolname::text FROM pg_authid WHERE oid = 10)`).
		Scan(&t.Major, &t.Superuser); err != nil {
		return nil, err
	}
	var remembers bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('`+closedRoles+`') IS NOT NULL`).Scan(&remembers); err != nil {
		return nil, err
	}
	// A role that production brought and nobody opened: no login, no password, no attribute, and no membership.
	leftOver := `false`
	if remembers {
		leftOver = `NOT (rolcanlogin OR rolpassword IS NOT NULL OR oid <> 10 AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls))
			AND NOT EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) AND EXISTS (SELECT FROM ` + closedRoles + ` c WHERE c.name = rolname)`
	}
	if t.Roles, err = structs[Role](ctx, tx, `SELECT rolname::text, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
		rolconnlimit, rolpassword, rolvaliduntil::text FROM pg_authid r
		WHERE NOT starts_with(rolname, 'pg_') AND rolname <> $1 AND NOT (`+leftOver+`) ORDER BY rolname`, OurRole); err != nil {
		return nil, err
	}
	own := []string{}
	grantees = []string{}
	for _, r := range t.Roles {
		own = append(own, r.Name)
		if !r.Superuser {
			grantees = append(grantees, r.Name)
		}
	}
	options := `m.admin_option, mm.rolinherit, true`
	if t.Major >= 16 {
		options = `m.admin_option, m.inherit_option, m.set_option`
	}
	if t.Memberships, err = structs[Membership](ctx, tx, `SELECT r.rolname::text, mm.rolname::text, coalesce(g.rolname::text, ''), `+options+` FROM pg_auth_members m
		JOIN pg_authid r ON r.oid = m.roleid JOIN pg_authid mm ON mm.oid = m.member LEFT JOIN pg_authid g ON g.oid = m.grantor AND g.oid <> 10 AND g.rolname = ANY ($1)
		WHERE mm.rolname = ANY ($1) AND (r.rolname = ANY ($1) OR starts_with(r.rolname, 'pg_')) ORDER BY 1, 2, 3`, own); err != nil {
		return nil, err
	}
	if t.Settings, err = structs[Setting](ctx, tx, `SELECT coalesce(rolname::text, ''), coalesce(datname::text, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
		FROM pg_db_role_setting CROSS JOIN unnest(setconfig) WITH ORDINALITY u (c, i) LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase
		WHERE (setrole = 0 OR rolname = ANY ($1)) AND NOT starts_with(c, 'sandglass.') ORDER BY 1, 2, i`, own); err != nil {
		return nil, err
	}
	if err := t.readDatabases(ctx, tx, own); err != nil {
		return nil, err
	}
	clusterGrants := grantsOf("TABLESPACE", "quote_ident(spcname)", "''", "spcacl", "'t'", "spcowner", "pg_tablespace", "false")
	if t.Major >= 15 {
		clusterGrants += " UNION ALL " + `SELECT 'PARAMETER', parname, '', a.grantee, a.privilege_type, a.is_grantable FROM pg_parameter_acl, aclexplode(paracl) a`
	}
	t.Grants, err = readGrants(ctx, tx, clusterGrants, grantees)
	return grantees, err
}

func (t *Target) readDatabases(ctx context.Context, tx pgx.Tx, own []string) error {
	type row struct {
		Name, Owner string
		ConnLimit   int
		AllowConn   bool
	}
	rows, err := structs[row](ctx, tx, `SELECT datname::text, CASE WHEN r.rolname = ANY ($1) OR r.rolname = $2 THEN r.rolname::text ELSE '' END, datconnlimit,
		datallowconn AND NOT coalesce('`+markClosed+`=on' = ANY (setconfig), false)
		FROM pg_database d JOIN pg_roles r ON r.oid = datdba LEFT JOIN pg_db_role_setting ON setdatabase = d.oid AND setrole = 0
		WHERE datname <> 'template0' AND datconnlimit <> -2 ORDER BY 1`, own, OurRole)
	if err != nil {
		return err
	}
	for _, r := range rows {
		d := Database{Name: r.Name, Owner: r.Owner, ConnLimit: r.ConnLimit, AllowConn: r.AllowConn}
		d.Access, err = soundGrants(ctx, tx, `SELECT 'DATABASE', quote_ident(datname), '', coalesce(g.rolname::text, ''), string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), a.is_grantable
			FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) a LEFT JOIN pg_roles g ON g.oid = a.grantee
			WHERE datname = $1 AND (a.grantee = 0 OR g.rolname = ANY ($2)) GROUP BY datname, g.rolname, a.is_grantable ORDER BY 4, 6`, r.Name, own)
		if err != nil {
			return err
		}
		t.Databases = append(t.Databases, d)
	}
	return nil
}

// What the sandbox says of rights becomes part of statements in the copy, which holds production's rows still, and a superuser of the
// sandbox can make its functions say anything. So only what PostgreSQL itself says is taken: names of rights and of kinds of objects in
// capitals, one quoted name of a column or a database, the name of a parameter. Other objects are looked up in the copy by their names first.
var (
	rights        = regexp.MustCompile(`^[A-Z]+( [A-Z]+)*(, [A-Z]+( [A-Z]+)*)*$`)
	quotedName    = regexp.MustCompile(`^([a-z_][a-z0-9_]*|"([^"]|"")+")$`) // quote_identifier in utils/adt/ruleutils.c
	parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)
)

// soundGrants reads grants, and refuses those that PostgreSQL would not give.
func soundGrants(ctx context.Context, q querier, sql string, args ...any) ([]Grant, error) {
	grants, err := structs[Grant](ctx, q, sql, args...)
	for _, g := range grants {
		switch {
		case kindName[g.Kind] == "", !rights.MatchString(g.Privileges), g.Column != "" && !quotedName.MatchString(g.Column),
			g.Kind == "DATABASE" && !quotedName.MatchString(g.Object), g.Kind == "PARAMETER" && !parameterName.MatchString(g.Object):
			return nil, unsound(strings.TrimSpace(g.Privileges + " ON " + g.Kind + " " + g.Object + " " + g.Column))
		}
	}
	return grants, err
}

func unsound(grant string) error {
	return &sandglass.Error{Code: CodeUnsound, Op: "read the sandbox's rights", Message: fmt.Sprintf("The sandbox speaks of a right that PostgreSQL does not have: %q.", grant),
		Remedy: "Somebody has changed PostgreSQL's own functions or catalogs in the sandbox. Undo that, or begin with a new sandbox."}
}

// grantsOf is a query of all grants on one kind of object. Where nothing was ever granted, the
// owner's own rights count, because in the copy the object belongs to a role of production;
// PUBLIC's defaults don't. Grants to others than the grantees are left out here, before the objects are
// named: there are thousands of functions, and to name one is dear.
func grantsOf(kind, object, column, acl, letter, owner, from, system string) string {
	return fmt.Sprintf(`SELECT '%s', %s, %s, a.grantee, a.privilege_type, a.is_grantable FROM %s,
		aclexplode(coalesce(%s, acldefault(%s, %s))) a WHERE ((%s IS NOT NULL AND (a.grantee <> 0 OR NOT (%s))) OR a.grantee = %s) AND `+toGrantees,
		kind, object, column, from, acl, letter, owner, acl, system, owner)
}

const toGrantees = `(a.grantee = 0 OR a.grantee = ANY (ARRAY(SELECT oid FROM pg_roles WHERE rolname = ANY ($1))))`

func readGrants(ctx context.Context, q querier, union string, grantees []string) ([]Grant, error) {
	return soundGrants(ctx, q, `SELECT kind, object, col, coalesce(rolname::text, ''), string_agg(privilege, ', ' ORDER BY privilege), grantable
		FROM (`+union+`) g (kind, object, col, grantee, privilege, grantable) LEFT JOIN pg_roles r ON r.oid = grantee
		WHERE grantee = 0 OR rolname = ANY ($1) GROUP BY 1, 2, 3, 4, 6 ORDER BY 1, 4, 5, 6, 2, 3`, grantees)
}

// readGrants reads the grants and default privileges on the objects of one database.
func (d *Database) readGrants(ctx context.Context, conn *pgx.Conn, grantees []string) (err error) {
	const (
		system    = `nspname IN ('pg_catalog', 'information_schema')`
		ordinary  = `NOT starts_with(nspname, 'pg_toast') AND NOT starts_with(nspname, 'pg_temp') AND nspname <> 'sandglass'` // ours: its rights are makeRecords' affair
		relations = `(SELECT * FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN (%s) AND ` + ordinary + `) o`
		tables    = `'r', 'p', 'v', 'm', 'f'`
	)
	union := grantsOf("TABLE", "format('%I.%I', nspname, relname)", "''", "relacl", "'r'", "relowner", fmt.Sprintf(relations, tables), system) +
		" UNION ALL " + grantsOf("SEQUENCE", "format('%I.%I', nspname, relname)", "''", "relacl", "'s'", "relowner", fmt.Sprintf(relations, "'S'"), system) +
		" UNION ALL " + `SELECT 'COLUMN', format('%I.%I', nspname, relname), quote_ident(attname), a.grantee, a.privilege_type, a.is_grantable
			FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(attacl) a
			WHERE NOT attisdropped AND ` + ordinary + ` AND (a.grantee <> 0 OR NOT ` + system + `) AND ` + toGrantees +
		" UNION ALL " + grantsOf("ROUTINE", "p.oid::regprocedure::text", "''", "proacl", "'f'", "proowner", "pg_proc p JOIN pg_namespace n ON n.oid = pronamespace", system) +
		" UNION ALL " + grantsOf("SCHEMA", "quote_ident(nspname)", "''", "nspacl", "'n'", "nspowner", "(SELECT * FROM pg_namespace WHERE "+ordinary+") n", system) +
		" UNION ALL " + grantsOf("TYPE", "format('%I.%I', nspname, typname)", "''", "typacl", "'T'", "typowner",
		"pg_type t JOIN pg_namespace n ON n.oid = typnamespace AND typelem = 0 AND typrelid = 0", system) +
		" UNION ALL " + grantsOf("LANGUAGE", "quote_ident(lanname)", "''", "lanacl", "'l'", "lanowner", "pg_language", "false")
	if d.Grants, err = readGrants(ctx, conn, union, grantees); err != nil {
		return err
	}
	if d.Defaults, err = structs[DefaultPrivilege](ctx, conn, defaultPrivileges, grantees); err != nil {
		return err
	}
	for _, p := range d.Defaults {
		if !rights.MatchString(p.Privileges) || !rights.MatchString(p.Kind) {
			return unsound(p.Privileges + " ON " + p.Kind)
		}
	}
	d.Owned, err = structs[Owned](ctx, conn, `SELECT rolname::text, count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_roles r ON r.oid = relowner
		WHERE relkind IN (`+tables+`) AND rolname = ANY ($1) AND `+ordinary+` GROUP BY 1 ORDER BY 1`, grantees)
	return err
}

// defaultPrivileges gives the statements that make pg_default_acl. An entry for a schema adds
// to the built-in defaults; one without a schema replaces them, so what it lacks is revoked.
const defaultPrivileges = `
WITH entry AS (
	SELECT o.rolname::text AS role, defaclrole, coalesce(nspname::text, '') AS schema, defaclobjtype AS t, defaclacl FROM pg_default_acl
	JOIN pg_roles o ON o.oid = defaclrole LEFT JOIN pg_namespace n ON n.oid = defaclnamespace WHERE o.rolname = ANY ($1)),
item AS (
	SELECT role, schema, t, (aclexplode(defaclacl)).*, false AS revoke FROM entry
	UNION ALL
	(SELECT role, schema, t, (aclexplode(acldefault(CASE WHEN t = 'S' THEN 's' ELSE t END, defaclrole))).*, true FROM entry WHERE schema = ''
	 EXCEPT SELECT role, schema, t, (aclexplode(defaclacl)).*, true FROM entry))
SELECT role, schema, CASE t WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END,
	coalesce(g.rolname::text, ''), string_agg(privilege_type, ', ' ORDER BY privilege_type), is_grantable, revoke
FROM item LEFT JOIN pg_roles g ON g.oid = grantee WHERE grantee = 0 OR g.rolname = ANY ($1)
GROUP BY 1, 2, 3, 4, 6, 7 ORDER BY 1, 2, 3, 7 DESC, 4`
