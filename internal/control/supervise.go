// The supervisor: sandboxes that should run do, also after a reboot; what is over is removed.

package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/operation"
	"sandglass/internal/recorder"
)

// patience is how long one sandbox may keep the supervisor from looking after the others, or a kept state its sandbox.
const patience = 30 * time.Second

// supervise looks after sandboxes, kept states and peeks until ctx ends, each at its own pace: a state whose last WAL takes long to
// bring in keeps no sandbox from being started. What can't be mended now is logged and tried again.
func (c *Control) supervise(ctx context.Context) error {
	var looks errgroup.Group
	log := c.logger("supervisor")
	for what, look := range map[string]func(context.Context) error{"sandboxes": c.keepRunning, "volumes": c.removeExpired, "peeks": c.closePeeks,
		"history": c.forget} {
		looks.Go(func() error {
			tick := time.NewTicker(lookAgain)
			defer tick.Stop()
			for {
				if err := look(ctx); err != nil && ctx.Err() == nil {
					log.Error("could not look after "+what, "error", err)
				}
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
			}
		})
	}
	return looks.Wait()
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
			errs = append(errs, c.keepOneRunning(ctx, e.Declaration.Name))
		}
	}
	return errors.Join(errs...)
}

// keepOneRunning does not wait for ever for one sandbox: a server in a long crash recovery goes on by itself.
func (c *Control) keepOneRunning(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.host.KeepRunning(ctx, name)
}

// removeExpired drops kept states whose time is over, and what no operation needs any more.
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
		switch v.State {
		case sandglass.VolumeKept:
			busy, err := c.db.Unfinished(ctx, v.Environment)
			if errs = append(errs, err); err != nil {
				continue
			}
			if busy == "" && !v.KeptUntil.IsZero() && time.Now().After(v.KeptUntil) {
				c.Log.Info("a kept state's time is over", "volume", v.ID, "environment", v.Environment)
				errs = append(errs, c.dropExpired(ctx, v))
			}
		case sandglass.VolumeStaging:
			o, err := c.db.Operation(ctx, v.Operation)
			if err != nil {
				errs = append(errs, err)
			} else if o.State.Finished() && !openPeek(o) {
				c.Log.Warn("removing what an operation left", "volume", v.ID, "operation", v.Operation)
				errs = append(errs, c.host.RemoveLeftover(ctx, v.ID))
			}
		}
	}
	return errors.Join(append(errs, c.removeStrays(ctx, volumes))...)
}

// againAfter is how much longer a kept state stays whose last WAL could not be brought into the repository.
const againAfter = time.Hour

// dropExpired drops a kept state. One that still has WAL which the repository lacks stays, and is tried again later;
// one that lacks that WAL too goes: no later try could bring it in.
func (c *Control) dropExpired(ctx context.Context, v db.Volume) error {
	bounded, cancel := context.WithTimeout(ctx, patience) // what it has brought in by then stays, and the next look goes on
	defer cancel()
	err := c.host.DropVolume(bounded, v.ID, false)
	switch {
	case sandglass.CodeOf(err) != operation.CodeNotDrained:
		return err
	case sandglass.CodeOf(errors.Unwrap(err)) == recorder.CodeWALLost:
		c.Log.Warn("a kept state goes whose last WAL had been lost", "volume", v.ID, "environment", v.Environment, "error", errors.Unwrap(err))
		if err := c.db.Audit(ctx, db.AuditRow{Who: "sandglass", What: "volume.expired " + v.ID + " without its last WAL", Environment: v.Environment}); err != nil {
			return err
		}
		return c.host.DropVolume(ctx, v.ID, true)
	}
	return errors.Join(err, c.db.KeepLonger(ctx, v.ID, time.Now().Add(againAfter)))
}

// openPeek says whether the operation is a peek that came to be open.
func openPeek(o db.Operation) bool {
	return o.Kind == sandglass.KindPeek && o.State == sandglass.Succeeded
}

// removeStrays removes folders of volumes that the metadata says are gone. One it never knew is not
// ours to remove: a volume's row precedes its folder, so the metadata that knew it has been lost.
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
		switch {
		case sandglass.CodeOf(err) == sandglass.CodeVolumeUnknown:
			continue
		case err != nil:
			return err
		case v.State == sandglass.VolumeGone:
			c.Log.Warn("removing the folder of a volume that is gone", "volume", id)
			errs = append(errs, c.host.RemoveLeftover(ctx, id))
		}
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
		runs, err := c.host.PeekRuns(ctx, o.ID)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if time.Now().After(peekUntil(o)) || !runs {
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
		if openPeek(o) {
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
