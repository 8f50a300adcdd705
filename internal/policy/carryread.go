// Reading the rows that stay the sandbox's own: which columns both sides have, and a stream of
// the rows from the sandbox's snapshot into a temporary table of the copy, never all in memory.

package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// unit is one table of a rule: the table it names, or one of that table's children.
type unit struct {
	carryRule
	out     *outcome
	table   relation // in the copy
	own     relation // in the sandbox; OID 0: the sandbox has none
	columns []string // that are carried, key first
	others  []string // the copy's other columns that can be written
	key     []string // of a merge
	equal   []string // operators of the key
	temp    string   // the temporary table with the sandbox's rows
	seen    digest   // of the sandbox's rows
	left    []leftRows
	given   int64  // rows that the copy got
	kept    digest // of the copy's rows that are the sandbox's own, in the end
	// sequences are the last values of the sandbox's sequences, by column.
	sequences map[string]int64
}

// from is the table in a FROM clause: with its partitions, without its children, which are units
// of their own; the alias is what the rule's condition may call it.
func (u *unit) from(t relation) string {
	if t.Kind == "p" {
		return t.Name + " AS " + ident(u.alias())
	}
	return "ONLY " + t.Name + " AS " + ident(u.alias())
}

// carriedColumn is a column as two tables are compared by.
type carriedColumn struct {
	Name, Type string
	Generated  bool
}

