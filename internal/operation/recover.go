// Steps 2 and 3 of a restore: a volume of the nearest image, replayed in a sealed server to
// exactly the moment, then promoted and made ours.

package operation

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/engine"
	"sandglass/internal/pg"
	"sandglass/internal/policy"
	"sandglass/internal/server"
	"sandglass/internal/volume"
	"sandglass/internal/walserve"
)

// newVolumeID is short, because it is part of the path of Unix sockets.
func newVolumeID() string { return strings.ToLower(rand.Text()[:8]) }

// stage makes the volume. Its row is written before anything of it exists.
func (h *Host) stage(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	if m.Volume == "" {
		m.Volume = newVolumeID()
		if err := run.Save(ctx, m); err != nil {
			return err
		}
	}
	v := sandglass.Volume{ID: m.Volume, Environment: run.Request.Environment, Operation: run.Operation.ID, Driver: h.Volumes.Name(),
		Path: h.Volumes.Layout(m.Volume).Root, Major: m.Major, Bytes: m.Bytes, Moment: momentText(run.Operation)}
	target, _, err := h.environments(ctx, run.Request)
	if err != nil {
		return err
	}
	s := target.Declaration.Server
	if err := h.insertVolume(ctx, v, s != nil && s.Seal == "config-only"); err != nil {
		return err
	}
	return h.copyImage(ctx, run, m)
}

// copyImage fetches the image into the volume; a complete volume is left as it is.
func (h *Host) copyImage(ctx context.Context, run *engine.Run, m memory) error {
	img, err := h.Repository.OpenImage(ctx, m.Range.Environment, m.Range.Incarnation, m.Range.Image)
	if err != nil {
		return err
	}
	defer img.Close()
	owner, err := h.owner(ctx, m.Volume)
	if err != nil {
		return err
	}
	meter := newMeter(img.Bytes(), "bytes")
	run.Log.Info("fetching image", "image", m.Range.Image, "bytes", img.Bytes(), "volume", m.Volume)
	if err := h.Volumes.Create(ctx, m.Volume, volume.Owner{UID: owner.UID, GID: owner.GID}, img, func(done int64) { run.Progress(meter.at(done)) }); err != nil {
		return err
	}
	run.Log.Info("image fetched", "seconds", meter.seconds())
	return nil
}

// discard undoes stage: nothing of the volume stays, but the logs of its servers.
func (h *Host) discard(ctx context.Context, run *engine.Run) error {
	if err := forgetSecrets(run); err != nil {
		return err
	}
	m, err := engine.Load[memory](run)
	if err != nil || m.Volume == "" {
		return err
	}
	return h.destroyVolume(ctx, m.Volume, run.Dir)
}

// destroyVolume stops whatever runs in a volume, keeps its servers' log in dir ("": nowhere) and removes it.
func (h *Host) destroyVolume(ctx context.Context, id, dir string) error {
	v, err := h.DB.Volume(ctx, id)
	if sandglass.CodeOf(err) == sandglass.CodeVolumeUnknown {
		return nil
	}
	if err != nil {
		return err
	}
	if v.State == sandglass.VolumeCurrent {
		return fmt.Errorf("volume %s is the current one of %s and is not destroyed", id, v.Environment)
	}
	if err := h.removeFolder(ctx, id, dir); err != nil {
		return err
	}
	return h.DB.VolumeBecome(ctx, id, sandglass.VolumeGone, time.Time{})
}

// removeFolder is destroyVolume without the volume's row.
func (h *Host) removeFolder(ctx context.Context, id, dir string) error {
	c, err := h.whatever(ctx, id)
	if err != nil {
		return err
	}
	if err := ensureStopped(ctx, c, server.Immediate); err != nil {
		return err
	}
	if err := server.Discard(ctx, c); err != nil {
		return err
	}
	if dir != "" {
		keepLog(h.Volumes.Layout(id).Root, c.Log, dir)
	}
	return h.Volumes.Destroy(ctx, id)
}

// keptLog is how many bytes of a server's log are kept, from its end.
const keptLog = 16 << 20

// keepLog copies a server's log beside the operation's own. It is for people only, so that a
// failure to copy it never stands in the way.
func keepLog(volume, log, dir string) {
	name, err := filepath.Rel(volume, log)
	if err != nil {
		return
	}
	f, err := pg.Open(volume, name)
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > keptLog {
		_, _ = f.Seek(-keptLog, io.SeekEnd)
	}
	if content, err := io.ReadAll(io.LimitReader(f, keptLog)); err == nil {
		_ = os.WriteFile(filepath.Join(dir, "postgresql.log"), content, 0o600)
	}
}

