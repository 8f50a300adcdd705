// Checking a pack against a live database: what its rules would meet there. Nothing is changed: statements are only
// prepared, which asks for no rights on tables, and rows are counted in read-only transactions.

package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/pack"
)

// Codes of Check.
const (
	CodeExpression sandglass.Code = "policy.expression" // what the server says of a rule's SQL
	CodeNotCounted sandglass.Code = "policy.not_counted"
)

// countTimeout bounds the count of one table's rows.
const countTimeout = "20s"

// Check says what the rules and questions on one role of database meet in the database that the session is in.
func Check(ctx context.Context, conn *pgx.Conn, p pack.Pack, role string) ([]sandglass.RuleCheck, error) {
	if _, err := conn.Exec(ctx, `SET search_path = pg_catalog; SET default_transaction_read_only = on; SET row_security = off; SET statement_timeout = '`+countTimeout+`'; SET lock_timeout = '2s'; SET max_parallel_workers_per_gather = 0`); err != nil {
		return nil, fmt.Errorf("prepare session: %w", err)
	}
	c := checker{conn: conn, pack: p}
	var all []sandglass.RuleCheck
	for _, r := range p.Rules {
		if r.Database != role {
			continue
		}
		found, err := c.rule(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("check rule %s: %w", r.Name, err)
		}
		all = append(all, found)
	}
	for _, asked := range []struct {
		kind string
		list []pack.Question
	}{{"assertion", p.Assertions}, {"quiesce", p.Quiesce}} {
		for _, q := range asked.list {
			if q.Database != role {
				continue
			}
			found, err := c.question(ctx, asked.kind, q)
			if err != nil {
				return nil, fmt.Errorf("check %s %s: %w", asked.kind, q.Name, err)
			}
			all = append(all, found)
		}
	}
	return all, nil
}

type checker struct {
	conn *pgx.Conn
	pack pack.Pack
}

func (c checker) rule(ctx context.Context, r pack.Rule) (sandglass.RuleCheck, error) {
	out := sandglass.RuleCheck{Rule: c.pack.Name + "/" + r.Name, Kind: "rule", Database: r.Database, Table: r.Table, At: r.At.Short(), Level: sandglass.OK, Rows: -1}
	t, err := findTable(ctx, c.conn, r.Table)
	if err != nil {
		return out, err
	}
	var columns []attribute
	if t.OID != 0 {
		if columns, err = t.columns(ctx, c.conn, r.Columns()); err != nil {
			return out, err
		}
	}
	columns, missing := fits(c.pack, r, t, columns)
	if missing != nil {
		out.Level, out.Code, out.Message = missing.Level, missing.Code, missing.Message
		if out.Level == sandglass.OK {
			out.Level = sandglass.Warning
		}
		if out.Level == sandglass.Stop || t.OID == 0 || len(columns) == 0 {
			return out, nil
		}
	}
	for _, s := range partsOf(r, t, columns) {
		if said, err := c.prepare(ctx, s.sql); err != nil {
			return out, err
		} else if said != nil {
			out.Level, out.Code, out.At = sandglass.Stop, CodeExpression, cmp.Or(s.at, r.At).Short()
			out.Message = fmt.Sprintf("The rule %s fails on %s: %s (SQLSTATE %s).", out.Rule, t.Name, said.Message, said.Code)
			return out, nil
		}
	}
	return out, c.count(ctx, r, t, columns, &out)
}

