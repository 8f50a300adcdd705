// Package operation knows what the operations do: restore, refresh, undo, release, peek, start
// and stop. It is the one package that knows all the adapters. Host.Workflows lists the steps of
// each in order; the other files say what a step does.
package operation

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/repo"
	"sandglass/internal/server"
	"sandglass/internal/volume"
	"sandglass/internal/window"
)

// DefaultPeek is how long a peek stays open unless it is asked otherwise.
const DefaultPeek = time.Hour

// Recorders are the recorders of this host, as far as operations need them.
type Recorders interface {
	// Live is the newest that the environment's recorder knows; nil when it does not record.
	Live(environment string) window.Live
	// Pause ends the environment's recorder once all WAL of its server is in the repository, or
	// ctx ends; Resume lets it go on, with whatever server and incarnation are current now.
	Pause(ctx context.Context, environment string) error
	Resume(environment string)
	// Drain sees that the repository holds all WAL of a volume that no server runs on, which is of an incarnation
	// that nobody records meanwhile.
	Drain(ctx context.Context, environment string, id sandglass.IncarnationID, volume Layout) error
	// Adopt makes an image of a stopped volume the first of a new incarnation, which the environment does not show yet. The
	// image carries Databases, Settings and Preload of facts.
	Adopt(ctx context.Context, environment string, id sandglass.IncarnationID, volume Layout, facts sandglass.Image, progress func(sandglass.Progress)) error
}

// Layout is where the parts of a volume are.
type Layout = volume.Layout

// Host is this host with all that operations work on.
type Host struct {
	Name       string
	DB         *db.DB
	Repository *repo.Repository
	Volumes    volume.Driver
	Recorders  Recorders
	Owner      server.Owner // of servers whose volume has no user ID of its own
	UIDs       server.UIDs  // those that volumes get, where we are root
	// Helper is the sandglass binary that seals and answers restore_command; servers' owner can execute it.
	Helper    string
	Installed *server.Installed
	// Packs is the folder of the team's own packs; it may be missing.
	Packs string
	// Hidden are folders of ours that a sandbox's migrations never see.
	Hidden []string
	Log    *slog.Logger

	locks locks
}

// Workflows are the kinds of operation with their steps in order: this is what they do.
func (h *Host) Workflows() []engine.Workflow {
	recover := []engine.Step{
		{Name: "preflight", Do: h.preflight, Timeout: 5 * time.Minute},
		{Name: "stage", Do: h.onFullDisk(h.stage), Undo: h.discard, Timeout: 24 * time.Hour},
		{Name: "recover", Do: h.onFullDisk(h.recover), Undo: h.stopStaging, Timeout: 24 * time.Hour},
	}
	restore := append(recover[:3:3],
		engine.Step{Name: "inspect", Do: h.onFullDisk(h.inspect), Timeout: 10 * time.Minute},
		engine.Step{Name: "neutralize", Do: h.onFullDisk(h.neutralize), Timeout: 6 * time.Hour},
		engine.Step{Name: "prove", Do: h.onFullDisk(h.prove), Timeout: time.Hour},
		engine.Step{Name: "synchronize", Do: h.onFullDisk(h.synchronize), Timeout: 48 * time.Hour},
		engine.Step{Name: "rehearse", Do: h.onFullDisk(h.rehearse), Undo: h.unrehearse, Timeout: 6 * time.Hour},
		engine.Step{Name: "cut over", Do: h.cutOver, Undo: h.rollBack, Timeout: 10 * time.Minute, NoReturn: true},
		engine.Step{Name: "finish", Do: h.finish, Timeout: 10 * time.Minute},
	)
	return []engine.Workflow{
		{Kind: sandglass.KindRestore, Steps: restore},
		{Kind: sandglass.KindRefresh, Steps: restore},
		{Kind: sandglass.KindUndo, Steps: []engine.Step{
			{Name: "preflight", Do: h.undoPreflight, Timeout: 5 * time.Minute},
			{Name: "rehearse", Do: h.rehearseKept, Undo: h.unrehearseKept, Timeout: time.Hour},
			{Name: "cut over", Do: h.cutOver, Undo: h.rollBack, Timeout: 10 * time.Minute, NoReturn: true},
			{Name: "finish", Do: h.finish, Timeout: 10 * time.Minute},
		}},
		{Kind: sandglass.KindPeek, Shared: true, Steps: append(recover[:3:3],
			engine.Step{Name: "open", Do: h.onFullDisk(h.openPeek), Timeout: 10 * time.Minute},
		)},
		{Kind: sandglass.KindRelease, Steps: []engine.Step{{Name: "release", Do: h.release, Timeout: 5 * time.Minute}}},
		{Kind: sandglass.KindStart, Steps: []engine.Step{{Name: "start", Do: h.start, Undo: h.unstart, Timeout: 30 * time.Minute}}},
		{Kind: sandglass.KindStop, Steps: []engine.Step{{Name: "stop", Do: h.stop, Timeout: 30 * time.Minute}}},
	}
}

