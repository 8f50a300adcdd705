package repo

// This file plans what retention no longer needs: mark, plan, show. The plan is an object of its own, so that
// what is executed is what was shown. For every moment of the window the newest image before it and all WAL from
// that image's redo position on are kept.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"sandglass"
)

// leftoverAge is how long the bundles of an image without a manifest may still become one.
const leftoverAge = 24 * time.Hour

// planAge is how long a plan can be executed.
const planAge = 7 * 24 * time.Hour

// prunePlan is the object that keeps a plan.
type prunePlan struct {
	sandglass.PrunePlan
	Cuts    []cut    `json:"cuts"`
	Bundles []string `json:"bundles"` // keys
}

// cut is what goes of one incarnation.
type cut struct {
	Environment string                  `json:"environment"`
	Incarnation sandglass.IncarnationID `json:"incarnation"`
	// WindowStart is the oldest moment that is kept.
	WindowStart time.Time `json:"window_start"`
	// Whole: all of the incarnation ended before the window.
	Whole  bool                `json:"whole,omitempty"`
	Images []sandglass.ImageID `json:"images,omitempty"`
	// WALBefore names a segment: those before it go, on its timeline and lower ones. "": none.
	WALBefore string `json:"wal_before,omitempty"`
}

// decide says what goes of an incarnation. It is pure.
func decide(inc sandglass.Incarnation, images []sandglass.Image, windowStart time.Time) cut {
	c := cut{Environment: inc.Environment, Incarnation: inc.ID, WindowStart: windowStart}
	over := inc.Ended
	if n := len(inc.Away); over.IsZero() && !inc.Current() {
		over = inc.Away[n-1].From // a kept state that is gone back to all the same begins anew
	}
	if !over.IsZero() && over.Before(windowStart) {
		c.Whole = true
	}
	keep := 0 // the first image kept
	for n, i := range images {
		if !i.Ended.After(windowStart) {
			keep = n
		}
	}
	if c.Whole {
		keep = len(images)
	}
	for _, i := range images[:keep] {
		c.Images = append(c.Images, i.ID)
	}
	var first sandglass.SegmentNo
	var timeline sandglass.TimelineID
	for n, i := range images[keep:] {
		seg := i.Redo.Segment(inc.SegmentSize)
		if n == 0 || seg < first {
			first = seg
		}
		if n == 0 || i.Timeline < timeline {
			timeline = i.Timeline
		}
	}
	if first > 0 {
		c.WALBefore = sandglass.SegmentName(timeline, first, inc.SegmentSize)
	}
	return c
}

// PlanPrune plans what goes when each environment keeps the moments of its retention, counted back from now; a
// negative retention keeps everything. The plan is kept in the repository, to be executed by its ID. Nothing of an environment goes
// while a manifest of it is damaged, because nobody knows then what it needs.
func (r *Repository) PlanPrune(ctx context.Context, retention func(env string) time.Duration, now time.Time) (*sandglass.PrunePlan, error) {
	p := &prunePlan{PrunePlan: sandglass.PrunePlan{ID: newID(now), Made: now.UTC(), Items: []sandglass.PruneItem{}, Left: map[string]string{}}}
	envs, err := r.Environments(ctx)
	if err != nil {
		return nil, fmt.Errorf("plan prune: %w", err)
	}
	for _, env := range envs {
		keep := retention(env)
		if keep < 0 {
			continue
		}
		var of prunePlan
		err := r.planEnvironment(ctx, &of, env, now.Add(-keep).UTC(), now)
		if sandglass.CodeOf(err) == sandglass.CodeRepositoryDamaged {
			p.Left[env] = sandglass.AsError(err).Message
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("plan prune of %s: %w", env, err)
		}
		p.Items, p.Cuts, p.Bundles = append(p.Items, of.Items...), append(p.Cuts, of.Cuts...), append(p.Bundles, of.Bundles...)
	}
	for _, item := range p.Items {
		p.Objects += item.Objects
		p.Bytes += item.Bytes
	}
	if err := r.dropOldPlans(ctx, now); err != nil {
		return nil, fmt.Errorf("plan prune: %w", err)
	}
	if err := r.putJSON(ctx, planKey(p.ID), p); err != nil {
		return nil, fmt.Errorf("plan prune: %w", err)
	}
	return &p.PrunePlan, nil
}