func (t relation) carriedColumns(ctx context.Context, q querier) ([]carriedColumn, error) {
	return structs[carriedColumn](ctx, q, `SELECT attname::text, format_type(atttypid, atttypmod), attgenerated <> '' FROM pg_attribute
		WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, t.OID)
}

// plan finds the tables and columns of all rules on both sides. own may be nil.
func (c *carrier) plan(ctx context.Context, q querier, own pgx.Tx) error {
	c.units = nil
	for _, r := range c.rules {
		out := &outcome{}
		c.outs[r.name()] = out
		t, err := findTable(ctx, q, r.rule.Table)
		if err != nil {
			return err
		}
		var there []attribute
		if t.OID != 0 {
			if there, err = t.columns(ctx, q, r.rule.Columns()); err != nil {
				return err
			}
		}
		_, f := fits(r.pack, r.rule, t, there)
		if f != nil && f.Level == sandglass.Stop {
			return &sandglass.Error{Code: f.Code, Op: "neutralize", Message: f.Message, Remedy: f.Remedy}
		} else if f != nil {
			out.notes = append(out.notes, f.Message)
		}
		if f != nil && f.Code != CodeColumnMissing {
			continue
		}
		tree := []relation{t}
		all, err := t.tree(ctx, q)
		if err != nil {
			return err
		}
		if err := allHere(t, all, r.pack, r.rule); err != nil {
			return err
		}
		if t.Kind == "r" {
			tree = all
		}
		for _, t := range tree {
			u := &unit{carryRule: r, out: out, table: t, columns: []string{}}
			if err := u.compare(ctx, q, own); err != nil {
				return err
			}
			if u.rule.Merge != "" && len(u.key) == 0 {
				continue // said so, and not required
			}
			u.temp = fmt.Sprintf("pg_temp.sandglass_carry_%d", len(c.units))
			c.units = append(c.units, u)
		}
	}
	return nil
}

// compare finds which columns both sides have.
func (u *unit) compare(ctx context.Context, q querier, own pgx.Tx) error {
	here, err := u.table.carriedColumns(ctx, q)
	if err != nil {
		return err
	}
	if err := u.findKey(ctx, q); err != nil {
		return err
	}
	var there []carriedColumn
	if own != nil {
		if there, err = u.findOwn(ctx, own); err != nil {
			return err
		}
	}
	for _, c := range here {
		if c.Generated {
			continue
		}
		i := slices.IndexFunc(there, func(o carriedColumn) bool { return o.Name == c.Name })
		wanted := len(u.rule.Only) == 0 || slices.Contains(u.rule.Only, c.Name) || slices.Contains(u.key, c.Name)
		if i < 0 || !wanted {
			u.others = append(u.others, c.Name)
			continue
		}
		u.columns = append(u.columns, c.Name)
		if there[i].Type != c.Type {
			u.miss("The column %s of %s is %s in the sandbox and %s in the copy; its values are carried as text.", c.Name, u.table.Name, there[i].Type, c.Type)
		}
	}
	for _, o := range there {
		if wanted := len(u.rule.Only) == 0 || slices.Contains(u.rule.Only, o.Name); wanted && !slices.ContainsFunc(here, func(c carriedColumn) bool { return c.Name == o.Name }) {
			u.miss("The copy has no column %s of %s; the sandbox's values of it stay behind.", o.Name, u.table.Name)
		}
	}
	if u.own.OID == 0 {
		return nil
	}
	for _, name := range slices.Concat(u.key, u.rule.Only) {
		if slices.Contains(u.columns, name) {
			continue
		}
		inCopy := slices.ContainsFunc(here, func(c carriedColumn) bool { return c.Name == name })
		if slices.Contains(u.key, name) && !u.rule.Must() {
			u.out.notes = append(u.out.notes, fmt.Sprintf("%s has no column %s on both sides; nothing is merged.", u.table.Name, name))
			u.key = nil
			return nil
		}
		if !inCopy {
			continue // noted before
		}
		if u.rule.Must() {
			return &sandglass.Error{Code: CodeColumnMissing, Op: "neutralize", Message: fmt.Sprintf("The sandbox's %s has no column %s, which the rule %s is about.", u.own.Name, name, u.name()),
				Remedy: fmt.Sprintf("Correct the pack %s, or say required: false for the rule %s.", u.pack.Name, u.rule.Name)}
		}
		u.out.notes = append(u.out.notes, fmt.Sprintf("The sandbox's %s has no column %s.", u.own.Name, name))
	}
	return nil
}

func (u *unit) miss(format string, args ...any) {
	u.out.missed = append(u.out.missed, fmt.Sprintf(format, args...))
}

// findOwn finds the sandbox's table and its columns.
func (u *unit) findOwn(ctx context.Context, own pgx.Tx) ([]carriedColumn, error) {
	found, err := structs[relation](ctx, own, `SELECT c.oid, relkind::text, format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass($1)`, u.table.Name)
	if err != nil {
		return nil, fmt.Errorf("look for %s in the sandbox: %w", u.table.Name, err)
	}
	switch {
	case len(found) == 0:
		u.out.notes = append(u.out.notes, "The sandbox has no table "+u.table.Name+".")
		return nil, nil
	case found[0].Kind != "r" && found[0].Kind != "p":
		u.miss("%s is no table in the sandbox; nothing of it is carried.", u.table.Name)
		return nil, nil
	}
	u.own = found[0]
	return u.own.carriedColumns(ctx, own)
}

// findKey finds by which columns a merge knows a row, and the operators that compare them: those
// of a unique index on these columns, or plain equality.
func (u *unit) findKey(ctx context.Context, q querier) error {
	if u.rule.Merge == "" {
		return nil
	}
	type index struct {
		Columns, Operators []string
		Primary            bool
	}
	indexes, err := structs[index](ctx, q, `SELECT (SELECT array_agg(attname::text ORDER BY k) FROM unnest(indkey[0:indnkeyatts - 1]) WITH ORDINALITY c (n, k) JOIN pg_attribute ON attrelid = indrelid AND attnum = n),
		(`+indexOperators+`), indisprimary FROM pg_index i WHERE indrelid = $1 AND indisunique AND indexprs IS NULL AND indpred IS NULL AND indisvalid ORDER BY indisprimary DESC, indexrelid`, u.table.OID)
	if err != nil {
		return fmt.Errorf("read the keys of %s: %w", u.table.Name, err)
	}
	for _, i := range indexes {
		if len(u.rule.Key) == 0 && i.Primary || slices.Equal(slices.Sorted(slices.Values(i.Columns)), slices.Sorted(slices.Values(u.rule.Key))) {
			u.key, u.equal = i.Columns, i.Operators
			return nil
		}
	}
	for _, name := range u.rule.Key {
		u.key, u.equal = append(u.key, name), append(u.equal, "OPERATOR(pg_catalog.=)")
	}
	if len(u.key) == 0 {
		if u.rule.Must() {
			return &sandglass.Error{Code: CodeTableUnfit, Op: "neutralize", Message: fmt.Sprintf("%s has no primary key, so the rule %s can't know its rows.", u.table.Name, u.name()),
				Remedy: fmt.Sprintf("Give the rule a key in the pack %s.", u.pack.Name)}
		}
		u.out.notes = append(u.out.notes, u.table.Name+" has no primary key; nothing is merged")
	}
	return nil
}

// indexOperators is SQL for the equality operators of a btree index i, in the order of its columns.
const indexOperators = `SELECT array_agg(format('OPERATOR(%I.%s)', nspname, oprname) ORDER BY k) FROM unnest(indclass[0:indnkeyatts - 1]) WITH ORDINALITY c (o, k)
	JOIN pg_opclass ON pg_opclass.oid = o JOIN pg_amop ON amopfamily = opcfamily AND amoplefttype = opcintype AND amoprighttype = opcintype AND amopstrategy = 3
	JOIN pg_operator ON pg_operator.oid = amopopr JOIN pg_namespace ON pg_namespace.oid = oprnamespace`

// selected is the query that gives the rows of one side, for COPY. The server reads it alone first: what is prepared
// is one statement, while COPY goes through a protocol that takes several.
func (u *unit) selected(ctx context.Context, tx pgx.Tx, t relation) (string, error) {
	query := "SELECT " + list(u.columns, "") + " FROM " + u.from(t) + u.where("")
	if _, err := tx.Conn().PgConn().Prepare(ctx, "", query, nil); err != nil {
		return "", u.inWhere(err)
	}
	return query, nil
}

// list are columns, quoted, each with a prefix.
func list(columns []string, prefix string) string {
	var all []string
	for _, c := range columns {
		all = append(all, prefix+ident(c))
	}
	return strings.Join(all, ", ")
}

// look reads the sandbox's rows for their digest only.
func (u *unit) look(ctx context.Context, own pgx.Tx) error {
	if u.own.OID == 0 || len(u.columns) == 0 {
		return nil
	}
	query, err := u.selected(ctx, own, u.own)
	if err == nil {
		err = u.inWhere(u.seen.take(ctx, own, query))
	}
	if err != nil {
		return fmt.Errorf("read %s of the sandbox: %w", u.own.Name, err)
	}
	return nil
}

// read brings the sandbox's rows into a temporary table of the copy.
func (u *unit) read(ctx context.Context, tx, own pgx.Tx) error {
	if _, err := tx.Exec(ctx, "CREATE TEMP TABLE "+strings.TrimPrefix(u.temp, "pg_temp.")+" ON COMMIT DROP AS SELECT "+list(slices.Concat(u.columns, u.others), "")+
		", false AS sandglass_known FROM ONLY "+u.table.Name+" WHERE false"); err != nil {
		return fmt.Errorf("make room for rows of %s: %w", u.table.Name, err)
	}
	if u.own.OID == 0 || len(u.columns) == 0 {
		return nil
	}
	query, err := u.selected(ctx, own, u.own)
	if err == nil {
		err = u.stream(ctx, own, "COPY ("+query+") TO STDOUT", tx, "COPY "+u.temp+" ("+list(u.columns, "")+") FROM STDIN")
	}
	if err != nil {
		return fmt.Errorf("carry %s: %w", u.own.Name, err)
	}
	u.out.seen += u.seen.rows
	if err := u.readSequences(ctx, own); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "UPDATE "+u.temp+" SET sandglass_known = false WHERE sandglass_known IS NULL; ANALYZE "+u.temp); err != nil {
		return fmt.Errorf("look at the rows of %s: %w", u.own.Name, err)
	}
	return nil
}

// errUnread ends the reading when nobody takes the rows.
var errUnread = errors.New("the rows were not taken")

// stream copies from the sandbox into the copy, and takes the digest on the way.
func (u *unit) stream(ctx context.Context, from pgx.Tx, out string, to pgx.Tx, in string) error {
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		_, err := from.Conn().PgConn().CopyTo(ctx, io.MultiWriter(w, &u.seen), out)
		w.CloseWithError(err)
		read <- err
	}()
	_, err := to.Conn().PgConn().CopyFrom(ctx, r, in)
	r.CloseWithError(errUnread)
	if readErr := <-read; readErr != nil && !errors.Is(readErr, errUnread) {
		return u.inWhere(readErr)
	}
	return err
}

// digest tells sets of rows apart, in whatever order they come: the sum of their hashes. It takes
// the lines of a COPY in text format, which has no line ends inside of rows.
type digest struct {
	rows int64
	sum  [4]uint64
	part []byte // of a line
}

func (d *digest) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			d.part = append(d.part, p...)
			return n, nil
		}
		line := p[:end]
		if len(d.part) > 0 {
			line = append(d.part, line...)
		}
		hash := sha256.Sum256(line)
		for i := range d.sum {
			d.sum[i] += binary.BigEndian.Uint64(hash[8*i:])
		}
		d.rows++
		d.part, p = d.part[:0], p[end+1:]
	}
}

func (d digest) String() string {
	return fmt.Sprintf("%d:%016x%016x%016x%016x", d.rows, d.sum[0], d.sum[1], d.sum[2], d.sum[3])
}

// digest of the sandbox's rows; "" where there is no such table.
func (u *unit) digest() string {
	if u.own.OID == 0 {
		return ""
	}
	return u.seen.String()
}

// take adds the rows of a query to the digest.
func (d *digest) take(ctx context.Context, tx pgx.Tx, query string) error {
	_, err := tx.Conn().PgConn().CopyTo(ctx, d, "COPY ("+query+") TO STDOUT")
	return err
}

// result is of the copy's rows that are the sandbox's own: those that a keep is about, or those whose keys a merge has noted.
func (u *unit) result(ctx context.Context, tx pgx.Tx, run string) (d digest, err error) {
	if u.rule.Merge != "" {
		err = d.take(ctx, tx, "SELECT "+list(u.columns, ident(u.alias())+".")+" FROM "+u.from(u.table)+" WHERE "+u.keyText(ident(u.alias()))+
			" IN (SELECT m.key FROM sandglass.merged_rows m WHERE m.operation = "+literal(run)+" AND m.rule = "+literal(u.name())+" AND m.table_name = "+literal(u.table.Name)+")")
	} else {
		var query string
		if query, err = u.selected(ctx, tx, u.table); err == nil {
			err = d.take(ctx, tx, query)
		}
	}
	if err != nil {
		return d, fmt.Errorf("read %s of the copy: %w", u.table.Name, err)
	}
	return d, nil
}
