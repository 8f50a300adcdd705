package repo

// This file says which moments each damage costs.

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/wal"
)

// explain turns the findings into damage with costs.
func (v *verifier) explain(ctx context.Context) error {
	bad := map[string]bool{}
	for _, f := range v.found {
		bad[f.key] = true
	}
	c := &costs{repo: v.repo, bad: bad, history: map[string]*pastOf{}}
	for _, f := range v.found {
		d := sandglass.Damage{Object: f.key, Problem: f.problem}
		if err := c.of(ctx, f.key, &d); err != nil {
			return err
		}
		v.report.Damaged = append(v.report.Damaged, d)
	}
	return nil
}

// costs knows the images of incarnations and which of them can still be restored.
type costs struct {
	repo    *Repository
	bad     map[string]bool    // keys of damaged objects
	history map[string]*pastOf // by prefix of an incarnation
}

// pastOf is an incarnation as far as it can be read.
type pastOf struct {
	inc    sandglass.Incarnation
	images []sandglass.Image // that are whole, oldest first
}

const noMoment = "No moment is lost."

// of says what the damage of an object costs.
func (c *costs) of(ctx context.Context, key string, d *sandglass.Damage) error {
	part := strings.Split(key, "/")
	if part[0] != "env" || len(part) < 4 {
		d.Costs = noMoment + " A record for people is lost."
		return nil
	}
	env, inc := part[1], sandglass.IncarnationID(part[2])
	past, err := c.past(ctx, env, inc)
	if err != nil {
		return err
	}
	switch kind := part[3]; {
	case strings.HasPrefix(kind, "begin-"):
		d.From, d.To = past.inc.Began, past.inc.Ended
		d.Costs = "Its incarnation can't be read: every moment of it is lost."
	case kind == "end", kind == "gap", kind == "away":
		d.Costs = noMoment + " The window can't be drawn exactly until the object is back."
	case kind == "history":
		d.From, d.To = past.inc.Began, past.inc.Ended
		d.Costs = "Moments on timeline " + strings.TrimSuffix(path.Base(key), ".history") + " can't be restored from images of the timelines before it."
	case kind == "image":
		l := past.without(c.imageTime(past, sandglass.ImageID(part[4])))
		d.From, d.To, d.Costs = l.from, l.to, l.String()
	case kind == "bundle":
		return c.bundle(ctx, d, env, key)
	default:
		name, _, _ := strings.Cut(path.Base(key), ".")
		return c.segment(ctx, d, past, kind, name)
	}
	return nil
}

// past reads an incarnation, leaving out images that can't be restored.
func (c *costs) past(ctx context.Context, env string, id sandglass.IncarnationID) (*pastOf, error) {
	prefix := prefixOf(env, id)
	if p := c.history[prefix]; p != nil {
		return p, nil
	}
	p := &pastOf{}
	var err error
	if p.inc, err = c.repo.Incarnation(ctx, env, id); err != nil {
		if p.inc, err = c.repo.begun(ctx, env, id); err != nil {
			p.inc = sandglass.Incarnation{ID: id, Environment: env, SegmentSize: sandglass.DefaultSegmentSize, Began: idBegan(string(id))}
		}
	}
	images, err := c.repo.Images(ctx, env, id)
	if err != nil && sandglass.CodeOf(err) != sandglass.CodeRepositoryDamaged {
		return nil, err
	}
	for _, i := range images {
		key := imageKey(env, id, i.ID)
		m, err := c.repo.manifest(ctx, key, &window{})
		if err == nil {
			err = m.loadBundles()
		}
		whole := err == nil && !c.bad[key]
		for _, b := range manifestBundles(m) {
			whole = whole && !c.bad[environmentPrefix(env)+b.name]
		}
		if whole {
			p.images = append(p.images, i)
		}
	}
	c.history[prefix] = p
	return p, nil
}

func manifestBundles(m *manifest) []bundleInfo {
	if m == nil {
		return nil
	}
	return m.bundles
}

// imageTime is when an image that may not be readable ended.
func (c *costs) imageTime(p *pastOf, id sandglass.ImageID) time.Time {
	c.repo.mu.Lock()
	defer c.repo.mu.Unlock()
	if facts, ok := c.repo.images[imageKey(p.inc.Environment, p.inc.ID, id)]; ok {
		return facts.Ended
	}
	return idBegan(string(id))
}

// loss is what the loss of images costs: moments, unless an older image reaches them.
type loss struct {
	from, to time.Time // to zero: no end; both zero: nothing
	older    sandglass.ImageID
}

