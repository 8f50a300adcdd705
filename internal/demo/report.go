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
	"sandglass/internal/erp"
)

// counted is a line of the report on what was neutralized: the rows of one kind that rules changed. Where it has a
// query, production is asked how many it has, in tables that nobody has written to since.
type counted struct{ what, rules, query string }

// mailAddresses counts the rows that hold a mail address, for each rule about some by itself.
const mailAddresses = `SELECT (SELECT count(*) FROM logisticselectronicaddress WHERE locator LIKE '%@%') + (SELECT count(*) FROM sysuserinfo WHERE email LIKE '%@%')
	+ (SELECT count(*) FROM salestable WHERE email LIKE '%@%') + (SELECT count(*) FROM purchtable WHERE email LIKE '%@%') + (SELECT count(*) FROM custinvoicejour WHERE mcremail LIKE '%@%')
	+ (SELECT count(*) FROM fiscalestablishment_br WHERE efdocemailapproved LIKE '%@%' OR efdocemailcanceled LIKE '%@%' OR efdocemailevent LIKE '%@%')
	+ (SELECT count(*) FROM fiscalestablishment_br WHERE consumerefdocemailapproved LIKE '%@%') + (SELECT count(*) FROM fiscalestablishment_br WHERE technicalresponsibleemail LIKE '%@%')`

var countedLines = []counted{
	{"e-mail addresses emptied: no mail reaches real people",
		"e-mail-addresses user-mail-addresses sales-mail-addresses purchase-mail-addresses invoice-mail-addresses fiscal-mail-addresses fiscal-consumer-mail-addresses fiscal-technical-mail-addresses", mailAddresses},
	{"settings of the mail server: production's relay, sign-in and folder", "smtp-relay mail-provider mail-attachments", ""},
	{"print management settings removed", "print-settings print-instances", "SELECT (SELECT count(*) FROM printmgmtsettings) + (SELECT count(*) FROM printmgmtdocinstance)"},
	{"batch jobs withheld that were to run: none runs a second time", "batch-jobs", "SELECT count(*) FROM batchjob WHERE status IN (1, 2, 5, 7)"},
	{"batch tasks: names of production's servers and logs cleared", "batch-tasks", "SELECT count(*) FROM batch"},
	{"rows of batch history removed", "batch-job-history batch-history batch-constraints-history",
		"SELECT (SELECT count(*) FROM batchjobhistory) + (SELECT count(*) FROM batchhistory) + (SELECT count(*) FROM batchconstraintshistory)"},
	{"users disabled: all but the administrator and services", "users",
		"SELECT count(*) FROM userinfo WHERE enable <> 0 AND lower(id) NOT IN ('admin', 'frserviceuser', 'retailserviceaccount', 'dbmovementapi')"},
	{"users put right: service users let in, data partition set", "administrator automation-user user-partition", ""},
	{"users' sessions removed", "client-sessions", "SELECT count(*) FROM sysclientsessions"},
	{"sign-ins: names of the machines cleared", "user-log", "SELECT count(*) FROM sysuserlog WHERE computername <> ''"},
	{"users' export folders cleared", "user-export-sites", "SELECT count(*) FROM sysuserinfo"},
	{"encrypted personal numbers cleared", "person-numbers person-numbers-hire",
		"SELECT (SELECT count(*) FROM hcmpersonidentificationnumber) + (SELECT count(*) FROM hcmworkeractionhire)"},
	{"encrypted sign-in tokens cleared", "oauth-tokens", "SELECT count(*) FROM sysoauthusertokens"},
	{"other secrets cleared: merchants, exchange rates, fiscal codes", "merchant-properties merchant-properties-plain exchange-rate-providers fiscal-establishments fiscal-establishment-codes fiscal-establishments-staging", ""},
	{"attachments cut off from production's file storage", "attachments deleted-attachments",
		"SELECT (SELECT count(*) FROM docuvalue WHERE storageproviderid = 1 OR accessinformation <> '') + (SELECT count(*) FROM docudeletedvalue WHERE storageproviderid = 1 OR accessinformation <> '')"},
	{"paths to production's file servers cleared", "attachment-paths deleted-attachment-paths document-templates template-folders", ""},
	{"exchanged data files cut off", "integration-files", "SELECT count(*) FROM integrationactivitymessagetable WHERE submitteddatafile <> ''"},
	{"rows of the database log removed: they keep old values", "database-log", "SELECT count(*) FROM databaselog"},
	{"links to other systems: Dataverse, events, tenant, Power BI", "dual-write-projects dual-write-fields event-endpoints event-endpoints-azure event-endpoints-event-hub tenant service-addresses power-bi provisioning-messages maintenance-mode", ""},
	{"rows of stores, terminals and scale units unlinked", "commerce-", ""},
}

