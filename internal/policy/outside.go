// Rules on what reaches out of a database or acts by itself: subscriptions, publications,
// foreign servers, event triggers, origins and slots. Scheduled jobs are in jobs.go.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Nowhere is the address everything that led outside is given: a socket folder that does not
// exist, so that a connection fails at once, without a packet and without a name lookup.
const Nowhere = "/nonexistent/sandglass"

// nowhereName stands for an address or secret in the options of wrappers that know no socket
// folders (RFC 2606 reserves .invalid).
const nowhereName = "sandglass.invalid"

// calmEventTriggers makes ALWAYS and REPLICA event triggers ordinary ones, which our sessions (in replica
// role) don't fire: before 17 there is no event_triggers setting, and the schema for our own records is
// made before the rule that disables them all.
func calmEventTriggers(ctx context.Context, tx pgx.Tx) error {
	names, err := column(ctx, tx, `SELECT evtname::text FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')`)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := tx.Exec(ctx, "ALTER EVENT TRIGGER "+ident(name)+" ENABLE"); err != nil {
			return err
		}
	}
	return nil
}

func disableEventTriggers(ctx context.Context, _ *job, tx pgx.Tx, o *outcome) error {
	type trigger struct{ Name, Event, Mode, Extension string }
	all, err := structs[trigger](ctx, tx, `SELECT evtname::text, evtevent::text, evtenabled::text, coalesce(extname::text, '') FROM pg_event_trigger t
		LEFT JOIN pg_depend d ON d.classid = 'pg_event_trigger'::regclass AND d.objid = t.oid AND d.deptype = 'e'
		LEFT JOIN pg_extension x ON x.oid = d.refobjid WHERE evtenabled <> 'D' ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, t := range all {
		// Event triggers don't fire for statements on event triggers.
		if _, err := tx.Exec(ctx, "ALTER EVENT TRIGGER "+ident(t.Name)+" DISABLE"); err != nil {
			return err
		}
		note := t.Name + " (" + t.Event + ")"
		if t.Extension != "" {
			note += ", of extension " + t.Extension
		}
		o.notes = append(o.notes, note)
	}
	o.rows = int64(len(all))
	return nil
}

// dropSubscriptions follows field/postgres.md 2 to the letter: with an unfinished table sync
// DROP SUBSCRIPTION connects to the publisher even when it is disabled and has no slot, and
// drops slots there. With a connection that fails it gives up quietly (subscriptioncmds.c,
// DropSubscription: "be tidy").
func dropSubscriptions(ctx context.Context, _ *job, tx pgx.Tx, o *outcome) error {
	type subscription struct {
		Name    string
		Enabled bool
		Pubs    string
	}
	all, err := structs[subscription](ctx, tx, `SELECT subname::text, subenabled, array_to_string(subpublications, ', ') FROM pg_subscription
		WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, s := range all {
		name := ident(s.Name)
		for _, sql := range []string{
			"ALTER SUBSCRIPTION " + name + " DISABLE",
			"ALTER SUBSCRIPTION " + name + " CONNECTION " + literal("host="+Nowhere+" port=1 dbname=none user=none password=none connect_timeout=2"),
			"ALTER SUBSCRIPTION " + name + " SET (slot_name = NONE)",
			"DROP SUBSCRIPTION " + name,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		o.notes = append(o.notes, s.Name+" (publications "+s.Pubs+")")
	}
	o.rows = int64(len(all))
	return nil
}

func dropPublications(ctx context.Context, _ *job, tx pgx.Tx, o *outcome) error {
	names, err := column(ctx, tx, `SELECT pubname::text FROM pg_publication ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := tx.Exec(ctx, "DROP PUBLICATION "+ident(n)); err != nil {
			return err
		}
	}
	o.rows, o.notes = int64(len(names)), names
	return nil
}

// harmlessOptions are options of foreign servers and wrappers that are neither address nor secret.
var harmlessOptions = []string{"use_remote_estimate", "fdw_startup_cost", "fdw_tuple_cost", "extensions", "updatable", "truncatable",
	"fetch_size", "batch_size", "async_capable", "analyze_sampling", "parallel_commit", "parallel_abort", "keep_connections",
	"sslmode", "client_encoding", "character_set", "tds_version", "msg_handler", "row_estimate_method", "format", "readonly"}

// libpqWrappers are recognised by their validator: the option "host" leads them nowhere.
// (postgresql_fdw_validator is the built-in one that dblink's users take.)
var libpqValidators = []string{"postgres_fdw_validator", "dblink_fdw_validator", "postgresql_fdw_validator"}

// closeForeignServers drops user mappings and replaces each option of a server that could be
// an address or a secret. The catalogs are changed directly: ALTER SERVER calls the wrapper's
// validator, and its library may be missing here. A wrapper we don't know might reach its
// default address without any option, so it loses its handler.
func closeForeignServers(ctx context.Context, _ *job, tx pgx.Tx, o *outcome) error {
	type mapping struct{ Server, User string }
	mappings, err := structs[mapping](ctx, tx, `SELECT srvname::text, CASE umuser WHEN 0 THEN '' ELSE pg_get_userbyid(umuser)::text END FROM pg_user_mapping m
		JOIN pg_foreign_server s ON s.oid = m.umserver ORDER BY 1, 2`)
	if err != nil {
		return err
	}
	for _, m := range mappings {
		if _, err := tx.Exec(ctx, "DROP USER MAPPING FOR "+identOrPublic(m.User)+" SERVER "+ident(m.Server)); err != nil {
			return err
		}
	}
	if len(mappings) > 0 {
		o.notes = append(o.notes, fmt.Sprintf("%d user mappings dropped", len(mappings)))
	}
	type server struct {
		OID           uint32
		Name, Wrapper string
		Options       []string
		LibPQ         bool
	}
	servers, err := structs[server](ctx, tx, `SELECT s.oid, srvname::text, fdwname::text, coalesce(srvoptions, '{}'), coalesce(proname = ANY ($1), false)
		FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw LEFT JOIN pg_proc p ON p.oid = fdwvalidator ORDER BY 2`, libpqValidators)
	if err != nil {
		return err
	}
	for _, s := range servers {
		if _, err := tx.Exec(ctx, `UPDATE pg_foreign_server SET srvoptions = nullif($2::text[], '{}') WHERE oid = $1`, s.OID, closedOptions(s.Options, s.LibPQ)); err != nil {
			return err
		}
		o.notes = append(o.notes, s.Name+" ("+s.Wrapper+")")
	}
	o.rows = int64(len(servers) + len(mappings))
	return closeWrappers(ctx, tx, o)
}

// closedOptions replaces all that could be an address or a secret.
func closedOptions(options []string, libpq bool) []string {
	closed := []string{}
	for _, option := range options {
		key, _, _ := strings.Cut(option, "=")
		switch {
		case slices.Contains(harmlessOptions, key):
			closed = append(closed, option)
		case libpq:
			// dropped; the host below decides
		case key == "port":
			closed = append(closed, "port=1")
		default:
			closed = append(closed, key+"="+nowhereName)
		}
	}
	if libpq {
		closed = append(closed, "host="+Nowhere, "port=1", "dbname=none")
	}
	return closed
}

// closeWrappers takes the handler from wrappers we don't know, clears options of wrappers, and
// makes foreign tables that would start a program read a file that does not exist.
func closeWrappers(ctx context.Context, tx pgx.Tx, o *outcome) error {
	names, err := column(ctx, tx, `SELECT fdwname::text FROM pg_foreign_data_wrapper w JOIN pg_proc h ON h.oid = fdwhandler
		WHERE h.proname NOT IN ('postgres_fdw_handler', 'file_fdw_handler') ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := tx.Exec(ctx, "ALTER FOREIGN DATA WRAPPER "+ident(n)+" NO HANDLER"); err != nil {
			return err
		}
		o.notes = append(o.notes, "wrapper "+n+" has no handler now; its foreign tables can't be read")
	}
	tag, err := tx.Exec(ctx, `UPDATE pg_foreign_data_wrapper SET fdwoptions = NULL WHERE fdwoptions IS NOT NULL`)
	if err != nil {
		return err
	}
	o.rows += int64(len(names)) + tag.RowsAffected()
	tag, err = tx.Exec(ctx, `UPDATE pg_foreign_table SET ftoptions = (SELECT array_agg(CASE WHEN starts_with(x, 'program=') THEN 'filename=`+Nowhere+`' ELSE x END)
		FROM unnest(ftoptions) x) WHERE EXISTS (SELECT FROM unnest(ftoptions) x WHERE starts_with(x, 'program='))`)
	if err != nil {
		return err
	}
	if n := tag.RowsAffected(); n > 0 {
		o.rows += n
		o.notes = append(o.notes, fmt.Sprintf("%d foreign tables would have started a program", n))
	}
	return nil
}

func dropOrigins(ctx context.Context, _ *job, tx pgx.Tx, o *outcome) error {
	names, err := column(ctx, tx, `SELECT roname FROM pg_replication_origin ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := tx.Exec(ctx, `SELECT pg_replication_origin_drop($1)`, n); err != nil {
			return err
		}
	}
	o.rows, o.notes = int64(len(names)), names
	return nil
}

// dropSlots drops the slots a copy should not have: an image brings none. Dropping is not
// transactional, so it looks at what is left.
func dropSlots(ctx context.Context, _ *job, conn *pgx.Conn, o *outcome) error {
	names, err := column(ctx, conn, `SELECT slot_name::text FROM pg_replication_slots WHERE NOT active ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, n); err != nil {
			return err
		}
	}
	o.rows, o.notes = int64(len(names)), names
	return nil
}
