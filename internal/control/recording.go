// What people ask of recordings: begin, end, an image now.

package control

import (
	"context"
	"slices"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/recorder"
)

// StartRecording checks the safety rules, wishes the recording on and lets it begin.
func (c *Control) StartRecording(ctx context.Context, name string, accept []sandglass.Code, by string) ([]sandglass.Finding, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return nil, err
	}
	if e.Declaration.Recording == nil {
		return nil, &sandglass.Error{Code: sandglass.CodeUsage, Op: "start recording", Message: name + " declares no recording.",
			Remedy: "Add a recording section to its declaration and apply it."}
	}
	var findings []sandglass.Finding
	if e.Declaration.Kind == sandglass.Production {
		e.Declaration.Accept = slices.Compact(slices.Sorted(slices.Values(slices.Concat(e.Declaration.Accept, accept))))
		findings = recorder.Check(ctx, e.Declaration)
		for _, f := range findings {
			if f.Level == sandglass.Stop {
				return findings, &sandglass.Error{Code: f.Code, Op: "start recording", Message: f.Message, Remedy: f.Remedy}
			}
		}
		if len(accept) > 0 { // the recorder checks again at every connection
			declared, err := c.db.Environment(ctx, name) // as it was applied, without defaults
			if err != nil {
				return findings, err
			}
			declared.Declaration.Accept = e.Declaration.Accept
			if _, err := c.db.ApplyEnvironment(ctx, declared.Declaration); err != nil {
				return findings, err
			}
		}
	}
	if err := c.wishRecording(ctx, name, true, by); err != nil {
		return findings, err
	}
	return findings, nil
}

func (c *Control) wishRecording(ctx context.Context, name string, on bool, by string) error {
	err := c.db.Do(ctx, func(tx *db.Tx) error {
		if err := tx.UpdateEnvironment(ctx, name, func(e *db.Environment) error {
			if e.Removing {
				return db.Removing(name)
			}
			e.Recording = on
			return nil
		}); err != nil {
			return err
		}
		what := map[bool]string{true: "record.start", false: "record.stop"}[on]
		return tx.Audit(ctx, db.AuditRow{Who: by, What: what, Environment: name})
	})
	c.recorders.wake()
	return err
}

// StopRecording ends the recording and drops the slot, or says how to.
func (c *Control) StopRecording(ctx context.Context, name, by string) ([]sandglass.Finding, error) {
	e, err := c.environment(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := c.wishRecording(ctx, name, false, by); err != nil {
		return nil, err
	}
	defer c.recorders.Resume(name) // also after a pause that was given up
	if err := c.recorders.Pause(ctx, name); err != nil {
		return nil, err
	}
	return c.dropSlot(ctx, e), nil
}

// dropSlot lets production forget us; what stands in the way comes back as a finding with the SQL.
func (c *Control) dropSlot(ctx context.Context, e db.Environment) []sandglass.Finding {
	if e.Declaration.Recording == nil || e.Declaration.Kind == sandglass.Sandbox && e.Volume == "" {
		return nil
	}
	config, err := c.recorders.config(ctx, e)
	if err == nil {
		err = recorder.New(config).DropSlot(ctx)
	}
	if err == nil || sandglass.CodeOf(err) == sandglass.CodeSlotMissing {
		return nil
	}
	said := sandglass.AsError(err)
	return []sandglass.Finding{{Code: said.Code, Level: sandglass.Warning, Message: said.Message, Remedy: said.Remedy}}
}

// TakeImage asks for an image now.
func (c *Control) TakeImage(ctx context.Context, name, by string) error {
	if _, err := c.environment(ctx, name); err != nil {
		return err
	}
	rec := c.recorders.get(name)
	if rec == nil {
		return &sandglass.Error{Code: sandglass.CodeUsage, Op: "take image", Message: name + " is not being recorded.",
			Remedy: "Start the recording first: sandglass record start " + name}
	}
	if err := c.db.Audit(ctx, db.AuditRow{Who: by, What: "record.image", Environment: name}); err != nil {
		return err
	}
	if s := rec.Status(); s.State == sandglass.RecorderRefused && s.LastError != nil {
		return s.LastError
	}
	rec.AskImage()
	return nil
}
