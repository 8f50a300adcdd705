package demo

// This file tells what the restore left out, kept and proved: from its report, and by looking.

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

// areas put the pack's rules together, in people's words. A rule belongs to the first area that has it, by its name or its beginning.
var areas = []struct{ name, rules, what string }{
	{"Mail", "e-mail-addresses smtp- mail-provider", "addresses, relay, sign-in and password emptied"},
	{"Printing", "print", "print management and network printers removed"},
	{"Servers", "servers server- client- batch-server", "production's servers and sessions removed"},
	{"Batch jobs", "batch-jobs batch-tasks", "withheld: nothing runs a second time"},
	{"Batch history", "batch-", "removed"},
	{"Users", "users user-partition administrator automation-", "disabled, but the administrator and services"},
	{"Encrypted fields", "merchant- exchange- fiscal- person- oauth-", "cleared: production's certificate is not here"},
	{"Attachments", "attachment deleted-attachment integration-files", "cut off from production's file storage"},
	{"Machines and folders", "mail-attachments user- template-", "names of production's machines and file servers cleared"},
	{"Database log", "database-log maintenance-", "removed"},
	{"Other systems", "dual-write event- tenant power-bi provisioning- service-", "links to Dataverse, events and tenant removed"},
	{"Commerce", "commerce-", "stores, terminals and scale units unlinked"},
}

const finops = "dynamics365-finops/"

func (s *story) report(ctx context.Context) error {
	s.chapter("What was neutralized")
	rows, rules, elsewhere := make([]int64, len(areas)), make([]int64, len(areas)), int64(0)
	for _, l := range s.result.Rules {
		name, ours := strings.CutPrefix(l.What, finops)
		at := slices.IndexFunc(areas, func(a struct{ name, rules, what string }) bool {
			return slices.ContainsFunc(strings.Fields(a.rules), func(r string) bool { return strings.HasPrefix(name, r) })
		})
		if !ours || at < 0 {
			elsewhere++
			continue
		}
		rows[at], rules[at] = rows[at]+l.Rows, rules[at]+1
	}
	var table [][]string
	for i, a := range areas {
		if rules[i] > 0 {
			table = append(table, []string{a.name, count(rows[i]), a.what})
		}
	}
	s.rows(table)
	s.say("Rows, by area, of the pack dynamics365-finops. Besides, %d rules saw to roles, passwords, settings and old values in the files.", elsewhere)
	s.line("")
	if err := s.own(ctx); err != nil {
		return err
	}
	s.line("")
	if err := s.prove(ctx); err != nil {
		return err
	}
	s.line("")
	s.chapter("Left to do, for uat's administrator")
	for _, todo := range s.result.Checklist {
		for _, l := range hang("  - ", "    ", todo) {
			s.line(l)
		}
	}
	return nil
}

// own shows what stayed the sandbox's own.
func (s *story) own(ctx context.Context) error {
	s.chapter("What stayed uat's own")
	conn, err := pgx.Connect(ctx, s.uatURL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s.say("Its address, settings, roles, passwords and grants.")
	var carried int64
	for _, l := range s.result.Carried {
		carried += l.Rows
	}
	if carried > 0 {
		var kept []string
		for _, o := range s.uat.own {
			sum, err := o.read(ctx, conn)
			if err != nil {
				return err
			}
			if sum == o.sum {
				kept = append(kept, o.what)
			}
		}
		s.check("what uat has set for itself is as it was", len(kept) == len(s.uat.own), fmt.Sprintf("%s rows", count(carried)))
		for _, l := range hang("    ", "    ", strings.Join(kept, ", ")) {
			s.line(l)
		}
	}
	if !s.migrates {
		return nil
	}
	var ran int64
	if err := conn.QueryRow(ctx, migrated).Scan(&ran); err != nil {
		return err
	}
	s.check("its own migrations ran on the copy", ran == 1, "0042.sql")
	return nil
}

// prove tells what the operation's logs say of the proof, then looks at uat with its own eyes, and through the very files.
func (s *story) prove(ctx context.Context) error {
	s.chapter("The proof")
	asserted, searched, err := s.proof(ctx)
	if err != nil {
		return err
	}
	stops := slices.ContainsFunc(asserted, func(f sandglass.Finding) bool { return f.Level == sandglass.Stop })
	s.check("every assertion held on the copy", !stops && len(asserted) > 50, fmt.Sprintf("%d assertions", len(asserted)))
	s.check("no secret of production is in its files", searched.Values > 0, fmt.Sprintf("%d searched for", searched.Values))
	s.say("Looked at again from here, as a user of uat:")
	conn, err := pgx.Connect(ctx, s.uatURL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, q := range []struct{ what, query, detail string }{
		{"nobody outside can get mail from uat", "SELECT count(*) FROM logisticselectronicaddress WHERE locator LIKE '%@%'", "no address with an @"},
		{"no batch job would run", "SELECT count(*) FROM batchjob WHERE status IN (1, 2, 5, 7)", "none waits or executes"},
		{"nobody of production's people can sign in", "SELECT count(*) FROM userinfo WHERE enable = 1 AND id LIKE '%.%'", "all are disabled"},
		{"no encrypted personal number is left", "SELECT count(*) FROM hcmpersonidentificationnumber WHERE personidentificationnumber <> ''", "cleared"},
	} {
		var n int64
		if err := conn.QueryRow(ctx, q.query).Scan(&n); err != nil {
			return err
		}
		s.check(q.what, n == 0, q.detail)
	}
	const host = "prod.nordwind.example"
	files, found, err := search(filepath.Join(s.state(), "volumes", s.result.Volume), []byte(host))
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("%s files searched", count(files))
	if found != "" {
		detail = host + " in " + found
	}
	s.check("production's hosts are nowhere in the files", found == "" && files > 1000, detail)
	return nil
}

// searched is what the operation's search for production's secrets looked for.
type searched struct {
	Values int `json:"values"`
}

// proof reads the assertions, and what was searched for, from the operation's logs.
func (s *story) proof(ctx context.Context) (asserted []sandglass.Finding, found searched, err error) {
	var b bytes.Buffer
	if err := s.client.Logs(ctx, s.restored.ID, &b); err != nil {
		return nil, found, err
	}
	logs, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		return nil, found, fmt.Errorf("open the operation's logs: %w", err)
	}
	for _, f := range logs.File {
		var into any
		switch filepath.Base(f.Name) {
		case "prove.json":
			into = &asserted
		case "search.json":
			into = &found
		default:
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, found, err
		}
		err = json.NewDecoder(r).Decode(into)
		r.Close()
		if err != nil {
			return nil, found, fmt.Errorf("read %s: %w", f.Name, err)
		}
	}
	return asserted, found, nil
}

// search reads every file below a folder for a text, and names the first that has it. Files that go away meanwhile are none.
func search(dir string, text []byte) (files int64, found string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		has, err := contains(path, text)
		if has {
			found = strings.TrimPrefix(path, dir)
			return fs.SkipAll
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return files, found, err
}

// contains reads a file by pieces that overlap by the text's length.
func contains(path string, text []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := f.Read(buf[kept:])
		if bytes.Contains(buf[:kept+n], text) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		tail := min(len(text)-1, kept+n)
		copy(buf, buf[kept+n-tail:kept+n])
		kept = tail
	}
}
