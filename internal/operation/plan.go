// Step 1: the plan. It gathers facts, asks preflight, and says in people's words what the
// operation will do; it changes nothing.

package operation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/engine"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
	"sandglass/internal/preflight"
	"sandglass/internal/server"
	"sandglass/internal/window"
)

// Rates an estimate starts from, bytes a second, until this host has done restores of its own.
const (
	fetchRate  = 250 << 20
	replayRate = 120 << 20
	searchRate = 500 << 20
)

// Plan says what the request would do. Refusals of the moment come back as stop findings, those
// of the request itself as errors.
func (h *Host) Plan(ctx context.Context, r sandglass.Request) (sandglass.Plan, error) {
	plan, _, err := h.plan(ctx, r)
	return plan, err
}

func (h *Host) plan(ctx context.Context, r sandglass.Request) (sandglass.Plan, memory, error) {
	switch r.Kind {
	case sandglass.KindRestore, sandglass.KindRefresh, sandglass.KindPeek:
		return h.planRestore(ctx, r)
	case sandglass.KindUndo:
		plan, err := h.planUndo(ctx, r)
		return plan, memory{}, err
	}
	_, err := h.environment(ctx, r.Environment)
	return sandglass.Plan{}, memory{}, err
}

func (h *Host) planRestore(ctx context.Context, r sandglass.Request) (sandglass.Plan, memory, error) {
	target, source, err := h.environments(ctx, r)
	if err != nil {
		return sandglass.Plan{}, memory{}, err
	}
	plan := sandglass.Plan{Moment: sandglass.Moment{Kind: sandglass.AtLatest}, Findings: []sandglass.Finding{}, Lines: []sandglass.PlanLine{}, NotCopied: []sandglass.PlanLine{}}
	if r.Moment != nil && r.Kind != sandglass.KindRefresh {
		plan.Moment = *r.Moment
	}
	facts := preflight.Facts{Target: target.Declaration, Source: source.Declaration, Accepted: r.Accept, Peek: r.Kind == sandglass.KindPeek}
	m := memory{}
	m.Range, err = window.Resolve(ctx, h.Repository, source.Declaration, plan.Moment, h.Recorders.Live(source.Declaration.Name))
	if err != nil {
		refusal, ok := errors.AsType[*sandglass.Error](err)
		if !ok {
			return plan, m, err
		}
		plan.Findings = append(plan.Findings, sandglass.Finding{Code: refusal.Code, Level: sandglass.Stop, Message: refusal.Message, Remedy: refusal.Remedy})
	} else {
		plan.Range = &m.Range
		if err := h.imageFacts(ctx, &m, &facts); err != nil {
			return plan, m, err
		}
	}
	if err := h.hostFacts(ctx, &facts); err != nil {
		return plan, m, err
	}
	if r.Kind != sandglass.KindPeek {
		if err := h.targetFacts(ctx, target, &facts); err != nil {
			return plan, m, err
		}
		if err := databaseFacts(&plan, &facts); err != nil {
			return plan, m, err
		}
	} else {
		facts.Running = true // a peek has no target that could be down
	}
	plan.Findings = append(plan.Findings, preflight.Check(facts)...)
	var packs []pack.Pack
	if r.Kind != sandglass.KindPeek {
		if packs, err = h.packsOf(target.Declaration); err != nil {
			return plan, m, err
		}
		plan.Findings = append(plan.Findings, packFindings(packs, facts)...)
		h.planSynchronize(&plan, facts)
	}
	h.lines(&plan, m, facts, r, target, packs, h.countCarried(ctx, target, facts, packs))
	return plan, m, nil
}

