// Package webtest is a control plane in memory, for tests of what lies in front of one: the API, the
// client and the command line. It answers as a real one would, from what a test puts into it.
package webtest

import (
	"archive/zip"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"sandglass"
	"sandglass/internal/web"
)

// Control is the control plane. Fill the exported fields before it is used.
type Control struct {
	Window    sandglass.Window
	Commits   []sandglass.Commit
	Plan      sandglass.Plan
	Range     sandglass.Range
	Script    []sandglass.Operation // the states an operation goes through, one for each call of Next
	Kept      []sandglass.Volume
	Repo      sandglass.RepositoryInfo
	Prune     sandglass.PrunePlan
	Verify    sandglass.VerifyReport
	Findings  []sandglass.Finding
	Refuse    error // what every part refuses with, when it is set
	Peek      sandglass.Peek
	PeekEnded bool

	mu           sync.Mutex
	environments map[string]sandglass.EnvironmentStatus
	operations   []*operation
	By           []string // who asked for each change
}

type operation struct {
	sandglass.Operation
	next    int           // of the script
	changed chan struct{} // closed at the next change
}

// New makes one that declares the given environments.
func New(declared ...sandglass.EnvironmentStatus) *Control {
	c := &Control{environments: map[string]sandglass.EnvironmentStatus{}}
	for _, e := range declared {
		c.environments[e.Name] = e
	}
	return c
}

// Parts are its parts, as the API takes them.
func (c *Control) Parts() web.Parts {
	return web.Parts{Environments: environments{c}, Operations: operations{c}, Recordings: recordings{c}, Windows: windows{c},
		Volumes: volumes{c}, Repository: repository{c}, Peeks: peeks{c}, Doctor: doctor{c}}
}

// Next brings every operation to its next state of the script; false when there is none left.
func (c *Control) Next() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := false
	for _, o := range c.operations {
		moved = c.next(o) || moved
	}
	return moved
}

func (c *Control) next(o *operation) bool {
	if o.next >= len(c.Script) {
		return false
	}
	s := c.Script[o.next]
	o.next++
	o.Version++
	o.State, o.Steps, o.Error, o.Result, o.Began, o.Ended = s.State, s.Steps, s.Error, s.Result, s.Began, s.Ended
	close(o.changed)
	o.changed = make(chan struct{})
	return true
}

func (c *Control) environment(name string) (sandglass.EnvironmentStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.environments[name]
	if c.Refuse != nil {
		return e, c.Refuse
	}
	if !ok {
		return e, &sandglass.Error{Code: sandglass.CodeEnvironmentUnknown, Op: "find environment", Message: fmt.Sprintf("There is no environment %q.", name),
			Remedy: "See `sandglass env ls`."}
	}
	return e, nil
}

func (c *Control) asked(by string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.By = append(c.By, by)
}

type environments struct{ c *Control }

func (p environments) Apply(_ context.Context, e sandglass.Environment, by string) ([]sandglass.Finding, error) {
	if err := cmp.Or(p.c.Refuse, e.Validate()); err != nil {
		return nil, err
	}
	p.c.asked(by)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	s := p.c.environments[e.Name]
	s.Environment = e.WithDefaults()
	p.c.environments[e.Name] = s
	return p.c.Findings, nil
}

func (p environments) List(context.Context) ([]sandglass.EnvironmentStatus, error) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.c.environments), func(a, b sandglass.EnvironmentStatus) int { return cmp.Compare(a.Name, b.Name) }), p.c.Refuse
}

func (p environments) Get(_ context.Context, name string) (sandglass.EnvironmentStatus, error) {
	return p.c.environment(name)
}

func (p environments) Remove(_ context.Context, name, by string) ([]sandglass.Finding, error) {
	_, err := p.c.environment(name)
	if err == nil {
		p.c.asked(by)
		p.c.mu.Lock()
		defer p.c.mu.Unlock()
		delete(p.c.environments, name)
	}
	return p.c.Findings, err
}

func (p environments) Connect(_ context.Context, name, database string) (sandglass.Connection, error) {
	e, err := p.c.environment(name)
	database = cmp.Or(database, "postgres")
	return sandglass.Connection{Environment: e.Name, Host: "localhost", Port: 5433, Database: database,
		PSQL: []string{"psql", "host=localhost port=5433 dbname=" + database}}, err
}

