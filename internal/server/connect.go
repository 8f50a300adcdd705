// Sessions of ours.

package server

import (
	"context"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// sealedSession are the settings of every session of ours. They go in the startup packet, which wins
// over what ALTER DATABASE and ALTER ROLE say, as the server's command line does not.
func sealedSession(major int) map[string]string {
	s := map[string]string{
		"application_name":                    Role,
		"session_preload_libraries":           "",
		"local_preload_libraries":             "",
		"search_path":                         "pg_catalog",
		"statement_timeout":                   "0",
		"temp_file_limit":                     "-1", // spares no superuser, and an index that is made anew sorts on the disk
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
		"idle_session_timeout":                "0",
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		"default_transaction_deferrable":      "off",
		"row_security":                        "on",
		"standard_conforming_strings":         "on",
		"client_encoding":                     "UTF8",
		"client_min_messages":                 "notice",
		"DateStyle":                           "ISO, YMD",
		"IntervalStyle":                       "postgres",
		"TimeZone":                            "UTC",
		"role":                                "none",
	}
	if major >= 17 {
		s["event_triggers"] = "off"
		s["transaction_timeout"] = "0"
	}
	return s
}

// Connect opens a session as Role over the private socket, with none of the settings the cluster's
// databases and roles may carry.
func Connect(ctx context.Context, c Config, database string) (*pgx.Conn, error) {
	cfg, err := ConnectConfig(c, database)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, &sandglass.Error{Code: sandglass.CodeServerFailed, Op: "connect to server", Err: err,
			Message: fmt.Sprintf("The database %s of the server on %s can't be entered.", database, c.Data),
			Remedy:  "The server's log is " + c.Log + "."}
	}
	return conn, nil
}

// ConnectConfig is how Connect connects, for those who need a pool or a replication connection.
func ConnectConfig(c Config, database string) (*pgx.ConnConfig, error) {
	// All is set below; the environment (PGUSER and the like) has no say.
	cfg, err := pgx.ParseConfig("host=/ user=x sslmode=disable passfile=/dev/null servicefile=/dev/null")
	if err != nil {
		return nil, fmt.Errorf("connect to server: %w", err)
	}
	cfg.Host, cfg.Port = c.Run, uint16(c.port())
	cfg.User, cfg.Password, cfg.Database = Role, "", database
	cfg.TLSConfig, cfg.Fallbacks, cfg.ValidateConnect = nil, nil, nil
	cfg.RuntimeParams = maps.Clone(sealedSession(c.Binaries.Major))
	return cfg, nil
}
