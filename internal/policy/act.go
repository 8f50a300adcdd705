// What a rule of a pack does to its table, in the transaction that records it as done.

package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pack"
)

// act is one rule at work.
type act struct {
	*job
	tx    pgx.Tx
	pack  pack.Pack
	rule  pack.Rule
	out   *outcome
	table relation
	tree  []relation
	span  *span // the range of blocks to work on; nil: all of the table
}

func (a *act) do(ctx context.Context) error {
	if err := makeRecords(ctx, a.tx, a.in); err != nil {
		return err
	}
	t, err := findTable(ctx, a.tx, a.rule.Table)
	if err != nil {
		return err
	}
	var columns []attribute
	if t.OID != 0 {
		if columns, err = t.columns(ctx, a.tx, a.rule.Columns()); err != nil {
			return err
		}
	}
	columns, f := fits(a.pack, a.rule, t, columns)
	if f != nil {
		if f.Level == sandglass.Stop {
			return &sandglass.Error{Code: f.Code, Op: "neutralize", Message: f.Message, Remedy: f.Remedy}
		}
		a.out.notes = append(a.out.notes, f.Message)
	}
	if t.OID == 0 || len(columns) == 0 && len(a.rule.Columns()) > 0 {
		return nil
	}
	a.table = t
	if a.tree, err = t.tree(ctx, a.tx); err != nil {
		return err
	}
	if err := allHere(t, a.tree, a.pack, a.rule); err != nil {
		return err
	}
	restore, err := silence(ctx, a.tx, a.tree)
	if err != nil {
		return err
	}
	switch a.rule.Action() {
	case "set":
		err = a.set(ctx, columns)
	case "clear":
		err = a.clear(ctx, columns)
	case "empty":
		err = a.empty(ctx)
	case "delete":
		err = a.delete(ctx)
	case "insert":
		err = a.insert(ctx)
	}
	if err != nil {
		return err
	}
	for _, sql := range restore {
		if _, err := a.tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// allHere refuses a table with rows that are elsewhere.
func allHere(t relation, tree []relation, p pack.Pack, rule pack.Rule) error {
	for _, r := range tree {
		if r.Kind == "f" {
			return &sandglass.Error{Code: CodeTableUnfit, Op: "neutralize", Message: fmt.Sprintf("%s has the foreign table %s among its partitions or children, whose rows are not in the copy.", t.Name, r.Name),
				Remedy: fmt.Sprintf("Let the rule %s/%s name the ordinary partitions, one rule each.", p.Name, rule.Name)}
		}
	}
	return nil
}

// where is the rule's condition with another.
func (a *act) where(more string) string { return conditions(a.rule.Where, more) }

// conditions are those that are not empty, each on lines of its own: one may end in a comment.
func conditions(each ...string) string {
	var all []string
	for _, c := range each {
		if c != "" {
			all = append(all, "(\n"+c+"\n)")
		}
	}
	if all == nil {
		return ""
	}
	return " WHERE " + strings.Join(all, " AND ")
}

// count counts rows of the table.
func (a *act) count(ctx context.Context) (n int64, err error) {
	err = a.tx.QueryRow(ctx, "SELECT count(*) FROM "+a.table.Name).Scan(&n)
	return n, err
}

// about is what the statistics know of the table's rows, where counting would read a big table only
// to throw it away; else they are counted.
func (a *act) about(ctx context.Context) (n int64, err error) {
	var size int64
	var known bool
	if err := a.tx.QueryRow(ctx, `SELECT coalesce(sum(pg_relation_size(oid)), 0)::bigint, coalesce(bool_and(reltuples >= 0), false), greatest(coalesce(sum(reltuples), 0), 0)::bigint
		FROM pg_class WHERE oid = ANY ($1) AND relkind = 'r'`, oids(a.tree)).Scan(&size, &known, &n); err != nil {
		return 0, err
	}
	if size <= 2*int64(cmp.Or(a.in.Range, DefaultRange)) || !known {
		return a.count(ctx)
	}
	a.out.notes = append(a.out.notes, fmt.Sprintf("about %d rows of %s, by its statistics", n, a.table.Name))
	return n, nil
}

func (a *act) set(ctx context.Context, columns []attribute) error {
	var sets []string
	for _, c := range columns {
		sets = append(sets, ident(c.Name)+" = (\n"+a.rule.Set[c.Name]+"\n)")
	}
	return a.update(ctx, columns, sets, a.where(""))
}

// clear makes columns NULL, or the type's empty value where NULL can't be.
func (a *act) clear(ctx context.Context, columns []attribute) error {
	var sets, not []string
	for _, c := range columns {
		if !c.NotNull {
			sets, not = append(sets, ident(c.Name)+" = NULL"), append(not, ident(c.Name)+" IS NOT NULL")
			continue
		}
		value, ok := emptyValue(c)
		if !ok {
			return &sandglass.Error{Code: CodeTableUnfit, Op: "neutralize", Message: fmt.Sprintf("The column %s of %s can't be NULL, and its type %s has no empty value%s.", c.Name, a.table.Name, c.Type, a.rule.Does.Quoted()),
				Remedy: fmt.Sprintf("Let the rule %s/%s set it instead.", a.pack.Name, a.rule.Name)}
		}
		sets, not = append(sets, ident(c.Name)+" = "+value), append(not, ident(c.Name)+"::text IS DISTINCT FROM ("+value+")::text")
	}
	return a.update(ctx, columns, sets, a.where(strings.Join(not, " OR ")))
}

func emptyValue(c attribute) (string, bool) {
	switch {
	case c.Type == "bytea":
		return `'\x'::bytea`, true
	case c.Type == "json", c.Type == "jsonb":
		return `'{}'::` + c.Type, true
	case c.Type == "uuid":
		return `'00000000-0000-0000-0000-000000000000'::uuid`, true
	case c.Category == "S":
		return `''`, true
	case c.Category == "N":
		return `0`, true
	case c.Category == "B":
		return `false`, true
	case c.Category == "A":
		return `'{}'`, true
	}
	return "", false
}

func (a *act) update(ctx context.Context, columns []attribute, sets []string, where string) (err error) {
	if a.span != nil {
		err = a.updateSpan(ctx, sets, where)
	} else if a.out.seen, err = a.count(ctx); err == nil {
		a.out.rows, err = statement(ctx, a.tx, "UPDATE "+a.table.Name+" SET "+strings.Join(sets, ", ")+where)
	}
	if err != nil {
		return err
	}
	var names []string
	for _, c := range columns {
		names = append(names, c.Name)
	}
	if names, err = a.table.withGenerated(ctx, a.tx, names); err != nil {
		return err
	}
	if err := a.recheck(ctx, names); err != nil {
		return err
	}
	return a.changed(ctx, a.table.Name, names, a.rule.Action(), a.out.rows)
}

// recheck looks for what deferrable constraints (unique or exclusion, on these columns; nil: on any) would refuse: their
// triggers don't fire in replica role. Making their indexes anew checks all rows.
func (a *act) recheck(ctx context.Context, columns []string) error {
	indexes, err := column(ctx, a.tx, `SELECT format('%I.%I', nspname, relname) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace
		WHERE NOT indimmediate AND relkind = 'i' AND indrelid = ANY ($1) AND ($2::text[] IS NULL OR indexprs IS NOT NULL OR indpred IS NOT NULL
			OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey::int2[]) AND attname = ANY ($2))) ORDER BY 1`, oids(a.tree), columns)
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if _, err := a.tx.Exec(ctx, "REINDEX INDEX "+index); err != nil {
			return err
		}
	}
	return nil
}

func (a *act) insert(ctx context.Context) error {
	var err error
	if a.out.seen, err = a.count(ctx); err != nil {
		return err
	}
	for _, row := range a.rule.Insert {
		var names, values []string
		for _, c := range sortedKeys(row) {
			names, values = append(names, ident(c)), append(values, "(\n"+row[c]+"\n)")
		}
		n, err := statement(ctx, a.tx, "INSERT INTO "+a.table.Name+" ("+strings.Join(names, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+strings.Join(values, ", ")+a.where(""))
		if err != nil {
			return err
		}
		a.out.rows += n
	}
	if err := a.recheck(ctx, nil); err != nil {
		return err
	}
	return a.changed(ctx, a.table.Name, nil, "insert", a.out.rows)
}

// empty truncates the table. Where others could refer to it, TRUNCATE is not to be had and the
// rows are deleted; where rows do refer to it and no rule empties those, it refuses.
func (a *act) empty(ctx context.Context) (err error) {
	if a.out.seen, err = a.about(ctx); err != nil {
		return err
	}
	a.out.rows = a.out.seen
	keys, err := foreignKeys(ctx, a.tx, `confrelid IN (`+aboveBelow+`SELECT oid FROM up UNION SELECT oid FROM tree) AND conrelid <> ALL ($2)`, []uint32{a.table.OID}, oids(a.tree))
	if err != nil {
		return err
	}
	for _, k := range keys {
		var n int64
		if err := a.tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s c JOIN %s p ON %s WHERE p.tableoid = ANY ($1)", k.child(), k.ParentName, k.match("p", "c")), oids(a.tree)).Scan(&n); err != nil {
			return err
		}
		if emptied, err := a.emptied(ctx, k); err != nil || n > 0 && !emptied {
			return cmp.Or(err, error(&sandglass.Error{Code: CodeTableReferenced, Op: "neutralize",
				Message: fmt.Sprintf("%s can't be emptied: %d rows of %s refer to it (%s), and no rule empties that%s.", a.table.Name, n, k.ChildName, k.Name, a.rule.Does.Quoted()),
				Remedy:  fmt.Sprintf("Add a rule that empties it too, or let %s/%s delete: then the rows that refer go along.", a.pack.Name, a.rule.Name)}))
		}
	}
	sql := "TRUNCATE " + a.table.Name
	if len(keys) > 0 {
		sql = "DELETE FROM " + a.table.Name
	}
	n, err := statement(ctx, a.tx, sql)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		a.out.rows = n
	}
	return a.changed(ctx, a.table.Name, nil, "empty", a.out.rows)
}

