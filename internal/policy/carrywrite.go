// Giving the copy the rows that stay the sandbox's own. In replica role no order among tables is
// needed: all leave, all come, and what would then refer to nothing has been left out before
// (conflicts.go), or follows the rows that left as its foreign key says (closure.go).

package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
)

// give replaces and merges, once all rows of the sandbox are in temporary tables.
func (c *carrier) give(ctx context.Context) error {
	if err := c.silenceAll(ctx); err != nil {
		return err
	}
	temps, left := 0, make([][]gone, len(c.units))
	leave := func(i int, where string) (int64, error) {
		u := c.units[i]
		g, n, err := u.act(c).remove(ctx, u.table, strings.TrimSuffix(u.from(u.table), " AS "+ident(u.alias())), u.alias(), where, temps)
		temps++
		g.again = true
		left[i] = append(left[i], g)
		return n, err
	}
	for i, u := range c.units {
		if err := c.makeWay(ctx, u, func(where string) (int64, error) { return leave(i, where) }); err != nil {
			return fmt.Errorf("carry %s: %w", u.table.Name, err)
		}
	}
	if err := c.conflicts(ctx); err != nil {
		return err
	}
	for i, u := range c.units {
		if u.rule.Merge != "" {
			if err := u.complete(ctx, c.tx); err != nil {
				return err
			}
			if _, err := leave(i, " WHERE "+u.matched(ident(u.alias()))); err != nil {
				return err
			}
		}
		if err := c.put(ctx, u); err != nil {
			return err
		}
	}
	for _, u := range c.units {
		if err := u.holds(ctx, c.tx); err != nil {
			return err
		}
	}
	for i, u := range c.units {
		if err := u.act(c).followAll(ctx, left[i], &temps); err != nil {
			return err
		}
		if err := u.setSequences(ctx, c.tx); err != nil {
			return err
		}
	}
	for _, sql := range slices.Backward(c.restore) {
		if _, err := c.tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return c.lost(ctx)
}

// holds refuses what the rules' own words contradict: a keep whose condition selects other rows in the copy than it did
// in the sandbox (what was given once could not be taken back when it is carried again), and a merge whose rows another
// rule has given other values.
func (u *unit) holds(ctx context.Context, tx pgx.Tx) error {
	refused := func(format string, args ...any) error {
		return &sandglass.Error{Code: CodeTableUnfit, Op: "neutralize", Message: fmt.Sprintf(format, args...) + u.rule.Does.Quoted() + ".",
			Remedy: fmt.Sprintf("Correct the pack %s: the rule's condition must depend on the row alone, and no other rule may give the same rows.", u.pack.Name)}
	}
	if u.rule.Merge != "" {
		var given, has digest
		if u.own.OID == 0 {
			return nil
		}
		if err := given.take(ctx, tx, "SELECT "+list(u.columns, "")+" FROM "+u.temp); err != nil {
			return fmt.Errorf("read what %s got: %w", u.table.Name, err)
		}
		if err := has.take(ctx, tx, "SELECT "+list(u.columns, ident(u.alias())+".")+" FROM "+u.from(u.table)+" WHERE "+u.matched(ident(u.alias()))); err != nil {
			return fmt.Errorf("read what %s has: %w", u.table.Name, err)
		}
		if given.String() != has.String() {
			return refused("The rule %s gave %d rows of the sandbox to %s, and another rule has given them other values", u.name(), u.given, u.table.Name)
		}
		return nil
	}
	var n int64
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM "+u.from(u.table)+u.where("")).Scan(&n); err != nil {
		return fmt.Errorf("count %s: %w", u.table.Name, u.inWhere(err))
	}
	if n == u.given {
		return nil
	}
	return refused("The rule %s gave %d rows of the sandbox to %s, and selects %d there", u.name(), u.given, u.table.Name, n)
}

