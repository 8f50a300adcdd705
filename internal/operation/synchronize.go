// Step 7 of a restore: the sandbox's own migrations bring the sealed copy up to date, and what the policy took out
// must not be back after them.

package operation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/engine"
	"sandglass/internal/policy"
	"sandglass/internal/preflight"
	"sandglass/internal/server"
)

// Codes of synchronize.
const (
	CodeSynchronizeFailed  sandglass.Code = "synchronize.failed"
	CodeSynchronizeTimeout sandglass.Code = "synchronize.timeout"
	CodeSynchronizeRole    sandglass.Code = "synchronize.no_role"
	CodeSynchronizeUser    sandglass.Code = "synchronize.no_user"
	CodeSynchronizeOpen    sandglass.Code = "synchronize.network_open"
)

// Migrated is what the migrations did, as synchronize.json in the operation's logs says it.
type Migrated struct {
	Command  []string            `json:"command"`
	User     string              `json:"user"` // of the operating system
	Role     string              `json:"role"`
	Database string              `json:"database"`
	Network  string              `json:"network"`
	Exit     int                 `json:"exit"`
	Seconds  float64             `json:"seconds"`
	Lines    int64               `json:"lines"` // of output; they are in synchronize.log
	Findings []sandglass.Finding `json:"findings,omitempty"`
}

// synchronize runs the declared command on the copy and proves the copy once more.
func (h *Host) synchronize(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil || m.Synchronized {
		return err
	}
	target, err := h.environment(ctx, run.Request.Environment)
	if err != nil {
		return err
	}
	s := target.Declaration.Server.Synchronize
	if s == nil {
		run.Log.Info("no migrations are declared (server.synchronize); nothing is run")
		return nil
	}
	if m.Synchronizing {
		// Whatever the command was about to do is rolled back. What it had committed stays: migrations know what they have applied.
		run.Log.Warn("the migrations were interrupted, and are run again from their beginning")
		if err := h.stopStaging(ctx, run); err != nil {
			return err
		}
	}
	st, in, _, err := h.copyOf(ctx, run)
	if err != nil {
		return err
	}
	done := Migrated{Command: s.Command, Network: s.Network, Database: target.Declaration.Databases[s.DatabaseRole(target.Declaration.Databases)]}
	if done.Role, err = h.migrationRole(ctx, run, st, &m, *s, done.Database); err != nil {
		return err
	}
	if err := h.migrate(ctx, run, m, target.Declaration, &done); err != nil {
		return errors.Join(err, writeJSON(run.Dir, "synchronize.json", done))
	}
	if err := h.takeLoginBack(ctx, st, m.Lent); err != nil {
		return err
	}
	if in.Target, err = h.readTarget(ctx, target, run.Request.Accept); err != nil {
		return err
	}
	in.Synchronized = true
	if done.Findings, err = h.proveNow(ctx, st, in, target); err != nil {
		return err
	}
	if err := writeJSON(run.Dir, "synchronize.json", done); err != nil {
		return err
	}
	if err := h.judge(ctx, run, done.Findings, slices.Concat(run.Request.Accept, target.Declaration.Accept)); err != nil {
		return err
	}
	m.Synchronized = true
	return run.Save(ctx, m)
}

// migrationRole is the role that the command logs in as. One that can't log in, as production's, may do so for
// this step; that is remembered first.
func (h *Host) migrationRole(ctx context.Context, run *engine.Run, st policy.Staging, m *memory, s sandglass.Synchronize, database string) (string, error) {
	conn, err := st.Connect(ctx, "postgres")
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var role string
	var login bool
	err = conn.QueryRow(ctx, `SELECT rolname::text, rolcanlogin FROM pg_authid WHERE CASE $1 WHEN '' THEN oid = (SELECT datdba FROM pg_database WHERE datname = $2) ELSE rolname = $1 END`,
		s.Role, database).Scan(&role, &login)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && s.Role == "":
		return "", &sandglass.Error{Code: CodeSynchronizeRole, Op: "synchronize", Message: fmt.Sprintf("The copy has no database %s for the migrations.", database),
			Remedy: "Correct databases or server.synchronize.database of the sandbox's declaration."}
	case errors.Is(err, pgx.ErrNoRows):
		return "", &sandglass.Error{Code: CodeSynchronizeRole, Op: "synchronize", Message: fmt.Sprintf("The copy has no role %s for the migrations.", s.Role),
			Remedy: "Declare a role that production or the sandbox has as server.synchronize.role."}
	case err != nil:
		return "", fmt.Errorf("find the migrations' role: %w", err)
	case role == server.Role:
		return "", &sandglass.Error{Code: CodeSynchronizeRole, Op: "synchronize", Message: fmt.Sprintf("The database %s belongs to %s, as which no migrations are run.", database, role),
			Remedy: "Declare the role that owns the application's tables as server.synchronize.role."}
	}
	m.Synchronizing = true
	if !login {
		m.Lent = role
	}
	if err := run.Save(ctx, *m); err != nil {
		return "", err
	}
	if !login {
		if _, err := conn.Exec(ctx, "ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" LOGIN"); err != nil {
			return "", fmt.Errorf("let %s log in: %w", role, err)
		}
	}
	return role, nil
}

