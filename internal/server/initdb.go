// New clusters, and first contact with restored ones.

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"sandglass"
)

// InitOptions are the choices of a new cluster.
type InitOptions struct {
	Locale string // default C.UTF-8
}

// InitDB makes a new, empty cluster in c.Data, with Role as its first superuser, UTF-8 and data
// checksums. The folder must be empty or missing. An owner without an account needs c.Seal, where it has a name.
func InitDB(ctx context.Context, c Config, o InitOptions) error {
	if o.Locale == "" {
		o.Locale = "C.UTF-8"
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	if err := os.Chown(c.Data, c.Owner.UID, c.Owner.GID); err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	output, err := scratch("")
	if err != nil {
		return err
	}
	defer output.Close()
	cmd, _, err := c.launch(ctx, output, nil, []string{c.Binaries.initDB(), "-D", c.Data, "-U", Role, "-E", "UTF8", "--locale=" + o.Locale,
		"--auth-local=peer", "--auth-host=reject", "--data-checksums"})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		said, _ := readAll(output)
		lines := strings.Split(strings.TrimSpace(said), "\n")
		e := &sandglass.Error{Code: sandglass.CodeServerFailed, Op: "make cluster", Err: fmt.Errorf("%w: %s", err, said),
			Message: "A new PostgreSQL cluster could not be made: " + lines[len(lines)-1], Remedy: "Look at the log of `sandglass serve`."}
		for _, line := range lines {
			if strings.Contains(line, "error:") || strings.Contains(line, "FATAL:") {
				e.Message = "A new PostgreSQL cluster could not be made: " + strings.TrimSpace(line)
			}
		}
		if strings.Contains(said, "No space left on device") {
			e.Code, e.Remedy = sandglass.CodeDiskFull, "Free some space on the disk of the state folder and try again."
		}
		return e
	}
	return nil
}

// SingleUser runs SQL, statement by statement, in a server for one that takes no sessions: no password, no
// role and no pg_hba.conf can keep us out. It gives the server's output. The first error ends it
// (CodeServerFailed). No server may run on the data folder.
func SingleUser(ctx context.Context, c Config, database string, sql ...string) (string, error) {
	if err := c.free(ctx); err != nil {
		return "", err
	}
	if err := c.write(false, true); err != nil {
		return "", err
	}
	// With -j a statement ends with a semicolon and an empty line (InteractiveBackend in tcop/postgres.c).
	var input strings.Builder
	for _, statement := range sql {
		statement = strings.TrimRight(strings.TrimSpace(statement), ";")
		if strings.Contains(statement, ";\n\n") {
			return "", fmt.Errorf("run single-user server: a statement has a semicolon before an empty line, which would end it: %q", statement)
		}
		input.WriteString(statement + ";\n\n")
	}
	// Files, not pipes: they can hold any amount, and the process can be waited for without a copier.
	stdin, err := scratch(input.String())
	if err != nil {
		return "", err
	}
	defer stdin.Close()
	output, err := scratch("")
	if err != nil {
		return "", err
	}
	defer output.Close()
	args := append([]string{c.Binaries.Postgres(), "--single", "-j", "-D", c.Data}, c.fixed()...)
	args = append(args, "-c", "exit_on_error=on", "-c", "log_min_messages=warning", "-c", "log_statement=none", database)
	cmd, _, err := c.launch(ctx, output, stdin, args)
	if err != nil {
		return "", err
	}
	w, err := watchProcess(cmd.Process.Pid)
	if err != nil {
		return "", errors.Join(err, cmd.Process.Kill())
	}
	defer w.close()
	select {
	case <-w.exited:
	case <-ctx.Done():
		err = errors.Join(w.signal(unix.SIGQUIT), context.Cause(ctx))
		<-w.exited
	}
	said, readErr := readAll(output)
	if err = errors.Join(err, readErr); err != nil {
		return said, fmt.Errorf("run single-user server: %w", err)
	}
	if log, err := c.openLog(); err == nil { // kept with the rest of what the server said
		io.WriteString(log, said)
		log.Close()
	}
	return said, singleUserError(c, said)
}

// singleUserError finds out whether a single-user server did all it was told: it has no exit status for it.
func singleUserError(c Config, said string) error {
	bad := false
	for line := range strings.SplitSeq(said, "\n") {
		m := parseLogLine(line)
		bad = bad || m != nil && (m[1] == "ERROR" || m[1] == "FATAL" || m[1] == "PANIC")
	}
	// It greets whoever it lets in, "PostgreSQL stand-alone backend 15.14", before the first prompt.
	if !bad && strings.Contains(said, "stand-alone backend") {
		return nil
	}
	e := &sandglass.Error{Code: sandglass.CodeServerFailed, Op: "run single-user server",
		Message: "The server could not be entered in single-user mode.", Remedy: "Its log is " + c.Log + "."}
	if lines := problems(said); len(lines) > 0 {
		e.Message = "The server could not be entered in single-user mode: " + strings.Join(lines, "; ") + "."
	}
	return e
}

// scratch is a file in memory with content, at its start.
func scratch(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("sandglass", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "scratch")
	if _, err := f.WriteString(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	return f, nil
}

func readAll(f *os.File) (string, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<20))
	return string(b), err
}

// FirstContact makes Role in a stopped cluster that nobody may be able to log in to: a superuser
// without password or settings of its own, also where production had a role of the name. It opens the
// database postgres, or template1 where there is none, for connections.
func FirstContact(ctx context.Context, c Config) error {
	database := "template1"
	said, err := SingleUser(ctx, c, database, "SELECT 1 FROM pg_authid WHERE rolname = '"+Role+"'")
	if err != nil {
		database = "postgres"
		if said, err = SingleUser(ctx, c, database, "SELECT 1 FROM pg_authid WHERE rolname = '"+Role+"'"); err != nil {
			return err
		}
	}
	verb := "CREATE"
	if strings.Contains(said, `= "1"`) {
		verb = "ALTER"
	}
	_, err = SingleUser(ctx, c, database,
		verb+" ROLE "+Role+" SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS INHERIT LOGIN CONNECTION LIMIT -1 PASSWORD NULL VALID UNTIL 'infinity'",
		"DELETE FROM pg_db_role_setting WHERE setrole = (SELECT oid FROM pg_authid WHERE rolname = '"+Role+"')",
		"UPDATE pg_database SET datallowconn = true, datconnlimit = -1 WHERE datname IN ('postgres', 'template1') AND datconnlimit <> -2")
	return err
}