// lost looks at what the copy has in the end, and tells of rows that went with production's rows they refer to.
func (c *carrier) lost(ctx context.Context) (err error) {
	for _, u := range c.units {
		if u.rule.Merge != "" && u.own.OID == 0 {
			continue // nothing was merged
		}
		if u.kept, err = u.result(ctx, c.tx, c.in.Run); err != nil {
			return err
		}
		if n := u.given - u.kept.rows; n > 0 {
			u.given, u.out.rows = u.given-n, u.out.rows-n
			u.leftOut(n, "refer to rows of production that went with those they refer to")
			if err := u.tellLeft(); err != nil {
				return err
			}
		}
	}
	return nil
}

// act is the unit as the other rules' helpers know one.
func (u *unit) act(c *carrier) *act {
	return &act{job: c.job, tx: c.tx, pack: u.pack, rule: u.rule, out: u.out, table: u.table}
}

func (c *carrier) silenceAll(ctx context.Context) error {
	for _, u := range c.units {
		tree, err := u.table.tree(ctx, c.tx)
		if err != nil {
			return err
		}
		restore, err := silence(ctx, c.tx, tree)
		if err != nil {
			return err
		}
		c.restore = append(c.restore, restore...)
	}
	return nil
}

// makeWay removes what a keep replaces, and prepares the rows of a merge.
func (c *carrier) makeWay(ctx context.Context, u *unit, leave func(where string) (int64, error)) error {
	if u.rule.Keep != "" {
		n, err := leave(u.where(""))
		if err != nil {
			return u.inWhere(err)
		}
		if c.in.FromTarget == nil {
			u.out.notes = append(u.out.notes, fmt.Sprintf("the sandbox has no rows to keep; %d rows of %s removed", n, u.table.Name))
		} else {
			u.out.notes = append(u.out.notes, fmt.Sprintf("%d rows of %s replaced", n, u.table.Name))
		}
		if u.own.OID != 0 || n > 0 {
			return u.act(c).changed(ctx, u.table.Name, nil, "keep", max(n, u.seen.rows))
		}
		return nil
	}
	if u.own.OID == 0 {
		return nil
	}
	if err := c.forget(ctx, u, leave); err != nil {
		return err
	}
	return c.prepareMerge(ctx, u)
}