// imageFacts reads what the chosen image and its incarnation say.
func (h *Host) imageFacts(ctx context.Context, m *memory, f *preflight.Facts) error {
	incarnations, err := h.Repository.Incarnations(ctx, m.Range.Environment)
	if err != nil {
		return err
	}
	for _, inc := range incarnations {
		if inc.ID == m.Range.Incarnation {
			m.Major, m.SegmentSize = inc.Major, inc.SegmentSize
		}
	}
	images, err := h.Repository.Images(ctx, m.Range.Environment, m.Range.Incarnation)
	if err != nil && sandglass.CodeOf(err) != sandglass.CodeRepositoryDamaged { // damage to others; ours was read a moment ago
		return err
	}
	for _, img := range images {
		if img.ID == m.Range.Image {
			f.Image = img
		}
	}
	f.Major = m.Major
	// Replay writes as much again as it reads, at most; checkpoints recycle nothing in staging.
	f.NeededBytes = f.Image.Bytes + 2*m.Range.ReplayBytes + 256<<20
	m.Bytes = f.NeededBytes
	return nil
}

// hostFacts asks this host: binaries, seal, space, kept states.
func (h *Host) hostFacts(ctx context.Context, f *preflight.Facts) error {
	found, err := h.Installed.Find(ctx)
	if err != nil {
		return err
	}
	for major, b := range found {
		f.Majors = append(f.Majors, major)
		if major == f.Major {
			f.MissingLibraries = missingLibraries(b, preloadFor(f.Image.Preload))
		}
	}
	f.SealError = server.CheckSeal(ctx, h.Owner, h.Helper)
	if f.SealError == nil {
		if _, err := h.chooseUID(ctx, h.DB.Queries); sandglass.CodeOf(err) == server.CodeNoUID {
			f.UIDError = err
		} else if err != nil {
			return err
		}
	}
	if f.FreeBytes, err = h.Volumes.Free(ctx); err != nil {
		return err
	}
	volumes, err := h.DB.Volumes(ctx, "")
	if err != nil {
		return err
	}
	for _, v := range volumes {
		switch v.State {
		case sandglass.VolumeKept:
			f.KeptStates++
			f.KeptBytes += v.Bytes
		case sandglass.VolumeStaging: // another operation's, which is still to grow to what it said it needs
			if used, err := h.Volumes.Usage(ctx, v.ID); err == nil {
				f.FreeBytes -= max(0, v.Bytes-used)
			}
		}
	}
	f.SocketPath = filepath.Join(h.Volumes.Layout("xxxxxxxx").Run, ".s.PGSQL.65535.lock")
	return nil
}

// missingLibraries are those of the list that the installation lacks.
func missingLibraries(b server.Binaries, preload []string) []string {
	var missing []string
	for _, name := range preload {
		there := false
		for _, lib := range []string{filepath.Join(b.Dir, "..", "lib"), filepath.Join(b.Dir, "..", "lib", "postgresql")} {
			if _, err := os.Stat(filepath.Join(lib, name+".so")); err == nil {
				there = true
			}
		}
		if !there {
			missing = append(missing, name)
		}
	}
	return missing
}

// targetFacts asks the running sandbox, and who holds its port.
func (h *Host) targetFacts(ctx context.Context, target db.Environment, f *preflight.Facts) error {
	f.Empty = target.Volume == ""
	if _, err := server.SandboxSettings(max(f.Major, server.MinMajor), *target.Declaration.Server, sandglass.Parameters{}); err != nil {
		f.ReservedSettings = []string{sandglass.AsError(err).Message}
	}
	if !f.Empty {
		c, err := h.Sandbox(ctx, target)
		if err != nil {
			return err
		}
		p, err := running(ctx, c)
		if err != nil {
			return err
		}
		if p != nil {
			defer p.Close()
			f.Running = true
			if err := h.askTarget(ctx, c, f); err != nil {
				return err
			}
		}
	}
	if !f.Running || h.Port(ctx, target) != target.Declaration.Server.Port {
		f.PortHolder = portHolder(ctx, target.Declaration)
	}
	return nil
}