// takeLoginBack ends what is left of the migrations' sessions, and the login that a role had for them.
func (h *Host) takeLoginBack(ctx context.Context, st policy.Staging, lent string) error {
	statements := []string{`SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename IS DISTINCT FROM '` + server.Role + `'`}
	if lent != "" {
		statements = append(statements, "ALTER ROLE "+pgx.Identifier{lent}.Sanitize()+" NOLOGIN")
	}
	return execute(ctx, st.Connect, statements...)
}

// migrate opens the staging server to the role, runs the command, and closes the server again.
func (h *Host) migrate(ctx context.Context, run *engine.Run, m memory, e sandglass.Environment, done *Migrated) error {
	_, img, err := h.sealedFor(ctx, run, m)
	if err != nil {
		return err
	}
	c, err := h.stagingConfig(ctx, m, e, img)
	if err != nil {
		return err
	}
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	open := c
	open.HBA = []string{`local all "` + strings.ReplaceAll(done.Role, `"`, `""`) + `" trust`}
	if err := p.Reload(ctx, open); err != nil {
		return err
	}
	command, err := h.migration(e, *done)
	if err != nil {
		return err
	}
	done.User = command.User.Name
	said := newOutput(run)
	command.Line = said.line
	s := *e.Server.Synchronize
	run.Log.Info("running the migrations", "command", s.Command, "user", done.User, "role", done.Role, "database", done.Database, "network", s.Network, "timeout", s.Timeout)
	limited, cancel := context.WithTimeoutCause(ctx, time.Duration(s.Timeout), &sandglass.Error{Code: CodeSynchronizeTimeout, Op: "synchronize",
		Message: fmt.Sprintf("The sandbox's migrations took longer than the %s they may.", s.Timeout),
		Remedy:  "The sandbox is as it was. Make them faster, or declare a longer server.synchronize.timeout."})
	defer cancel()
	began := time.Now()
	done.Exit, err = server.RunBeside(limited, c, command)
	done.Seconds, done.Lines = time.Since(began).Seconds(), said.lines
	if err != nil {
		return err
	}
	run.Log.Info("the migrations have ended", "exit", done.Exit, "seconds", done.Seconds, "lines", done.Lines)
	if done.Exit != 0 {
		return &sandglass.Error{Code: CodeSynchronizeFailed, Op: "synchronize", Message: fmt.Sprintf("The sandbox's migrations ended with status %d%s.", done.Exit, said.end()),
			Remedy: fmt.Sprintf("The sandbox is as it was. All they said is in synchronize.log (sandglass ops logs %s).", run.Operation.ID)}
	}
	return p.Reload(ctx, c)
}

// migration is the command with all that it is given and shown.
func (h *Host) migration(e sandglass.Environment, done Migrated) (server.Command, error) {
	s := *e.Server.Synchronize
	user, err := h.migrationUser(s)
	if err != nil {
		return server.Command{}, err
	}
	host := server.GuestHost
	if s.OpenNetwork() {
		host = server.GuestSocket
	}
	env := map[string]string{"PATH": server.DefaultPath, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": user.Name, "LOGNAME": user.Name,
		"PGHOST": host, "PGPORT": strconv.Itoa(server.GuestPort), "PGUSER": done.Role, "PGDATABASE": done.Database, "PGSSLMODE": "disable", "SANDGLASS_ENVIRONMENT": e.Name}
	maps.Copy(env, s.Environment)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return server.Command{Args: s.Command, Dir: s.Folder, Show: s.Show, Hidden: h.Hidden, Env: list, User: user, OpenNetwork: s.OpenNetwork()}, nil
}

