// Package policy takes out of a recovered, sealed copy what must not come along, gives it the
// sandbox's own roles, settings and grants, and proves both.
//
// This file is the package's language: the staging server it works on, what it is told, and
// what it reports. The built-in rules are listed in rules.go; every rule commits together with
// its row in sandglass.rule_done of the database it worked in, so that a killed run goes on
// where it stopped and no rule is applied twice.
package policy

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// OurRole is the superuser of ours in every staging and sandbox cluster. The name is reserved:
// a role of production with this name becomes ours, without its password and memberships.
const OurRole = "sandglass"

// Connect opens a session of OurRole in a database, with the sealed startup options
// (field/postgres.md 12: no preloaded libraries, search_path=pg_catalog, no timeouts, read-write,
// on 17 and later event_triggers=off).
type Connect func(ctx context.Context, database string) (*pgx.Conn, error)

// Staging is a recovered, promoted, sealed server.
type Staging struct {
	Connect Connect
	// SingleUser runs statements, each on one line, in a single-user backend of the stopped
	// server and returns what it printed. Only FirstContact uses it.
	SingleUser func(ctx context.Context, database string, sql ...string) (string, error)
	Major      int
	Log        *slog.Logger
	kept       *kept // nil: each use has a session of its own
}

// Input is what a neutralization is told.
type Input struct {
	// Run names this restore (the operation's id). Rules done by another run, which a copy of
	// a sandbox brings along, don't count.
	Run string
	// Source and Environment are the declarations of where the copy comes from and of the
	// sandbox it will be.
	Source      sandglass.Environment
	Environment sandglass.Environment
	// Target is what ReadTarget found in the running sandbox; nil at a first restore.
	Target *Target
	// FromTarget opens sessions in the running sandbox, to read the rows that stay its own; nil at a
	// first restore, or where the sandbox is down and that was accepted: then there are none.
	FromTarget Connect
	// Counts are the rows that each rule would carry, as CountCarried found them; for Describe.
	Counts map[string]int64
	// Packs are those of the sandbox: their rules, assertions and quiesce checks apply too.
	Packs []pack.Pack
	// Moment is what the copy shows, for people.
	Moment string
	// Synchronized says, to Prove, that the sandbox's own migrations have run since: they may
	// have made roles, settings or servers on purpose, and their finding can be accepted.
	Synchronized bool
	// Range is how much of a big table one transaction of a rule goes through; 0: DefaultRange.
	Range sandglass.Bytes
	// Progress is called before each rule, and once at the end; may be nil.
	Progress func(sandglass.Progress)
}

// Report is what a neutralization did.
type Report struct {
	Rules []RuleReport `json:"rules"`
	// NotReapplied says, in people's words, what of the sandbox could not be given to the copy.
	NotReapplied []string `json:"not_reapplied"`
	Seconds      float64  `json:"seconds"`
}

// RuleReport is what one rule did in one database.
type RuleReport struct {
	Rule string `json:"rule"`
	Why  string `json:"why"`
	// Database is empty for rules on the whole cluster.
	Database string `json:"database,omitempty"`
	Rows     int64  `json:"rows"` // things changed: roles, servers, rows, ...
	// Seen are the rows that the table of a pack's rule had before.
	Seen int64 `json:"seen,omitempty"`
	// Carried says that Rows are the sandbox's own, which the copy has now, of the Seen in the sandbox.
	Carried bool    `json:"carried,omitempty"`
	Seconds float64 `json:"seconds"`
	// Notes name what was found, without secrets.
	Notes []string `json:"notes,omitempty"`
	// Skipped says that an earlier, interrupted attempt of the same run had done it.
	Skipped bool `json:"skipped,omitempty"`
}

// Contact is what FirstContact found and changed.
type Contact struct {
	// Opened are databases that accepted no connections; Finish closes them again.
	Opened []string `json:"opened,omitempty"`
	// Settings are production's ALTER ROLE/DATABASE settings, now gone, by name only.
	Settings []string `json:"settings,omitempty"`
}

// Facts are what Inspect read from the copy.
type Facts struct {
	Version       string         `json:"version"`   // server_version
	Superuser     string         `json:"superuser"` // the bootstrap superuser's name
	Databases     []DatabaseFact `json:"databases"`
	LoginRoles    []string       `json:"login_roles"`
	Prepared      []string       `json:"prepared_transactions,omitempty"` // "database: gid"
	Subscriptions []string       `json:"subscriptions,omitempty"`         // "database: name"
	Tablespaces   []string       `json:"tablespaces,omitempty"`
}

// DatabaseFact is one database of the copy.
type DatabaseFact struct {
	Name  string `json:"name"`
	Final string `json:"final,omitempty"` // its name in the sandbox; empty: dropped
	Bytes int64  `json:"bytes"`
	// Extensions are names with versions ("postgis 3.3.2").
	Extensions []string `json:"extensions,omitempty"`
}