// emptied says whether a rule empties the table that refers.
func (a *act) emptied(ctx context.Context, k foreignKey) (bool, error) {
	for _, p := range a.in.Packs {
		for _, r := range p.Rules {
			if !r.Empty || a.in.Environment.Databases[r.Database] != a.in.Environment.Databases[a.rule.Database] {
				continue
			}
			if t, err := findTable(ctx, a.tx, r.Table); err != nil || t.OID == k.Child {
				return err == nil, err
			}
		}
	}
	return false, nil
}

// changed notes what the rule has changed, for those who read the copy.
func (a *act) changed(ctx context.Context, table string, columns []string, action string, rows int64) error {
	if rows == 0 {
		return nil
	}
	if len(columns) == 0 {
		columns = []string{"*"}
	}
	_, err := a.tx.Exec(ctx, `INSERT INTO sandglass.changed_columns (operation, policy, rule, table_name, column_name, action, rows)
		SELECT $1, $2, $3, $4, c, $6, $7 FROM unnest($5::text[]) c ON CONFLICT (operation, policy, rule, table_name, column_name, action) DO UPDATE SET rows = changed_columns.rows + excluded.rows`,
		a.in.Run, a.pack.Name, a.rule.Name, table, columns, action, rows)
	if err != nil {
		return fmt.Errorf("note changed columns: %w", err)
	}
	return nil
}

