// Which SQL text of a rule has failed, so that its own line of the pack is quoted. PostgreSQL says so of some errors only
// (a division by zero has no position), so each text is tried by itself.

package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass/internal/pack"
)

// part is one SQL text of a rule, in a statement of its own.
type part struct {
	sql string
	at  pack.Place
}

// partsOf are the rule's condition, and each value that it sets or inserts.
func partsOf(r pack.Rule, t relation, columns []attribute) []part {
	var all []part
	if r.Where != "" {
		from := " FROM " + t.Name + " AS " + ident(bareName(r.Table))
		if r.Action() == "insert" { // its condition is about no row
			from = ""
		}
		all = append(all, part{"SELECT count(*)" + from + conditions(r.Where), r.Part("where")})
	}
	switch r.Action() {
	case "set":
		for _, c := range columns {
			all = append(all, part{"UPDATE " + t.Name + " SET " + ident(c.Name) + " = (\n" + r.Set[c.Name] + "\n)" + conditions(r.Where), r.Part("set." + c.Name)})
		}
	case "insert":
		for i, row := range r.Insert {
			for _, name := range sortedKeys(row) {
				all = append(all, part{"INSERT INTO " + t.Name + " (" + ident(name) + ") OVERRIDING SYSTEM VALUE SELECT (\n" + row[name] + "\n)" + conditions(r.Where), r.Part(fmt.Sprintf("insert[%d].%s", i, name))})
			}
		}
	}
	return all
}

// blame finds the part of a pack's rule that fails as the rule did; where none does by itself, it is the action. What is
// tried is rolled back, and given up when it takes long.
func blame(ctx context.Context, conn *pgx.Conn, r pack.Rule, err error) pack.Place {
	failed, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || conn.IsClosed() || r.Action() == "insert" && strings.HasPrefix(failed.Code, "23") { // a row's constraint, not a value's fault
		return r.Does
	}
	at := r.Does
	tryErr := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		t, err := findTable(ctx, tx, r.Table)
		if err != nil {
			return err
		}
		columns, err := t.columns(ctx, tx, r.Columns())
		if err != nil {
			return err
		}
		tree, err := t.tree(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := silence(ctx, tx, tree); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = '`+countTimeout+`'`); err != nil {
			return err
		}
		for _, p := range partsOf(r, t, columns) {
			err := pgx.BeginFunc(ctx, tx, func(pgx.Tx) error {
				_, err := statement(ctx, tx, p.sql)
				return err
			})
			if said, ok := errors.AsType[*pgconn.PgError](err); ok && said.Code == failed.Code && said.Message == failed.Message {
				at = p.at
				return errTried
			}
		}
		return errTried
	})
	if !errors.Is(tryErr, errTried) {
		return r.Does
	}
	return at
}

// errTried rolls back what was tried.
var errTried = errors.New("tried")

// failedIn is an error of one SQL text of a pack.
type failedIn struct {
	rule string // PACK/RULE
	at   pack.Place
	err  error
}

func (f failedIn) Error() string { return f.err.Error() }
func (f failedIn) Unwrap() error { return f.err }

// inWhere says that the rule's condition has failed, if the server refused a statement that holds it.
func (c carryRule) inWhere(err error) error {
	if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || c.rule.Where == "" || !strings.HasPrefix(refused.Code, "42") && !strings.HasPrefix(refused.Code, "22") {
		return err
	}
	return failedIn{c.name(), c.rule.Part("where"), err}
}