// without is what an image that ended then costs.
func (p *pastOf) without(ended time.Time) loss {
	l := loss{from: ended, to: p.inc.Ended}
	for _, i := range p.images {
		if !i.Ended.After(ended) {
			l.older = i.ID
		} else {
			l.to = i.Ended
			break
		}
	}
	if l.older != "" {
		l.from, l.to = time.Time{}, time.Time{}
	}
	return l
}

// and is the two losses together.
func (l loss) and(m loss) loss {
	switch {
	case l.from.IsZero():
		return m
	case m.from.IsZero():
		return l
	}
	if m.from.Before(l.from) {
		l.from = m.from
	}
	if m.to.IsZero() || !l.to.IsZero() && m.to.After(l.to) {
		l.to = m.to
	}
	return l
}

func (l loss) String() string {
	if l.from.IsZero() {
		return noMoment + fmt.Sprintf(" They are restored from the older image %s, which takes longer.", l.older)
	}
	return fmt.Sprintf("Moments from %s %s can't be restored: no older image is whole.", stamp(l.from), until(l.to))
}

// bundle says what the images that need a bundle cost together.
func (c *costs) bundle(ctx context.Context, d *sandglass.Damage, env, key string) error {
	incs, err := c.repo.children(ctx, environmentPrefix(env))
	if err != nil {
		return err
	}
	var names []string
	var l loss
	for _, id := range incs {
		inc := sandglass.IncarnationID(id)
		images, err := c.repo.Images(ctx, env, inc)
		if err != nil && sandglass.CodeOf(err) != sandglass.CodeRepositoryDamaged {
			return err
		}
		past, err := c.past(ctx, env, inc)
		if err != nil {
			return err
		}
		for _, i := range images {
			m, err := c.repo.manifest(ctx, imageKey(env, inc, i.ID), &window{})
			if err != nil || m.loadBundles() != nil {
				continue
			}
			if slices.ContainsFunc(m.bundles, func(b bundleInfo) bool { return environmentPrefix(env)+b.name == key }) {
				names = append(names, string(i.ID))
				l = l.and(past.without(i.Ended))
			}
		}
	}
	if len(names) == 0 {
		d.Costs = noMoment + " No image needs it."
		return nil
	}
	d.From, d.To = l.from, l.to
	d.Costs = "Lost with it: image " + strings.Join(names, ", ") + ". " + l.String()
	return nil
}

// segment says what WAL costs: the moments from it on until the next whole image that does not need it.
func (c *costs) segment(ctx context.Context, d *sandglass.Damage, p *pastOf, kind, name string) error {
	tli, seg, err := sandglass.ParseSegmentName(name, p.inc.SegmentSize)
	if err != nil {
		d.Costs = noMoment + " Its name is not that of a segment."
		return nil
	}
	needed := false
	d.To = p.inc.Ended
	for _, i := range p.images {
		if i.Redo.Segment(p.inc.SegmentSize) <= seg {
			needed = true
		} else {
			d.To = i.Ended
			break
		}
	}
	if !needed {
		d.To = time.Time{}
		d.Costs = noMoment + " No image needs it."
		return nil
	}
	d.From = c.timeBefore(ctx, p, tli, seg)
	switch kind {
	case "index":
		d.To = c.timeBefore(ctx, p, tli, seg+1)
		d.Costs = fmt.Sprintf("Moments from %s %s can't be found by time until the index is back; their WAL is whole.", stamp(d.From), until(d.To))
	default:
		d.Costs = fmt.Sprintf("Moments from %s %s can't be restored.", stamp(d.From), until(d.To))
	}
	return nil
}

// timeBefore is the time of the last thing known before a segment: by its predecessor's index, or else the end of
// the newest image before it.
func (c *costs) timeBefore(ctx context.Context, p *pastOf, tli sandglass.TimelineID, seg sandglass.SegmentNo) time.Time {
	var last time.Time
	for _, i := range p.images {
		if i.End.Segment(p.inc.SegmentSize) < seg && i.Ended.After(last) {
			last = i.Ended
		}
	}
	if last.IsZero() && len(p.images) > 0 {
		last = p.images[0].Ended
	}
	if seg == 0 {
		return last
	}
	b, err := c.repo.Index(ctx, p.inc.Environment, p.inc.ID, tli, seg-1)
	if err != nil {
		return last
	}
	x, err := wal.Unmarshal(b)
	if err != nil {
		return last
	}
	if x.LastTime.After(last) {
		last = x.LastTime
	}
	for _, b := range x.Beats {
		if b.Time.After(last) {
			last = b.Time
		}
	}
	return last
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

func until(t time.Time) string {
	if t.IsZero() {
		return "on"
	}
	return "until " + stamp(t)
}
