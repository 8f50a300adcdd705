// The last proof: production's host names, its roles' passwords and the values of columns that rules call secret are
// looked for in all files of the finished copy. What to look for is read before anything is changed, and kept
// encrypted to the repository until the operation has ended.

package operation

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/engine"
	"sandglass/internal/pg"
	"sandglass/internal/policy"
	"sandglass/internal/search"
)

// CodeUnread is a column of which nobody knows whether something of production is in it.
const CodeUnread sandglass.Code = "prove.unread"

// CodeLeak is something of production that was found in the finished copy's files.
const CodeLeak sandglass.Code = "prove.leak"

// secretsFile is what to look for, in the operation's folder.
const secretsFile = "secrets.age"

// keepSecrets writes what to look for, while the copy still has it.
func (h *Host) keepSecrets(ctx context.Context, run *engine.Run, st policy.Staging, in policy.Input) error {
	secrets, err := policy.ReadSecrets(ctx, st, in)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(run.Dir, secretsFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep what to look for: %w", err)
	}
	defer f.Close()
	w, err := h.Repository.Encrypt(f)
	if err != nil {
		return fmt.Errorf("keep what to look for: %w", err)
	}
	// The step ends after this is durable; a file that was cut off is written again.
	if err := errors.Join(gob.NewEncoder(w).Encode(secrets), w.Close(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep what to look for: %w", err)
	}
	run.Log.Info("read what must not be left in the copy", "values", len(secrets.Values))
	return nil
}

func (h *Host) readSecrets(run *engine.Run) (secrets policy.Secrets, err error) {
	f, err := os.Open(filepath.Join(run.Dir, secretsFile))
	if err != nil {
		return secrets, fmt.Errorf("read what to look for: %w", err)
	}
	defer f.Close()
	r, err := h.Repository.Decrypt(f)
	if err == nil {
		err = gob.NewDecoder(r).Decode(&secrets)
	}
	if err != nil {
		return secrets, fmt.Errorf("read what to look for: %w", err)
	}
	return secrets, nil
}

// forgetSecrets removes what to look for; the operation ends.
func forgetSecrets(run *engine.Run) error {
	if err := os.Remove(filepath.Join(run.Dir, secretsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what to look for: %w", err)
	}
	return nil
}

// Searched is what the search came to, as search.json in the operation's logs says it.
type Searched struct {
	Values int `json:"values"`       // looked for
	Short  int `json:"not_searched"` // too short, or too plain, to be told from anything else
	// ShortIn says whose values those are.
	ShortIn []string `json:"not_searched_in,omitempty"`
	KnownHosts
	Cut     []string `json:"cut,omitempty"` // columns with more values than are looked for
	Odd     []string `json:"odd,omitempty"` // columns whose values lie in the files in another form than their text, which is looked for
	Bytes   int64    `json:"bytes"`
	Seconds float64  `json:"seconds"`
	// Hidden are the bytes of large and compressed values and of addresses, which were looked through by SQL.
	Hidden        int64    `json:"hidden_bytes"`
	HiddenSeconds float64  `json:"hidden_seconds"`
	Found         []string `json:"found,omitempty"`
	// Unread are columns whose values the server could not give, with why.
	Unread []string `json:"unread,omitempty"`
}

// looked is what is looked for, and what has been found of it.
type looked struct {
	Searched
	names []string // by a needle's Of
	index *search.Index
}

// lookFor makes the index of what must not be left.
func (h *Host) lookFor(ctx context.Context, run *engine.Run, m memory, in policy.Input) (*looked, error) {
	secrets, err := h.readSecrets(run)
	if err != nil {
		return nil, err
	}
	hosts, err := h.productionHosts(ctx, m, in.Source, in.Environment)
	if err != nil {
		return nil, err
	}
	l := &looked{Searched: Searched{KnownHosts: hosts, Cut: secrets.Cut, Odd: secrets.Odd}}
	var needles []search.Needle
	add := func(of string, value []byte, word bool) {
		if !search.Searchable(value) {
			l.Short++
			if !slices.Contains(l.ShortIn, of) {
				l.ShortIn = append(l.ShortIn, of)
			}
			return
		}
		needles = append(needles, search.Needle{Value: value, Of: len(l.names), Word: word})
		l.names = append(l.names, of)
	}
	for _, host := range l.Hosts {
		add("production's host "+host, []byte(host), true)
	}
	for _, s := range secrets.Values {
		if !ownPassword(in.Target, string(s.Value)) {
			add(s.Of, s.Value, false)
		}
	}
	l.Values, l.index = len(needles), search.NewIndex(needles)
	return l, nil
}

func (l *looked) found(of int, place string) {
	if what := l.names[of] + " in " + place; len(l.Found) < maxFound && !slices.Contains(l.Found, what) {
		l.Found = append(l.Found, what)
	}
}

func (l *looked) unread(where, why string) {
	if what := where + ": " + why; len(l.Unread) < maxFound && !slices.Contains(l.Unread, what) {
		l.Unread = append(l.Unread, what)
	}
}

// maxFound is how much is said of what was found.
const maxFound = 200

// hiddenFile has what searchHidden found, for an attempt after the one that went on from there.
const hiddenFile = "hidden.json"

// searchHidden looks through the values of the running copy that its files don't show: large and compressed ones, and addresses.
// An attempt before may have closed databases since (policy.Finish), so what it found is kept.
func (h *Host) searchHidden(ctx context.Context, run *engine.Run, st policy.Staging, l *looked) error {
	var before Searched
	// One that was cut off is made again: nothing was closed before it was whole.
	if text, err := os.ReadFile(filepath.Join(run.Dir, hiddenFile)); err == nil && json.Unmarshal(text, &before) == nil {
		l.Found, l.Unread, l.Hidden, l.HiddenSeconds = before.Found, before.Unread, before.Hidden, before.HiddenSeconds
		return nil
	}
	if l.index.Empty() {
		return nil
	}
	began := time.Now()
	var mu sync.Mutex
	err := policy.Stored{
		Look: func(where string, value []byte) {
			of := l.index.Mentioned(value)
			mu.Lock()
			defer mu.Unlock()
			l.Hidden += int64(len(value))
			for _, n := range slices.Sorted(maps.Keys(of)) {
				l.found(n, where)
			}
		},
		Unread: func(where, why string) {
			mu.Lock()
			defer mu.Unlock()
			l.unread(where, why)
		},
		Progress: func(done, total int64) {
			run.Progress(sandglass.Progress{Done: done, Total: total, Unit: "bytes", Note: "looking for production's secrets in large values", ETA: -1})
		},
	}.Read(ctx, st)
	if err != nil {
		return err
	}
	l.HiddenSeconds = time.Since(began).Seconds()
	run.Log.Info("searched the large values", "bytes", l.Hidden, "seconds", l.HiddenSeconds, "found", len(l.Found))
	return writeJSON(run.Dir, hiddenFile, l.Searched)
}

// search looks through the files of the cleanly stopped copy, and judges all that was found.
func (h *Host) search(ctx context.Context, run *engine.Run, m memory, in policy.Input, l *looked) error {
	began := time.Now()
	hits, bytes, err := l.index.Search(ctx, h.Volumes.Layout(m.Volume).Root, search.Options{MaxHits: maxFound, Open: pg.Open, Progress: func(done int64) {
		run.Progress(sandglass.Progress{Done: done, Total: max(done, m.Bytes), Unit: "bytes", Note: "looking for production's secrets in the files", ETA: -1})
	}})
	if err != nil {
		return err
	}
	l.Bytes, l.Seconds = bytes, time.Since(began).Seconds()
	var parts []search.Hit
	for _, hit := range hits {
		if hit.Part {
			parts = append(parts, hit)
			continue
		}
		place, err := h.placeOf(ctx, run, hit.Path)
		if err != nil {
			return err
		}
		l.found(hit.Of, place)
	}
	if err := h.searchParts(ctx, run, l, parts); err != nil {
		return err
	}
	if err := writeJSON(run.Dir, "search.json", l.Searched); err != nil {
		return err
	}
	run.Log.Info("searched the files", "values", l.Values, "not_searched", l.Short, "bytes", bytes, "seconds", l.Seconds, "found", len(l.Found),
		"hosts", l.Hosts, "hosts_unresolved", l.Unresolved)
	accepted := slices.Concat(run.Request.Accept, in.Environment.Accept)
	findings := []sandglass.Finding{l.finding(slices.Contains(accepted, CodeLeak))}
	if n := len(l.Unread); n > 0 {
		f := sandglass.Finding{Code: CodeUnread, Level: sandglass.Stop, Message: fmt.Sprintf("The server can't give the values of %d columns, so that nothing could be looked for in them: %s.", n, strings.Join(l.Unread[:min(5, n)], "; ")),
			Remedy: "Bring what their types need to this host, or a rule that empties them; or accept it in the sandbox's declaration (accept: [" + string(CodeUnread) + "]). The whole list is search.json of the operation's logs."}
		if slices.Contains(accepted, CodeUnread) {
			f.Level = sandglass.Warning
		}
		findings = append(findings, f)
	}
	return h.judge(ctx, run, findings, accepted)
}

func (s Searched) finding(accepted bool) sandglass.Finding {
	if len(s.Found) == 0 {
		f := sandglass.Finding{Code: CodeLeak, Level: sandglass.OK, Message: fmt.Sprintf("None of %d secrets of production is in the %s of the copy's files.", s.Values, sandglass.Bytes(s.Bytes))}
		if s.Short > 0 {
			f.Message += fmt.Sprintf(" Not looked for: %d values that are too short or too plain (search.json says whose).", s.Short)
		}
		return f
	}
	f := sandglass.Finding{Code: CodeLeak, Level: sandglass.Stop, Message: "Secrets of production are left in the copy: " + strings.Join(s.Found[:min(5, len(s.Found))], "; "),
		Remedy: "Add a rule for what holds them (see docs/PACKS.md, secret), or accept it in the sandbox's declaration (accept: [" + string(CodeLeak) + "]). The whole list is search.json of the operation's logs."}
	if n := len(s.Found) - 5; n > 0 {
		f.Message += fmt.Sprintf("; and %d more", n)
	}
	f.Message += "."
	if accepted {
		f.Level = sandglass.Warning
	}
	return f
}

// ownPassword says whether a role of the sandbox has the very password, which then is its own.
func ownPassword(t *policy.Target, verifier string) bool {
	return t != nil && slices.ContainsFunc(t.Roles, func(r policy.Role) bool { return r.Password != nil && *r.Password == verifier })
}

// placeOf says what a file of the volume is. The staging server is started for that once more.
func (h *Host) placeOf(ctx context.Context, run *engine.Run, path string) (string, error) {
	space, database, node := fileOf(path)
	if node == "" {
		return "the file " + path, nil
	}
	st, _, _, err := h.copyOf(ctx, run)
	if err != nil {
		return "", err
	}
	conn, name, err := openDatabaseOf(ctx, st, database)
	if err != nil {
		return "", err
	}
	if conn == nil {
		return "the file " + path, nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var what string
	err = conn.QueryRow(ctx, `SELECT CASE relkind WHEN 'i' THEN 'the index ' WHEN 't' THEN 'the large values of ' ELSE '' END
		|| coalesce((SELECT t.oid::regclass FROM pg_class t WHERE t.reltoastrelid = c.oid), c.oid::regclass)
		FROM pg_class c WHERE oid = pg_filenode_relation($1::text::oid, $2::text::oid)`, space, node).Scan(&what)
	if err != nil {
		return "the file " + path, nil
	}
	if database != "" {
		what += " of " + name
	}
	return what + " (" + path + ")", nil
}

// openDatabaseOf opens the database with an OID ("": that of shared relations, any will do); nil when there is none that can be opened.
func openDatabaseOf(ctx context.Context, st policy.Staging, oid string) (conn *pgx.Conn, name string, err error) {
	if conn, err = st.Connect(ctx, "postgres"); err != nil || oid == "" {
		return conn, "postgres", err
	}
	err = conn.QueryRow(ctx, `SELECT datname::text FROM pg_database WHERE oid = $1::text::oid AND datallowconn`, oid).Scan(&name)
	conn.Close(context.WithoutCancel(ctx))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", nil
	}
	if err == nil {
		conn, err = st.Connect(ctx, name)
	}
	return conn, name, err
}

// searchParts looks at names that stand beside letters or digits in relations' files: whether these belong to a longer name, only the
// values tell. The staging server is started for that once more.
func (h *Host) searchParts(ctx context.Context, run *engine.Run, l *looked, parts []search.Hit) error {
	byDatabase := map[string][]search.Hit{}
	for _, hit := range parts {
		if _, database, node := fileOf(hit.Path); node != "" { // else no values of anybody's lie there by themselves
			byDatabase[database] = append(byDatabase[database], hit)
		}
	}
	if len(byDatabase) == 0 {
		return nil
	}
	st, _, _, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	for database, hits := range byDatabase {
		if err := searchPartsOf(ctx, st, database, l, hits); err != nil {
			return err
		}
	}
	return nil
}

// searchPartsOf looks at those in files of one database.
func searchPartsOf(ctx context.Context, st policy.Staging, database string, l *looked, parts []search.Hit) error {
	conn, name, err := openDatabaseOf(ctx, st, database)
	if err != nil {
		return err
	}
	if conn != nil {
		defer conn.Close(context.WithoutCancel(ctx))
	}
	wanted := map[string]map[int]bool{} // by table's OID, what to look for
	for _, hit := range parts {
		if conn == nil {
			l.found(hit.Of, "the file "+hit.Path) // it can't be told from a whole one
			continue
		}
		space, _, node := fileOf(hit.Path)
		var table string
		err = conn.QueryRow(ctx, `WITH of (file, relation) AS (SELECT c.oid, coalesce(i.indrelid, c.oid) FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
				WHERE c.oid = pg_filenode_relation($1::text::oid, $2::text::oid))
			SELECT coalesce((SELECT t.oid FROM pg_class t WHERE t.reltoastrelid = relation), relation)::text FROM of`, space, node).Scan(&table)
		if errors.Is(err, pgx.ErrNoRows) {
			l.found(hit.Of, "the file "+hit.Path) // left by a crash of production's, and of no relation
			continue
		}
		if err != nil {
			return err
		}
		if wanted[table] == nil {
			wanted[table] = map[int]bool{}
		}
		wanted[table][hit.Of] = true
	}
	for table, of := range wanted {
		err := policy.Stored{Look: func(where string, value []byte) {
			for n := range l.index.Mentioned(value) {
				if of[n] {
					l.found(n, where)
				}
			}
		}, Unread: l.unread}.ReadTable(ctx, st, name, table)
		if err != nil {
			return err
		}
	}
	return nil
}

// fileOf reads the path of a relation's file in a volume (storage/relpath in common/relpath.c): the tablespace's OID,
// "0" for a database's own or the shared one, the database's, "" for shared relations, and the file's number.
func fileOf(path string) (space, database, node string) {
	parts := strings.Split(filepath.ToSlash(path), "/")
	switch {
	case len(parts) == 3 && parts[0] == "data" && parts[1] == "global":
		space, node = "1664", parts[2] // GLOBALTABLESPACE_OID
	case len(parts) == 4 && parts[0] == "data" && parts[1] == "base":
		space, database, node = "0", parts[2], parts[3]
	case len(parts) == 5 && parts[0] == "tablespaces":
		space, database, node = parts[1], parts[3], parts[4]
	}
	node, _, _ = strings.Cut(node, ".")
	node, _, _ = strings.Cut(node, "_")
	if node == "" || strings.Trim(node, "0123456789") != "" || strings.Trim(space+database, "0123456789") != "" {
		return "", "", ""
	}
	return space, database, node
}
