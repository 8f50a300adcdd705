// The delete of a rule: rows go together with those that refer to them, as far as it leads. In
// replica role PostgreSQL itself would leave the latter behind (field/postgres.md 15).

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// gone are rows just deleted from a table, by the keys that others could refer to.
type gone struct {
	table string // its name, quoted
	keys  []foreignKey
	temp  string // the temporary table with the keys; "" where nothing can refer
	// again: rows with the same key may have come since.
	again bool
}

func (a *act) delete(ctx context.Context) (err error) {
	if a.out.seen, err = a.count(ctx); err != nil {
		return err
	}
	_, alias, qualified := strings.Cut(a.rule.Table, ".") // where may name the table
	if !qualified {
		alias = a.rule.Table
	}
	first, n, err := a.remove(ctx, a.table, a.table.Name, alias, a.where(""), 0)
	if err != nil {
		return err
	}
	a.out.rows = n
	if err := a.changed(ctx, a.table.Name, nil, "delete", n); err != nil {
		return err
	}
	temps := 1
	return a.followAll(ctx, []gone{first}, &temps)
}

// followAll does to the rows that refer to those gone, and to what refers to them in turn, as far
// as it leads. temps counts the temporary tables made.
func (a *act) followAll(ctx context.Context, queue []gone, temps *int) error {
	var restored []string
	for ; len(queue) > 0; queue = queue[1:] {
		for _, k := range queue[0].keys {
			more, back, n, err := a.follow(ctx, queue[0], k, *temps)
			if err != nil {
				return err
			}
			restored = append(restored, back...)
			if *temps++; n > 0 && more.temp != "" {
				queue = append(queue, more)
			}
		}
	}
	for _, sql := range slices.Backward(restored) {
		if _, err := a.tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes rows and keeps their keys, if anything can refer to them.
func (a *act) remove(ctx context.Context, table relation, from, alias, where string, number int) (g gone, n int64, err error) {
	g.table, alias = table.Name, ident(alias)
	g.keys, err = foreignKeys(ctx, a.tx, `confrelid IN (`+aboveBelow+`SELECT oid FROM up UNION SELECT oid FROM tree)`, []uint32{table.OID})
	if err != nil {
		return g, 0, err
	}
	if len(g.keys) == 0 {
		n, err = statement(ctx, a.tx, "DELETE FROM "+from+" AS "+alias+where)
		return g, n, err
	}
	var columns []string
	for _, k := range g.keys {
		for _, c := range k.Keys {
			if !slices.Contains(columns, alias+"."+c) {
				columns = append(columns, alias+"."+c)
			}
		}
	}
	list := alias + ".tableoid AS sandglass_of, " + strings.Join(columns, ", ")
	g.temp = fmt.Sprintf("pg_temp.sandglass_gone_%d", number)
	if _, err := a.tx.Exec(ctx, "CREATE TEMP TABLE "+strings.TrimPrefix(g.temp, "pg_temp.")+" ON COMMIT DROP AS SELECT "+list+" FROM "+table.Name+" AS "+alias+" WHERE false"); err != nil {
		return g, 0, err
	}
	n, err = statement(ctx, a.tx, "WITH d AS (DELETE FROM "+from+" AS "+alias+where+" RETURNING "+list+") INSERT INTO "+g.temp+" SELECT * FROM d")
	return g, n, err
}

// follow does to the rows that refer to those gone what the foreign key says for a delete; where
// it would refuse one, they go too.
func (a *act) follow(ctx context.Context, g gone, k foreignKey, number int) (more gone, restore []string, n int64, err error) {
	child := relation{OID: k.Child, Kind: k.ChildKind, Name: k.ChildName}
	tree, err := child.tree(ctx, a.tx)
	if err != nil {
		return more, nil, 0, err
	}
	if restore, err = silence(ctx, a.tx, tree); err != nil {
		return more, nil, 0, err
	}
	where := fmt.Sprintf(" WHERE EXISTS (SELECT FROM %s g WHERE g.sandglass_of = ANY ('{%s}'::oid[]) AND %s)", g.temp,
		strings.Trim(strings.Join(strings.Fields(fmt.Sprint(k.Parents)), ","), "[]"), k.match("g", "t"))
	if g.again {
		parent := k.ParentName
		if len(k.Parents) == 1 {
			parent = "ONLY " + parent
		}
		where += " AND NOT EXISTS (SELECT FROM " + parent + " p WHERE " + k.match("p", "t") + ")"
	}
	action, columns := "delete", []string(nil)
	switch k.OnDelete {
	case "n", "d":
		value := map[string]string{"n": "NULL", "d": "DEFAULT"}[k.OnDelete]
		var sets []string
		for _, c := range k.SetColumns {
			sets = append(sets, c+" = "+value)
		}
		action, columns = "set", k.SetColumns
		n, err = statement(ctx, a.tx, "UPDATE "+k.child()+" AS t SET "+strings.Join(sets, ", ")+where)
	default:
		more, n, err = a.remove(ctx, child, k.child(), "t", where, number)
	}
	if err != nil || n == 0 {
		return more, restore, n, err
	}
	a.out.notes = append(a.out.notes, fmt.Sprintf("%d rows of %s referred to rows of %s: %s", n, k.ChildName, g.table, action))
	return more, restore, n, a.changed(ctx, k.ChildName, columns, action, n)
}
