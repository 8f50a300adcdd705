// What of production must be found nowhere in the finished copy, read while the copy still has it: passwords of roles,
// and the values of columns that rules call secret.

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass/internal/pack"
)

// MaxSecret is how much of a value is looked for, bytes: a longer one is known by its beginning, which is in one piece
// also where PostgreSQL keeps the value in pieces of its own (TOAST_MAX_CHUNK_SIZE in access/heaptoast.h).
const MaxSecret = 1024

// Bounds of what is looked for, so that rules on huge tables can't take all memory: the values of one column, and
// the bytes of all, each with what it takes besides.
const (
	maxSecrets     = 200_000
	maxSecretBytes = 24 << 20
	secretOverhead = 128
)

// Secret is a value of production.
type Secret struct {
	// Of says whose value it is, for people: "rule shop/keys, column public.settings.value" or "the password of role app".
	Of    string
	Value []byte
}

// Secrets are the values that must not be left. It is asked before Neutralize.
type Secrets struct {
	Values []Secret
	// Cut names columns with more values than can be looked for, Odd those of types whose values lie in the files in a form of
	// their own: as text they are found in other places only.
	Cut, Odd []string
	bytes    int // that Values take
}

// ReadSecrets reads them from the untouched copy.
func ReadSecrets(ctx context.Context, st Staging, in Input) (Secrets, error) {
	var s Secrets
	var names []string
	j := &job{st: st, in: in}
	err := j.maintenance(ctx, func(conn *pgx.Conn) (err error) {
		type row struct{ Name, Password string }
		roles, err := structs[row](ctx, conn, `SELECT rolname::text, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL ORDER BY 1`)
		if err != nil {
			return err
		}
		for _, r := range roles {
			s.Values = append(s.Values, Secret{"the password of production's role " + r.Name, []byte(r.Password)})
		}
		names, err = column(ctx, conn, `SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1`)
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read secrets: %w", err)
	}
	keep, _, err := MapDatabases(in.Source, in.Environment, names)
	if err != nil {
		return s, err
	}
	for _, name := range names {
		if keep[name] == "" || !in.hasSecrets(keep[name]) {
			continue
		}
		err := st.in(ctx, name, func(conn *pgx.Conn) error { return s.read(ctx, conn, in, keep[name]) })
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func (in Input) hasSecrets(database string) bool {
	return slices.ContainsFunc(in.Packs, func(p pack.Pack) bool {
		return slices.ContainsFunc(p.Rules, func(r pack.Rule) bool {
			return in.Environment.Databases[r.Database] == database && len(r.SecretColumns()) > 0
		})
	})
}

// read reads the values that rules on one database call secret.
func (s *Secrets) read(ctx context.Context, q querier, in Input, database string) error {
	for _, p := range in.Packs {
		for _, r := range p.Rules {
			if in.Environment.Databases[r.Database] != database || len(r.SecretColumns()) == 0 {
				continue
			}
			t, err := findTable(ctx, q, r.Table)
			if err != nil {
				return fmt.Errorf("read secrets: %w", err)
			}
			if t.Kind != "r" && t.Kind != "p" {
				continue // Inspect says so
			}
			columns, err := t.columns(ctx, q, r.SecretColumns())
			if err != nil {
				return fmt.Errorf("read secrets: %w", err)
			}
			for _, c := range columns {
				of := fmt.Sprintf("%s.%s (rule %s/%s)", t.Name, c.Name, p.Name, r.Name)
				if err := s.column(ctx, q, r, t, c, of); err != nil {
					return ruleError(rule{database: database}, database, failedIn{p.Name + "/" + r.Name, r.Part("where"), err})
				}
			}
		}
	}
	return nil
}

// column reads the values of one column, as the bytes that lie in the files.
func (s *Secrets) column(ctx context.Context, q querier, r pack.Rule, t relation, c attribute, of string) error {
	each, value, odd := c.stored()
	if odd {
		s.Odd = append(s.Odd, of)
	}
	where := ident(c.Name) + " IS NOT NULL"
	if r.Where != "" && !r.Carries() {
		where += " AND (\n" + r.Where + "\n)"
	}
	rows, err := q.Query(ctx, fmt.Sprintf("SELECT DISTINCT substr(%s, 1, %d) FROM (SELECT %s AS v FROM %s AS %s WHERE %s) each WHERE v IS NOT NULL LIMIT %d",
		value, MaxSecret, each, t.Name, ident(bareName(r.Table)), where, maxSecrets+1))
	if err != nil {
		return err
	}
	defer rows.Close()
	for n := 0; rows.Next(); n++ {
		var v []byte
		if err := rows.Scan(&v); err != nil {
			return err
		}
		if s.bytes += len(v) + secretOverhead; n == maxSecrets || s.bytes > maxSecretBytes {
			s.Cut = append(s.Cut, of)
			return nil
		}
		s.Values = append(s.Values, Secret{of, v})
	}
	return rows.Err()
}

// stored is SQL for the values of a column, one by one where it holds several, and for the bytes of one, v, as they lie in
// the files; odd says that they lie there in another form, so that only their text is known.
func (c attribute) stored() (each, value string, odd bool) {
	each, kind := ident(c.Name), c.Type
	if element, ok := strings.CutSuffix(kind, "[]"); ok {
		each, kind = "unnest("+each+")", element
	}
	switch kind {
	case "bytea":
		return each, "v", false
	case "uuid":
		return each, "uuid_send(v)", false
	case "jsonb":
		each = "jsonb_path_query(" + each + ", '$.** ? (@.type() == \"string\")') #>> '{}'"
	case "text", "character varying", "character", "name", "json", "xml":
	default:
		odd = c.Category != "S"
	}
	return each, "convert_to(v::text, getdatabaseencoding())", odd
}

// bareName is a rule's table without its schema, by which a condition may name it.
func bareName(table string) string {
	if _, name, qualified := strings.Cut(table, "."); qualified {
		return name
	}
	return table
}
