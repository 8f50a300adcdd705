// Rules that give the sandbox's rights again: access to databases, grants on objects that
// exist by name, and default privileges.

package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// database finds a database of the sandbox.
func (t *Target) database(name string) (Database, bool) {
	if t == nil {
		return Database{}, false
	}
	i := slices.IndexFunc(t.Databases, func(d Database) bool { return d.Name == name })
	if i < 0 {
		return Database{}, false
	}
	return t.Databases[i], true
}

// giveDatabaseAccess makes owner, limit and access of each database exactly what they were in
// the sandbox, and gives its grants on tablespaces and parameters again.
func giveDatabaseAccess(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	for _, name := range j.names {
		d, ok := j.in.Target.database(name)
		if !ok {
			continue
		}
		sql := []string{fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", ident(name), max(d.ConnLimit, -1))}
		if d.Owner != "" {
			sql = append(sql, "ALTER DATABASE "+ident(name)+" OWNER TO "+ident(d.Owner))
		}
		for _, s := range sql {
			if refused, err := try(ctx, tx, s); err != nil {
				return err
			} else if refused != "" {
				o.missed = append(o.missed, fmt.Sprintf("Owner or limit of database %q: %s.", name, refused))
			}
		}
		// An owner that is production's stays one, with its rights: the sandbox has none to give it instead.
		holders, err := column(ctx, tx, `SELECT DISTINCT coalesce(rolname::text, '') FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) a
			LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE datname = $1 AND (a.grantee = 0 OR rolname IS NOT NULL) AND ($2 OR a.grantee <> datdba)`, name, d.Owner != "")
		if err != nil {
			return err
		}
		for _, h := range holders {
			if _, err := tx.Exec(ctx, "REVOKE ALL ON DATABASE "+ident(name)+" FROM "+identOrPublic(h)+" CASCADE"); err != nil {
				return err
			}
		}
		if err := giveAll(ctx, tx, d.Access, o); err != nil {
			return err
		}
		o.rows++
	}
	return giveAll(ctx, tx, j.in.Target.Grants, o)
}

// giveGrants gives the grants and default privileges of one database.
func giveGrants(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	var name string
	if err := tx.QueryRow(ctx, `SELECT current_database()::text`).Scan(&name); err != nil {
		return err
	}
	d, ok := j.in.Target.database(name)
	if !ok {
		return nil
	}
	if err := giveAll(ctx, tx, d.Grants, o); err != nil {
		return err
	}
	for _, p := range d.Defaults {
		refused, err := try(ctx, tx, p.statement())
		if err != nil {
			return err
		}
		if refused != "" {
			o.missed = append(o.missed, fmt.Sprintf("Default privileges of %q on %s: %s.", p.Role, strings.ToLower(p.Kind), refused))
			continue
		}
		o.rows++
	}
	return j.reportOwners(ctx, tx, d, o)
}

func (p DefaultPrivilege) statement() string {
	sql := "ALTER DEFAULT PRIVILEGES FOR ROLE " + ident(p.Role)
	if p.Schema != "" {
		sql += " IN SCHEMA " + ident(p.Schema)
	}
	if p.Revoke {
		return sql + " REVOKE " + p.Privileges + " ON " + p.Kind + " FROM " + identOrPublic(p.Grantee)
	}
	sql += " GRANT " + p.Privileges + " ON " + p.Kind + " TO " + identOrPublic(p.Grantee)
	if p.Grantable {
		sql += " WITH GRANT OPTION"
	}
	return sql
}

// reportOwners tells of roles of the sandbox that owned relations in this database and own
// none in the copy: migrations run by them would be refused.
func (j *job) reportOwners(ctx context.Context, tx pgx.Tx, d Database, o *outcome) error {
	for _, owned := range d.Owned {
		if s := j.in.Environment.Server; s != nil && len(s.RolesMap[owned.Role]) > 0 {
			continue
		}
		var owns bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_roles r ON r.oid = relowner WHERE rolname = $1)`, owned.Role).Scan(&owns); err != nil {
			return err
		}
		if !owns {
			o.missed = append(o.missed, fmt.Sprintf("%q owned %d relations in the sandbox and owns none in the copy; server.roles_map can make it a member of their owner.", owned.Role, owned.Relations))
		}
	}
	return nil
}

// exists maps a kind of object to the expression that is true where the name $1 exists.
var exists = map[string]string{
	"TABLE":      `to_regclass(name) IS NOT NULL AND (SELECT relkind <> 'S' FROM pg_class WHERE oid = to_regclass(name))`,
	"SEQUENCE":   `to_regclass(name) IS NOT NULL AND (SELECT relkind = 'S' FROM pg_class WHERE oid = to_regclass(name))`,
	"COLUMN":     `to_regclass(name) IS NOT NULL`,
	"ROUTINE":    `to_regprocedure(name) IS NOT NULL`,
	"SCHEMA":     `to_regnamespace(name) IS NOT NULL`,
	"TYPE":       `to_regtype(name) IS NOT NULL`,
	"LANGUAGE":   `EXISTS (SELECT FROM pg_language WHERE quote_ident(lanname) = name)`,
	"TABLESPACE": `EXISTS (SELECT FROM pg_tablespace WHERE quote_ident(spcname) = name)`,
	"DATABASE":   `true`,
	"PARAMETER":  `true`,
}

// giveAll gives grants, many objects a statement. They come sorted by kind, grantee,
// privileges and option. A statement that is refused is tried object by object.
func giveAll(ctx context.Context, tx pgx.Tx, grants []Grant, o *outcome) error {
	const most = 200 // objects a statement
	absent := map[string][]string{}
	for len(grants) > 0 {
		first, n := grants[0], 1
		for n < min(len(grants), most) && grants[n].sameRight(first) {
			n++
		}
		group := grants[:n]
		grants = grants[n:]
		present, err := presentObjects(ctx, tx, first.Kind, group)
		if err != nil {
			return err
		}
		var found []Grant
		for _, g := range group {
			if present[g.Object] {
				found = append(found, g)
			} else {
				absent[g.Kind] = append(absent[g.Kind], g.Object)
			}
		}
		if err := giveGroup(ctx, tx, found, o); err != nil {
			return err
		}
	}
	for _, kind := range sortedKeys(absent) {
		slices.Sort(absent[kind])
		names := slices.Compact(absent[kind])
		o.missed = append(o.missed, fmt.Sprintf("Grants on %s that the copy does not have: %s.", kindName[kind], some(names)))
	}
	return nil
}

var kindName = map[string]string{"TABLE": "tables or views", "SEQUENCE": "sequences", "COLUMN": "columns of tables", "ROUTINE": "functions or procedures",
	"SCHEMA": "schemas", "TYPE": "types", "LANGUAGE": "languages", "TABLESPACE": "tablespaces", "DATABASE": "databases", "PARAMETER": "parameters"}

// sameRight says that one statement can give both.
func (g Grant) sameRight(h Grant) bool {
	return g.Kind == h.Kind && g.Grantee == h.Grantee && g.Privileges == h.Privileges && g.Grantable == h.Grantable && g.Column == "" && h.Column == ""
}

func presentObjects(ctx context.Context, tx pgx.Tx, kind string, group []Grant) (map[string]bool, error) {
	names := make([]string, len(group))
	for i, g := range group {
		names[i] = g.Object
	}
	found, err := column(ctx, tx, `SELECT name FROM unnest($1::text[]) name WHERE `+exists[kind], names)
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", kindName[kind], err)
	}
	present := make(map[string]bool, len(found))
	for _, n := range found {
		present[n] = true
	}
	return present, nil
}

// giveGroup gives the same right on several objects.
func giveGroup(ctx context.Context, tx pgx.Tx, group []Grant, o *outcome) error {
	if len(group) == 0 {
		return nil
	}
	refused, err := try(ctx, tx, grantStatement(group))
	if err != nil {
		return err
	}
	if refused == "" {
		o.rows += int64(len(group))
		return nil
	}
	if len(group) == 1 {
		o.missed = append(o.missed, fmt.Sprintf("%s on %s to %s: %s.", group[0].Privileges, group[0].Object, identOrPublic(group[0].Grantee), refused))
		return nil
	}
	for i := range group {
		if err := giveGroup(ctx, tx, group[i:i+1], o); err != nil {
			return err
		}
	}
	return nil
}

// grantStatement writes the GRANT; names in Grant are quoted already.
func grantStatement(group []Grant) string {
	g := group[0]
	names := make([]string, len(group))
	for i := range group {
		names[i] = group[i].Object
	}
	privileges, kind := g.Privileges, g.Kind
	if kind == "COLUMN" {
		kind = "TABLE"
		privileges = strings.ReplaceAll(privileges, ", ", " ("+g.Column+"), ") + " (" + g.Column + ")"
	}
	sql := "GRANT " + privileges + " ON " + kind + " " + strings.Join(names, ", ") + " TO " + identOrPublic(g.Grantee)
	if g.Grantable {
		sql += " WITH GRANT OPTION"
	}
	return sql
}
