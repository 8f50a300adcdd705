// What the API says and does of environments, volumes and peeks.

package control

import (
	"context"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/operation"
	"sandglass/internal/pack"
)

type environments struct{ *Control }

func (c *Control) environment(ctx context.Context, name string) (db.Environment, error) {
	e, err := c.db.Environment(ctx, name)
	e.Declaration = e.Declaration.WithDefaults()
	return e, err
}

// Apply declares an environment, new or changed. A running server and recorder take up the change at their next start.
func (c environments) Apply(ctx context.Context, e sandglass.Environment, by string) ([]sandglass.Finding, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	if err := c.noClash(ctx, e); err != nil {
		return nil, err
	}
	if _, err := pack.Load(c.host.Packs, e.Packs); err != nil {
		return nil, err
	}
	err := c.db.Do(ctx, func(tx *db.Tx) error {
		if _, err := tx.ApplyEnvironment(ctx, e); err != nil {
			return err
		}
		return tx.Audit(ctx, db.AuditRow{Who: by, What: "apply", Environment: e.Name})
	})
	if err != nil {
		return nil, err
	}
	c.recorders.wake()
	var findings []sandglass.Finding
	if e.Kind == sandglass.Production {
		findings = append(findings, sandglass.Finding{Code: "environment.declared", Level: sandglass.OK,
			Message: fmt.Sprintf("%s is declared. Nothing is recorded before: sandglass record start %s", e.Name, e.Name)})
	}
	return findings, nil
}

// noClash refuses two sandboxes at one port.
func (c environments) noClash(ctx context.Context, e sandglass.Environment) error {
	if e.Server == nil {
		return nil
	}
	all, err := c.db.Environments(ctx)
	if err != nil {
		return err
	}
	for _, other := range all {
		if s := other.Declaration.Server; s != nil && other.Declaration.Name != e.Name && s.Port == e.Server.Port {
			return &sandglass.Error{Code: sandglass.CodeConfig, Op: "apply environment",
				Message: fmt.Sprintf("Port %d is already that of sandbox %s.", e.Server.Port, other.Declaration.Name), Remedy: "Choose another port."}
		}
	}
	return nil
}

func (c environments) List(ctx context.Context) ([]sandglass.EnvironmentStatus, error) {
	all, err := c.db.Environments(ctx)
	out := make([]sandglass.EnvironmentStatus, 0, len(all))
	for _, e := range all {
		e.Declaration = e.Declaration.WithDefaults()
		s, err := c.status(ctx, e)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, err
}

func (c environments) Get(ctx context.Context, name string) (sandglass.EnvironmentStatus, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return sandglass.EnvironmentStatus{}, err
	}
	return c.status(ctx, e)
}

func (c *Control) status(ctx context.Context, e db.Environment) (sandglass.EnvironmentStatus, error) {
	s := sandglass.EnvironmentStatus{Environment: hidePassword(e.Declaration), LastRestored: e.Restored, Recorder: c.recorders.status(e)}
	var err error
	if s.Operation, err = c.db.Unfinished(ctx, e.Declaration.Name); err != nil {
		return s, err
	}
	if e.Declaration.Kind != sandglass.Sandbox {
		return s, nil
	}
	s.Address = net.JoinHostPort(operation.DialHost(e.Declaration.Server.Listen), strconv.Itoa(c.host.Port(ctx, e)))
	if e.Volume == "" {
		s.State = sandglass.SandboxEmpty
		return s, nil
	}
	v, err := c.db.Volume(ctx, e.Volume)
	if err != nil {
		return s, err
	}
	s.Volume, s.Major, s.Socket = &v.Volume, v.Major, c.host.Volumes.Layout(v.ID).Run
	switch {
	case e.Server != db.WishRunning:
		s.State = sandglass.SandboxStopped
	case !c.host.Runs(ctx, e):
		s.State = sandglass.SandboxDown
	case e.Held:
		s.State = sandglass.SandboxHeld
	default:
		s.State = sandglass.SandboxRunning
	}
	return s, nil
}

// hidePassword takes a password out of a connection string before anybody is shown it.
func hidePassword(e sandglass.Environment) sandglass.Environment {
	if e.Recording == nil || e.Recording.Connection == "" {
		return e
	}
	r := *e.Recording
	r.Connection = withoutPassword(r.Connection)
	e.Recording = &r
	return e
}

// The places of passwords in a connection string: after the user of a URL, and by name, in a URL's query or
// among keywords and values ('...' with backslashes, as conninfo_parse in libpq's fe-connect.c reads them).
var (
	passwordOfURL  = regexp.MustCompile(`^(postgres(?:ql)?://[^/@:?]*:)[^/?]*@`)
	passwordInURL  = regexp.MustCompile(`([?&](?:ssl)?password=)[^&]+`)
	passwordByName = regexp.MustCompile(`((?:^|\s)(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)+)`)
)