// forget takes back rows that an earlier attempt merged and the sandbox has removed since.
func (c *carrier) forget(ctx context.Context, u *unit, leave func(where string) (int64, error)) error {
	stale := fmt.Sprintf(`operation = %s AND rule = %s AND table_name = %s AND NOT EXISTS (SELECT FROM %s m WHERE %s = merged_rows.key)`,
		literal(c.in.Run), literal(u.name()), literal(u.table.Name), u.temp, u.keyText("m"))
	var added, replaced int64
	if err := c.tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE NOT in_both), count(*) FILTER (WHERE in_both) FROM sandglass.merged_rows WHERE `+stale).Scan(&added, &replaced); err != nil {
		return err
	}
	if replaced > 0 {
		return &sandglass.Error{Code: CodeCarryChanged, Op: "carry over", Message: fmt.Sprintf("%d rows of %s were removed in the sandbox while the restore ran, and the copy no longer has production's values of them.", replaced, u.table.Name),
			Remedy: "The sandbox is as it was. Start the restore again."}
	}
	if added == 0 {
		return nil
	}
	if _, err := leave(" WHERE " + u.keyText(ident(u.alias())) + ` IN (SELECT key FROM sandglass.merged_rows WHERE ` + stale + `)`); err != nil {
		return err
	}
	_, err := c.tx.Exec(ctx, `DELETE FROM sandglass.merged_rows WHERE `+stale)
	return err
}

// keyText is a row's key as one text.
func (u *unit) keyText(alias string) string { return "ROW(" + list(u.key, alias+".") + ")::text" }

// matched is SQL that holds for rows, called alias, with the key of a row that is merged.
func (u *unit) matched(alias string) string {
	return "EXISTS (SELECT FROM " + u.temp + " sandglass_m WHERE " + u.sameKey("sandglass_m", alias) + ")"
}

func (u *unit) sameKey(a, b string) string {
	var all []string
	for i, k := range u.key {
		all = append(all, fmt.Sprintf("%s.%s %s %s.%s", a, ident(k), u.equal[i], b, ident(k)))
	}
	return strings.Join(all, " AND ")
}

// prepareMerge leaves out rows that no key tells apart, and completes the others.
func (c *carrier) prepareMerge(ctx context.Context, u *unit) error {
	var none []string
	for _, k := range u.key {
		none = append(none, ident(k)+" IS NULL")
	}
	n, err := statement(ctx, c.tx, "DELETE FROM "+u.temp+" WHERE "+strings.Join(none, " OR "))
	if err != nil {
		return err
	}
	u.leftOut(n, "have no key (%s is NULL)", strings.Join(u.key, ", "))
	for _, t := range []struct{ from, whose string }{{u.temp, "The sandbox"}, {u.from(u.table) + " WHERE " + u.matched(ident(u.alias())), "The copy"}} {
		var twice bool
		if err := c.tx.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s GROUP BY %s HAVING count(*) > 1)", t.from, list(u.key, ""))).Scan(&twice); err != nil {
			return err
		}
		if twice {
			return &sandglass.Error{Code: CodeTableUnfit, Op: "neutralize", Message: fmt.Sprintf("%s has several rows of %s with the same %s, so the rule %s can't tell them apart.", t.whose, u.table.Name, strings.Join(u.key, ", "), u.name()),
				Remedy: fmt.Sprintf("Give the rule a key that is unique in the pack %s.", u.pack.Name)}
		}
	}
	if err := u.complete(ctx, c.tx); err != nil || len(u.rule.Only) == 0 {
		return err
	}
	if n, err = statement(ctx, c.tx, "DELETE FROM "+u.temp+" WHERE NOT sandglass_known"); n > 0 {
		u.out.notes = append(u.out.notes, fmt.Sprintf("%d rows of the sandbox's %s are not in the copy, and columns make no row", n, u.own.Name))
	}
	return err
}

// complete gives the rows to be merged what the copy has in the columns that are not carried.
func (u *unit) complete(ctx context.Context, tx pgx.Tx) error {
	sets := []string{"sandglass_known = true"}
	for _, o := range u.others {
		sets = append(sets, ident(o)+" = "+ident(u.alias())+"."+ident(o))
	}
	_, err := statement(ctx, tx, "UPDATE "+u.temp+" AS sandglass_m SET "+strings.Join(sets, ", ")+" FROM "+u.from(u.table)+" WHERE "+u.sameKey("sandglass_m", ident(u.alias())))
	return err
}

// put inserts the rows: those the copy knows with all their columns, the others with the columns
// that are carried, the rest by default.
func (c *carrier) put(ctx context.Context, u *unit) error {
	if u.own.OID == 0 || len(u.columns) == 0 {
		return nil
	}
	if u.rule.Merge != "" {
		if _, err := c.tx.Exec(ctx, `INSERT INTO sandglass.merged_rows (operation, rule, table_name, key, in_both) SELECT $1, $2, $3, `+u.keyText("m")+`, sandglass_known FROM `+u.temp+` m ON CONFLICT DO NOTHING`,
			c.in.Run, u.name(), u.table.Name); err != nil {
			return fmt.Errorf("note what is merged: %w", err)
		}
	}
	var rows int64
	for _, half := range []struct {
		columns []string
		where   string
	}{{slices.Concat(u.columns, u.others), "sandglass_known"}, {u.columns, "NOT sandglass_known"}} {
		columns := list(half.columns, "")
		n, err := statement(ctx, c.tx, "INSERT INTO "+u.table.Name+" ("+columns+") OVERRIDING SYSTEM VALUE SELECT "+columns+" FROM "+u.temp+" WHERE "+half.where)
		if err != nil {
			return u.unfit(err)
		}
		rows += n
	}
	a := u.act(c)
	var err error
	if a.tree, err = u.table.tree(ctx, c.tx); err != nil {
		return err
	}
	if err := a.recheck(ctx, nil); err != nil {
		return u.unfit(err)
	}
	u.given, u.out.rows = rows, u.out.rows+rows
	if u.rule.Merge != "" {
		return u.act(c).changed(ctx, u.table.Name, u.rule.Only, "merge", rows)
	}
	return nil
}

// unfit names the constraint that rows of the sandbox break in the copy.
func (u *unit) unfit(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !strings.HasPrefix(pgErr.Code, "23") {
		return err
	}
	what := pgErr.ConstraintName
	switch {
	case pgErr.ColumnName != "":
		what = "column " + pgErr.ColumnName
	case what == "":
		what = "a partition"
	}
	return &sandglass.Error{Code: CodeCarryConflict, Op: "neutralize", Message: fmt.Sprintf("Rows of the sandbox's %s do not fit the copy: %s (SQLSTATE %s).", u.table.Name, what, pgErr.Code),
		Remedy: fmt.Sprintf("Let the rule %s leave these rows out with where, or bring the tables of both in line.", u.name()), Err: err}
}

// sequencesOf is SQL for the sequences that number columns of the table $1: those that belong to a column, and those
// that its default names.
const sequencesOf = `SELECT attname::text AS name, atttypid AS type, s.oid, format('%I.%I', nspname, s.relname) AS sequence FROM (
	SELECT refobjid, refobjsubid, objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = $1 AND deptype IN ('a', 'i')
	UNION SELECT adrelid, adnum, refobjid FROM pg_attrdef JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid AND refclassid = 'pg_class'::regclass WHERE adrelid = $1 AND refobjid <> adrelid) d (relation, number, sequence)
	JOIN pg_class s ON s.oid = d.sequence AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_attribute ON attrelid = d.relation AND attnum = d.number`

// setSequences brings the sequences of the table's columns to where neither its rows nor the
// sandbox's own numbering come again.
func (u *unit) setSequences(ctx context.Context, tx pgx.Tx) error {
	if u.own.OID == 0 {
		return nil
	}
	type sequence struct {
		Column, Name string
		Min, Max     int64
		Up           bool
	}
	all, err := structs[sequence](ctx, tx, `SELECT name, sequence, seqmin, seqmax, seqincrement > 0 FROM (`+sequencesOf+`) s JOIN pg_sequence ON seqrelid = oid
		WHERE type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) ORDER BY 1, 2`, u.table.OID)
	if err != nil {
		return fmt.Errorf("read the sequences of %s: %w", u.table.Name, err)
	}
	for _, s := range all {
		most, furthest := "max", "greatest"
		if !s.Up {
			most, furthest = "min", "least"
		}
		own := "NULL::bigint"
		if v, ok := u.sequences[s.Column]; ok {
			own = fmt.Sprintf("(%d)::bigint", v)
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SELECT setval(%s::regclass, greatest(least(v, (%d)::bigint), (%d)::bigint)) FROM (SELECT %s((SELECT %s(%s) FROM %s)::bigint, (SELECT CASE WHEN is_called THEN last_value END FROM %s), %s)) s (v) WHERE v IS NOT NULL`,
			literal(s.Name), s.Max, s.Min, furthest, most, ident(s.Column), u.table.Name, s.Name, own)); err != nil {
			return fmt.Errorf("set sequence %s: %w", s.Name, err)
		}
	}
	return nil
}

// readSequences reads where the sandbox's numbering of the table's columns is.
func (u *unit) readSequences(ctx context.Context, own pgx.Tx) error {
	type sequence struct{ Column, Name string }
	all, err := structs[sequence](ctx, own, `SELECT name, sequence FROM (`+sequencesOf+`) s ORDER BY 1, 2`, u.own.OID)
	if err != nil {
		return fmt.Errorf("read the sequences of the sandbox's %s: %w", u.own.Name, err)
	}
	u.sequences = map[string]int64{}
	for _, s := range all {
		var last int64
		var called bool
		if err := own.QueryRow(ctx, "SELECT last_value, is_called FROM "+s.Name).Scan(&last, &called); err != nil {
			return fmt.Errorf("read sequence %s: %w", s.Name, err)
		}
		if called {
			u.sequences[s.Column] = last
		}
	}
	return nil
}
