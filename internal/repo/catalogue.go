package repo

// This file is the catalogue of environments and their incarnations. It is nothing but the objects
// themselves: whoever has the repository has the catalogue.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"sandglass"
)

// endRecord is the object that ends an incarnation.
type endRecord struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// BeginIncarnation begins a stretch of an environment's history. Doing it again with the same facts is fine.
func (r *Repository) BeginIncarnation(ctx context.Context, inc sandglass.Incarnation) error {
	if err := errors.Join(validID("an environment", inc.Environment), validID("an incarnation", string(inc.ID))); err != nil {
		return fmt.Errorf("begin incarnation: %w", err)
	}
	key := beginKey(inc)
	if _, _, _, err := parseBegin(baseName(key)); err != nil {
		return fmt.Errorf("begin incarnation: %w", err)
	}
	inc.Ended, inc.EndReason, inc.Away = time.Time{}, "", nil
	return r.putJSON(ctx, key, inc)
}

// EndIncarnation ends it at a time by production's clock. An incarnation ends once: a second, different end is
// ignored, because the first one is what happened.
func (r *Repository) EndIncarnation(ctx context.Context, env string, id sandglass.IncarnationID, at time.Time, reason string) error {
	return firstStays(r.putJSON(ctx, prefixOf(env, id)+"end", endRecord{At: at.UTC(), Reason: reason}))
}

// Environments are the names of all environments of which something is kept, sorted.
func (r *Repository) Environments(ctx context.Context) ([]string, error) {
	return r.children(ctx, "env/")
}

// children are the names of what lies directly below a prefix, by skipping from one to the next.
func (r *Repository) children(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	for after := ""; ; {
		more := false
		for obj, err := range r.store.List(ctx, prefix, after) {
			if err != nil {
				return nil, err
			}
			if name, _, below := strings.Cut(obj.Key[len(prefix):], "/"); below {
				names = append(names, name)
				after, more = prefix+name+"/\xff", true
			} else {
				after, more = obj.Key, true
			}
			break
		}
		if !more {
			return names, nil
		}
	}
}

// Incarnations are an environment's, oldest first. Without an identity Began is by the ID, Ended by the
// time its end was written.
func (r *Repository) Incarnations(ctx context.Context, env string) ([]sandglass.Incarnation, error) {
	ids, err := r.children(ctx, environmentPrefix(env))
	if err != nil {
		return nil, fmt.Errorf("list incarnations of %s: %w", env, err)
	}
	var out []sandglass.Incarnation
	for _, id := range ids {
		inc, err := r.Incarnation(ctx, env, sandglass.IncarnationID(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // its beginning was pruned, the rest is about to be
		}
		if err != nil {
			return nil, err
		}
		out = append(out, inc)
	}
	slices.SortStableFunc(out, func(a, b sandglass.Incarnation) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Incarnation is one of them; fs.ErrNotExist when there is none of that ID.
func (r *Repository) Incarnation(ctx context.Context, env string, id sandglass.IncarnationID) (sandglass.Incarnation, error) {
	inc, err := r.begun(ctx, env, id)
	if err == nil && len(r.identities) > 0 {
		err = r.readJSON(ctx, beginKey(inc), &inc)
	}
	if err != nil {
		return inc, err
	}
	if inc.Away, err = r.absences(ctx, env, id); err != nil {
		return inc, err
	}
	end := prefixOf(env, id) + "end"
	obj, err := r.store.Stat(ctx, end)
	if errors.Is(err, fs.ErrNotExist) {
		return inc, nil
	}
	if err != nil {
		return inc, err
	}
	if len(r.identities) == 0 {
		inc.Ended = obj.ModTime.UTC()
		return inc, nil
	}
	var e endRecord
	if err := r.readJSON(ctx, end, &e); err != nil {
		return inc, err
	}
	inc.Ended, inc.EndReason = e.At, e.Reason
	return inc, nil
}

// begun is what the name of an incarnation's beginning says; it is kept in memory, since it never changes.
func (r *Repository) begun(ctx context.Context, env string, id sandglass.IncarnationID) (sandglass.Incarnation, error) {
	prefix := prefixOf(env, id)
	r.mu.Lock()
	inc, ok := r.begins[prefix]
	r.mu.Unlock()
	if ok {
		return inc, nil
	}
	for obj, err := range r.store.List(ctx, prefix+"begin-", "") {
		if err != nil {
			return inc, err
		}
		major, size, system, err := parseBegin(baseName(obj.Key))
		if err != nil {
			return inc, damaged(obj.Key, err)
		}
		inc = sandglass.Incarnation{ID: id, Environment: env, SystemIdentifier: system, Major: major, SegmentSize: size, Began: idBegan(string(id))}
		r.mu.Lock()
		r.begins[prefix] = inc
		r.mu.Unlock()
		return inc, nil
	}
	return inc, fmt.Errorf("incarnation %s of %s: %w", id, env, fs.ErrNotExist)
}

// Gap is WAL that was never received, and why.
type Gap struct {
	Timeline sandglass.TimelineID `json:"timeline"`
	FromLSN  sandglass.LSN        `json:"from_lsn"`
	ToLSN    sandglass.LSN        `json:"to_lsn"`
	sandglass.Gap
}

// PutGap records that the WAL from FromLSN to ToLSN will never come.
func (r *Repository) PutGap(ctx context.Context, env string, inc sandglass.IncarnationID, g Gap) error {
	return r.putJSON(ctx, fmt.Sprintf("%sgap/%08X-%016X-%016X", prefixOf(env, inc), uint32(g.Timeline), uint64(g.FromLSN), uint64(g.ToLSN)), g)
}

// Gaps are the recorded gaps of an incarnation by timeline and position.
func (r *Repository) Gaps(ctx context.Context, env string, inc sandglass.IncarnationID) ([]Gap, error) {
	var out []Gap
	for obj, err := range r.store.List(ctx, prefixOf(env, inc)+"gap/", "") {
		if err != nil {
			return nil, fmt.Errorf("list gaps: %w", err)
		}
		var g Gap
		if err := r.readJSON(ctx, obj.Key, &g); err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}
