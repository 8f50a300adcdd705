// The built-in rules, in the order they run. Reading this table is knowing what a restore takes
// out of a copy and what it puts back.

package policy

import (
	"context"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// rule is one thing a restore does to the copy.
type rule struct {
	name string // stable; kept in sandglass.rule_done
	what string // for the plan, in people's words
	why  string
	// proof are the assertions that see when it was not done.
	proof []sandglass.Code
	// everyDatabase: once in each database; else once, on what the cluster shares.
	everyDatabase bool
	// database is the one database, by its name in the sandbox, that a pack's rule works in.
	database string
	of       *pack.Rule // that rule; nil: ours, or those of carries
	// carries are the rules of packs that this one stands for: rows that stay the sandbox's own.
	carries []carryRule
	// needsTarget: nothing to do at a first restore.
	needsTarget bool
	// ofTarget: depends on the sandbox's own roles and rights, hence is applied again when those
	// have changed since.
	ofTarget bool
	// tx works in the transaction that records the rule as done. plain is for statements that
	// can't be in one; it must find out by itself what is left to do.
	tx    func(context.Context, *job, pgx.Tx, *outcome) error
	plain func(context.Context, *job, *pgx.Conn, *outcome) error
}

// outcome is what a rule did.
type outcome struct {
	rows   int64
	seen   int64    // rows of the table, before
	notes  []string // what was found, without secrets
	missed []string // what of the sandbox could not be given to the copy
	ranged bool     // plain has done it all, range by range
}

// Names of the two rules that run before there is a place to record them: they look at the
// cluster itself to see what is left to do.
const (
	rulePrepared  = "prepared-transactions"
	ruleDatabases = "databases"
)

func rules() []rule {
	return []rule{
		{name: rulePrepared, proof: []sandglass.Code{"proof.prepared_transactions"}, what: "Prepared transactions are rolled back.",
			why: "Nobody would ever finish them in the copy, and they hold locks and keep vacuum from its work."},
		{name: ruleDatabases, proof: []sandglass.Code{"proof.databases"}, what: "Databases that no role of the sandbox names are dropped; the others get the sandbox's names.",
			why: "What nobody asked for is not left lying about."},
		{name: "event-triggers", proof: []sandglass.Code{"proof.event_triggers"}, everyDatabase: true, tx: disableEventTriggers, what: "Event triggers are disabled.",
			why: "They would run production's code at every later statement, or at every login."},
		{name: "subscriptions", proof: []sandglass.Code{"proof.subscriptions"}, everyDatabase: true, tx: dropSubscriptions, what: "Subscriptions are dropped without a word to their publishers.",
			why: "They would take the changes that production's own subscription waits for."},
		{name: "publications", proof: []sandglass.Code{"proof.publications"}, everyDatabase: true, tx: dropPublications, what: "Publications are dropped.",
			why: "They have no subscriber here, and make updates of tables without a key fail."},
		{name: "foreign-servers", proof: []sandglass.Code{"proof.foreign_servers", "proof.user_mappings"}, everyDatabase: true, tx: closeForeignServers, what: "Foreign servers lead nowhere; user mappings and their passwords are dropped.",
			why: "A query in the sandbox would read or change other systems with production's rights."},
		{name: "scheduled-jobs", proof: []sandglass.Code{"proof.scheduled_jobs"}, everyDatabase: true, tx: stopJobs, what: "Scheduled jobs (pg_cron, pg_timetable, pgAgent, pg_partman, TimescaleDB, pg_net) are switched off, and lead to no other server.",
			why: "They would send, purge or load as if they were production."},
		{name: "replication-origins", proof: []sandglass.Code{"proof.replication_origins"}, tx: dropOrigins, what: "Replication origins are dropped.",
			why: "A new subscription would take their positions for its own."},
		{name: "replication-slots", proof: []sandglass.Code{"proof.replication_slots"}, plain: dropSlots, what: "Replication slots are dropped.",
			why: "Nobody reads them here, and they would fill the disk with WAL."},
		{name: "alter-system", proof: []sandglass.Code{"proof.alter_system"}, plain: resetSystem, what: "What ALTER SYSTEM had set is gone: memory, preloaded libraries, archiving and all the rest.",
			why: "It is made for production's machine and production's neighbours; the sandbox's server has settings of its own."},
		{name: "production-roles", proof: []sandglass.Code{"proof.login_roles", "proof.passwords", "proof.superusers", "proof.attributes"}, ofTarget: true, tx: closeRoles, what: "Production's roles can't log in: no password, no attributes.",
			why: "A password of production must open nothing in a sandbox."},
		{name: "sandbox-roles", proof: []sandglass.Code{"proof.login_roles", "proof.passwords"}, needsTarget: true, ofTarget: true, tx: giveRoles, what: "The sandbox's roles keep their passwords and attributes.",
			why: "People go on using the logins they have."},
		{name: "memberships", proof: []sandglass.Code{"proof.memberships"}, ofTarget: true, tx: giveMemberships, what: "Memberships are the sandbox's; roles_map adds its own.",
			why: "What a role may do follows from what it belongs to."},
		{name: "database-access", needsTarget: true, ofTarget: true, tx: giveDatabaseAccess, what: "Owners, limits and access of the databases are the sandbox's.",
			why: "Who may connect to what is the sandbox's own affair."},
		{name: "grants", everyDatabase: true, needsTarget: true, ofTarget: true, tx: giveGrants, what: "The sandbox's grants and default privileges are given again to what exists by name.",
			why: "Its roles need their rights on production's tables."},
		{name: "settings", proof: []sandglass.Code{"proof.settings"}, ofTarget: true, tx: giveSettings, what: "Settings of roles and databases are the sandbox's, none is production's.",
			why: "Production's settings name its libraries, its sizes and its search paths."},
		// The last two come after the rules of packs, which may still be refused; see Input.rules.
		{name: "records", proof: []sandglass.Code{"proof.rules_done"}, everyDatabase: true, tx: noteRecords, what: "Each database says what it is a copy of, and what differs from production on purpose (sandglass.origin, sandglass.changed_columns).",
			why: "Whoever reads the copy can ask it, and nobody copies the wrong columns back."},
		{name: "rewrite-catalogs", proof: []sandglass.Code{"proof.password_remains"}, everyDatabase: true, ofTarget: true, plain: rewriteCatalogs, what: "The catalogs that held passwords are rewritten.",
			why: "PostgreSQL leaves old values in its files until then."},
	}
}