const finops = "dynamics365-finops/"

// has says whether a rule of the pack is one of the line's; the last of them may be a whole family, by its beginning.
func (l counted) has(rule string) bool {
	return slices.ContainsFunc(strings.Fields(l.rules), func(r string) bool {
		return r == rule || strings.HasSuffix(r, "-") && strings.HasPrefix(rule, r)
	})
}

// neutralized sorts the rows that the pack's rules changed into the lines. Those of rules that are in no line are named.
func neutralized(rules []sandglass.PlanLine) (rows []int64, strange []string) {
	rows = make([]int64, len(countedLines))
	for _, r := range rules {
		name, ours := strings.CutPrefix(strings.Fields(r.What)[0], finops)
		if !ours {
			continue
		}
		at := slices.IndexFunc(countedLines, func(l counted) bool { return l.has(name) })
		if at < 0 {
			strange = append(strange, name)
			continue
		}
		rows[at] += r.Rows
	}
	return rows, strange
}

// report is what a person asks after a restore, part by part.
func (s *story) report(ctx context.Context) error {
	for i, part := range []func(context.Context) error{s.neutralized, s.own, s.prove, s.checklist} {
		if i > 0 {
			s.line("")
		}
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) neutralized(ctx context.Context) error {
	s.chapter("What was neutralized")
	s.say("Rows that were changed or removed in the copy before anybody could connect:")
	rows, strange := neutralized(s.result.Rules)
	var table [][]string
	for i, l := range countedLines {
		if rows[i] > 0 {
			table = append(table, []string{count(rows[i]), l.what})
		}
	}
	s.rows(table)
	s.check("each rule that changed rows is counted here", len(strange) == 0, strings.Join(strange, ", "))
	prod, err := s.prod.Connect(ctx, erp.Business)
	if err != nil {
		return err
	}
	defer prod.Close(context.WithoutCancel(ctx))
	var asked int
	var wrong []string
	for i, l := range countedLines {
		if l.query == "" {
			continue
		}
		var n int64
		if err := prod.QueryRow(ctx, l.query).Scan(&n); err != nil {
			return err
		}
		if asked++; n != rows[i] {
			wrong = append(wrong, fmt.Sprintf("%s: %s, not %s", l.what, count(n), count(rows[i])))
		}
	}
	detail := fmt.Sprintf("%d of the lines", asked)
	if len(wrong) > 0 {
		detail = strings.Join(wrong, "; ")
	}
	s.check("production has as many, and still has them", len(wrong) == 0, detail)
	return nil
}

// checklist is what the restore leaves for people, and how long all of it took.
func (s *story) checklist(context.Context) error {
	s.chapter("Left to do, for uat's administrator")
	for _, todo := range s.result.Checklist {
		for _, l := range hang("  - ", "    ", todo) {
			s.line(l)
		}
	}
	s.check("the checklist is kept with the operation", len(s.result.Checklist) > 0, "sandglass ops show "+s.restored.ID)
	s.line("")
	s.chapter("The times")
	var steps [][]string
	for _, step := range s.restored.Steps {
		steps = append(steps, []string{seconds(step.Ended.Sub(step.Began)), step.Name})
	}
	s.rows(append(steps, []string{seconds(s.took), "from the command to its end"}, []string{seconds(s.silent), "of it without an answer from uat"}))
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
	var carried, rows int64
	for _, l := range s.result.Carried {
		carried += l.Rows
	}
	var kept []string
	for _, o := range s.uat.own {
		sum, err := o.read(ctx, conn)
		if err != nil {
			return err
		}
		var n int64
		if _, err := fmt.Sscan(sum, &n); err != nil {
			return fmt.Errorf("count %s: %w", o.what, err)
		}
		if sum == o.sum {
			kept, rows = append(kept, fmt.Sprintf("%d %s", n, o.what)), rows+n
		}
	}
	s.check("what uat has set for itself is as it was", len(kept) == len(s.uat.own) && rows == carried, fmt.Sprintf("%s rows", count(rows)))
	for _, l := range hang("    ", "    ", strings.Join(kept, ", ")) {
		s.line(l)
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
	s.say("Looked at again from here, as a user of uat and in its files:")
	conn, err := pgx.Connect(ctx, s.uatURL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, q := range []struct{ what, query, detail string }{
		{"nobody outside can get mail from uat", mailAddresses, "no address with an @"},
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
	done := s.busy("searching uat's files")
	files, found, err := search(filepath.Join(s.state(), "volumes", s.result.Volume), []byte(host))
	done()
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
