// The rules that come last: settings of roles and databases, and the rewriting of the catalogs
// that held passwords.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// listSettings are parameters whose value is a list of quoted names; ALTER ROLE SET takes its
// elements one by one (variable_is_guc_list_quote in bin/pg_dump/dumputils.c).
var listSettings = []string{"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories"}

// sameValue says whether two settings of one name have the same value, however a list of names is written.
func (s Setting) sameValue(t Setting) bool {
	if slices.Contains(listSettings, strings.ToLower(s.Name)) {
		return slices.Equal(splitList(s.Value), splitList(t.Value))
	}
	return s.Value == t.Value
}

// giveSettings replaces all settings of roles and databases by the sandbox's, and notes which
// databases Finish shall close.
func giveSettings(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	closed, err := column(ctx, tx, `SELECT datname::text FROM pg_database JOIN pg_db_role_setting ON setdatabase = pg_database.oid
		WHERE setrole = 0 AND '`+markClosed+`=on' = ANY (setconfig) ORDER BY 1`)
	if err != nil {
		return err
	}
	gone, err := column(ctx, tx, `DELETE FROM pg_db_role_setting WHERE NOT `+isMark+` RETURNING setconfig::text`)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM pg_db_role_setting`); err != nil {
		return err
	}
	o.rows = int64(len(gone))
	if j.in.Target != nil {
		for _, s := range j.in.Target.Settings {
			if s.Database != "" && !slices.Contains(j.names, s.Database) {
				o.missed = append(o.missed, fmt.Sprintf("Setting %s of database %q, which the copy does not have.", s.Name, s.Database))
				continue
			}
			refused, err := try(ctx, tx, s.statement())
			if err != nil {
				return err
			}
			if refused != "" {
				o.missed = append(o.missed, fmt.Sprintf("Setting %s: %s.", s.Name, refused))
				continue
			}
			o.rows++
		}
	}
	for _, name := range j.names {
		shut := slices.Contains(closed, name)
		if d, ok := j.in.Target.database(name); ok {
			shut = !d.AllowConn
		}
		if shut && name != home {
			if _, err := tx.Exec(ctx, "ALTER DATABASE "+ident(name)+" SET "+markClosed+" = 'on'"); err != nil {
				return err
			}
		}
	}
	return nil
}

// resetSystem takes out what ALTER SYSTEM had set, though the server was started without it; the names are told.
func resetSystem(ctx context.Context, _ *job, conn *pgx.Conn, o *outcome) error {
	names, err := column(ctx, conn, `SELECT DISTINCT name FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf' AND name IS NOT NULL ORDER BY 1`)
	if err != nil || len(names) == 0 {
		return err
	}
	if _, err := conn.Exec(ctx, `ALTER SYSTEM RESET ALL`); err != nil {
		return err
	}
	o.rows, o.notes = int64(len(names)), names
	return nil
}

// statement writes the ALTER ROLE or ALTER DATABASE.
func (s Setting) statement() string {
	var sql string
	switch {
	case s.Role == "" && s.Database == "":
		sql = "ALTER ROLE ALL"
	case s.Role == "":
		sql = "ALTER DATABASE " + ident(s.Database)
	default:
		sql = "ALTER ROLE " + ident(s.Role)
		if s.Database != "" {
			sql += " IN DATABASE " + ident(s.Database)
		}
	}
	value := literal(s.Value)
	if slices.Contains(listSettings, strings.ToLower(s.Name)) {
		names := splitList(s.Value)
		if len(names) == 0 {
			names = []string{""}
		}
		for i := range names {
			names[i] = literal(names[i])
		}
		value = strings.Join(names, ", ")
	}
	return sql + " SET " + quotedSetting(s.Name) + " TO " + value
}

// quotedSetting quotes each part of a parameter's name.
func quotedSetting(name string) string { return pgx.Identifier(strings.Split(name, ".")).Sanitize() }

// splitList reads a list of names as SplitGUCList does (utils/adt/varlena.c): quotes are
// removed, case is kept.
func splitList(s string) []string {
	var list []string
	var b strings.Builder
	quoted, wasQuoted := false, false
	add := func() {
		item := b.String()
		if !wasQuoted {
			item = strings.TrimSpace(item)
		}
		if item != "" || wasQuoted {
			list = append(list, item)
		}
		b.Reset()
		wasQuoted = false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && quoted && i+1 < len(s) && s[i+1] == '"':
			b.WriteByte('"')
			i++
		case c == '"':
			quoted, wasQuoted = !quoted, true
			if quoted {
				b.Reset()
			}
		case c == ',' && !quoted:
			add()
		case wasQuoted && !quoted: // blanks after a quoted name
		default:
			b.WriteByte(c)
		}
	}
	add()
	return list
}

// rewriteCatalogs rewrites what held passwords and addresses, so that no old version of a row
// is left in a file. ANALYZE of pg_authid keeps samples of password hashes in pg_statistic of
// any database; those rows go too.
func rewriteCatalogs(ctx context.Context, j *job, conn *pgx.Conn, o *outcome) error {
	shared := []string{"pg_authid", "pg_auth_members", "pg_db_role_setting", "pg_subscription", "pg_replication_origin"}
	local := []string{"pg_user_mapping", "pg_foreign_server", "pg_foreign_data_wrapper", "pg_foreign_table", "pg_statistic"}
	tables := local
	var here string
	if err := conn.QueryRow(ctx, `SELECT current_database()::text`).Scan(&here); err != nil {
		return err
	}
	if here == home {
		tables = append(shared, local...)
	}
	jobs, err := jobRelations(ctx, conn)
	if err != nil {
		return err
	}
	tables = append(tables, jobs...)
	if _, err := conn.Exec(ctx, `DELETE FROM pg_statistic WHERE starelid IN (SELECT name::regclass FROM unnest($1::text[]) name)`, slices.Concat(shared, local)); err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := conn.Exec(ctx, "VACUUM (FULL) "+t); err != nil {
			return fmt.Errorf("rewrite %s: %w", t, err)
		}
		o.rows++
	}
	return nil
}