// count counts the rows that the rule would touch.
func (c checker) count(ctx context.Context, r pack.Rule, t relation, columns []attribute, out *sandglass.RuleCheck) error {
	var more string
	switch r.Action() {
	case "insert":
		out.Rows = int64(len(r.Insert))
		return nil
	case "clear":
		var not []string
		for _, col := range columns {
			not = append(not, ident(col.Name)+" IS NOT NULL")
		}
		more = strings.Join(not, " OR ")
	}
	sql := "SELECT count(*) FROM " + t.Name + " AS " + ident(bareName(r.Table)) + conditions(r.Where, more)
	err := c.conn.QueryRow(ctx, sql).Scan(&out.Rows)
	said, refused := errors.AsType[*pgconn.PgError](err)
	if !refused {
		return err
	}
	out.Rows = -1
	switch said.Code {
	case "42501", "57014", "55P03": // insufficient_privilege, query_canceled, lock_not_available
		if out.Level == sandglass.OK {
			out.Code, out.Message = CodeNotCounted, fmt.Sprintf("The rows of %s were not counted: %s.", t.Name, notCounted(said))
		}
	default:
		out.Level, out.Code, out.At = sandglass.Stop, CodeExpression, r.Part("where").Short()
		out.Message = fmt.Sprintf("The rule %s fails on %s: %s.", out.Rule, t.Name, refusal(said))
	}
	return nil
}

// notCounted says why, in people's words.
func notCounted(said *pgconn.PgError) string {
	switch said.Code {
	case "57014":
		return "it takes longer than " + countTimeout
	case "55P03":
		return "somebody holds a lock on it"
	}
	return refusal(said)
}

func (c checker) question(ctx context.Context, kind string, q pack.Question) (sandglass.RuleCheck, error) {
	out := sandglass.RuleCheck{Rule: c.pack.Name + "/" + q.Name, Kind: kind, Database: q.Database, Table: q.Table, At: q.At.Short(), Level: sandglass.OK, Rows: -1}
	if q.Table != "" {
		t, err := findTable(ctx, c.conn, q.Table)
		if err != nil {
			return out, err
		}
		if t.OID == 0 {
			out.Level, out.Code, out.Message = sandglass.Warning, CodeTableMissing, fmt.Sprintf("There is no table %s, which %s is about.", q.Table, out.Rule)
			if q.Must() {
				out.Level = sandglass.Stop
			}
			return out, nil
		}
	}
	said, err := c.prepare(ctx, withRecords(q.Query))
	if err != nil {
		return out, err
	}
	if said != nil {
		out.Level, out.Code, out.Message = sandglass.Stop, CodeExpression, fmt.Sprintf("The query of %s fails: %s (SQLSTATE %s).", out.Rule, said.Message, said.Code)
	}
	return out, nil
}

// ourRecords are the tables in the schema sandglass that a question may ask; only a copy has them (makeRecords, makeCarryRecords).
var ourRecords = regexp.MustCompile(`\bsandglass\.(carried|merged_rows|origin|changed_columns)\b`)

// withRecords puts empty ones of the same shape into a query that asks them.
func withRecords(query string) string {
	if !ourRecords.MatchString(query) {
		return query
	}
	return `WITH carried (operation, rule, table_name, columns, key, rows, digest, result) AS (SELECT ''::text, ''::text, ''::text, '{}'::text[], '{}'::text[], 0::bigint, ''::text, ''::text WHERE false),
		merged_rows (operation, rule, table_name, key, in_both) AS (SELECT ''::text, ''::text, ''::text, ''::text, false WHERE false),
		origin (operation, source, target, moment, policies, at) AS (SELECT ''::text, ''::text, ''::text, ''::text, '{}'::text[], now() WHERE false),
		changed_columns (operation, policy, rule, table_name, column_name, action, rows) AS (SELECT ''::text, ''::text, ''::text, ''::text, ''::text, ''::text, 0::bigint WHERE false)
		SELECT * FROM (` + "\n" + ourRecords.ReplaceAllString(query, "$1") + "\n) AS asked"
}

// prepare has the server read a statement without running it; said is what it refuses.
func (c checker) prepare(ctx context.Context, sql string) (said *pgconn.PgError, err error) {
	_, err = c.conn.PgConn().Prepare(ctx, "", sql, nil)
	said, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case ok && (said.Code == "42501" || said.Code == "55P03" || said.Code == "57014"):
		return nil, nil // a schema that the session may not look into, or a table that somebody has locked, says nothing against the rule
	case ok && said.Severity == "ERROR":
		return said, nil
	}
	return nil, err
}