// makeRecords makes what tells people what this copy is, unless it is there: sandglass.origin
// with a row for each restore that led here, sandglass.changed_columns with what was changed. A
// copy of a sandbox brings the rows of the restore that made that sandbox, and they stay true.
// Everybody may read these two; the other tables in the schema may hold keys of rows.
func makeRecords(ctx context.Context, tx pgx.Tx, in Input) error {
	if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS sandglass.origin (operation text PRIMARY KEY, source text NOT NULL, target text NOT NULL, moment text NOT NULL, policies text[] NOT NULL, at timestamptz NOT NULL DEFAULT now());
		CREATE TABLE IF NOT EXISTS sandglass.changed_columns (operation text NOT NULL, policy text NOT NULL, rule text NOT NULL, table_name text NOT NULL, column_name text NOT NULL, action text NOT NULL, rows bigint NOT NULL,
			PRIMARY KEY (operation, policy, rule, table_name, column_name, action));
		COMMENT ON TABLE sandglass.changed_columns IS 'What differs from production on purpose; never copy these columns back';
		GRANT USAGE ON SCHEMA sandglass TO PUBLIC;
		GRANT SELECT ON sandglass.origin, sandglass.changed_columns TO PUBLIC`); err != nil {
		return fmt.Errorf("make records: %w", err)
	}
	if err := makeCarryRecords(ctx, tx, in.Run); err != nil {
		return err
	}
	var policies []string
	for _, p := range in.Packs {
		policies = append(policies, p.Policy())
	}
	if _, err := tx.Exec(ctx, `INSERT INTO sandglass.origin (operation, source, target, moment, policies) VALUES ($1, $2, $3, $4, coalesce($5::text[], '{}')) ON CONFLICT DO NOTHING`,
		in.Run, in.Source.Name, in.Environment.Name, in.Moment, policies); err != nil {
		return fmt.Errorf("note the origin: %w", err)
	}
	var before []string
	if err := tx.QueryRow(ctx, `SELECT policies FROM sandglass.origin WHERE operation = $1`, in.Run).Scan(&before); err != nil {
		return fmt.Errorf("read the origin: %w", err)
	}
	if !slices.Equal(before, policies) {
		return &sandglass.Error{Code: CodePolicyChanged, Op: "neutralize", Message: fmt.Sprintf("A pack was changed while the restore ran: it began with %s, now there is %s.", strings.Join(before, ", "), strings.Join(policies, ", ")),
			Remedy: "The copy is discarded and the sandbox is as it was. Start the restore again."}
	}
	return nil
}

// noteRecords makes the records in a database that no rule of a pack is about, too.
func noteRecords(ctx context.Context, j *job, tx pgx.Tx, _ *outcome) error {
	return makeRecords(ctx, tx, j.in)
}

// statement runs one statement, and one only: a text with a second one is refused by the
// server, because it goes through the extended protocol.
func statement(ctx context.Context, tx pgx.Tx, sql string) (rows int64, err error) {
	tag, err := tx.Conn().PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Close()
	return tag.RowsAffected(), err
}
