// Commits with the names of what they changed. WAL knows numbers only; the names are asked of the
// running server, so that a relation that is gone, or was rewritten since, keeps its number.

package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/server"
	"sandglass/internal/window"
)

// namesWait bounds asking for names: commits are shown by number rather than late.
const namesWait = 5 * time.Second

// toast marks the relations that hold parts of another's rows; they are not shown.
const toast = "pg_toast"

// Commits gives transactions with the rows they changed, oldest first.
func (c windows) Commits(ctx context.Context, name string, q sandglass.CommitQuery) ([]sandglass.Commit, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return nil, err
	}
	names := c.relationNames(ctx, e)
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	found := []sandglass.Commit{}
	for commit, err := range window.Commits(ctx, c.repo, e.Declaration, c.recorders.Live(name), q.From, q.To) {
		if err != nil {
			return nil, err
		}
		commit.Rows = named(commit.Rows, names)
		if !matches(commit, q) {
			continue
		}
		if found = append(found, commit); len(found) > 2*limit {
			found = slices.Delete(found, 0, len(found)-limit)
		}
	}
	return found[max(0, len(found)-limit):], nil
}

// matches says whether the query wants the commit.
func matches(c sandglass.Commit, q sandglass.CommitQuery) bool {
	var rows int64
	hit := q.Relation == ""
	for _, r := range c.Rows {
		if q.Relation != "" && !isRelation(r.Relation, q.Relation) {
			continue
		}
		hit = true
		rows += r.Inserted + r.Updated + r.Deleted
		if r.Truncated {
			return true
		}
	}
	return hit && rows >= q.MinRows
}

// isRelation says whether a relation is the one asked for; without a schema it is meant in all of them.
func isRelation(name, asked string) bool {
	if inPublic, ok := strings.CutPrefix(asked, "public."); ok {
		return name == inPublic // as it is shown
	}
	return name == asked || strings.HasSuffix(name, "."+asked)
}

// named puts names where they are known and leaves TOAST relations out.
func named(rows []sandglass.RelationRows, names map[string]string) []sandglass.RelationRows {
	out := make([]sandglass.RelationRows, 0, len(rows))
	for _, r := range rows {
		relation, known := names[r.Database+" "+r.Relation]
		if relation == toast {
			continue
		}
		if known {
			r.Relation = relation
		}
		if database, ok := names[r.Database]; ok {
			r.Database = database
		}
		out = append(out, r)
	}
	return out
}

// relationNames asks the running server: "oid 16384" to the database's name, "oid 16384 filenode
// 16402" to the relation's. What can't be had is left out.
func (c *Control) relationNames(ctx context.Context, e db.Environment) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, namesWait)
	defer cancel()
	names := map[string]string{}
	connect, err := c.plainConnect(ctx, e)
	if err == nil {
		err = readNames(ctx, connect, names)
	}
	if err != nil {
		c.Log.Warn("names of relations could not be read", "environment", e.Declaration.Name, "error", err)
	}
	return names
}

// plainConnect opens ordinary sessions on the environment's server.
func (c *Control) plainConnect(ctx context.Context, e db.Environment) (func(ctx context.Context, database string) (*pgx.Conn, error), error) {
	if e.Declaration.Kind == sandglass.Sandbox {
		config, err := c.host.Sandbox(ctx, e)
		return func(ctx context.Context, database string) (*pgx.Conn, error) {
			return server.Connect(ctx, config, database)
		}, err
	}
	config, err := pgx.ParseConfig(e.Declaration.Recording.Connection)
	if err != nil {
		return nil, fmt.Errorf("read connection: %w", err)
	}
	if file := e.Declaration.Recording.PasswordFile; file != "" {
		password, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read password: %w", err)
		}
		config.Password = strings.TrimRight(string(password), "\r\n")
	}
	delete(config.RuntimeParams, "replication")
	config.RuntimeParams["default_transaction_read_only"] = "on"
	return func(ctx context.Context, database string) (*pgx.Conn, error) {
		config := config.Copy()
		config.Database = database
		return pgx.ConnectConfig(ctx, config)
	}, nil
}

func readNames(ctx context.Context, connect func(context.Context, string) (*pgx.Conn, error), names map[string]string) error {
	conn, err := connect(ctx, "postgres")
	if err != nil {
		return err
	}
	rows, err := conn.Query(ctx, `SELECT oid, datname FROM pg_catalog.pg_database WHERE datallowconn AND pg_catalog.has_database_privilege(oid, 'CONNECT') AND datname <> 'template1'`)
	if err != nil {
		conn.Close(ctx)
		return err
	}
	type database struct {
		OID  uint32
		Name string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[database])
	conn.Close(ctx)
	if err != nil {
		return err
	}
	var missing []error // one database that can't be opened costs only its own names
	for _, d := range all {
		key := fmt.Sprintf("oid %d", d.OID)
		names[key] = d.Name
		if err := relationsOf(ctx, connect, d.Name, key, names); err != nil {
			missing = append(missing, fmt.Errorf("database %s: %w", d.Name, err))
		}
	}
	return errors.Join(missing...)
}

func relationsOf(ctx context.Context, connect func(context.Context, string) (*pgx.Conn, error), database, key string, names map[string]string) error {
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT c.oid, coalesce(pg_catalog.pg_relation_filenode(c.oid), 0),
			CASE WHEN c.relkind = 't' THEN $1 ELSE n.nspname || '.' || c.relname END
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'm', 't') AND c.oid >= 16384`, toast)
	if err != nil {
		return err
	}
	var oid, file uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&oid, &file, &name}, func() error {
		name := strings.TrimPrefix(name, "public.")
		names[fmt.Sprintf("%s oid %d", key, oid)] = name
		if file != 0 {
			names[fmt.Sprintf("%s filenode %d", key, file)] = name
		}
		return nil
	})
	return err
}
