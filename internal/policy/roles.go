// Rules on roles: production's are closed, the sandbox's given as they were.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// isReserved says that a role is PostgreSQL's own or ours.
func isReserved(name string) bool { return strings.HasPrefix(name, "pg_") || name == OurRole }

// role finds a role of the sandbox.
func (t *Target) role(name string) (Role, bool) {
	if t == nil {
		return Role{}, false
	}
	i := slices.IndexFunc(t.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return t.Roles[i], true
}

// closeRoles closes every role of the copy that is not the sandbox's own, and remembers them,
// so that the next restore does not take them for the sandbox's own.
//
// The bootstrap superuser owns the system catalogs, can't be dropped and (from 16 on) can't be
// made an ordinary role: NOLOGIN and no password close it. If the sandbox has an ordinary role
// of its name, it gets another name first, or that ordinary role would own all of PostgreSQL.
func closeRoles(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	type role struct {
		Name            string
		Bootstrap, Open bool
	}
	roles, err := structs[role](ctx, tx, `SELECT rolname::text, oid = 10, rolcanlogin OR rolpassword IS NOT NULL OR rolsuper OR rolreplication OR rolcreaterole OR rolcreatedb OR rolbypassrls
		FROM pg_authid WHERE NOT starts_with(rolname, 'pg_') AND rolname <> $1 ORDER BY rolname`, OurRole)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+closedRoles+`; CREATE TABLE `+closedRoles+` (name text PRIMARY KEY)`); err != nil {
		return err
	}
	for _, r := range roles {
		if own, ok := j.in.Target.role(r.Name); ok {
			if !r.Bootstrap || own.Superuser {
				continue
			}
			other := unusedName(r.Name+"_of_production", func(n string) bool {
				_, inTarget := j.in.Target.role(n)
				return inTarget || slices.ContainsFunc(roles, func(x role) bool { return x.Name == n })
			})
			if _, err := tx.Exec(ctx, "ALTER ROLE "+ident(r.Name)+" RENAME TO "+ident(other)); err != nil {
				return err
			}
			o.missed = append(o.missed, fmt.Sprintf("%q is production's superuser and an ordinary role of the sandbox: production's is now called %q and owns what it owned.", r.Name, other))
			r.Name = other
		}
		options := " NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD NULL"
		if r.Bootstrap {
			options = " NOLOGIN PASSWORD NULL"
		}
		if _, err := tx.Exec(ctx, "ALTER ROLE "+ident(r.Name)+options); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO `+closedRoles+` VALUES ($1)`, r.Name); err != nil {
			return err
		}
		if r.Open {
			o.rows++
			o.notes = append(o.notes, r.Name)
		}
	}
	return nil
}

func unusedName(name string, used func(string) bool) string {
	// NAMEDATALEN - 1 bytes; a longer name would be cut without a word.
	name = strings.ToValidUTF8(name[:min(len(name), 60)], "")
	for candidate, i := name, 2; ; i++ {
		if !used(candidate) {
			return candidate
		}
		candidate = fmt.Sprintf("%s%d", name, i)
	}
}

// giveRoles makes or alters the sandbox's roles, with the password hashes they had.
func giveRoles(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	for _, r := range j.in.Target.Roles {
		if isReserved(r.Name) {
			continue
		}
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_authid WHERE rolname = $1)`, r.Name).Scan(&exists); err != nil {
			return err
		}
		verb := "CREATE"
		if exists {
			verb = "ALTER"
		}
		if _, err := tx.Exec(ctx, verb+" ROLE "+ident(r.Name)+" WITH "+r.options()); err != nil {
			return fmt.Errorf("%s role %q: %w", strings.ToLower(verb), r.Name, err)
		}
		o.rows++
	}
	return nil
}

// options writes a role's attributes as CREATE ROLE takes them. A password hash is stored as
// it is (get_password_type in libpq/crypt.c).
func (r Role) options() string {
	var b strings.Builder
	for _, a := range []struct {
		on   bool
		name string
	}{{r.Superuser, "SUPERUSER"}, {r.Inherit, "INHERIT"}, {r.CreateRole, "CREATEROLE"}, {r.CreateDB, "CREATEDB"},
		{r.Login, "LOGIN"}, {r.Replication, "REPLICATION"}, {r.BypassRLS, "BYPASSRLS"}} {
		if !a.on {
			b.WriteString("NO")
		}
		b.WriteString(a.name + " ")
	}
	fmt.Fprintf(&b, "CONNECTION LIMIT %d PASSWORD ", r.ConnLimit)
	if r.Password == nil {
		b.WriteString("NULL")
	} else {
		b.WriteString(literal(*r.Password))
	}
	until := "infinity"
	if r.ValidUntil != nil {
		until = *r.ValidUntil
	}
	return b.String() + " VALID UNTIL " + literal(until)
}

