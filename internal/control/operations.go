// What the API says and does of operations, windows and the repository.

package control

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/operation"
	"sandglass/internal/repo"
	"sandglass/internal/window"
)

type operations struct{ *Control }

func (c operations) Plan(ctx context.Context, r sandglass.Request) (sandglass.Plan, error) {
	return c.host.Plan(ctx, r)
}

// Start makes the plan, refuses with its first stop, and records the operation.
func (c operations) Start(ctx context.Context, r sandglass.Request, by string) (sandglass.Operation, error) {
	e, err := c.environment(ctx, r.Environment)
	if err != nil {
		return sandglass.Operation{}, err
	}
	if busy, err := c.db.Unfinished(ctx, r.Environment); err != nil || busy != "" && r.Kind != sandglass.KindPeek {
		if err == nil {
			err = db.Busy(r.Environment, busy)
		}
		return sandglass.Operation{}, err
	}
	if err := operation.Check(e, r); err != nil {
		return sandglass.Operation{}, err
	}
	plan, err := c.host.Plan(ctx, r)
	if err != nil {
		return sandglass.Operation{}, err
	}
	if refusal := operation.Refusal(&plan); refusal != nil {
		return sandglass.Operation{}, refusal
	}
	if r.Source == "" && e.Declaration.Server != nil && (r.Kind == sandglass.KindRestore || r.Kind == sandglass.KindRefresh) {
		r.Source = e.Declaration.Server.Source
	}
	return c.engine.Start(ctx, r, by, &plan)
}

func (c operations) List(ctx context.Context, q sandglass.OperationQuery) ([]sandglass.Operation, error) {
	if q.Limit == 0 {
		q.Limit = 50
	}
	return c.engine.List(ctx, q.Environment, q.Limit)
}

func (c operations) Wait(ctx context.Context, id string, after int64) (sandglass.Operation, error) {
	return c.engine.Wait(ctx, id, after)
}

func (c operations) Cancel(ctx context.Context, id, by string) (sandglass.Operation, error) {
	return c.engine.Cancel(ctx, id, by)
}

// Retry goes on with a way back that was given up, once its cause is gone.
func (c operations) Retry(ctx context.Context, id, by string) (sandglass.Operation, error) {
	return c.engine.Retry(ctx, id, by)
}

type windows struct{ *Control }

func (c windows) Window(ctx context.Context, name string) (sandglass.Window, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return sandglass.Window{}, err
	}
	return window.Compute(ctx, c.repo, e.Declaration, c.recorders.Live(name))
}

func (c windows) Resolve(ctx context.Context, name string, m sandglass.Moment) (sandglass.Range, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return sandglass.Range{}, err
	}
	return window.Resolve(ctx, c.repo, e.Declaration, m, c.recorders.Live(name))
}

type repository struct{ *Control }

// Info says what the repository holds.
func (c repository) Info(ctx context.Context) (sandglass.RepositoryInfo, error) {
	return c.repositoryInfo(ctx)
}

func (c *Control) repositoryInfo(ctx context.Context) (sandglass.RepositoryInfo, error) {
	info, err := c.repo.Info(ctx)
	info.Path = c.Repository
	var fs unix.Statfs_t
	if unix.Statfs(c.Repository, &fs) == nil {
		info.FreeBytes = int64(fs.Bavail) * fs.Bsize
	}
	return info, err
}

func (c repository) PlanPrune(ctx context.Context) (sandglass.PrunePlan, error) {
	all, err := c.db.Environments(ctx)
	if err != nil {
		return sandglass.PrunePlan{}, err
	}
	keep := map[string]time.Duration{}
	for _, e := range all {
		keep[e.Declaration.Name] = time.Duration(e.Declaration.WithDefaults().Retention)
	}
	plan, err := c.repo.PlanPrune(ctx, func(env string) time.Duration {
		if d, ok := keep[env]; ok {
			return d
		}
		if c.removed(ctx, env) {
			return time.Duration(sandglass.Environment{Kind: sandglass.Production}.WithDefaults().Retention)
		}
		return -1 // not declared here: not ours to judge
	}, time.Now())
	if err != nil {
		return sandglass.PrunePlan{}, err
	}
	return *plan, nil
}

// removed says whether nothing more will be recorded of an environment: all of its history has ended.
func (c repository) removed(ctx context.Context, environment string) bool {
	all, err := c.repo.Incarnations(ctx, environment)
	return err == nil && len(all) > 0 && !slices.ContainsFunc(all, func(i sandglass.Incarnation) bool { return i.Ended.IsZero() })
}

// nothingRestored refuses a prune while a copy is being made: at the window's edge it would lose what it still has to read.
func (c repository) nothingRestored(ctx context.Context) error {
	all, err := c.db.Environments(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		id, err := c.db.Unfinished(ctx, e.Declaration.Name)
		if err != nil {
			return err
		}
		if id == "" {
			continue
		}
		o, err := c.db.Operation(ctx, id)
		if err != nil {
			return err
		}
		if o.Kind == sandglass.KindRestore || o.Kind == sandglass.KindRefresh {
			return &sandglass.Error{Code: sandglass.CodeEnvironmentBusy, Op: "prune repository", Message: fmt.Sprintf("The %s of %s, %s, reads the repository.", o.Kind, e.Declaration.Name, id),
				Remedy: "Prune when it has ended: sandglass ops watch " + id}
		}
	}
	return nil
}

func (c repository) ExecutePrune(ctx context.Context, id, by string, progress func(sandglass.Progress)) (sandglass.PrunePlan, error) {
	if err := c.nothingRestored(ctx); err != nil {
		return sandglass.PrunePlan{}, err
	}
	if err := c.db.Audit(ctx, db.AuditRow{Who: by, What: "repo.prune " + id}); err != nil {
		return sandglass.PrunePlan{}, err
	}
	plan, err := c.repo.ExecutePrune(ctx, id, progress)
	if err != nil {
		return sandglass.PrunePlan{}, err
	}
	return *plan, nil
}

func (c repository) Verify(ctx context.Context, again bool, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
	if !c.verifying.TryLock() {
		return sandglass.VerifyReport{}, &sandglass.Error{Code: sandglass.CodeEnvironmentBusy, Op: "verify repository", Message: "The repository is being verified already.",
			Remedy: "Wait until that has ended."}
	}
	defer c.verifying.Unlock()
	return c.repo.Verify(ctx, repo.VerifyOptions{State: filepath.Join(c.State, "verified"), Again: again}, progress)
}
