// The questions of packs: assertions on the finished copy, quiesce checks on the untouched one.

package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/pack"
)

// CodeForeignKeys is the finding on keys of tables that rules have changed.
const CodeForeignKeys sandglass.Code = "proof.foreign_keys"

// AssertionCode is the code of the finding an assertion makes.
func AssertionCode(p pack.Pack, q pack.Question) sandglass.Code {
	return sandglass.Code("proof." + p.Name + "/" + q.Name)
}

// QuiesceCode is the code of the warning a quiesce check makes.
func QuiesceCode(p pack.Pack, q pack.Question) sandglass.Code {
	return sandglass.Code("inspect." + p.Name + "/" + q.Name)
}

// assert asks the packs' assertions about one database; those that about is true for.
func (p *prover) assert(ctx context.Context, conn *pgx.Conn, database string, about func(pack.Question) bool) error {
	for _, pk := range p.in.Packs {
		for _, q := range pk.Assertions {
			if p.in.Environment.Databases[q.Database] != database || !about(q) {
				continue
			}
			wrong, err := ask(ctx, conn, q)
			if err != nil {
				return fmt.Errorf("assertion %s/%s: %w", pk.Name, q.Name, err)
			}
			f := sandglass.Finding{Code: AssertionCode(pk, q), Level: sandglass.OK, Message: fmt.Sprintf("%s: holds.", q.Name)}
			if wrong != "" {
				f.Level, f.Message = sandglass.Stop, fmt.Sprintf("The assertion %s of %s does not hold: %s%s. %s", q.Name, pk.Name, wrong, q.At.Quoted(), q.Why)
				f.Remedy = "The copy is discarded. Correct the pack's rules, or the assertion."
				if p.in.Synchronized {
					f.Remedy = "The copy is discarded. The sandbox's migrations brought this back; change them."
				}
			}
			p.asked = append(p.asked, f)
		}
	}
	return nil
}

// ask asks one question in a transaction that can change nothing, and says what is wrong with
// the answer, "" for nothing. Answers are numbers and states, and are quoted only when short.
func ask(ctx context.Context, conn *pgx.Conn, q pack.Question) (wrong string, err error) {
	if q.Table != "" {
		t, err := findTable(ctx, conn, q.Table)
		switch {
		case err != nil:
			return "", err
		case t.OID == 0 && q.Must():
			return "there is no table " + q.Table, nil
		case t.OID == 0:
			return "", nil
		}
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return "", err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// The extended protocol takes one statement only, and gives any type as text. Rows too many are counted, not kept.
	rows, first := 0, [][]byte(nil)
	result := conn.PgConn().ExecParams(ctx, q.Query, nil, nil, nil, nil)
	for ; result.NextRow(); rows++ {
		if rows == 0 {
			for _, v := range result.Values() {
				first = append(first, bytes.Clone(v))
			}
		}
	}
	if _, err := result.Close(); err != nil {
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && ctx.Err() == nil {
			return "it could not be asked: " + refusal(pgErr), nil
		}
		return "", err
	}
	switch {
	case rows != 1:
		return fmt.Sprintf("it gave %d rows instead of one", rows), nil
	case len(first) != 1:
		return fmt.Sprintf("it gave %d columns instead of one", len(first)), nil
	case first[0] == nil:
		return fmt.Sprintf("the answer is NULL instead of %s", q.Expect), nil
	}
	if answer := string(first[0]); answer != q.Expect {
		if len(answer) > 40 {
			answer = "another"
		}
		return fmt.Sprintf("the answer is %s instead of %s", answer, q.Expect), nil
	}
	return "", nil
}

// refusal is PostgreSQL's own message where it is about the statement (class 42), which quotes no
// data; else its code.
func refusal(e *pgconn.PgError) string {
	if len(e.Code) == 5 && e.Code[:2] == "42" {
		return e.Message + " (SQLSTATE " + e.Code + ")"
	}
	return "SQLSTATE " + e.Code
}

// keys checks the foreign keys of the tables that rules were about, in both directions: replica
// role has not.
func (p *prover) keys(ctx context.Context, conn *pgx.Conn, database string) error {
	if !slices.Contains(p.in.packDatabases(), database) {
		return nil
	}
	tables, err := touched(ctx, conn, p.in)
	if err != nil || len(tables) == 0 {
		return err
	}
	return p.keysOf(ctx, conn, database, tables)
}

// keysOf checks the foreign keys from and to the tables.
func (p *prover) keysOf(ctx context.Context, conn *pgx.Conn, database string, tables []uint32) error {
	const near = `IN (` + aboveBelow + `SELECT oid FROM up UNION SELECT oid FROM tree)`
	keys, err := foreignKeys(ctx, conn, `convalidated AND (conrelid `+near+` OR confrelid `+near+`)`, tables)
	if err != nil {
		return err
	}
	for _, k := range keys {
		var broken bool
		set := ""
		for _, c := range k.Columns {
			set += " AND c." + c + " IS NOT NULL"
		}
		parent := k.ParentName
		if len(k.Parents) == 1 {
			parent = "ONLY " + parent
		}
		if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s c WHERE NOT EXISTS (SELECT FROM %s p WHERE %s)%s)", k.child(), parent, k.match("p", "c"), set)).Scan(&broken); err != nil {
			return fmt.Errorf("check foreign key %s of %s: %w", k.Name, k.ChildName, err)
		}
		if broken {
			p.broken = append(p.broken, database+": "+k.Name+" of "+k.ChildName)
		}
	}
	return nil
}

// packFindings are the findings on packs, after all databases were asked.
func (p *prover) packFindings() []sandglass.Finding {
	if len(p.in.packDatabases()) == 0 {
		return nil
	}
	f := sandglass.Finding{Code: CodeForeignKeys, Level: sandglass.OK, Message: "Every foreign key of the tables that rules are about holds."}
	if len(p.broken) > 0 {
		f.Level, f.Message, f.Remedy = sandglass.Stop, "Rows refer to others that are not there: "+some(p.broken)+".", "The copy is discarded. A rule changed one side of these keys only; correct the pack."
	}
	all := []sandglass.Finding{f}
	if slices.ContainsFunc(p.in.rules(), func(r rule) bool { return r.carries != nil }) {
		all = append(all, p.keptFinding())
	}
	return append(all, p.asked...)
}

// quiet asks the packs' quiesce checks of one database of the untouched copy.
func (i *inspector) quiet(ctx context.Context, conn *pgx.Conn, d *DatabaseFact) error {
	tables, err := i.in.lookAtTables(ctx, conn, d.Final)
	if err != nil {
		return err
	}
	own, err := i.in.lookAtOwn(ctx, conn, d.Final)
	if err != nil {
		return err
	}
	for _, f := range append(tables, own...) {
		if !slices.Contains(i.findings, f) {
			i.add(f)
		}
	}
	for _, p := range i.in.Packs {
		for _, q := range p.Quiesce {
			if i.in.Environment.Databases[q.Database] != d.Final {
				continue
			}
			wrong, err := ask(ctx, conn, q)
			if err != nil {
				return fmt.Errorf("quiesce check %s/%s: %w", p.Name, q.Name, err)
			}
			if wrong != "" {
				i.add(sandglass.Finding{Code: QuiesceCode(p, q), Level: sandglass.Warning,
					Message: fmt.Sprintf("%s was not quiet at this moment (%s): %s.", i.in.Source.Name, q.Name, wrong),
					Remedy:  q.Why + " Choose a moment when it was quiet, or look into these in the sandbox."})
			}
		}
	}
	return nil
}