// migrationUser is who the command runs as: never root, and not the servers' user, whose files are the copy itself,
// unless we are no more than that ourselves.
func (h *Host) migrationUser(s sandglass.Synchronize) (server.Owner, error) {
	if os.Geteuid() != 0 {
		return h.Owner, nil
	}
	name := s.User
	if name == "" {
		name = "nobody"
	}
	user, err := server.FindUser(name)
	if err == nil && (user.UID == h.Owner.UID || h.UIDs.Contains(user.UID)) {
		err = fmt.Errorf("%s is a user that servers run as", name)
	}
	if err != nil {
		return user, &sandglass.Error{Code: CodeSynchronizeUser, Op: "synchronize", Err: err, Message: fmt.Sprintf("The migrations can't run as the user %s: %v.", name, err),
			Remedy: "Declare another operating system user of this host as server.synchronize.user."}
	}
	return user, nil
}

// planSynchronize says what will be run, and what already stands in its way.
func (h *Host) planSynchronize(plan *sandglass.Plan, f preflight.Facts) {
	s := f.Target.Server.Synchronize
	if s == nil {
		return
	}
	stop := func(err error) {
		e := sandglass.AsError(err)
		plan.Findings = append(plan.Findings, sandglass.Finding{Code: e.Code, Level: sandglass.Stop, Message: e.Message, Remedy: e.Remedy})
	}
	if _, err := h.migrationUser(*s); err != nil {
		stop(err)
	}
	for _, path := range s.Show {
		if _, err := os.Stat(path); err != nil {
			stop(&sandglass.Error{Code: server.CodeCommandMissing, Message: fmt.Sprintf("%s, which the sandbox's migrations are to see, is not there.", path),
				Remedy: "Correct server.synchronize.show of the sandbox's declaration."})
		}
	}
	if s.Folder != "" {
		if info, err := os.Stat(s.Folder); err != nil || !info.IsDir() {
			stop(&sandglass.Error{Code: server.CodeCommandMissing, Message: fmt.Sprintf("The folder %s of the sandbox's migrations is not there.", s.Folder),
				Remedy: "Correct server.synchronize.folder of the sandbox's declaration, or put the migrations there."})
		}
	}
	if f.SealError != nil && f.Target.Server.Seal == "config-only" { // without it, preflight stops by itself
		e := sandglass.AsError(f.SealError)
		stop(&sandglass.Error{Code: e.Code, Message: "The sandbox's migrations can't be closed in: this host doesn't let us make namespaces.", Remedy: e.Remedy})
	}
	if s.OpenNetwork() {
		plan.Findings = append(plan.Findings, sandglass.Finding{Code: CodeSynchronizeOpen, Level: sandglass.Warning, Accepted: true,
			Message: "The sandbox's migrations reach the network: its declaration opens it to them (server.synchronize.network).", Remedy: "Close it unless they need it."})
	}
}

// synchronizeLine is the plan's line about the migrations.
func synchronizeLine(e sandglass.Environment) sandglass.PlanLine {
	s := e.Server.Synchronize
	role := "the owner of " + e.Databases[s.DatabaseRole(e.Databases)]
	if s.Role != "" {
		role = "the role " + s.Role
	}
	return sandglass.PlanLine{Step: "synchronize", What: fmt.Sprintf("Run %q on the sealed copy as %s, for %s at most, its network %s; check every assertion once more.",
		strings.Join(s.Command, " "), role, s.Timeout, s.Network), Why: "The sandbox's own migrations bring production's data up to date with its application."}
}

// output is what a command says: into the step's log, shown as it comes, its end kept for the error.
type output struct {
	run   *engine.Run
	lines int64
	bytes int
	tail  []string
}

// Limits of what is kept of a command's output.
const (
	maxOutput = 64 << 20 // bytes in the log
	maxTail   = 12       // lines in the error
	maxShown  = 400      // bytes of a line, in the error and as progress
)

func newOutput(run *engine.Run) *output { return &output{run: run} }

func (o *output) line(text string) {
	o.lines++
	if o.bytes += len(text); o.bytes <= maxOutput {
		o.run.Log.Info("said", "line", text)
	}
	text = strings.TrimSpace(text)
	text = strings.ToValidUTF8(text[:min(len(text), maxShown)], "")
	if text != "" {
		o.tail = append(o.tail, text)
		o.tail = o.tail[max(0, len(o.tail)-maxTail):]
	}
	o.run.Progress(sandglass.Progress{Done: o.lines, Unit: "lines", Note: text, ETA: -1})
}

// end is the end of the output, for the error.
func (o *output) end() string {
	if len(o.tail) == 0 {
		return ", and said nothing"
	}
	return ", and said last:\n  " + strings.TrimSuffix(strings.Join(o.tail, "\n  "), ".") // a sentence, which its user ends
}