// askTarget reads who is connected, and whether this is a recorded production or its standby.
func (h *Host) askTarget(ctx context.Context, c server.Config, f *preflight.Facts) error {
	conn, err := server.Connect(ctx, c, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT DISTINCT coalesce(nullif(application_name, ''), usename::text, 'unnamed') FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename <> 'sandglass' ORDER BY 1`)
	if err == nil {
		f.Clients, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return fmt.Errorf("read who is connected: %w", err)
	}
	if f.RecordedHere, err = h.liveProduction(ctx, conn, f.Source.Name); err != nil {
		return err
	}
	f.SameIdentifier, err = h.sameIdentifier(ctx, conn, f.Source.Name)
	return err
}

// portHolder says who answers at the address that the sandbox will need; "" for nobody.
func portHolder(ctx context.Context, e sandglass.Environment) string {
	host := DialHost(e.Server.Listen)
	if host == "" {
		return ""
	}
	address := net.JoinHostPort(host, strconv.Itoa(e.Server.Port))
	var l net.ListenConfig
	listener, err := l.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Sprintf("somebody else (%v)", errors.Unwrap(err))
	}
	listener.Close()
	return ""
}

// databaseFacts says which databases stay, under which name, and which are dropped.
func databaseFacts(plan *sandglass.Plan, f *preflight.Facts) error {
	if len(f.Image.Databases) == 0 {
		return nil // the moment was refused; or production did not say, and inspect will ask the copy
	}
	var names []string
	for name := range f.Image.Databases {
		if name != "template0" && name != "template1" && name != "postgres" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	keep, drop, err := policy.MapDatabases(f.Source, f.Target, names)
	if sandglass.CodeOf(err) == policy.CodeDatabaseMissing && plan.Range != nil && plan.Range.ReplayBytes > 0 {
		// One that was made since the image was taken comes with the WAL; whether it does, inspect sees in the copy.
		later := laterDatabases(f.Source, f.Target, names)
		if k, d, e := policy.MapDatabases(f.Source, f.Target, slices.Concat(names, later)); e == nil {
			keep, drop, err, f.Later = k, d, nil, later
		}
	}
	if err != nil {
		return err
	}
	plan.Databases, plan.Dropped, f.Dropped = keep, drop, drop
	for name := range keep {
		f.Left = append(f.Left, name)
	}
	return nil
}

// laterDatabases are those of the source's that the target has roles for, and the image lacks.
func laterDatabases(source, target sandglass.Environment, names []string) (later []string) {
	for role, final := range target.Databases {
		name := source.Databases[role]
		if len(source.Databases) == 0 { // its name is the target's, before server.rename
			name = final
			for from, to := range target.Server.Rename {
				if to == final {
					name = from
				}
			}
		}
		if name != "" && !slices.Contains(names, name) && !slices.Contains(later, name) {
			later = append(later, name)
		}
	}
	slices.Sort(later)
	return later
}

// lines says in people's words what will be done, and what is not copied.
func (h *Host) lines(plan *sandglass.Plan, m memory, f preflight.Facts, r sandglass.Request, target db.Environment, packs []pack.Pack, counts map[string]int64) {
	if plan.Range == nil {
		return
	}
	add := func(l sandglass.PlanLine) {
		plan.Lines = append(plan.Lines, l)
		plan.Seconds += l.Seconds
	}
	add(sandglass.PlanLine{Step: "stage", What: fmt.Sprintf("Copy image %s of %s, %d files, into a new volume.", f.Image.ID, f.Image.Began.UTC().Format(time.RFC3339), f.Image.Files),
		Bytes: f.Image.Bytes, Seconds: 0.5 + float64(f.Image.Bytes)/fetchRate})
	add(sandglass.PlanLine{Step: "recover", What: fmt.Sprintf("Replay WAL of timeline %d up to %s in a sealed server, and promote it.", m.Range.Timeline, m.Range.Stop),
		Bytes: m.Range.ReplayBytes, Seconds: 2 + float64(m.Range.ReplayBytes)/replayRate})
	if r.Kind == sandglass.KindPeek {
		add(sandglass.PlanLine{Step: "open", What: "Open the sealed copy, un-neutralized and read-only, over a private Unix socket.", Seconds: 1})
		return
	}
	in := policy.Input{Source: f.Source, Environment: f.Target, Packs: packs, Counts: counts}
	if f.Running {
		in.Target = &policy.Target{}
	}
	for _, l := range policy.Describe(in, slices.Concat(f.Left, f.Dropped)) {
		add(l)
	}
	add(sandglass.PlanLine{Step: "prove", What: "Check every assertion on the copy; anything red ends the restore.", Seconds: 0.5})
	if f.Target.Server.Synchronize != nil {
		add(synchronizeLine(f.Target))
	}
	add(sandglass.PlanLine{Step: "rehearse", What: "Search all files of the finished copy for production's host names, its roles' passwords and the values that rules call secret.",
		Bytes: f.Image.Bytes, Seconds: float64(f.Image.Bytes) / searchRate})
	if target.Recording {
		add(sandglass.PlanLine{Step: "rehearse", What: "Take the first image of the sandbox's new history, from the stopped copy.", Bytes: f.Image.Bytes, Seconds: float64(f.Image.Bytes) / fetchRate})
	}
	add(sandglass.PlanLine{Step: "rehearse", What: "Start the copy, still sealed, with the sandbox's own configuration.", Seconds: 1.5})
	what := fmt.Sprintf("Swap the servers at port %d; %s is unreachable for a second or two.", f.Target.Server.Port, f.Target.Name)
	if f.Empty {
		what = fmt.Sprintf("Open the server at port %d.", f.Target.Server.Port)
	}
	add(sandglass.PlanLine{Step: "cut over", What: what, Seconds: 1})
	if !f.Empty {
		add(sandglass.PlanLine{Step: "finish", What: fmt.Sprintf("Keep the state before for undo, for %s.", f.Target.Server.Keep)})
	}
	for i, p := range packs {
		plan.NotCopied = append(plan.NotCopied, notCopied(p, f)...)
		if i == 0 && len(f.Dropped) > 0 {
			plan.NotCopied = append(plan.NotCopied, sandglass.PlanLine{Step: p.Name, What: "Databases without a role: " + strings.Join(f.Dropped, ", "), Why: "No role of " + f.Target.Name + " names them."})
		}
	}
}

func (h *Host) planUndo(ctx context.Context, r sandglass.Request) (sandglass.Plan, error) {
	e, v, err := h.undoTarget(ctx, r)
	if err != nil {
		return sandglass.Plan{}, err
	}
	what := fmt.Sprintf("Go back to the state of volume %s, kept since %s.", v.ID, v.KeptSince.UTC().Format(time.RFC3339))
	if v.ID == "" {
		what = fmt.Sprintf("Leave %s empty, as it was before its first restore.", e.Declaration.Name)
	}
	return sandglass.Plan{Moment: sandglass.Moment{Kind: sandglass.AtLatest}, Findings: []sandglass.Finding{}, NotCopied: []sandglass.PlanLine{}, Seconds: 1,
		Lines: []sandglass.PlanLine{
			{Step: "cut over", What: what, Seconds: 1},
			{Step: "finish", What: fmt.Sprintf("Keep the state of now, so that the undo can be undone, for %s.", e.Declaration.Server.Keep)},
		}}, nil
}

// preflight is the first step: the plan once more, now binding. A stop refuses the operation.
func (h *Host) preflight(ctx context.Context, run *engine.Run) error {
	old, err := engine.Load[memory](run)
	if err != nil || old.Range.Environment != "" {
		return err // resolved before, and work may rest on it
	}
	plan, m, err := h.plan(ctx, run.Request)
	if err != nil {
		if sandglass.CodeOf(err) != sandglass.CodeInternal {
			return &engine.Refused{Err: sandglass.AsError(err)}
		}
		return err
	}
	if err := run.SetPlan(ctx, &plan); err != nil {
		return err
	}
	if refusal := Refusal(&plan); refusal != nil {
		return &engine.Refused{Err: refusal}
	}
	run.Log.Info("resolved", "moment", plan.Moment.String(), "incarnation", m.Range.Incarnation, "timeline", m.Range.Timeline,
		"from", m.Range.From, "until", m.Range.Until, "stop", m.Range.Stop, "image", m.Range.Image, "replay_bytes", m.Range.ReplayBytes)
	return run.Save(ctx, m)
}

// Refusal is the error that a plan's first stop makes; nil when nothing stops it.
func Refusal(plan *sandglass.Plan) *sandglass.Error {
	for _, f := range plan.Findings {
		if f.Level == sandglass.Stop {
			return &sandglass.Error{Code: f.Code, Op: "preflight", Message: f.Message, Remedy: f.Remedy}
		}
	}
	return nil
}