func withoutPassword(connection string) string {
	const hidden = "********"
	if strings.HasPrefix(connection, "postgres://") || strings.HasPrefix(connection, "postgresql://") {
		connection = passwordOfURL.ReplaceAllString(connection, "${1}"+hidden+"@")
		return passwordInURL.ReplaceAllString(connection, "${1}"+hidden)
	}
	return passwordByName.ReplaceAllString(connection, "${1}"+hidden)
}

// Remove ends the recording, drops the slot, removes a sandbox's volumes, and forgets the environment. A removal
// that was broken off is finished by another; nothing else can begin with the environment meanwhile.
func (c environments) Remove(ctx context.Context, name, by string) ([]sandglass.Finding, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := c.nothingOpen(ctx, e); err != nil {
		return nil, err
	}
	err = c.db.Do(ctx, func(tx *db.Tx) error {
		if err := tx.BeginRemoval(ctx, name); err != nil {
			return err
		}
		return tx.Audit(ctx, db.AuditRow{Who: by, What: "env.rm", Environment: name})
	})
	if err != nil {
		return nil, err
	}
	defer c.recorders.Resume(name) // also after a pause that was given up
	if err := c.recorders.Pause(ctx, name); err != nil {
		return nil, err
	}
	if e, err = c.environment(ctx, name); err != nil { // with the incarnation that its recorder had begun
		return nil, err
	}
	findings, err := c.host.DrainSandbox(ctx, e)
	if err != nil {
		return nil, err
	}
	if e.Declaration.Kind == sandglass.Production { // a sandbox's slot goes with its volume
		findings = c.dropSlot(ctx, e)
	}
	if err := c.endHistory(ctx, e); err != nil {
		return findings, err
	}
	if err := c.host.RemoveSandbox(ctx, e); err != nil {
		return findings, err
	}
	return findings, c.db.Do(ctx, func(tx *db.Tx) error { return tx.RemoveEnvironment(ctx, name) })
}

// nothingOpen refuses to remove a production while copies of it are looked into.
func (c *Control) nothingOpen(ctx context.Context, e db.Environment) error {
	if e.Declaration.Kind != sandglass.Production {
		return nil
	}
	peeks, err := c.db.Volumes(ctx, e.Declaration.Name)
	if err != nil || len(peeks) == 0 {
		return err
	}
	return &sandglass.Error{Code: sandglass.CodeVolumeInUse, Op: "remove environment",
		Message: fmt.Sprintf("%d peek(s) into %s are open.", len(peeks), e.Declaration.Name),
		Remedy:  "End them first: sandglass peek ls, sandglass peek end ID."}
}

// endHistory closes the environment's open incarnations; their moments stay restorable until retention takes them.
func (c *Control) endHistory(ctx context.Context, e db.Environment) error {
	all, err := c.repo.Incarnations(ctx, e.Declaration.Name)
	if err != nil {
		return err
	}
	for _, inc := range all {
		if inc.Ended.IsZero() {
			if err := c.repo.EndIncarnation(ctx, e.Declaration.Name, inc.ID, time.Now(), "the environment was removed"); err != nil {
				return err
			}
		}
	}
	return nil
}

// Connect says how a person reaches the environment's database.
func (c environments) Connect(ctx context.Context, name, database string) (sandglass.Connection, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return sandglass.Connection{}, err
	}
	if e.Declaration.Kind == sandglass.Production {
		return connectProduction(e.Declaration, database)
	}
	if e.Volume == "" {
		return sandglass.Connection{}, operation.Empty(name)
	}
	names, err := c.host.Databases(ctx, e)
	if err != nil {
		return sandglass.Connection{}, err
	}
	if database == "" {
		database = operation.First(names)
	}
	s, port := e.Declaration.Server, c.host.Port(ctx, e)
	if s.Administrator == "" { // nobody of the sandbox is known to us: our own way in
		socket := c.host.Volumes.Layout(e.Volume).Run
		return sandglass.Connection{Environment: name, Host: socket, Port: port, User: operation.Role, Database: database, Databases: names,
			PSQL: operation.PSQL(socket, port, operation.Role, database)}, nil
	}
	host := operation.DialHost(s.Listen)
	return sandglass.Connection{Environment: name, Host: host, Port: port, User: s.Administrator, Database: database, Databases: names,
		PSQL: operation.PSQL(host, port, s.Administrator, database)}, nil
}

