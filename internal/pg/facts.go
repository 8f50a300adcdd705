package pg

// What a plain session can tell of a production before it is recorded: settings, the
// role's rights, the slot, databases and tablespaces. Everything is read, nothing written.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// Facts are what ReadFacts found out.
type Facts struct {
	Where      string // user@host:port
	Major      int
	ServerTime time.Time
	InRecovery bool // a standby
	// Address is the server's end of this connection, as the server says; "" when it is a Unix socket or loopback.
	Address string

	Role            string
	MayReplicate    bool // REPLICATION or SUPERUSER
	ReadsSettings   bool // pg_read_all_settings, pg_monitor or SUPERUSER
	ReadsStatistics bool // pg_read_all_stats: database sizes

	WALLevel        string
	FullPageWrites  bool
	MaxWALSenders   int
	UsedWALSenders  int // by others than sessions of our application name, with or without "-image"
	MaxSlots        int
	UsedSlots       int
	MaxSlotWALKeep  int64  // bytes; -1: unlimited
	SegmentSize     int64  // bytes
	SyncStandbys    string // synchronous_standby_names
	SenderTimeout   time.Duration
	Preload         string            // shared_preload_libraries, as far as it may be read
	Settings        map[string]string // those not at their default, with unit
	Databases       map[string]int64  // size in bytes; -1 where the role may not ask
	Tablespaces     map[string]string // OID to path, without the two built-in ones
	Slot            *SlotFacts        // nil: there is none of this name
	SlotApplication string            // application_name of the slot's user, where visible
}

// SlotFacts are one row of pg_replication_slots.
type SlotFacts struct {
	Type      string // physical or logical
	Active    bool
	ActivePID int
	WALStatus string // reserved, extended, unreserved, lost; "" when it reserves nothing
	Restart   sandglass.LSN
}

// settingsOut are settings never kept: they hold secrets, or belong to our own session.
var settingsOut = map[string]bool{"primary_conninfo": true, "ssl_passphrase_command": true, "application_name": true,
	"client_encoding": true}

// ReadFacts asks a server for its facts; slot is the replication slot of interest. The
// errors are those of Connect.
func ReadFacts(ctx context.Context, t Target, slot string) (Facts, error) {
	cfg, err := t.config()
	if err != nil {
		return Facts{}, err
	}
	if cfg.Database == "" || cfg.Database == cfg.User {
		cfg.Database = "postgres" // libpq's default, a database named like the role, seldom exists
	}
	// whatever a role or database sets must not decide what is read
	cfg.RuntimeParams["search_path"] = "pg_catalog"
	cfg.RuntimeParams["default_transaction_read_only"] = "on"
	pc, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return Facts{}, connectError("connect for facts", describe(cfg), err)
	}
	defer func() { _ = pc.Close(context.WithoutCancel(ctx)) }()
	f := Facts{Where: describe(cfg)}
	if f.Major, err = parseMajor(pc.ParameterStatus("server_version")); err != nil {
		return Facts{}, err
	}
	if !Supported(f.Major) {
		return Facts{}, majorError(f.Where, f.Major)
	}
	q := &factQuery{ctx: ctx, pc: pc}
	f.read(q, slot, t.Application)
	if q.err != nil {
		if pe, ok := errors.AsType[*pgconn.PgError](q.err); !ok || pe.Severity == "FATAL" {
			return Facts{}, unreachable("read facts", f.Where, q.err)
		}
		return Facts{}, fmt.Errorf("read facts: %w", q.err)
	}
	return f, nil
}

