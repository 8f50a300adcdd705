// Scheduled jobs of the schedulers that keep them in tables, and the queues of applications, which
// only a pack can know how to empty.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// jobTable is where a scheduler keeps its jobs, or where they lead. Schema "" means that of the extension.
type jobTable struct {
	scheduler, extension, schema, table string
	column, off                         string // column = off switches a job off, or takes its address
}

// jobTables are those known, by the schedulers' own SQL scripts: pg_cron 1.0 to 1.6, pg_timetable
// 4 and 5, pgAgent 4, pg_partman 4 and 5, TimescaleDB 2. A job of pg_cron leads to the sandbox's
// own server: with production's port it could reach production, where both are on one host.
func jobTables(e sandglass.Environment) []jobTable {
	port := "1"
	if e.Server != nil && e.Server.Port != 0 {
		port = strconv.Itoa(e.Server.Port)
	}
	return []jobTable{
		{"pg_cron", "pg_cron", "cron", "job", "active", "false"},
		{"pg_cron", "pg_cron", "cron", "job", "nodename", "'localhost'"},
		{"pg_cron", "pg_cron", "cron", "job", "nodeport", port},
		{"pg_timetable", "", "timetable", "chain", "live", "false"},
		{"pg_timetable", "", "timetable", "task", "database_connection", "NULL"},
		{"pgAgent", "", "pgagent", "pga_job", "jobenabled", "false"},
		{"pgAgent", "", "pgagent", "pga_jobstep", "jstconnstr", "''"},
		{"pg_partman", "pg_partman", "", "part_config", "automatic_maintenance", "'off'"},
		{"pg_partman", "pg_partman", "", "part_config_sub", "sub_automatic_maintenance", "'off'"},
		{"TimescaleDB", "", "_timescaledb_config", "bgw_job", "scheduled", "false"},
	}
}

// httpQueue is pg_net's: what production was about to send.
var httpQueue = jobTable{scheduler: "pg_net", schema: "net", table: "http_request_queue", column: "url"}

// jobRelation finds a job table, "" when there is none, quoted.
func jobRelation(ctx context.Context, q querier, t jobTable) (string, error) {
	names, err := column(ctx, q, `SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND attname = $4 AND NOT attisdropped
		WHERE relname = $3 AND relkind IN ('r', 'p') AND (nspname = $2 OR $2 = '' AND n.oid = (SELECT extnamespace FROM pg_extension WHERE extname = $1))`,
		t.extension, t.schema, t.table, t.column)
	if err != nil || len(names) == 0 {
		return "", err
	}
	return names[0], nil
}

// jobRelations are all job tables of this database, each once.
func jobRelations(ctx context.Context, q querier) (all []string, err error) {
	for _, t := range append(jobTables(sandglass.Environment{}), httpQueue) {
		relation, err := jobRelation(ctx, q, t)
		if err != nil {
			return nil, err
		}
		if relation != "" && !slices.Contains(all, relation) {
			all = append(all, relation)
		}
	}
	return all, nil
}

// stopJobs switches off jobs. The session is in replica role, so the schedulers' own triggers,
// whose libraries are not loaded, don't fire.
func stopJobs(ctx context.Context, j *job, tx pgx.Tx, o *outcome) error {
	for _, t := range jobTables(j.in.Environment) {
		relation, err := jobRelation(ctx, tx, t)
		if err != nil {
			return err
		}
		if relation == "" {
			continue
		}
		tag, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s = %s WHERE %[2]s IS DISTINCT FROM %[3]s", relation, t.column, t.off))
		if err != nil {
			return err
		}
		o.rows += tag.RowsAffected()
		o.notes = append(o.notes, fmt.Sprintf("%s: %s of %d rows of %s", t.scheduler, t.column, tag.RowsAffected(), relation))
	}
	relation, err := jobRelation(ctx, tx, httpQueue)
	if err != nil || relation == "" {
		return err
	}
	tag, err := tx.Exec(ctx, "DELETE FROM "+relation)
	o.rows += tag.RowsAffected()
	return err
}