// giveMemberships removes every membership but PostgreSQL's own between its predefined roles,
// then gives the sandbox's, then those of roles_map.
func giveMemberships(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	removed, err := revokeMemberships(ctx, tx, j.st.Major)
	if err != nil {
		return err
	}
	if removed > 0 {
		o.notes = append(o.notes, fmt.Sprintf("%d memberships of production removed", removed))
	}
	o.rows = int64(removed)
	if j.in.Target != nil {
		if err := j.grantMemberships(ctx, tx, o); err != nil {
			return err
		}
	}
	return j.mapRoles(ctx, tx, o)
}

// revokeMemberships removes each membership with what was granted on its ground; those of the
// list that went that way cost a warning of the server, no error.
func revokeMemberships(ctx context.Context, tx pgx.Tx, major int) (int, error) {
	type row struct{ Role, Member, Grantor string }
	const from = ` FROM pg_auth_members am JOIN pg_authid r ON r.oid = roleid JOIN pg_authid m ON m.oid = member LEFT JOIN pg_authid g ON g.oid = grantor
		WHERE NOT (starts_with(r.rolname, 'pg_') AND starts_with(m.rolname, 'pg_'))`
	rows, err := structs[row](ctx, tx, `SELECT r.rolname::text, m.rolname::text, coalesce(g.rolname::text, '')`+from+` ORDER BY 1, 2, 3`)
	if err != nil {
		return 0, err
	}
	for _, r := range rows {
		sql := "REVOKE " + ident(r.Role) + " FROM " + ident(r.Member)
		if major >= 16 { // several grantors may have given the same
			sql += " GRANTED BY " + ident(r.Grantor)
		}
		if _, err := tx.Exec(ctx, sql+" CASCADE"); err != nil {
			return 0, err
		}
	}
	var left int
	if err := tx.QueryRow(ctx, `SELECT count(*)`+from).Scan(&left); err != nil {
		return 0, err
	}
	if left > 0 {
		return 0, fmt.Errorf("%d memberships are left after all were revoked", left)
	}
	return len(rows), nil
}

// grantMemberships gives the sandbox's memberships. From 16 on a grantor needs the admin option
// himself, so rounds are made until a round brings nothing; what is left is granted by us.
func (j *job) grantMemberships(ctx context.Context, tx pgx.Tx, o *outcome) error {
	left := slices.Clone(j.in.Target.Memberships)
	for withGrantor := true; len(left) > 0; {
		var failed []Membership
		for _, m := range left {
			refused, err := try(ctx, tx, m.grant(j.st.Major, withGrantor))
			if err != nil {
				return err
			}
			if refused == "" {
				o.rows++
				continue
			}
			failed = append(failed, m)
			if !withGrantor {
				o.missed = append(o.missed, fmt.Sprintf("The membership of %q in %q: %s.", m.Member, m.Role, refused))
			}
		}
		if !withGrantor {
			break
		}
		withGrantor = len(failed) < len(left)
		left = failed
	}
	return nil
}

func (m Membership) grant(major int, withGrantor bool) string {
	sql := "GRANT " + ident(m.Role) + " TO " + ident(m.Member)
	if major >= 16 {
		sql += fmt.Sprintf(" WITH ADMIN %t, INHERIT %t, SET %t", m.Admin, m.Inherit, m.Set)
	} else if m.Admin {
		sql += " WITH ADMIN OPTION"
	}
	if withGrantor && m.Grantor != "" {
		sql += " GRANTED BY " + ident(m.Grantor)
	}
	return sql
}

// mapRoles makes roles of the sandbox members of production's, as server.roles_map says.
func (j *job) mapRoles(ctx context.Context, tx pgx.Tx, o *outcome) error {
	if j.in.Environment.Server == nil {
		return nil
	}
	mapped := j.in.Environment.Server.RolesMap
	for _, member := range sortedKeys(mapped) {
		for _, role := range mapped[member] {
			sql, why, err := j.mapRole(ctx, tx, role, member)
			if err != nil {
				return err
			}
			if why == "" {
				if why, err = try(ctx, tx, sql); err != nil {
					return err
				}
			}
			if why != "" {
				o.missed = append(o.missed, fmt.Sprintf("roles_map: %q is no member of %q: %s.", member, role, why))
				continue
			}
			o.rows++
			o.notes = append(o.notes, fmt.Sprintf("roles_map: %s is a member of %s", member, role))
		}
	}
	return nil
}

// mapRole is the statement for one entry, or why there is none. A member of a superuser could
// become it by SET ROLE; from 16 on its rights on objects can be given without that.
func (j *job) mapRole(ctx context.Context, tx pgx.Tx, role, member string) (sql, why string, err error) {
	super, err := column(ctx, tx, `SELECT rolsuper::text FROM pg_authid WHERE rolname = $1`, role)
	if err != nil {
		return "", "", err
	}
	sql = "GRANT " + ident(role) + " TO " + ident(member)
	switch {
	case role == OurRole || member == OurRole:
		return "", "that role is Sandglass's own", nil
	case len(super) == 0:
		return "", "production has no such role", nil
	case super[0] != "true":
		return sql, "", nil
	case j.st.Major >= 16:
		return sql + " WITH INHERIT true, SET false", "", nil
	}
	return "", "that role is a superuser, and its member could become it", nil
}
