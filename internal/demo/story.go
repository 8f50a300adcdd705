package demo

// This file is the story itself, in the order in which it is told.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/client"
	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

// tell is the story. An error means that it could not be told to its end.
func (s *story) tell(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		s.makeProduction, s.record, s.makeSandbox, s.haveAccident, s.findAccident, s.plan, s.restore, s.compare, s.report, s.undo, s.bringBack,
	} {
		if err := part(ctx); err != nil {
			if s.uat.probe != nil {
				s.uat.probe.Stop()
			}
			return err
		}
		s.line("")
	}
	s.uat.probe.Stop()
	s.client.Close()
	return nil
}

func (s *story) makeProduction(ctx context.Context) (err error) {
	s.chapter("A production")
	s.say("An ERP on PostgreSQL: the databases business and reporting, in the shape of Dynamics 365, and people who post invoices. Sandglass only ever reads it.")
	begin := time.Now()
	done := s.busy("filling it")
	s.prod, err = newProduction(ctx, s.Dir, scale)
	done()
	if err != nil {
		return err
	}
	if _, err := s.prod.RecorderRole(ctx, recorderPassword); err != nil {
		return err
	}
	if err := background(s.Dir, "writers", s.sandglass(context.WithoutCancel(ctx), "demo", "--writers", "--dir", s.Dir)); err != nil {
		return err
	}
	took := time.Since(begin)
	var tables [][]string
	for _, database := range []string{erp.Business, erp.Reporting} {
		n, rows, err := countRows(ctx, s.prod, database)
		if err != nil {
			return err
		}
		tables = append(tables, []string{database, count(rows), "rows in", count(n), "tables"})
	}
	s.rows(tables)
	s.say("PostgreSQL %d on port %d, filled in %s. From now on invoices are posted and paid.", s.prod.Major, s.prod.Port, seconds(took))
	return nil
}

const declarations = `name: prod
kind: production
zone: Europe/Vienna
databases: {business: business, reporting: reporting}
versions: {application: 10.0.38, platform: "62", reporting: 10.0.38}
hosts: [prod.nordwind.example]
recording:
  connection: host=127.0.0.1 port=%d user=sandglass_recorder dbname=postgres
  password_file: %s
  fast_checkpoint: true
  max_rate: -1
---
name: uat
kind: sandbox
zone: Europe/Vienna
databases: {business: business, reporting: reporting}
versions: {application: 10.0.38, platform: "62", reporting: 10.0.38}
packs: [dynamics365-finops]
server:
  listen: 127.0.0.1
  port: %d
  source: prod
  roles_map: {uat_app: [erp_app]}
`

// synchronize runs uat's migration by psql.
const synchronize = `  synchronize:
    command: [%s, --no-psqlrc, --quiet, --set=ON_ERROR_STOP=1, --single-transaction, --file=0042.sql]
    folder: %s
`

// record starts the control plane, declares both environments and waits for the first image.
func (s *story) record(ctx context.Context) (err error) {
	s.chapter("Sandglass records it")
	s.say("From a first full copy (an image) on, every change is kept in an encrypted repository. Production is declared once, and so is the sandbox, in a file.")
	if _, err := s.command(ctx, []cut{{from: "Public key"}}, "init", "--repository", filepath.Join(s.Dir, "repository")); err != nil {
		return err
	}
	if err := background(s.Dir, "serve", s.sandglass(context.WithoutCancel(ctx), "serve")); err != nil {
		return err
	}
	if s.client, err = client.New(client.Options{Socket: filepath.Join(s.state(), "api.sock")}); err != nil {
		return err
	}
	s.prompt([]string{"sandglass", "serve", "&"})
	done := s.busy("it starts")
	err = s.await(ctx, 60*time.Second, "the control plane", func() (bool, error) {
		_, err := s.client.Environments(ctx)
		return err == nil, nil
	})
	done()
	if err != nil {
		return err
	}
	if s.uat.port, err = pgtest.FreePort(); err != nil {
		return err
	}
	password, file := filepath.Join(s.Dir, "recorder.password"), filepath.Join(s.Dir, "environments.yaml")
	if err := writeFile(password, recorderPassword+"\n"); err != nil {
		return err
	}
	text := fmt.Sprintf(declarations, s.prod.Port, password, s.uat.port)
	folder := filepath.Join(s.Dir, "migrations")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "0042.sql"), []byte(migration), 0o644); err != nil {
		return err
	}
	text += fmt.Sprintf(synchronize, filepath.Join(s.prod.Bin, "psql"), folder)
	if err := writeFile(file, text); err != nil {
		return err
	}
	if _, err := s.command(ctx, nil, "apply", "-f", file); err != nil {
		return err
	}
	begin := time.Now()
	if _, err := s.command(ctx, []cut{{from: "It begins with a checkpoint"}}, "record", "start", "prod"); err != nil {
		return err
	}
	done = s.busy("taking the first image")
	err = s.await(ctx, 60*time.Second, "the first image of prod", func() (bool, error) {
		w, err := s.client.Window(ctx, "prod")
		if sandglass.CodeOf(err) == sandglass.CodeWindowEmpty {
			return false, nil
		}
		return err == nil && len(w.Images) > 0 && !w.Earliest.IsZero(), err
	})
	done()
	if err != nil {
		return err
	}
	w, err := s.client.Window(ctx, "prod")
	if err != nil {
		return err
	}
	i := w.Images[len(w.Images)-1]
	s.say("The first image, %s of files, is in the repository as %s, encrypted.", sandglass.Bytes(i.Bytes), sandglass.Bytes(i.StoredBytes))
	s.fact("first image of production", seconds(time.Since(begin)))
	return nil
}

