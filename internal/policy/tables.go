// Tables as rules find them: by name, with their partitions and children, columns, foreign keys,
// and the triggers that would fire even in replica role.

package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// relation is a table, or whatever has that name; OID 0: nothing has.
type relation struct {
	OID  uint32
	Kind string // pg_class.relkind
	Name string // quoted, with its schema
}

// attribute is a column of a table.
type attribute struct {
	Name      string
	NotNull   bool
	Generated bool
	Category  string // pg_type.typcategory
	Type      string // base type
}

// findTable finds NAME (in schema public) or SCHEMA.NAME.
func findTable(ctx context.Context, q querier, name string) (relation, error) {
	schema, table, qualified := strings.Cut(name, ".")
	if !qualified {
		schema, table = "public", name
	}
	var r relation
	err := q.QueryRow(ctx, `SELECT c.oid, relkind::text, format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE nspname = $1 AND relname = $2`, schema, table).Scan(&r.OID, &r.Kind, &r.Name)
	if errors.Is(err, pgx.ErrNoRows) {
		return relation{}, nil
	}
	return r, err
}

// columns are those of the named columns that are there.
func (r relation) columns(ctx context.Context, q querier, names []string) ([]attribute, error) {
	return structs[attribute](ctx, q, `SELECT attname::text, attnotnull OR typnotnull, attgenerated <> '', typcategory::text, format_type(coalesce(nullif(typbasetype, 0), t.oid), NULL)
		FROM unnest($2::text[]) WITH ORDINALITY n (name, i) JOIN pg_attribute a ON attname = name JOIN pg_type t ON t.oid = atttypid
		WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY i`, r.OID, names)
}

// withGenerated adds to the names of columns those of the columns that are generated from them, and change with them.
func (r relation) withGenerated(ctx context.Context, q querier, names []string) ([]string, error) {
	generated, err := column(ctx, q, `SELECT DISTINCT g.attname::text FROM pg_attrdef d JOIN pg_attribute g ON g.attrelid = adrelid AND g.attnum = adnum AND g.attgenerated <> ''
		JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refobjid = adrelid JOIN pg_attribute c ON c.attrelid = adrelid AND c.attnum = refobjsubid
		WHERE adrelid = $1 AND c.attname = ANY ($2) ORDER BY 1`, r.OID, names)
	return append(slices.Clone(names), generated...), err
}

// below is SQL for the oids of the tables $1 (an array) with all their partitions and children.
const below = `WITH RECURSIVE tree (oid) AS (SELECT unnest($1::oid[]) UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid) `

// aboveBelow is the same with the parents too: their statistics hold values of their children.
const aboveBelow = `WITH RECURSIVE up (oid) AS (SELECT unnest($1::oid[]) UNION SELECT inhparent FROM pg_inherits JOIN up ON inhrelid = up.oid),
	tree (oid) AS (SELECT unnest($1::oid[]) UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid) `

// tree is the table with its partitions and children.
func (r relation) tree(ctx context.Context, q querier) ([]relation, error) {
	return structs[relation](ctx, q, below+`SELECT c.oid, relkind::text, format('%I.%I', nspname, relname) FROM tree JOIN pg_class c USING (oid)
		JOIN pg_namespace n ON n.oid = relnamespace ORDER BY c.oid`, []uint32{r.OID})
}

func oids(relations []relation) []uint32 {
	all := []uint32{}
	for _, r := range relations {
		all = append(all, r.OID)
	}
	return all
}