// recover replays the volume to the moment, sees that it was reached exactly, makes our own
// superuser in single-user mode and starts the staging server.
func (h *Host) recover(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil {
		return err
	}
	e, img, err := h.sealedFor(ctx, run, m)
	if err != nil {
		return err
	}
	if !m.Recovered {
		if err := h.replay(ctx, run, &m, e, img); err != nil {
			return err
		}
	}
	c, err := h.stagingConfig(ctx, m, e, img)
	if err != nil {
		return err
	}
	if p, err := running(ctx, c); err != nil || p != nil {
		if p != nil {
			defer p.Close()
			return p.Ready(ctx)
		}
		return err
	}
	contact, err := policy.FirstContact(ctx, policyServer(c, run.Log))
	if err != nil {
		return err
	}
	run.Log.Info("first contact", "opened_databases", contact.Opened, "settings_removed", contact.Settings)
	p, err := ensureRunning(ctx, c)
	if err != nil {
		return err
	}
	run.Log.Info("staging server is up", "sealed", p.Sealed())
	p.Close()
	return nil
}

// sealedFor is what the sealed servers of this operation need to know.
func (h *Host) sealedFor(ctx context.Context, run *engine.Run, m memory) (sandglass.Environment, sandglass.Image, error) {
	target, _, err := h.environments(ctx, run.Request)
	if err != nil {
		return sandglass.Environment{}, sandglass.Image{}, err
	}
	images, err := h.Repository.Images(ctx, m.Range.Environment, m.Range.Incarnation)
	for _, img := range images {
		if img.ID == m.Range.Image {
			return target.Declaration, img, nil
		}
	}
	if err != nil {
		return sandglass.Environment{}, sandglass.Image{}, err
	}
	return sandglass.Environment{}, sandglass.Image{}, &sandglass.Error{Code: sandglass.CodeRepositoryDamaged, Op: "read image",
		Message: fmt.Sprintf("Image %s is no longer in the repository.", m.Range.Image), Remedy: "Start the restore again; another image is chosen."}
}

// replay runs recovery. A replay that was interrupted is begun anew on a fresh volume: with
// full_page_writes=off on production it could not be resumed on the same one.
func (h *Host) replay(ctx context.Context, run *engine.Run, m *memory, e sandglass.Environment, img sandglass.Image) error {
	c, err := h.recoveryConfig(ctx, *m, e, img)
	if err != nil {
		return err
	}
	if m.Replaying {
		run.Log.Info("an earlier replay was interrupted; begun anew on a fresh volume")
		if err := ensureStopped(ctx, c, server.Immediate); err != nil {
			return err
		}
		if err := h.Volumes.Destroy(ctx, m.Volume); err != nil {
			return err
		}
		if err := h.copyImage(ctx, run, *m); err != nil {
			return err
		}
	}
	src := source{h.Repository, m.Range, m.SegmentSize, &saidOf{}}
	if m.Range.Stop == img.Redo {
		return h.takeAsItIs(ctx, run, c, m, src)
	}
	wal, err := walserve.Listen(src, walserve.Options{Socket: h.walSocket(m.Volume), Dir: filepath.Join(h.Volumes.Layout(m.Volume).Root, "wal"),
		SegmentSize: m.SegmentSize, UID: c.Owner.UID, GID: c.Owner.GID, Last: src.lastSegment(), Log: run.Log})
	if err != nil {
		return err
	}
	defer wal.Close()
	if err := server.PrepareRecovery(c); err != nil {
		return err
	}
	m.Replaying = true
	if err := run.Save(ctx, *m); err != nil {
		return err
	}
	if err := h.replayTo(ctx, run, c, m, img, src.said); err != nil {
		return err
	}
	m.Recovered = true
	return run.Save(ctx, *m)
}

// takeAsItIs is for an image of a stopped server that is itself the moment: recovery would begin
// after its checkpoint, and so go too far. The server only needs the segment with that checkpoint.
func (h *Host) takeAsItIs(ctx context.Context, run *engine.Run, c server.Config, m *memory, src source) error {
	if err := server.PrepareRecovery(c); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.Data, "recovery.signal")); err != nil {
		return fmt.Errorf("prepare start: %w", err)
	}
	first := m.Range.Stop.Segment(m.SegmentSize)
	// Without the history file of its timeline the server starts, but could be followed by no recorder.
	names := []string{fmt.Sprintf("%08X.history", uint32(m.Range.Timeline))}
	for _, seg := range []sandglass.SegmentNo{first, first + 1} {
		names = append(names, sandglass.SegmentName(m.Range.Timeline, seg, m.SegmentSize))
	}
	for _, name := range names {
		path := filepath.Join(c.Data, "pg_wal", name)
		found, err := src.Fetch(ctx, name, path)
		if err != nil {
			return err
		}
		if found {
			if err := os.Lchown(path, c.Owner.UID, c.Owner.GID); err != nil {
				return fmt.Errorf("prepare start: %w", err)
			}
		}
	}
	run.Log.Info("the image is the moment; nothing is replayed", "image", m.Range.Image)
	m.Recovered = true
	return run.Save(ctx, *m)
}

