package repo

// This file finds what is missing: objects that others refer to, or that lie within a sequence.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"sandglass"
)

// missing looks for bundles that manifests refer to, and for segments within the sequence, that are not there.
func (v *verifier) missing(ctx context.Context, env string) error {
	incs, err := v.repo.children(ctx, environmentPrefix(env))
	if err != nil {
		return err
	}
	for _, id := range incs {
		inc := sandglass.IncarnationID(id)
		for obj, err := range v.repo.store.List(ctx, prefixOf(env, inc)+"image/", "") {
			if err != nil {
				return err
			}
			m, err := v.repo.manifest(ctx, obj.Key, &window{})
			if err == nil {
				err = m.loadBundles()
			}
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				continue // a damaged manifest was found before, one that is gone was pruned
			}
			for _, b := range m.bundles {
				key := environmentPrefix(env) + b.name
				if _, err := v.repo.store.Stat(ctx, key); errors.Is(err, fs.ErrNotExist) {
					v.add(key, "It is missing.")
				} else if err != nil {
					return err
				}
			}
		}
		if err := v.missingSegments(ctx, env, inc); err != nil {
			return err
		}
	}
	return nil
}

// add adds a finding unless the object has one already.
func (v *verifier) add(key, problem string) {
	for _, f := range v.found {
		if f.key == key {
			return
		}
	}
	v.found = append(v.found, finding{key, problem})
}

// missingSegments reports holes between segments of a timeline, except recorded gaps.
func (v *verifier) missingSegments(ctx context.Context, env string, inc sandglass.IncarnationID) error {
	facts, err := v.repo.begun(ctx, env, inc)
	if errors.Is(err, fs.ErrNotExist) {
		return v.missingBegin(ctx, env, inc)
	}
	if err != nil {
		return v.noted(prefixOf(env, inc), err)
	}
	gaps, err := v.repo.Gaps(ctx, env, inc)
	if err != nil {
		return v.noted(prefixOf(env, inc)+"gap/", err)
	}
	recorded := func(tli sandglass.TimelineID, from, to sandglass.LSN) bool {
		for _, g := range gaps {
			if g.Timeline == tli && g.FromLSN < to && from < g.ToLSN {
				return true
			}
		}
		return false
	}
	var last SegmentInfo
	for s, err := range v.repo.Segments(ctx, env, inc) {
		if err != nil {
			return err
		}
		if s.Timeline == last.Timeline && last.End > last.From {
			start := s.Segment.Start(facts.SegmentSize)
			if last.End < start && !recorded(s.Timeline, last.End, start) {
				first := last.End.Segment(facts.SegmentSize)
				name := sandglass.SegmentName(s.Timeline, first, facts.SegmentSize)
				problem := fmt.Sprintf("%d segments are missing from here on.", s.Segment-first)
				if s.Segment-first == 1 {
					problem = "It is missing."
				}
				v.add(walKey("wal", env, inc, name), problem)
			}
		}
		if s.End > s.From {
			last = s
		}
	}
	return nil
}

// missingBegin reports an incarnation without its beginning; where only bundles are left, it was pruned.
func (v *verifier) missingBegin(ctx context.Context, env string, inc sandglass.IncarnationID) error {
	for obj, err := range v.repo.store.List(ctx, prefixOf(env, inc), "") {
		if err != nil {
			return err
		}
		if !strings.HasPrefix(obj.Key, prefixOf(env, inc)+"bundle/") && !strings.HasPrefix(obj.Key, awayPrefix(env, inc)) {
			v.add(prefixOf(env, inc)+"begin-", "It is missing.")
			return nil
		}
	}
	return nil
}

// noted lets verifying go on past damage, which was found already.
func (v *verifier) noted(key string, err error) error {
	if e, ok := errors.AsType[*sandglass.Error](err); ok && e.Code == sandglass.CodeRepositoryDamaged {
		v.add(strings.TrimPrefix(e.Op, "read "), problemOf(err))
		return nil
	}
	return fmt.Errorf("look at %s: %w", key, err)
}