func planKey(id string) string { return "plan/" + id + ".json" }
func doneKey(id string) string { return "plan/" + id + ".done" }

// dropOldPlans removes plans that were never executed and can't be any more.
func (r *Repository) dropOldPlans(ctx context.Context, now time.Time) error {
	for obj, err := range r.store.List(ctx, "plan/", "") {
		if err != nil {
			return err
		}
		id, isPlan := strings.CutSuffix(baseName(obj.Key), ".json")
		if !isPlan || now.Sub(obj.ModTime) < planAge {
			continue
		}
		if _, err := r.store.Stat(ctx, doneKey(id)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := r.store.Delete(ctx, obj.Key); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) planEnvironment(ctx context.Context, p *prunePlan, env string, windowStart, now time.Time) error {
	incs, err := r.Incarnations(ctx, env)
	if err != nil {
		return err
	}
	gone := map[string]bool{} // manifests that go
	for _, inc := range incs {
		images, err := r.Images(ctx, env, inc.ID)
		if err != nil {
			return err
		}
		c := decide(inc, images, windowStart)
		for _, id := range c.Images {
			key := imageKey(env, inc.ID, id)
			gone[key] = true
			if err := r.planImage(ctx, p, c, id, key); err != nil {
				return err
			}
		}
		if err := r.planWAL(ctx, p, c); err != nil {
			return err
		}
		if c.Whole || len(c.Images) > 0 || c.WALBefore != "" {
			p.Cuts = append(p.Cuts, c)
		}
	}
	marked, err := r.mark(ctx, env, gone)
	if err != nil {
		return err
	}
	return r.planBundles(ctx, p, env, gone, marked, now)
}

func (r *Repository) planImage(ctx context.Context, p *prunePlan, c cut, id sandglass.ImageID, key string) error {
	obj, err := r.store.Stat(ctx, key)
	if err != nil {
		return err
	}
	why := "A newer image reaches every moment since " + c.WindowStart.Format(time.DateTime) + " UTC."
	if c.Whole {
		why = "Its incarnation ended before " + c.WindowStart.Format(time.DateTime) + " UTC."
	}
	p.Items = append(p.Items, sandglass.PruneItem{Environment: c.Environment, Incarnation: c.Incarnation, Kind: "image", Name: string(id), Objects: 1, Bytes: obj.Size, Why: why})
	return nil
}

// planWAL counts the WAL of a cut; of a whole incarnation, all but images and bundles.
func (r *Repository) planWAL(ctx context.Context, p *prunePlan, c cut) error {
	item := sandglass.PruneItem{Environment: c.Environment, Incarnation: c.Incarnation, Kind: "wal", Why: "No kept image begins its replay so early."}
	if c.Whole {
		item.Kind, item.Name = "incarnation", string(c.Incarnation)
		item.Why = "It ended before " + c.WindowStart.Format(time.DateTime) + " UTC."
	}
	for obj, err := range r.prunable(ctx, c) {
		if err != nil {
			return err
		}
		item.Objects++
		item.Bytes += obj.Size
		if !c.Whole {
			item.Name = "up to " + baseName(obj.Key)[:24]
		}
	}
	if item.Objects > 0 {
		p.Items = append(p.Items, item)
	}
	return nil
}

// prunable are the objects of a cut that are neither images nor bundles. The beginning of an incarnation comes last.
func (r *Repository) prunable(ctx context.Context, c cut) func(yield func(Object, error) bool) {
	prefix := prefixOf(c.Environment, c.Incarnation)
	return func(yield func(Object, error) bool) {
		for _, kind := range []string{"index/", "wal/", "part/"} {
			for obj, err := range r.store.List(ctx, prefix+kind, "") {
				if err == nil && !c.Whole && !c.covers(obj.Key) {
					continue
				}
				if !yield(obj, err) || err != nil {
					return
				}
			}
		}
		if !c.Whole {
			return
		}
		for _, kind := range []string{"gap/", "away/", "history/", "end", "begin-"} {
			for obj, err := range r.store.List(ctx, prefix+kind, "") {
				if !yield(obj, err) || err != nil {
					return
				}
			}
		}
	}
}

// covers says whether a segment, index or part lies before what is kept. Names sort as segments do within a timeline.
func (c cut) covers(key string) bool {
	name := baseName(key)
	return len(c.WALBefore) == 24 && len(name) >= 24 && name[:8] <= c.WALBefore[:8] && name[8:24] < c.WALBefore[8:]
}

// mark gathers the bundles that the manifests of an environment need, leaving out those that go.
func (r *Repository) mark(ctx context.Context, env string, gone map[string]bool) (map[string]bool, error) {
	marked := map[string]bool{}
	ids, err := r.children(ctx, environmentPrefix(env))
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		for obj, err := range r.store.List(ctx, environmentPrefix(env)+id+"/image/", "") {
			if err != nil {
				return nil, err
			}
			if gone[obj.Key] {
				continue
			}
			m, err := r.manifest(ctx, obj.Key, &window{})
			if err == nil {
				err = damaged(obj.Key, m.loadBundles())
			}
			if err != nil {
				return nil, err
			}
			for _, b := range m.bundles {
				marked[environmentPrefix(env)+b.name] = true
			}
		}
	}
	return marked, nil
}

// planBundles adds the bundles that nothing needs, by the image that wrote them.
func (r *Repository) planBundles(ctx context.Context, p *prunePlan, env string, gone, marked map[string]bool, now time.Time) error {
	ids, err := r.children(ctx, environmentPrefix(env))
	if err != nil {
		return err
	}
	for _, id := range ids {
		inc := sandglass.IncarnationID(id)
		prefix := environmentPrefix(env) + id + "/bundle/"
		images, err := r.children(ctx, prefix)
		if err != nil {
			return err
		}
		for _, image := range images {
			manifest := imageKey(env, inc, sandglass.ImageID(image))
			item := sandglass.PruneItem{Environment: env, Incarnation: inc, Kind: "bundle", Name: image, Why: "No image that is kept shares them."}
			finished := gone[manifest]
			if !finished {
				_, err := r.store.Stat(ctx, manifest)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				finished = err == nil
			}
			var keys []string
			var newest time.Time
			for obj, err := range r.store.List(ctx, prefix+image+"/", "") {
				if err != nil {
					return err
				}
				if obj.ModTime.After(newest) {
					newest = obj.ModTime
				}
				if !marked[obj.Key] {
					keys = append(keys, obj.Key)
					item.Objects++
					item.Bytes += obj.Size
				}
			}
			if !finished {
				if now.Sub(newest) < leftoverAge {
					continue // it may be being written
				}
				item.Why = "Their image has no manifest, and none is being written."
			}
			if len(keys) > 0 {
				p.Bundles = append(p.Bundles, keys...)
				p.Items = append(p.Items, item)
			}
		}
	}
	return nil
}

// PrunePlan is a plan made before.
func (r *Repository) PrunePlan(ctx context.Context, id string) (*sandglass.PrunePlan, error) {
	p, err := r.plan(ctx, id)
	if err != nil {
		return nil, err
	}
	return &p.PrunePlan, nil
}

func (r *Repository) plan(ctx context.Context, id string) (*prunePlan, error) {
	unknown := &sandglass.Error{Code: sandglass.CodePlanUnknown, Op: "read prune plan", Message: fmt.Sprintf("There is no prune plan %q.", id),
		Remedy: "Make one with `sandglass repo prune`; a plan that was not executed is dropped after 7 days."}
	if validID("a plan", id) != nil {
		return nil, unknown
	}
	var p prunePlan
	if err := r.readJSON(ctx, planKey(id), &p); errors.Is(err, fs.ErrNotExist) {
		return nil, unknown
	} else if err != nil {
		return nil, err
	}
	_, err := r.store.Stat(ctx, doneKey(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p.Executed = err == nil
	slices.Sort(p.Bundles)
	return &p, nil
}