// replayTo starts the recovering server, waits for its promotion, sees where it ended and stops it.
func (h *Host) replayTo(ctx context.Context, run *engine.Run, c server.Config, m *memory, img sandglass.Image, said *saidOf) error {
	run.Log.Info("replaying", "from", img.Redo, "stop", m.Range.Stop, "timeline", m.Range.Timeline)
	p, err := server.Start(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		h.showReplay(run, p, *m, img, done)
	}()
	err = p.Ready(ctx)
	close(done)
	<-stopped
	if err != nil {
		return recoveryError(err, said.last())
	}
	if m.End, err = server.Recovered(c); err != nil {
		return err
	}
	run.Log.Info("recovery ended", "last_record", m.End.Last, "timeline", m.End.Timeline)
	if !m.Range.Contains(m.End.Last) || m.End.Last < m.Range.Stop {
		return &sandglass.Error{Code: sandglass.CodeRecoveryFailed, Op: "recover",
			Message: fmt.Sprintf("Recovery ended at %s, which is not the moment asked for (%s to %s).", m.End.Last, m.Range.From, m.Range.Until),
			Remedy:  "Nothing was changed. Please report this with the operation's logs (sandglass ops logs)."}
	}
	return p.Stop(ctx, server.Fast)
}

// showReplay tells how much WAL is left until done is closed.
func (h *Host) showReplay(run *engine.Run, p *server.Postmaster, m memory, img sandglass.Image, done <-chan struct{}) {
	meter := newMeter(int64(m.Range.Stop)-int64(img.Redo), "bytes")
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			if at, ok := p.Replayed(m.SegmentSize); ok {
				run.Progress(meter.at(max(0, int64(at)-int64(img.Redo))))
			}
		}
	}
}

// recoveryError says of a server that did not get through recovery what it means here; what the
// repository said of the WAL that was asked for tells more than the server knows.
func recoveryError(err, repository error) error {
	code := sandglass.CodeOf(err)
	if repository != nil && (code == sandglass.CodeServerFailed || code == sandglass.CodeRecoveryFailed) {
		return fmt.Errorf("recover: %w", repository)
	}
	if code != sandglass.CodeServerFailed {
		return err
	}
	said := sandglass.AsError(err)
	return &sandglass.Error{Code: sandglass.CodeRecoveryFailed, Op: "recover", Err: err, Message: "Recovery did not reach the moment. " + said.Message,
		Remedy: "Nothing was changed in the sandbox. See the PostgreSQL log of the operation (sandglass ops logs)."}
}

// stopStaging undoes recover, as far as stage's undo needs it: nothing runs in the volume any more.
func (h *Host) stopStaging(ctx context.Context, run *engine.Run) error {
	m, err := engine.Load[memory](run)
	if err != nil || m.Volume == "" {
		return err
	}
	return h.stopServer(ctx, m.Volume, server.Immediate)
}

// preloadFor keeps of production's preload list what replay and SQL of a copy need: libraries
// with resource managers or table access of their own (field/postgres.md 14).
func preloadFor(production string) []string {
	var keep []string
	for name := range strings.SplitSeq(production, ",") {
		switch name = strings.Trim(strings.TrimSpace(name), `"`); name {
		case "timescaledb", "citus", "citus_columnar", "pg_tde", "rum":
			keep = append(keep, name)
		}
	}
	return keep
}

// setting is a number of production's settings; 0 when it is not known.
func setting(img sandglass.Image, name string) int {
	n, _ := strconv.Atoi(img.Settings[name])
	return n
}

func momentText(o sandglass.Operation) string {
	if o.Plan == nil {
		return ""
	}
	if o.Plan.Moment.Kind == sandglass.AtLatest && o.Plan.Range != nil && !o.Plan.Range.CommitTime.IsZero() {
		return o.Plan.Range.CommitTime.UTC().Format(time.RFC3339) + ", the latest then"
	}
	return o.Plan.Moment.String()
}

// meter turns a count into progress with an expected time left.
type meter struct {
	total int64
	unit  string
	began time.Time
}

func newMeter(total int64, unit string) meter { return meter{total, unit, time.Now()} }

func (t meter) seconds() float64 { return time.Since(t.began).Seconds() }

func (t meter) at(done int64) sandglass.Progress {
	p := sandglass.Progress{Done: min(done, t.total), Total: t.total, Unit: t.unit, ETA: -1}
	if s := t.seconds(); done > 0 && s > 0.5 {
		p.ETA = s * float64(t.total-p.Done) / float64(done)
	}
	return p
}
