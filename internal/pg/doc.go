// Package pg holds the facts of PostgreSQL that need no server (pg_control, backup_label,
// tablespace_map) and a client of its physical replication protocol, for majors 14 to 18.
//
// A Conn speaks the commands of a walsender (replication/walsender.c, repl_gram.y) in the
// simple query protocol: IDENTIFY_SYSTEM, the slot commands, SHOW, TIMELINE_HISTORY,
// BASE_BACKUP and START_REPLICATION. ReadFacts asks a plain session for what a person
// must know before a production is recorded.
package pg

// MinMajor and MaxMajor are the PostgreSQL majors Sandglass knows.
const (
	MinMajor = 14
	MaxMajor = 18
)

// Supported says whether Sandglass knows the major.
func Supported(major int) bool { return major >= MinMajor && major <= MaxMajor }
