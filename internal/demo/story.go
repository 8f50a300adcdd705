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
	"sandglass/internal/pgtest"
)

// tell is the story. An error means that it could not be told to its end.
func (s *story) tell(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		s.makeProduction, s.record, s.makeSandbox, s.haveAccident, s.findAccident, s.restore, s.compare, s.undo,
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
	s.say("A shop runs on PostgreSQL: databases erp and reporting, and people at work in them.\nSandglass will only ever read it.")
	begin := time.Now()
	if s.prod, err = newProduction(ctx, s.Dir); err != nil {
		return err
	}
	if _, err := s.prod.RecorderRole(ctx, recorderPassword); err != nil {
		return err
	}
	if err := background(s.Dir, "writers", s.sandglass(context.WithoutCancel(ctx), "demo", "--writers", "--dir", s.Dir)); err != nil {
		return err
	}
	s.say("PostgreSQL %d on port %d, ready in %s.", s.prod.Major, s.prod.Port, seconds(time.Since(begin)))
	return nil
}

const declarations = `name: prod
kind: production
zone: Europe/Vienna
databases: {business: erp, reporting: reporting}
recording:
  connection: host=127.0.0.1 port=%d user=sandglass_recorder dbname=postgres
  password_file: %s
  fast_checkpoint: true
  max_rate: -1
---
name: uat
kind: sandbox
zone: Europe/Vienna
databases: {business: erp, reporting: reporting}
server:
  listen: 127.0.0.1
  port: %d
  source: prod
`

// record starts the control plane, declares both environments and waits for the first image.
func (s *story) record(ctx context.Context) (err error) {
	s.chapter("Sandglass, recording it")
	if _, err := s.command(ctx, "init", "--repository", filepath.Join(s.Dir, "repository")); err != nil {
		return err
	}
	if err := background(s.Dir, "serve", s.sandglass(context.WithoutCancel(ctx), "serve")); err != nil {
		return err
	}
	if s.client, err = client.New(client.Options{Socket: filepath.Join(s.state(), "api.sock")}); err != nil {
		return err
	}
	s.prompt([]string{"sandglass", "serve", "&"})
	if err := s.await(ctx, 60*time.Second, "the control plane", func() (bool, error) {
		_, err := s.client.Environments(ctx)
		return err == nil, nil
	}); err != nil {
		return err
	}
	if s.uat.port, err = pgtest.FreePort(); err != nil {
		return err
	}
	password, file := filepath.Join(s.Dir, "recorder.password"), filepath.Join(s.Dir, "environments.yaml")
	if err := writeFile(password, recorderPassword+"\n"); err != nil {
		return err
	}
	if err := writeFile(file, fmt.Sprintf(declarations, s.prod.Port, password, s.uat.port)); err != nil {
		return err
	}
	if _, err := s.command(ctx, "apply", "-f", file); err != nil {
		return err
	}
	begin := time.Now()
	if _, err := s.command(ctx, "record", "start", "prod"); err != nil {
		return err
	}
	if err := s.await(ctx, 60*time.Second, "the first image of prod", func() (bool, error) {
		w, err := s.client.Window(ctx, "prod")
		if sandglass.CodeOf(err) == sandglass.CodeWindowEmpty {
			return false, nil
		}
		return err == nil && len(w.Images) > 0 && !w.Earliest.IsZero(), err
	}); err != nil {
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
	if _, err := s.command(ctx, "env", "start", "uat", "--new"); err != nil {
		return err
	}
	c, err := s.client.Connect(ctx, "uat", "")
	if err != nil {
		return err
	}
	if s.uat.digest, err = fillSandbox(ctx, func(ctx context.Context, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, database))
	}); err != nil {
		return fmt.Errorf("fill uat: %w", err)
	}
	if err := pgtest.Ask(ctx, s.uatURL(), probeQuery); err != nil {
		return fmt.Errorf("ask uat: %w", err)
	}
	s.say("uat has test data, a role %s and a password that nobody else knows.\nFrom now on a client connects to it and asks, fifty times a second, without a pause.", uatApp)
	s.uat.probe = pgtest.StartProbe(ctx, s.uatURL(), probeQuery)
	return nil
}

const probeQuery = "SELECT name FROM customers WHERE id = 1"

func (s *story) uatURL() string { return s.uat.url(uatApp, uatAppPassword, "erp") }

func (s *story) haveAccident(ctx context.Context) (err error) {
	s.chapter("The accident")
	if s.loss, err = accident(ctx, s.prod); err != nil {
		return err
	}
	s.prompt([]string{"psql", "erp", "-c", "DELETE FROM orders WHERE " + accidentCondition})
	s.say("The half with \"AND status = 'cancelled'\" was forgotten. It is committed:\n%s orders and, by cascade, %s payments are gone from production.", count(s.loss.orders), count(s.loss.payments))
	return nil
}