// memory is what the steps of one operation remember. The operation's rows hold it durably.
type memory struct {
	Range sandglass.Range `json:"range"`
	// Major and SegmentSize are of the source's incarnation.
	Major       int    `json:"major,omitempty"`
	SegmentSize int64  `json:"segment_size,omitempty"`
	Bytes       int64  `json:"bytes,omitempty"`  // that the copy needs on the disk, at most
	Volume      string `json:"volume,omitempty"` // the volume to cut over to; "" empties the sandbox
	// Replaying is set before the first start of recovery, Recovered once the state was seen to be exact.
	Replaying bool               `json:"replaying,omitempty"`
	Recovered bool               `json:"recovered,omitempty"`
	End       server.RecoveryEnd `json:"end"`
	Dropped   []string           `json:"dropped,omitempty"`
	// Synchronizing is set before the sandbox's migrations begin, Synchronized once they are done and the copy was proven
	// again. Lent is a role that may log in meanwhile.
	Synchronizing bool   `json:"synchronizing,omitempty"`
	Synchronized  bool   `json:"synchronized,omitempty"`
	Lent          string `json:"lent,omitempty"`
	// Carried is a digest of the sandbox's roles as the copy last got them; Closed is set before the policy's notes are removed.
	// Settled is set once, under the fence, what stays the sandbox's own was compared and carried for the last time.
	Carried string `json:"carried,omitempty"`
	Closed  bool   `json:"closed,omitempty"`
	Settled bool   `json:"settled,omitempty"`
	passing
	Previous    string                  `json:"previous,omitempty"` // the volume that was current before the cutover
	Before      state                   `json:"before"`             // what else the environment's row said then
	Incarnation sandglass.IncarnationID `json:"incarnation,omitempty"`
	Fenced      time.Time               `json:"fenced,omitzero"`
	Opened      time.Time               `json:"opened,omitzero"`
}

// environments reads the declarations of an operation's target and source, with defaults.
func (h *Host) environments(ctx context.Context, r sandglass.Request) (target, source db.Environment, err error) {
	if r.Kind == sandglass.KindPeek {
		source, err = h.environment(ctx, r.Environment)
		return source, source, err
	}
	if target, err = h.environment(ctx, r.Environment); err != nil {
		return
	}
	if err = sandboxOnly(target); err != nil {
		return
	}
	name := r.Source
	if name == "" && target.Declaration.Server != nil {
		name = target.Declaration.Server.Source
	}
	if name == "" {
		return target, source, &sandglass.Error{Code: sandglass.CodeUsage, Op: "plan restore",
			Message: fmt.Sprintf("It is not said what %s is to be restored from.", r.Environment),
			Remedy:  "Name the source with --from, or declare it as server.source."}
	}
	source, err = h.environment(ctx, name)
	return
}

func (h *Host) environment(ctx context.Context, name string) (db.Environment, error) {
	e, err := h.DB.Environment(ctx, name)
	e.Declaration = e.Declaration.WithDefaults()
	return e, err
}
