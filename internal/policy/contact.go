// First contact with a promoted copy, in single-user mode: nobody may be able to log in yet
// (field/postgres.md 13), and production's ALTER ROLE/DATABASE settings would bite the first
// session (12). Single-user mode applies no such settings, ignores datallowconn and fires no
// event trigger. Last contact is here too: Finish closes what was opened.

package policy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// Our notes on a database are settings of it: they are in a shared catalog, survive anything
// that happens to the database's contents, and mean nothing to PostgreSQL.
const (
	markOrigin = "sandglass.origin" // production's name of the database
	markClosed = "sandglass.closed" // accepted no connections
)

// isMark is true for rows of pg_db_role_setting that hold a note of ours.
const isMark = `(setrole = 0 AND (starts_with(setconfig[1], 'sandglass.origin=') OR starts_with(setconfig[1], 'sandglass.closed=')))`

// printed matches one attribute as a single-user backend prints it (debugtup in access/common/printtup.c).
var printed = regexp.MustCompile(`(?m)^\t *\d+: (\w+) = "([0-9a-f]*)"\t\(typeid`)

// FirstContact makes OurRole, opens the databases that accept no connections (noting them, so
// that Finish closes them again) and removes production's role and database settings. The
// server must be stopped, after its promotion. It may be repeated.
func FirstContact(ctx context.Context, st Staging) (Contact, error) {
	const closed = `NOT datallowconn AND datconnlimit <> -2 AND datname <> 'template0'`
	asHex := func(expr, as string) string {
		return fmt.Sprintf("SELECT encode(textsend((%s)::text), 'hex') AS %s", expr, as)
	}
	database, out, err := anyDatabase(ctx, st,
		`SET search_path = pg_catalog`,
		asHex(`setting`, "setting")+` FROM (SELECT split_part(unnest(setconfig), '=', 1) AS setting FROM pg_db_role_setting WHERE NOT `+isMark+`) s`,
		`DELETE FROM pg_db_role_setting WHERE NOT `+isMark,
		asHex(`datname`, "opened")+` FROM pg_database WHERE `+closed,
		// Plain changes of the catalog, because there is no statement for "each of them".
		`INSERT INTO pg_db_role_setting SELECT oid, 0, ARRAY['`+markClosed+`=on'] FROM pg_database d WHERE `+closed+
			` AND NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole = 0)`,
		`UPDATE pg_database SET datallowconn = true WHERE `+closed,
		asHex(`rolsuper AND rolcanlogin AND rolpassword IS NULL`, "ours")+` FROM pg_authid WHERE rolname = '`+OurRole+`'`,
		asHex(`count(*)`, "left_over")+` FROM pg_db_role_setting WHERE NOT `+isMark,
	)
	if err != nil {
		return Contact{}, err
	}
	values := readPrinted(out)
	if left := values["left_over"]; len(left) != 1 || left[0] != "0" {
		return Contact{}, contactError(out, nil)
	}
	contact := Contact{Opened: values["opened"], Settings: values["setting"]}
	if len(contact.Settings) > 0 && st.Log != nil {
		st.Log.Info("settings of production's roles and databases removed", "settings", contact.Settings)
	}
	if ours := values["ours"]; len(ours) == 1 && ours[0] == "true" {
		return contact, nil
	} else {
		verb := "CREATE"
		if len(ours) == 1 {
			verb = "ALTER" // production had a role of this name, perhaps the recorder's own
		}
		out, err = st.SingleUser(ctx, database, `SET search_path = pg_catalog`,
			verb+` ROLE `+OurRole+` SUPERUSER LOGIN INHERIT PASSWORD NULL CONNECTION LIMIT -1`,
			asHex(`rolsuper AND rolcanlogin`, "ours")+` FROM pg_authid WHERE rolname = '`+OurRole+`'`)
	}
	if ours := readPrinted(out)["ours"]; err != nil || len(ours) != 1 || ours[0] != "true" {
		return Contact{}, contactError(out, err)
	}
	return contact, nil
}

// anyDatabase runs the statements in the first database that lets a single-user backend in:
// any may have been dropped in production.
func anyDatabase(ctx context.Context, st Staging, sql ...string) (database, out string, err error) {
	var errs []error
	for _, database := range []string{"template1", "postgres", "template0"} {
		out, err := st.SingleUser(ctx, database, sql...)
		if err == nil && len(readPrinted(out)["left_over"]) == 1 {
			return database, out, nil
		}
		if ctx.Err() != nil {
			return "", "", ctx.Err()
		}
		errs = append(errs, contactError(out, err))
	}
	return "", "", errors.Join(errs...)
}

func readPrinted(out string) map[string][]string {
	values := map[string][]string{}
	for _, m := range printed.FindAllStringSubmatch(out, -1) {
		if b, err := hex.DecodeString(m[2]); err == nil {
			values[m[1]] = append(values[m[1]], string(b))
		}
	}
	return values
}

func contactError(out string, err error) error {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	said := strings.Join(lines[max(0, len(lines)-8):], "; ")
	return &sandglass.Error{Code: sandglass.CodeServerFailed, Op: "first contact",
		Message: "The recovered copy did not accept the first statements in single-user mode.",
		Remedy:  "See the PostgreSQL log of the operation (`sandglass ops logs`).", Err: fmt.Errorf("single-user server said: %s: %w", said, errOr(err))}
}

func errOr(err error) error {
	if err != nil {
		return err
	}
	return errors.New("no answer")
}

// Finish closes the databases that accept no connections in the sandbox (or, where the sandbox
// does not know them, in production) and removes our notes. It belongs after the last Prove
// and may be repeated.
func Finish(ctx context.Context, st Staging) error {
	return st.in(ctx, home, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			closed, err := column(ctx, tx, `SELECT datname FROM pg_database JOIN pg_db_role_setting ON setdatabase = pg_database.oid
				WHERE setrole = 0 AND '`+markClosed+`=on' = ANY (setconfig)`)
			if err != nil {
				return fmt.Errorf("read which databases are closed: %w", err)
			}
			for _, name := range closed {
				// The database we are in can't be closed from inside it; it is ours to need anyway.
				if name == home {
					continue
				}
				if _, err := tx.Exec(ctx, "ALTER DATABASE "+ident(name)+" ALLOW_CONNECTIONS false"); err != nil {
					return fmt.Errorf("close database %q: %w", name, err)
				}
			}
			for _, name := range closed {
				if _, err := tx.Exec(ctx, "ALTER DATABASE "+ident(name)+" RESET "+markClosed); err != nil {
					return fmt.Errorf("remove the note on database %q: %w", name, err)
				}
			}
			return nil
		})
	})
}
