package repo

// This file executes prune plans: what was planned and is still not needed goes, manifests first, so that at any
// instant every image that exists is complete.

import (
	"context"
	"fmt"
	"strings"

	"sandglass"
)

// ExecutePrune executes a plan once. It looks again at everything first: what has come to be needed since stays.
// A prune that was broken off can be executed again. The result says what was in fact removed.
func (r *Repository) ExecutePrune(ctx context.Context, id string, progress func(sandglass.Progress)) (*sandglass.PrunePlan, error) {
	p, err := r.plan(ctx, id)
	if err != nil {
		return nil, err
	}
	if p.Executed {
		return nil, &sandglass.Error{Code: sandglass.CodePlanExecuted, Op: "execute prune", Message: fmt.Sprintf("The prune plan %s was executed already.", id),
			Remedy: "Make a new plan with `sandglass repo prune`."}
	}
	e := &pruner{ctx: ctx, repo: r, progress: progress, total: int64(p.Objects)}
	cuts, err := e.stillRight(p.Cuts)
	if err == nil {
		err = e.removeImages(cuts, p.Bundles)
	}
	for _, c := range cuts {
		if err == nil {
			err = e.removeRest(c)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("execute prune %s: %w", id, err)
	}
	p.Executed, p.Objects, p.Bytes = true, int(e.objects), e.bytes
	if err := r.putJSON(ctx, doneKey(id), p.PrunePlan); err != nil {
		return nil, fmt.Errorf("execute prune %s: %w", id, err)
	}
	return &p.PrunePlan, nil
}

type pruner struct {
	ctx      context.Context // of ExecutePrune's caller
	repo     *Repository
	progress func(sandglass.Progress)
	total    int64
	objects  int64
	bytes    int64
}

func (e *pruner) remove(obj Object) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	if err := e.repo.store.Delete(e.ctx, obj.Key); err != nil {
		return err
	}
	e.objects++
	e.bytes += obj.Size
	if e.progress != nil {
		e.progress(sandglass.Progress{Done: e.objects, Total: e.total, Unit: "objects", ETA: -1})
	}
	return nil
}

func (e *pruner) removeKey(key string) error {
	obj, err := e.repo.store.Stat(e.ctx, key)
	if err != nil {
		return nil // removed by an earlier attempt
	}
	return e.remove(obj)
}

// stillRight decides again, by the windows of the plan, and leaves of each cut what both decisions hold.
func (e *pruner) stillRight(cuts []cut) ([]cut, error) {
	var out []cut
	for _, c := range cuts {
		inc, err := e.repo.Incarnation(e.ctx, c.Environment, c.Incarnation)
		if err != nil {
			continue // gone with an earlier attempt
		}
		images, err := e.repo.Images(e.ctx, c.Environment, c.Incarnation)
		if err != nil {
			return nil, err
		}
		now := decide(inc, images, c.WindowStart)
		if c.Whole && !now.Whole {
			continue
		}
		still := map[sandglass.ImageID]bool{}
		for _, id := range now.Images {
			still[id] = true
		}
		var ids []sandglass.ImageID
		for _, id := range c.Images {
			if still[id] {
				ids = append(ids, id)
			}
		}
		c.Images = ids
		// Between plan and execution images only come or go at the ends, so the earlier cut is the safe one.
		if now.WALBefore == "" || c.WALBefore != "" && now.WALBefore[8:] < c.WALBefore[8:] {
			c.WALBefore = now.WALBefore
		}
		out = append(out, c)
	}
	return out, nil
}

// removeImages removes manifests, then those of the planned bundles that no manifest needs now. No image can be
// finished meanwhile.
func (e *pruner) removeImages(cuts []cut, bundles []string) error {
	r := e.repo
	r.prune.Lock()
	defer r.prune.Unlock()
	for _, c := range cuts {
		for _, id := range c.Images {
			key := imageKey(c.Environment, c.Incarnation, id)
			if err := e.removeKey(key); err != nil {
				return err
			}
			r.mu.Lock()
			delete(r.images, key)
			r.mu.Unlock()
		}
	}
	marked := map[string]map[string]bool{} // by environment
	for _, key := range bundles {
		env, _, _ := strings.Cut(strings.TrimPrefix(key, "env/"), "/")
		if marked[env] == nil {
			m, err := r.mark(e.ctx, env, nil)
			if err != nil {
				return err
			}
			marked[env] = m
		}
		if marked[env][key] {
			continue
		}
		if err := e.removeKey(key); err != nil {
			return err
		}
	}
	return nil
}

// removeRest removes the WAL of a cut, or all of an incarnation that goes as a whole.
func (e *pruner) removeRest(c cut) error {
	for obj, err := range e.repo.prunable(e.ctx, c) {
		if err == nil {
			err = e.remove(obj)
		}
		if err != nil {
			return err
		}
	}
	if c.Whole {
		e.repo.mu.Lock()
		delete(e.repo.begins, prefixOf(c.Environment, c.Incarnation))
		e.repo.mu.Unlock()
	}
	return nil
}
