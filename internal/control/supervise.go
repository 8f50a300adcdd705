// The supervisor: sandboxes that should run do, also after a reboot; what is over is removed.

package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/operation"
)

// supervise looks after sandboxes, kept states and peeks until ctx ends. What can't be mended now is logged and tried again.
func (c *Control) supervise(ctx context.Context) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	log := c.logger("supervisor")
	for {
		for what, look := range map[string]func(context.Context) error{"sandboxes": c.keepRunning, "volumes": c.removeExpired, "peeks": c.closePeeks} {
			if err := look(ctx); err != nil && ctx.Err() == nil {
				log.Error("could not look after "+what, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// keepRunning starts each sandbox's server that should run and does not. One in the middle of a
// cutover is left to its operation.
func (c *Control) keepRunning(ctx context.Context) error {
	environments, err := c.db.Environments(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range environments {
		if e.Declaration.Kind == sandglass.Sandbox {
			errs = append(errs, c.host.KeepRunning(ctx, e.Declaration.Name))
		}
	}
	return errors.Join(errs...)
}

// removeExpired drops kept states whose time is over, and volumes that no operation needs any more.
func (c *Control) removeExpired(ctx context.Context) error {
	volumes, err := c.db.Volumes(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range volumes {
		if v.Host != c.Host {
			continue
		}
		busy, err := c.db.Unfinished(ctx, v.Environment)
		if err != nil {
			return err
		}
		if v.State == sandglass.VolumeKept && busy == "" && !v.KeptUntil.IsZero() && time.Now().After(v.KeptUntil) {
			c.Log.Info("a kept state's time is over", "volume", v.ID, "environment", v.Environment)
			errs = append(errs, c.host.DropVolume(ctx, v.ID))
		}
	}
	return errors.Join(append(errs, c.removeStrays(ctx, volumes))...)
}

// removeStrays removes folders of volumes that the metadata says are gone or never knew.
func (c *Control) removeStrays(ctx context.Context, known []db.Volume) error {
	ids, err := c.host.Volumes.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if slices.ContainsFunc(known, func(v db.Volume) bool { return v.ID == id }) {
			continue
		}
		v, err := c.db.Volume(ctx, id) // it may have been made since
		if err == nil && v.State != sandglass.VolumeGone {
			continue
		}
		if err != nil && sandglass.CodeOf(err) != sandglass.CodeVolumeUnknown {
			return err
		}
		c.Log.Warn("removing a folder that is no volume", "volume", id)
		errs = append(errs, c.host.Volumes.Destroy(ctx, id))
	}
	return errors.Join(errs...)
}

// closePeeks ends peeks whose time is over, or whose server is gone.
func (c *Control) closePeeks(ctx context.Context) error {
	open, err := c.openPeeks(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range open {
		if time.Now().After(peekUntil(o)) || !c.host.PeekRuns(ctx, o.ID) {
			c.Log.Info("closing a peek", "operation", o.ID)
			errs = append(errs, c.host.ClosePeek(ctx, o.ID))
		}
	}
	return errors.Join(errs...)
}

// openPeeks are the peeks whose copies are there.
func (c *Control) openPeeks(ctx context.Context) ([]db.Operation, error) {
	volumes, err := c.db.Volumes(ctx, "")
	if err != nil {
		return nil, err
	}
	var open []db.Operation
	for _, v := range volumes {
		if v.State != sandglass.VolumeStaging || v.Operation == "" {
			continue
		}
		o, err := c.db.Operation(ctx, v.Operation)
		if err != nil {
			return nil, err
		}
		if o.Kind == sandglass.KindPeek && o.State == sandglass.Succeeded {
			open = append(open, o)
		}
	}
	return open, nil
}

// peekUntil is when a peek ends by itself.
func peekUntil(o db.Operation) time.Time {
	ttl := time.Duration(o.Request.TTL)
	if ttl <= 0 {
		ttl = operation.DefaultPeek
	}
	return o.Ended.Add(ttl)
}
