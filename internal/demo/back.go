package demo

// This file brings the lost rows back into production: read from a sealed, un-neutralized copy, never from the sandbox.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

func (s *story) bringBack(ctx context.Context) error {
	s.chapter("The lost rows, back in production")
	s.say("Never from a sandbox: values were taken out of it. A peek opens the same moment as it was, sealed and read-only, for a reason that is kept.")
	begin := time.Now()
	if _, err := s.command(ctx, nil, "peek", "prod", "--xid", fmt.Sprint(s.loss.xid), "--before", "--reason", "lost vendors", "--no-wait"); err != nil {
		return err
	}
	peeks, err := s.client.Peeks(ctx)
	if err != nil {
		return err
	}
	if len(peeks) != 1 {
		return fmt.Errorf("%d peeks are open, not one", len(peeks))
	}
	if err := s.copyBack(ctx, peeks[0]); err != nil {
		return err
	}
	s.fact("lost rows back in production", seconds(time.Since(begin)))
	if _, err = s.command(ctx, nil, "peek", "end", peeks[0].ID); err != nil {
		return err
	}
	peeks, err = s.client.Peeks(ctx)
	s.check("no peek is open any more", err == nil && len(peeks) == 0, "")
	return err
}

// copyBack reads the lost rows through the peek's socket and puts them into production in one transaction, by the very text that it shows.
func (s *story) copyBack(ctx context.Context, p sandglass.Peek) error {
	from := socket{p.Connection.Host, p.Connection.Port, p.Connection.User}
	peek, err := pgx.Connect(ctx, from.conninfo(" "))
	if err != nil {
		return fmt.Errorf("connect to the peek: %w", err)
	}
	was, err := readLost(ctx, peek)
	if err := errors.Join(err, peek.Close(ctx)); err != nil {
		return err
	}
	s.check("the peek has the lost rows as they were", was.digest == s.loss.digest, was.sums())

	psql, err := s.psql()
	if err != nil {
		return err
	}
	script := backScript(psql, from, socket{s.prod.Socket(), s.prod.Port, pgtest.Superuser})
	s.say("From the peek through a pipe into production, to be pasted as it stands. Vendors first, since transactions refer to them; one transaction, so all or nothing:")
	s.line("")
	for line := range strings.Lines(script) {
		s.line("  " + s.style(styleCyan, strings.TrimRight(line, "\n")))
	}
	s.line("")
	if err := runScript(ctx, script); err != nil {
		return fmt.Errorf("copy the lost rows back: %w", err)
	}
	prod, err := s.prod.Connect(ctx, erp.Business)
	if err != nil {
		return err
	}
	now, err := readLost(ctx, prod)
	if err := errors.Join(err, prod.Close(ctx)); err != nil {
		return err
	}
	s.check("production has them again", now.vendors == s.loss.vendors && now.transactions == s.loss.transactions,
		fmt.Sprintf("%s vendors, %s transactions", count(now.vendors), count(now.transactions)))
	s.check("to the last byte as before the accident", now.digest == s.loss.digest, now.sums())
	return nil
}

// psql is the program as it is typed here: by its name where a shell finds it.
func (s *story) psql() (string, error) {
	if _, err := exec.LookPath("psql"); err == nil {
		return "psql", nil
	}
	path := filepath.Join(s.prod.Bin, "psql")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the demo needs psql, which is not there; install PostgreSQL's client programs: %w", err)
	}
	return path, nil
}

// socket is where a server's business database is reached on this host.
type socket struct {
	folder string
	port   int
	user   string
}

// conninfo is libpq's, which takes any white space behind the host: a long line can be broken there.
func (s socket) conninfo(space string) string {
	return fmt.Sprintf("host=%s%sport=%d user=%s dbname=%s", s.folder, space, s.port, s.user, erp.Business)
}

// backScript is what a person pastes into a shell to bring the lost rows back. What fails in it keeps COMMIT from being
// said, and whatever was copied by then is rolled back.
func backScript(psql string, from, to socket) string {
	var b strings.Builder
	fmt.Fprintf(&b, "peek='%s'\nprod='%s'\n", from.conninfo("\n  "), to.conninfo("\n  "))
	open := "{"
	for i, t := range lostTables {
		begin := ""
		if i == 0 {
			begin = "BEGIN; "
		}
		fmt.Fprintf(&b, "%s echo \"%sCOPY %s FROM STDIN;\" &&\n  %s -X \"$peek\" -c \"COPY (%s) TO STDOUT\" &&\n  echo '\\.' &&\n", open, begin, t.name, psql, t.query)
		open = " "
	}
	fmt.Fprintf(&b, "  echo \"COMMIT;\"\n} | %s -X -q -v ON_ERROR_STOP=1 \"$prod\"\n", psql)
	return b.String()
}

// runScript runs it as a shell would that it was pasted into. An error has what was said.
func runScript(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		return errors.Join(err, fmt.Errorf("the shell said %q", out))
	}
	return nil
}