// findAccident waits until the recorder has the transaction, and finds it as a person would: by the rows it took.
func (s *story) findAccident(ctx context.Context) error {
	s.chapter("Finding it")
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
	if _, err := s.command(ctx, "window", "prod"); err != nil {
		return err
	}
	if _, err := s.command(ctx, "commits", "prod", "--min-rows", "1000"); err != nil {
		return err
	}
	s.check("the window shows the transaction that did it", uint32(found.XID) == uint32(s.loss.xid) && deleted(found) == s.loss.orders+s.loss.payments,
		fmt.Sprintf("transaction %d, %s rows deleted", found.XID, count(deleted(found))))
	return nil
}

func deleted(c sandglass.Commit) (n int64) {
	for _, r := range c.Rows {
		n += r.Deleted
	}
	return n
}

func (s *story) restore(ctx context.Context) error {
	s.chapter("The moment before it, in uat")
	s.uat.probe.Reset()
	took, err := s.command(ctx, "restore", "uat", "--xid", fmt.Sprint(s.loss.xid), "--before", "--yes")
	if err != nil {
		return err
	}
	gap, answers := s.uat.probe.Longest()
	if err := s.succeeded(ctx); err != nil {
		return err
	}
	s.check("uat kept answering", gap < 5*time.Second, fmt.Sprintf("%s answers meanwhile, unreachable for %s at the cutover", count(answers), seconds(gap)))
	s.fact("restore of the moment before", seconds(took))
	s.fact("uat unreachable at the cutover", seconds(gap))
	return nil
}

// succeeded looks into the history whether the newest operation on uat went well.
func (s *story) succeeded(ctx context.Context) error {
	ops, err := s.client.Operations(ctx, sandglass.OperationQuery{Environment: "uat", Limit: 1})
	if err != nil {
		return err
	}
	if len(ops) == 0 {
		return errors.New("the operation is not in the history")
	}
	if ops[0].State != sandglass.Succeeded {
		return fmt.Errorf("the %s ended as %s", ops[0].Kind, ops[0].State)
	}
	return nil
}

// compare looks at uat with its own eyes: the lost rows, the roles, and what must not be there.
func (s *story) compare(ctx context.Context) error {
	s.chapter("What uat is now")
	conn, err := pgx.Connect(ctx, s.uatURL())
	s.check("uat's own role logs in with its own password", err == nil, "")
	if err != nil {
		return fmt.Errorf("connect as %s: %w", uatApp, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var got loss
	if err := conn.QueryRow(ctx, lostDigest).Scan(&got.orders, &got.payments, &got.digest); err != nil {
		return fmt.Errorf("read the lost rows: %w", err)
	}
	s.check("the lost rows are there", got.orders == s.loss.orders && got.payments == s.loss.payments,
		fmt.Sprintf("%s orders, %s payments", count(got.orders), count(got.payments)))
	s.check("they are the same to the last byte", got.digest == s.loss.digest, got.digest)

	_, err = pgx.Connect(ctx, s.uat.url(productionApp, productionAppPassword, "erp"))
	s.check("production's password opens nothing here", pgtest.SQLState(err) == "28P01" || pgtest.SQLState(err) == "28000", "")
	_, err = pgx.Connect(ctx, s.uat.url(uatApp, uatAppPassword, "scratch"))
	s.check("the database that uat has no use for did not come along", pgtest.SQLState(err) == "3D000", "scratch")

	var left, since int64
	prod, err := s.prod.Connect(ctx, "erp")
	if err != nil {
		return err
	}
	defer prod.Close(context.WithoutCancel(ctx))
	if err := prod.QueryRow(ctx, "SELECT count(*) FILTER (WHERE "+accidentCondition+"), count(*) FILTER (WHERE status = 'open') FROM orders").Scan(&left, &since); err != nil {
		return err
	}
	s.check("production was only read", left == 0 && since > 0, fmt.Sprintf("it goes on: %s new orders since the start", count(since)))
	s.fact("rows found again", count(got.orders+got.payments))
	return nil
}

func (s *story) undo(ctx context.Context) error {
	s.chapter("And back")
	s.uat.probe.Reset()
	took, err := s.command(ctx, "undo", "uat", "--yes")
	if err != nil {
		return err
	}
	gap, _ := s.uat.probe.Longest()
	if err := s.succeeded(ctx); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.uatURL())
	if err != nil {
		return fmt.Errorf("connect as %s: %w", uatApp, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	digest, err := pgtest.QueryText(ctx, conn, uatDigest)
	if err != nil {
		return err
	}
	s.check("uat is what it was before, to the last byte", digest == s.uat.digest, "unreachable for "+seconds(gap))
	s.fact("undo", seconds(took))
	s.fact("uat unreachable at the undo", seconds(gap))
	return nil
}

func (s *story) fact(name, value string) { s.facts = append(s.facts, fact{name, value}) }

func (s *story) summary() {
	s.chapter("In figures")
	for _, f := range s.facts {
		s.line(fmt.Sprintf("  %-34s %s", f.name, f.value))
	}
	s.line(fmt.Sprintf("  %-34s %s", "all of this", seconds(time.Since(s.began))))
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
		{"peek prod --xid " + fmt.Sprint(s.loss.xid) + " --before --reason 'lost orders'", "read the lost rows in a sealed copy"},
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