func (p environments) CheckPack(_ context.Context, name, pack string) ([]sandglass.RuleCheck, error) {
	_, err := p.c.environment(name)
	return []sandglass.RuleCheck{{Rule: pack + "/mails", Kind: "rule", Database: "business", Table: "customer", At: pack + "/pack.yaml:7", Level: sandglass.OK, Rows: 3}}, err
}

type operations struct{ c *Control }

func (p operations) Plan(_ context.Context, r sandglass.Request) (sandglass.Plan, error) {
	e, err := p.c.environment(r.Environment)
	if err == nil && e.Kind == sandglass.Production && r.Kind != sandglass.KindPeek {
		err = &sandglass.Error{Code: sandglass.CodeEnvironmentKind, Op: "plan", Message: e.Name + " is a production: it is only ever read.", Remedy: "Name a sandbox."}
	}
	plan := p.c.Plan
	if r.Moment != nil {
		plan.Moment = *r.Moment
	}
	return plan, err
}

func (p operations) Start(_ context.Context, r sandglass.Request, by string) (sandglass.Operation, error) {
	if _, err := p.c.environment(r.Environment); err != nil {
		return sandglass.Operation{}, err
	}
	p.c.asked(by)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	o := &operation{changed: make(chan struct{}), Operation: sandglass.Operation{ID: fmt.Sprintf("20261122t104307-%04d", len(p.c.operations)+1), Kind: r.Kind,
		Environment: r.Environment, Source: r.Source, State: sandglass.Queued, AskedBy: by, Reason: r.Reason, Created: time.Date(2026, 11, 22, 10, 43, 7, 0, time.UTC), Version: 1}}
	p.c.operations = append(p.c.operations, o)
	return o.Operation, nil
}

func (p operations) find(id string) (*operation, error) {
	i := slices.IndexFunc(p.c.operations, func(o *operation) bool { return o.ID == id })
	if i < 0 {
		return nil, &sandglass.Error{Code: sandglass.CodeOperationUnknown, Op: "find operation", Message: "There is no operation " + id + ".", Remedy: "See `sandglass ops ls`."}
	}
	return p.c.operations[i], nil
}

func (p operations) List(_ context.Context, q sandglass.OperationQuery) ([]sandglass.Operation, error) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	var all []sandglass.Operation
	for _, o := range slices.Backward(p.c.operations) {
		if q.Environment == "" || q.Environment == o.Environment {
			all = append(all, o.Operation)
		}
	}
	return all, p.c.Refuse
}

func (p operations) Wait(ctx context.Context, id string, after int64) (sandglass.Operation, error) {
	for {
		p.c.mu.Lock()
		o, err := p.find(id)
		if err != nil {
			p.c.mu.Unlock()
			return sandglass.Operation{}, err
		}
		now, changed := o.Operation, o.changed
		p.c.mu.Unlock()
		if now.Version > after {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return sandglass.Operation{}, ctx.Err()
		}
	}
}

func (p operations) Cancel(_ context.Context, id, by string) (sandglass.Operation, error) {
	p.c.asked(by)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	o, err := p.find(id)
	if err != nil {
		return sandglass.Operation{}, err
	}
	if o.State.Finished() {
		return sandglass.Operation{}, &sandglass.Error{Code: sandglass.CodeOperationFinished, Op: "cancel", Message: "Operation " + id + " has finished.", Remedy: "Undo it with `sandglass undo`."}
	}
	o.State, o.Version = sandglass.Cancelled, o.Version+1
	close(o.changed)
	o.changed = make(chan struct{})
	return o.Operation, nil
}

func (p operations) Retry(_ context.Context, id, by string) (sandglass.Operation, error) {
	p.c.asked(by)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	o, err := p.find(id)
	if err != nil {
		return sandglass.Operation{}, err
	}
	return o.Operation, p.c.Refuse
}

func (p operations) Logs(_ context.Context, id string, w io.Writer) error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if _, err := p.find(id); err != nil {
		return err
	}
	z := zip.NewWriter(w)
	f, err := z.Create("operation.json")
	if err == nil {
		_, err = io.WriteString(f, "{}")
	}
	return errors.Join(err, p.c.Refuse, z.Close())
}

type recordings struct{ c *Control }