// firstDatabase is the one of the business role or, without one, of the first role by name; "postgres" where none has a role.
func firstDatabase(e sandglass.Environment) string {
	if name, ok := e.Databases["business"]; ok {
		return name
	}
	for _, role := range slices.Sorted(maps.Keys(e.Databases)) {
		return e.Databases[role]
	}
	return "postgres"
}

func connectProduction(e sandglass.Environment, database string) (sandglass.Connection, error) {
	c, err := pgconn.ParseConfig(e.Recording.Connection)
	if err != nil {
		return sandglass.Connection{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "connect", Err: err,
			Message: fmt.Sprintf("The connection of %s can't be read.", e.Name), Remedy: "Correct recording.connection and apply it."}
	}
	if database == "" {
		database = firstDatabase(e)
	}
	return sandglass.Connection{Environment: e.Name, Host: c.Host, Port: int(c.Port), Database: database, PSQL: operation.PSQL(c.Host, int(c.Port), "", database)}, nil
}

// Volumes lists the copies on this host with what they take.
func (c *Control) volumesOf(ctx context.Context, environment string) ([]sandglass.Volume, error) {
	all, err := c.db.Volumes(ctx, environment)
	out := make([]sandglass.Volume, 0, len(all))
	for _, v := range all {
		if bytes, err := c.host.Volumes.Usage(ctx, v.ID); err == nil {
			v.Bytes = bytes
		}
		out = append(out, v.Volume)
	}
	return out, err
}

type volumes struct{ *Control }

// Volumes lists those of one environment, or of all.
func (c volumes) Volumes(ctx context.Context, environment string) ([]sandglass.Volume, error) {
	if environment != "" {
		if _, err := c.environment(ctx, environment); err != nil {
			return nil, err
		}
	}
	return c.volumesOf(ctx, environment)
}

// Drop removes a kept volume, once its last WAL is in the repository; with force, also without that.
func (c volumes) Drop(ctx context.Context, id string, force bool, by string) error {
	v, err := c.db.Volume(ctx, id)
	if err != nil {
		return err
	}
	if busy, err := c.db.Unfinished(ctx, v.Environment); err != nil || busy != "" {
		if err == nil {
			err = db.Busy(v.Environment, busy)
		}
		return err
	}
	if err := c.db.Audit(ctx, db.AuditRow{Who: by, What: "volume.drop " + id, Environment: v.Environment}); err != nil {
		return err
	}
	return c.host.DropVolume(ctx, id, force)
}

type peeks struct{ *Control }

// Peeks are the open ones.
func (c peeks) Peeks(ctx context.Context) ([]sandglass.Peek, error) {
	open, err := c.openPeeks(ctx)
	out := make([]sandglass.Peek, 0, len(open))
	for _, o := range open {
		p, err := c.peek(ctx, o)
		if err != nil { // its server has ended or is slow; its copy is there until the supervisor has removed it
			c.Log.Warn("a peek can't be reached", "operation", o.ID, "error", err)
		}
		out = append(out, p)
	}
	return out, err
}

func (c *Control) peek(ctx context.Context, o db.Operation) (sandglass.Peek, error) {
	connection, err := c.host.PeekConnection(ctx, o.ID, o.Environment, "")
	connection.Until = peekUntil(o)
	p := sandglass.Peek{ID: o.ID, Environment: o.Environment, Reason: o.Reason, AskedBy: o.AskedBy, Opened: o.Ended, Connection: connection}
	if o.Plan != nil {
		p.Moment = o.Plan.Moment.String()
	}
	return p, err
}

func (c peeks) Peek(ctx context.Context, id string) (sandglass.Peek, error) {
	o, err := c.db.Operation(ctx, id)
	if err != nil {
		return sandglass.Peek{}, err
	}
	return c.peek(ctx, o)
}

// EndPeek closes it and removes its copy.
func (c peeks) EndPeek(ctx context.Context, id, by string) error {
	o, err := c.db.Operation(ctx, id)
	if err != nil {
		return err
	}
	if o.Kind != sandglass.KindPeek {
		return &sandglass.Error{Code: sandglass.CodeOperationUnknown, Op: "end peek", Message: id + " is no peek.", Remedy: "`sandglass peek ls` lists the open ones."}
	}
	if !o.State.Finished() {
		_, err := c.engine.Cancel(ctx, id, by)
		return err
	}
	if err := c.db.Audit(ctx, db.AuditRow{Who: by, What: "peek.end", Environment: o.Environment, Operation: id}); err != nil {
		return err
	}
	return c.host.ClosePeek(ctx, id)
}

// CheckPack says what a pack's rules meet in the environment's databases.
func (c environments) CheckPack(ctx context.Context, name, pack string) ([]sandglass.RuleCheck, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return nil, err
	}
	return c.host.CheckPack(ctx, e, pack)
}