// activeJobs are the job tables that hold what stopJobs takes out.
func activeJobs(ctx context.Context, p *prover, q querier) ([]string, error) {
	var active []string
	for _, t := range append(jobTables(p.in.Environment), httpQueue) {
		relation, err := jobRelation(ctx, q, t)
		if err != nil {
			return nil, err
		}
		if relation == "" {
			continue
		}
		condition := ""
		if t.off != "" {
			condition = fmt.Sprintf(" WHERE %s IS DISTINCT FROM %s", t.column, t.off)
		}
		var n int64
		if err := q.QueryRow(ctx, "SELECT count(*) FROM "+relation+condition).Scan(&n); err != nil {
			return nil, err
		}
		if n > 0 {
			active = append(active, fmt.Sprintf("%d of %s by %s", n, relation, t.column))
		}
	}
	return active, nil
}

// queueTables are tables of the job queues that applications bring with them, each known by its
// name and columns only it has. Their jobs would run a second time in the sandbox.
var queueTables = []struct{ queue, table, columns string }{
	{"River", "river_job", "kind,args,scheduled_at"},
	{"Que", "que_jobs", "job_class,run_at"},
	{"Oban", "oban_jobs", "worker,args,scheduled_at"},
	{"Good Job", "good_jobs", "serialized_params,scheduled_at"},
	{"Delayed Job", "delayed_jobs", "handler,run_at"},
	{"Solid Queue", "solid_queue_jobs", "class_name,arguments"},
	{"Graphile Worker", "_private_jobs", "task_id,payload,run_at"},
	{"Graphile Worker", "jobs", "task_identifier,payload,run_at"},
	{"pg-boss", "job", "singleton_key,retry_limit,start_after"},
	{"Procrastinate", "procrastinate_jobs", "task_name,args"},
	{"Hangfire", "job", "invocationdata,arguments,statename"},
	{"Quartz", "qrtz_triggers", "trigger_name,next_fire_time"},
	{"PGMQ", "meta", "queue_name,is_partitioned,is_unlogged"},
	{"Django Q", "django_q_schedule", "func,next_run"},
	{"Celery beat", "django_celery_beat_periodictask", "task,enabled"},
	{"Odoo", "ir_cron", "nextcall,active"},
	{"ServiceBus outbox", "outboxmessage", "enqueuetime,senttime"},
}

// queues finds those of this database that no rule of a pack is about.
func (i *inspector) queues(ctx context.Context, conn *pgx.Conn, d *DatabaseFact) error {
	covered := []uint32{}
	for _, p := range i.in.Packs {
		for _, r := range p.Rules {
			if i.in.Environment.Databases[r.Database] != d.Final {
				continue
			}
			t, err := findTable(ctx, conn, r.Table)
			if err != nil {
				return err
			}
			covered = append(covered, t.OID)
		}
	}
	var names, tables, columns []string
	for _, t := range queueTables {
		names, tables, columns = append(names, t.queue), append(tables, t.table), append(columns, t.columns)
	}
	found, err := column(ctx, conn, `SELECT DISTINCT format('%I.%I (%s)', nspname, relname, queue) FROM unnest($1::text[], $2::text[], $3::text[]) k (queue, name, has)
		JOIN pg_class c ON relname = name AND relkind IN ('r', 'p') JOIN pg_namespace n ON n.oid = relnamespace WHERE `+userSchema+` AND c.oid <> ALL ($4)
		AND (SELECT count(*) FROM unnest(string_to_array(has, ',')) a JOIN pg_attribute ON attrelid = c.oid AND attname = a AND NOT attisdropped) = cardinality(string_to_array(has, ',')) ORDER BY 1`,
		names, tables, columns, covered)
	if err != nil || len(found) == 0 {
		return err
	}
	i.add(sandglass.Finding{Code: CodeQueues, Level: sandglass.Warning, Message: d.Name + ": Queues of applications, whose jobs would run a second time in the sandbox, and which no rule is about: " + some(found) + ".",
		Remedy: "Write a rule of a pack for each (docs/PACKS.md) that removes or holds what is to run, before the application is started in the sandbox."})
	return nil
}