// makeSandbox makes uat with an own role and own data, and begins to ask it all the time.
func (s *story) makeSandbox(ctx context.Context) (err error) {
	s.chapter("A sandbox with a life of its own")
	s.say("uat is where a team tests. It gets a server, and the team fills it.")
	if _, err := s.command(ctx, nil, "env", "start", "uat", "--new"); err != nil {
		return err
	}
	c, err := s.client.Connect(ctx, "uat", "")
	if err != nil {
		return err
	}
	done := s.busy("filling it")
	err = s.uat.fill(ctx, func(ctx context.Context, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, database))
	})
	done()
	if err != nil {
		return fmt.Errorf("fill uat: %w", err)
	}
	if err := pgtest.Ask(ctx, s.uatURL(), probeQuery); err != nil {
		return fmt.Errorf("ask uat: %w", err)
	}
	e, err := s.client.Environment(ctx, "uat")
	if err != nil {
		return err
	}
	s.uat.shows = e.LastRestored
	s.say("uat has vendors of its own, printers, servers, a mail relay and users of its own, and a role %s with a password that nobody else knows. From now on a client asks it again and again, without a pause, and connects anew whenever it has to.", uatApp)
	s.uat.probe = pgtest.StartProbe(ctx, s.uatURL(), probeQuery)
	return nil
}

const probeQuery = "SELECT accountnum FROM vendtable LIMIT 1"

func (s *story) uatURL() string { return s.uat.url(uatApp, uatAppPassword, erp.Business) }

func (s *story) haveAccident(ctx context.Context) (err error) {
	s.chapter("The accident")
	if s.loss, err = accident(ctx, s.prod); err != nil {
		return err
	}
	s.statement("business", append(append([]string{"BEGIN"}, accidentStatements...), "COMMIT")...)
	s.say("Vendors of group %s in the test company were meant, but the condition for the company was forgotten. It is committed: %s vendors of all companies are gone from production, and %s open transactions of theirs.", erp.NewVendors, count(s.loss.vendors), count(s.loss.transactions))
	return nil
}

// findAccident waits until the recorder has the transaction, and finds it as a person would: by the rows it took.
func (s *story) findAccident(ctx context.Context) error {
	s.chapter("Finding it")
	s.say("Any moment since the first image can be restored: the window. Who changed a thousand rows or more in it?")
	query := sandglass.CommitQuery{MinRows: 1000, Limit: 20}
	var found sandglass.Commit
	if err := s.await(ctx, 30*time.Second, "the accident in the window", func() (bool, error) {
		commits, err := s.client.Commits(ctx, "prod", query)
		if err != nil {
			return false, err
		}
		for _, c := range commits {
			if deleted(c) > 0 {
				found = c
			}
		}
		return found.XID != 0, nil
	}); err != nil {
		return err
	}
	if _, err := s.command(ctx, nil, "window", "prod"); err != nil {
		return err
	}
	if _, err := s.command(ctx, []cut{{from: "Just before one"}}, "commits", "prod", "--min-rows", "1000"); err != nil {
		return err
	}
	s.check("the window shows which transaction did it", uint32(found.XID) == uint32(s.loss.xid) && deleted(found) == s.loss.rows(),
		fmt.Sprintf("%d, %s rows deleted", found.XID, count(deleted(found))))
	return nil
}

func deleted(c sandglass.Commit) (n int64) {
	for _, r := range c.Rows {
		n += r.Deleted
	}
	return n
}

func (s *story) fact(name, value string) { s.facts = append(s.facts, fact{name, value}) }

func (s *story) summary() {
	s.chapter("In figures")
	for _, f := range s.facts {
		s.line(fmt.Sprintf("  %-34s %9s", f.name, f.value))
	}
	s.line(fmt.Sprintf("  %-34s %9s", "all of this", seconds(time.Since(s.began))))
}

func (s *story) hints() {
	s.summary()
	s.line("")
	s.chapter("It is all still running. Try next:")
	s.line("  export SANDGLASS_STATE=" + s.state())
	down := "demo --down"
	if s.Dir != DefaultDir() {
		down += " --dir " + s.Dir
	}
	for _, h := range [][2]string{
		{"window prod", "what can be restored"},
		{"restore uat --latest --plan", "what a restore would do; changes nothing"},
		{"peek prod --xid " + fmt.Sprint(s.loss.xid) + " --before --reason 'lost vendors'", "read the lost rows in a sealed copy"},
		{"connect uat", "psql into the sandbox"},
		{"ops ls", "what was done"},
		{down, "end all of it, leave nothing"},
	} {
		s.line("  " + s.typed() + " " + h[0])
		s.line("      " + s.style(styleDim, h[1]))
	}
}

// typed is our binary as it would be typed here: from the current folder, when it lies below.
func (s *story) typed() string {
	if here, err := os.Getwd(); err == nil {
		if short, err := filepath.Rel(here, s.Binary); err == nil && filepath.IsLocal(short) && strings.Contains(short, "/") {
			return short
		}
	}
	return s.Binary
}

// await asks until it is so, or for so long.
func (s *story) await(ctx context.Context, patience time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := so()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = s.recorderError()
			}
			return errors.Join(fmt.Errorf("waited for %s: %w", what, context.Cause(ctx)), last)
		case <-tick.C:
		}
	}
}

// recorderError is what keeps the recorder of prod from its work, if anything does.
func (s *story) recorderError() error {
	if s.client == nil {
		return nil
	}
	e, err := s.client.Environment(context.Background(), "prod")
	if err != nil || e.Recorder == nil || e.Recorder.LastError == nil {
		return err
	}
	b, err := json.Marshal(e.Recorder)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w; recorder: %s", e.Recorder.LastError, b)
}
