// Rows of the sandbox that the copy can't hold: they refer to rows it does not have, or another
// row of production that stays has their unique key. Production's row stays, the sandbox's is
// left out, and with it whatever of the sandbox refers to it, until nothing more is to be left
// out. Which rows these are depends on the data alone.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sandglass"
)

// leftOut notes rows that stay behind, and why.
func (u *unit) leftOut(n int64, why string, args ...any) {
	if n == 0 {
		return
	}
	reason := fmt.Sprintf(why, args...)
	for i := range u.left {
		if u.left[i].why == reason {
			u.left[i].rows += n
			return
		}
	}
	u.left = append(u.left, leftRows{n, reason})
}

// leftRows are rows that stay behind for one reason.
type leftRows struct {
	rows int64
	why  string
}

// conflicts leaves out what the copy can't hold; where the rule says stop, it is an error.
func (c *carrier) conflicts(ctx context.Context) error {
	for {
		var n int64
		for _, u := range c.units {
			if u.own.OID == 0 {
				continue
			}
			doubled, err := c.doubled(ctx, u)
			if err != nil {
				return err
			}
			lost, err := c.unheld(ctx, u)
			if err != nil {
				return err
			}
			n += doubled + lost
		}
		if n == 0 {
			break
		}
	}
	for _, u := range c.units {
		if err := u.tellLeft(); err != nil {
			return err
		}
	}
	return nil
}

// tellLeft reports what stays behind, once.
func (u *unit) tellLeft() error {
	if len(u.left) == 0 {
		return nil
	}
	for _, l := range u.left {
		u.miss("%d rows of the sandbox's %s stay behind: they %s.", l.rows, u.table.Name, l.why)
	}
	u.left = nil
	if u.rule.OnConflict == "stop" {
		return &sandglass.Error{Code: CodeCarryConflict, Op: "neutralize", Message: u.out.missed[len(u.out.missed)-1] + fmt.Sprintf(" The rule %s says to stop then.", u.name()),
			Remedy: "The sandbox is as it was. Change these rows in the sandbox, choose another moment, or let the rule skip them."}
	}
	return nil
}

// stays is SQL that holds for rows of a table, called alias, that no merge replaces. What a keep
// replaces has gone already.
func (c *carrier) stays(table uint32, alias string) string {
	all := "true"
	for _, u := range c.units {
		if u.table.OID == table && u.rule.Merge != "" && u.own.OID != 0 {
			all += " AND NOT " + u.matched(alias)
		}
	}
	return all
}

// doubled leaves out rows whose unique key another row of the copy has that stays.
func (c *carrier) doubled(ctx context.Context, u *unit) (rows int64, err error) {
	if u.rule.Keep != "" && u.rule.Where == "" {
		return 0, nil // no other row stays
	}
	type index struct {
		Name, Predicate       string
		Expressions, Operator []string
		NullsEqual            bool
	}
	indexes, err := structs[index](ctx, c.tx, `SELECT relname::text, coalesce(pg_get_expr(indpred, indrelid), 'true'), (SELECT array_agg(pg_get_indexdef(indexrelid, n, false) ORDER BY n) FROM generate_series(1, indnkeyatts) n),
		(`+indexOperators+`), coalesce(to_jsonb(i)->>'indnullsnotdistinct', 'f')::boolean FROM pg_index i JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = $1 AND indisunique AND indisvalid ORDER BY 1`, u.table.OID)
	if err != nil {
		return 0, fmt.Errorf("read the unique keys of %s: %w", u.table.Name, err)
	}
	for _, i := range indexes {
		var keys, same []string
		for n, e := range i.Expressions {
			k := fmt.Sprintf("k%d", n)
			keys = append(keys, "("+e+") AS "+k)
			equal := fmt.Sprintf("i.%s %s s.%s", k, i.Operator[n], k)
			if i.NullsEqual {
				equal = fmt.Sprintf("(%s OR i.%s IS NULL AND s.%s IS NULL)", equal, k, k)
			}
			same = append(same, equal)
		}
		n, err := statement(ctx, c.tx, fmt.Sprintf("DELETE FROM %[1]s x USING (SELECT ctid AS sandglass_row, %[2]s FROM %[1]s WHERE %[3]s) i, (SELECT %[2]s FROM %[4]s WHERE (%[3]s) AND %[5]s) s WHERE x.ctid = i.sandglass_row AND %[6]s",
			u.temp, strings.Join(keys, ", "), i.Predicate, u.from(u.table), c.stays(u.table.OID, ident(u.alias())), strings.Join(same, " AND ")))
		if err != nil {
			return rows, fmt.Errorf("compare %s of %s: %w", i.Name, u.table.Name, err)
		}
		rows += n
		u.leftOut(n, "have the same key as other rows of production (%s)", i.Name)
	}
	return rows, nil
}

// unheld leaves out rows that would refer to nothing.
func (c *carrier) unheld(ctx context.Context, u *unit) (rows int64, err error) {
	keys, err := foreignKeys(ctx, c.tx, `convalidated AND (conrelid = $1 OR conrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))`, u.table.OID)
	if err != nil {
		return 0, fmt.Errorf("read the foreign keys of %s: %w", u.table.Name, err)
	}
	for _, k := range keys {
		var where []string
		for _, column := range k.Columns {
			where = append(where, "c."+column+" IS NOT NULL")
		}
		for _, v := range c.units {
			if slices.Contains(k.Parents, v.table.OID) {
				where = append(where, "NOT EXISTS (SELECT FROM "+v.temp+" p WHERE "+k.match("p", "c")+")")
			}
		}
		parent := k.ParentName
		if len(k.Parents) == 1 {
			parent = "ONLY " + parent
		}
		where = append(where, "NOT EXISTS (SELECT FROM "+parent+" p WHERE "+k.match("p", "c")+" AND "+c.stays(k.Parent, "p")+")")
		n, err := statement(ctx, c.tx, "DELETE FROM "+u.temp+" c WHERE "+strings.Join(where, " AND "))
		if err != nil {
			return rows, fmt.Errorf("check foreign key %s of %s: %w", k.Name, u.table.Name, err)
		}
		rows += n
		u.leftOut(n, "refer to rows of %s that the copy does not have (%s)", k.ParentName, k.Name)
	}
	return rows, nil
}