func (p recordings) StartRecording(_ context.Context, name string, accept []sandglass.Code, by string) ([]sandglass.Finding, error) {
	p.c.asked(by)
	_, err := p.c.environment(name)
	for i := range p.c.Findings {
		p.c.Findings[i].Accepted = slices.Contains(accept, p.c.Findings[i].Code)
	}
	return p.c.Findings, err
}

func (p recordings) StopRecording(_ context.Context, name, by string) ([]sandglass.Finding, error) {
	p.c.asked(by)
	_, err := p.c.environment(name)
	return p.c.Findings, err
}

func (p recordings) TakeImage(_ context.Context, name, by string) error {
	p.c.asked(by)
	e, err := p.c.environment(name)
	if err != nil {
		return err
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if e.Recorder != nil {
		r := *e.Recorder
		r.LastImage = "20261122t104307-zzzz"
		e.Recorder = &r
		p.c.environments[name] = e
	}
	return nil
}

type windows struct{ c *Control }

func (p windows) Window(_ context.Context, name string) (sandglass.Window, error) {
	_, err := p.c.environment(name)
	return p.c.Window, err
}

func (p windows) Resolve(_ context.Context, name string, m sandglass.Moment) (sandglass.Range, error) {
	if _, err := p.c.environment(name); err != nil {
		return sandglass.Range{}, err
	}
	if m.Kind == sandglass.AtTime && m.Time.After(p.c.Window.Latest) {
		return sandglass.Range{}, &sandglass.Error{Code: sandglass.CodeMomentFuture, Op: "resolve moment", Message: "That moment is in the future, by production's clock.",
			Remedy: "Name an earlier one, or --latest.", Before: p.c.Window.Latest}
	}
	return p.c.Range, nil
}

func (p windows) Commits(_ context.Context, name string, q sandglass.CommitQuery) ([]sandglass.Commit, error) {
	_, err := p.c.environment(name)
	var all []sandglass.Commit
	for _, c := range p.c.Commits {
		if !c.Time.Before(q.From) && (q.To.IsZero() || !c.Time.After(q.To)) {
			all = append(all, c)
		}
	}
	return all, err
}

type volumes struct{ c *Control }

func (p volumes) Volumes(_ context.Context, environment string) ([]sandglass.Volume, error) {
	return p.c.Kept, p.c.Refuse
}

func (p volumes) Drop(_ context.Context, id string, _ bool, by string) error {
	p.c.asked(by)
	i := slices.IndexFunc(p.c.Kept, func(v sandglass.Volume) bool { return v.ID == id })
	if i < 0 {
		return &sandglass.Error{Code: sandglass.CodeVolumeUnknown, Op: "drop", Message: "There is no volume " + id + ".", Remedy: "See `sandglass volume ls`."}
	}
	p.c.Kept = slices.Delete(p.c.Kept, i, i+1)
	return nil
}

type repository struct{ c *Control }

func (p repository) Info(context.Context) (sandglass.RepositoryInfo, error) {
	return p.c.Repo, p.c.Refuse
}

func (p repository) PlanPrune(context.Context) (sandglass.PrunePlan, error) {
	return p.c.Prune, p.c.Refuse
}

func (p repository) ExecutePrune(_ context.Context, id, by string, progress func(sandglass.Progress)) (sandglass.PrunePlan, error) {
	p.c.asked(by)
	progress(sandglass.Progress{Done: 1, Total: 2, Unit: "objects", ETA: -1})
	plan := p.c.Prune
	plan.Executed = true
	return plan, p.c.Refuse
}

func (p repository) Verify(_ context.Context, _ bool, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
	progress(sandglass.Progress{Done: 1, Total: 2, Unit: "bytes", ETA: 1})
	return p.c.Verify, p.c.Refuse
}

type peeks struct{ c *Control }

func (p peeks) Peeks(context.Context) ([]sandglass.Peek, error) {
	if p.c.Peek.ID == "" || p.c.PeekEnded {
		return nil, nil
	}
	return []sandglass.Peek{p.c.Peek}, nil
}

func (p peeks) Peek(context.Context, string) (sandglass.Peek, error) { return p.c.Peek, p.c.Refuse }

func (p peeks) EndPeek(_ context.Context, _, by string) error {
	p.c.asked(by)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.PeekEnded = true
	return nil
}

type doctor struct{ c *Control }

func (p doctor) Doctor(context.Context) ([]sandglass.Finding, error) {
	return p.c.Findings, p.c.Refuse
}