// silence switches off the triggers and rewrite rules that fire even in replica role, and
// returns the statements that switch them on as they were.
func silence(ctx context.Context, tx pgx.Tx, tables []relation) (restore []string, err error) {
	type trigger struct{ Table, Kind, Name, Mode string }
	all, err := structs[trigger](ctx, tx, `SELECT format('%I.%I', nspname, relname), kind, name, mode FROM (
		SELECT tgrelid, 'TRIGGER', tgname::text, tgenabled::text FROM pg_trigger UNION ALL
		SELECT ev_class, 'RULE', rulename::text, ev_enabled::text FROM pg_rewrite) t (rel, kind, name, mode)
		JOIN pg_class c ON c.oid = rel JOIN pg_namespace n ON n.oid = relnamespace
		WHERE rel = ANY ($1) AND mode IN ('A', 'R') AND relkind IN ('r', 'p') ORDER BY rel DESC, name`, oids(tables))
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER TABLE ONLY %s DISABLE %s %s", t.Table, t.Kind, ident(t.Name))); err != nil {
			return nil, err
		}
		mode := map[string]string{"A": "ALWAYS", "R": "REPLICA"}[t.Mode]
		restore = append(restore, fmt.Sprintf("ALTER TABLE ONLY %s ENABLE %s %s %s", t.Table, mode, t.Kind, ident(t.Name)))
	}
	return restore, nil
}

// foreignKey is one, as declared: not the copies of it that partitions have.
type foreignKey struct {
	Name          string
	Child, Parent uint32
	ChildName     string
	ChildKind     string
	ParentName    string
	Columns       []string // of the child, quoted
	Keys          []string // of the parent, quoted
	Operators     []string // parent's column OPERATOR child's column
	OnDelete      string   // pg_constraint.confdeltype
	SetColumns    []string // that ON DELETE SET changes, quoted
	Validated     bool
	Parents       []uint32 // whose rows the key can mean: the parent, or its partitions
}

const foreignKeySQL = `SELECT conname::text, conrelid, confrelid, format('%I.%I', cn.nspname, c.relname), c.relkind::text, format('%I.%I', pn.nspname, p.relname),
	(SELECT array_agg(quote_ident(attname) ORDER BY i) FROM unnest(conkey) WITH ORDINALITY k (n, i) JOIN pg_attribute ON attrelid = conrelid AND attnum = n),
	(SELECT array_agg(quote_ident(attname) ORDER BY i) FROM unnest(confkey) WITH ORDINALITY k (n, i) JOIN pg_attribute ON attrelid = confrelid AND attnum = n),
	(SELECT array_agg(format('OPERATOR(%I.%s)', nspname, oprname) ORDER BY i) FROM unnest(conpfeqop) WITH ORDINALITY k (o, i) JOIN pg_operator ON pg_operator.oid = o JOIN pg_namespace ON pg_namespace.oid = oprnamespace),
	confdeltype::text, %s, convalidated,
	CASE p.relkind WHEN 'p' THEN (SELECT array_agg(relid::oid) FROM pg_partition_tree(confrelid)) ELSE ARRAY[confrelid] END
	FROM pg_constraint JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace JOIN pg_class p ON p.oid = confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
	WHERE contype = 'f' AND conparentid = 0 AND %s ORDER BY conrelid, conname`

// foreignKeys are those for which the condition on pg_constraint holds.
func foreignKeys(ctx context.Context, q querier, condition string, args ...any) ([]foreignKey, error) {
	var major int
	if err := q.QueryRow(ctx, `SELECT current_setting('server_version_num')::int / 10000`).Scan(&major); err != nil {
		return nil, err
	}
	columns := `conkey`
	if major >= 15 {
		columns = `coalesce(confdelsetcols, conkey)`
	}
	set := `(SELECT array_agg(quote_ident(attname) ORDER BY i) FROM unnest(` + columns + `) WITH ORDINALITY k (n, i) JOIN pg_attribute ON attrelid = conrelid AND attnum = n)`
	return structs[foreignKey](ctx, q, strings.Replace(strings.Replace(foreignKeySQL, "%s, convalidated", set+", convalidated", 1), "AND %s ORDER", "AND "+condition+" ORDER", 1), args...)
}

// match is SQL that holds where a row of the child refers to the key of the parent.
func (k foreignKey) match(parent, child string) string {
	var all []string
	for i := range k.Columns {
		all = append(all, fmt.Sprintf("%s.%s %s %s.%s", parent, k.Keys[i], k.Operators[i], child, k.Columns[i]))
	}
	return strings.Join(all, " AND ")
}

// child is the table that refers, without its children (but with its partitions): theirs are keys of their own.
func (k foreignKey) child() string {
	if k.ChildKind == "p" {
		return k.ChildName
	}
	return "ONLY " + k.ChildName
}