func (f *Facts) read(q *factQuery, slot, application string) {
	row := q.row(`select extract(epoch from clock_timestamp())::numeric(20,6), pg_is_in_recovery(), current_user,
		r.rolreplication or r.rolsuper, r.rolsuper or pg_has_role('pg_read_all_settings','usage'), r.rolsuper or pg_has_role('pg_read_all_stats','usage'),
		(select count(*) from pg_stat_replication where application_name is null or application_name <> $1 and $1 <> application_name || '-image' and application_name <> $1 || '-image'),
		(select count(*) from pg_replication_slots), coalesce(host(inet_server_addr()), '')
		from pg_roles r where r.rolname = current_user`, application)
	seconds, _ := strconv.ParseFloat(row(0), 64)
	f.ServerTime = time.UnixMicro(int64(seconds * 1e6)).UTC()
	f.InRecovery, f.Role = row(1) == "t", row(2)
	f.MayReplicate, f.ReadsSettings, f.ReadsStatistics = row(3) == "t", row(4) == "t", row(5) == "t"
	f.UsedWALSenders, f.UsedSlots = number(row(6)), number(row(7))
	if ip, err := netip.ParseAddr(row(8)); err == nil && !ip.Unmap().IsLoopback() {
		f.Address = ip.Unmap().WithZone("").String()
	}

	all := make(map[string]string)
	f.Settings = make(map[string]string)
	for _, r := range q.rows(`select name, setting, coalesce(unit,''), source from pg_settings`) {
		name, value, unit, source := r[0], r[1], r[2], r[3]
		all[name] = value
		if source == "default" || source == "override" || source == "client" || source == "session" || settingsOut[name] {
			continue
		}
		if unit != "" && value != "-1" {
			value += " x " + unit
			if unit == "ms" || unit == "s" || unit == "min" || unit == "kB" || unit == "MB" || unit == "B" {
				value = r[1] + unit
			}
		}
		f.Settings[name] = value
	}
	f.WALLevel, f.FullPageWrites = all["wal_level"], all["full_page_writes"] == "on"
	f.MaxWALSenders, f.MaxSlots = number(all["max_wal_senders"]), number(all["max_replication_slots"])
	f.MaxSlotWALKeep = int64(number(all["max_slot_wal_keep_size"]))
	if f.MaxSlotWALKeep > 0 {
		f.MaxSlotWALKeep <<= 20 // its unit is MB
	}
	f.SegmentSize = int64(number(all["wal_segment_size"]))
	f.SyncStandbys, f.Preload = all["synchronous_standby_names"], all["shared_preload_libraries"]
	f.SenderTimeout = time.Duration(number(all["wal_sender_timeout"])) * time.Millisecond

	f.Databases = make(map[string]int64)
	for _, r := range q.rows(`select datname, case when has_database_privilege(oid,'connect') or pg_has_role('pg_read_all_stats','usage')
		then pg_database_size(oid) else -1 end from pg_database where datconnlimit <> -2`) {
		n, _ := strconv.ParseInt(r[1], 10, 64)
		f.Databases[r[0]] = n
	}
	f.Tablespaces = make(map[string]string)
	for _, r := range q.rows(`select oid, pg_tablespace_location(oid) from pg_tablespace where oid not in (1663, 1664)`) {
		f.Tablespaces[r[0]] = r[1]
	}
	for _, r := range q.rows(`select slot_type, active, coalesce(active_pid,0), coalesce(wal_status,''), coalesce(restart_lsn,'0/0'),
		coalesce((select application_name from pg_stat_replication where pid = active_pid),'')
		from pg_replication_slots where slot_name = $1`, slot) {
		s := &SlotFacts{Type: r[0], Active: r[1] == "t", ActivePID: number(r[2]), WALStatus: r[3]}
		s.Restart, _ = sandglass.ParseLSN(r[4])
		f.Slot, f.SlotApplication = s, r[5]
	}
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// maxFacts is more rows than any of these queries has: of settings, of databases. A sandbox's server is its team's, and may say anything.
const maxFacts = 100_000

// factQuery runs queries until one fails.
type factQuery struct {
	ctx context.Context
	pc  *pgconn.PgConn
	err error
}

func (q *factQuery) rows(sql string, args ...string) [][]string {
	if q.err != nil {
		return nil
	}
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	r := q.pc.ExecParams(q.ctx, sql, values, nil, nil, nil)
	var rows [][]string
	for r.NextRow() && len(rows) < maxFacts {
		row := make([]string, len(r.Values()))
		for i, v := range r.Values() {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	if len(rows) == maxFacts {
		q.err = fmt.Errorf("the server's answer has no end: %s", sql)
		return nil
	}
	if _, q.err = r.Close(); q.err != nil {
		return nil
	}
	return rows
}

// row gives the fields of the only row; "" for all when there is none.
func (q *factQuery) row(sql string, args ...string) func(i int) string {
	rows := q.rows(sql, args...)
	return func(i int) string {
		if len(rows) != 1 || i >= len(rows[0]) {
			return ""
		}
		return rows[0][i]
	}
}
