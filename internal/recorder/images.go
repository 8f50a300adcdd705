package recorder

// Base images: when one is due, and how it is taken over BASE_BACKUP, straight into the repository.

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/repo"
)

// AskImage asks for an image now. If one is being taken, another follows it.
func (r *Recorder) AskImage() (ask int) {
	r.update(func() { r.ask++; ask = r.ask })
	return ask
}

// TakeImage takes an image now and returns when it is in the repository.
func (r *Recorder) TakeImage(ctx context.Context) error {
	mine := r.AskImage()
	var err error
	if waitErr := r.wait(ctx, func() bool {
		err = r.failed
		return r.taken >= mine || r.status.State == sandglass.RecorderRefused
	}); waitErr != nil {
		return waitErr
	}
	if s := r.Status(); s.State == sandglass.RecorderRefused {
		return s.LastError
	}
	return err
}

// noticeTablespaces makes an image due when a tablespace came or went: no earlier image can be replayed across that.
func (r *Recorder) noticeTablespaces(x *indexing) {
	x.mu.Lock()
	at := x.spaces
	x.mu.Unlock()
	r.mu.Lock()
	news := at > r.spaces
	r.mu.Unlock()
	if news {
		r.log.Info("a tablespace was created or dropped; an image follows at once", "at", at)
		r.update(func() { r.spaces = at })
	}
}

// images takes images when they are due, until ctx ends.
func (r *Recorder) images(ctx context.Context) {
	var retry time.Time
	for {
		inc, asked, ok := r.awaitDue(ctx, retry)
		if !ok {
			return
		}
		image, err := r.takeFor(ctx, inc)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.Warn("no image was taken", "error", err)
		}
		r.update(func() {
			r.status.Image, r.failed = nil, nil
			if err != nil {
				r.failed = shown(err)
			}
			r.taken = max(r.taken, asked)
			if err != nil {
				if !errors.Is(err, errHistoryEnded) { // of which the cause is shown
					r.status.LastError = shown(err)
				}
				return
			}
			r.voided = 0
			if r.inc.ID == image.Incarnation {
				r.last, r.status.LastImage = image, image.ID
				r.status.LastError = nil
			}
		})
		retry = time.Time{}
		if err != nil {
			retry = time.Now().Add(imageRetry)
			if r.imageless() {
				retry = time.Now().Add(2 * time.Second)
			}
		}
	}
}

func (r *Recorder) imageless() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last.ID == ""
}

// awaitDue waits until an image is due while WAL is being recorded; false when ctx ends. One that is
// asked for does not wait for the retry time.
func (r *Recorder) awaitDue(ctx context.Context, retry time.Time) (inc sandglass.Incarnation, asked int, ok bool) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		due := r.live != nil && (r.ask > r.taken || time.Now().After(retry) && r.due())
		inc, asked = r.inc, r.ask
		if due {
			r.status.Image = &sandglass.Progress{Unit: "bytes", ETA: -1}
		}
		r.mu.Unlock()
		if due {
			return inc, asked, true
		}
		select {
		case <-ctx.Done():
			return inc, 0, false
		case <-changed:
		case <-tick.C:
		}
	}
}

// due says whether the rules want an image. Called with the lock held.
func (r *Recorder) due() bool {
	rec := r.env.Recording
	return r.last.ID == "" || r.spaces > r.last.Redo ||
		r.serverNow().Sub(r.last.Began) >= time.Duration(rec.ImageEvery) ||
		r.status.Timeline == r.last.Timeline && r.status.DurableLSN > r.last.End && sandglass.Bytes(r.status.DurableLSN-r.last.End) >= rec.ImageAfterWAL
}

var errHistoryEnded = &sandglass.Error{Code: CodeVoid, Op: "take image", Message: "The stretch of history that the image was for has ended.",
	Remedy: "Nothing to do: another image is made for the next one."}

// takeFor takes an image, and stops it when its incarnation ends.
func (r *Recorder) takeFor(ctx context.Context, inc sandglass.Incarnation) (sandglass.Image, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r.wait(ctx, func() bool { return r.inc.ID != inc.ID }) == nil {
			cancel(errHistoryEnded)
		}
	}()
	image, err := r.take(ctx, inc)
	if err != nil && errors.Is(context.Cause(ctx), errHistoryEnded) {
		err = errHistoryEnded
	}
	cancel(nil)
	<-done
	return image, err
}

// take takes one image. If production's page checksums do not hold, the pages are copied as they
// are the second time: what production has must be had, and preflight tells of it.
func (r *Recorder) take(ctx context.Context, inc sandglass.Incarnation) (sandglass.Image, error) {
	image, err := r.backup(ctx, inc, false)
	if errors.Is(err, pg.ErrChecksum) {
		r.log.Error("production has pages with wrong checksums; the image is taken without the check", "error", err)
		image, err = r.backup(ctx, inc, true)
	}
	return image, err
}

func (r *Recorder) backup(ctx context.Context, inc sandglass.Incarnation, skipChecksums bool) (sandglass.Image, error) {
	image := sandglass.Image{ID: sandglass.ImageID(newID(time.Now())), Environment: r.env.Name, Incarnation: inc.ID, Began: r.clock(), WrongPages: skipChecksums}
	t, err := targetOf(r.env, r.target)
	if err != nil {
		return image, err
	}
	t.Application += "-image" // never the name that synchronous_standby_names was checked against
	facts, err := pg.ReadFacts(ctx, t, r.status.Slot)
	if err != nil {
		return image, err
	}
	image.Preload, image.Settings, image.Databases, image.Address = facts.Preload, facts.Settings, facts.Databases, facts.Address
	for name, size := range image.Databases {
		if size < 0 {
			image.Databases[name] = 0
		}
	}
	conn, err := pg.Connect(ctx, t)
	if err != nil {
		return image, err
	}
	defer conn.Abort()
	sys, err := conn.IdentifySystem(ctx)
	if err != nil {
		return image, err
	}
	if sys.Identifier != inc.SystemIdentifier {
		return image, fmt.Errorf("take image: the server is another system now")
	}
	rec := r.env.Recording
	r.log.Info("taking an image", "image", image.ID, "fast_checkpoint", rec.FastCheckpoint, "max_rate", rec.MaxRate)
	b, err := conn.BaseBackup(ctx, pg.BackupOptions{Label: "sandglass " + string(image.ID), Fast: rec.FastCheckpoint, MaxRate: max(0, int64(rec.MaxRate)),
		SkipChecksums: skipChecksums})
	if err != nil {
		return image, err
	}
	image.Timeline, image.Redo = b.Timeline, b.Start
	known := r.digests()
	if known != nil {
		defer known.Close()
	}
	w, err := r.repo.NewImage(ctx, image, repo.ImageOptions{Dir: r.dir, Known: known})
	if err != nil {
		return image, err
	}
	c := &copying{r: r, w: w, image: &image, total: b.Total, began: time.Now()}
	if err = c.copy(ctx, b); err == nil {
		err = r.finish(ctx, b, w, &image)
	}
	if err != nil {
		_ = w.Abort(context.WithoutCancel(ctx))
		return image, err
	}
	return image, nil
}

// copying copies a backup's archives into an image.
type copying struct {
	r     *Recorder
	w     *repo.ImageWriter
	image *sandglass.Image
	total int64
	done  int64
	began time.Time
	shown time.Time
}

func (c *copying) copy(ctx context.Context, b *pg.Backup) error {
	left := make(map[string]bool)
	for {
		a, err := b.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		prefix := ""
		if a.OID != "" {
			prefix = "pg_tblspc/" + a.OID
			if c.image.Tablespaces == nil {
				c.image.Tablespaces = make(map[string]string)
			}
			c.image.Tablespaces[a.OID] = a.Path
			if err := c.w.Dir(prefix, 0o700); err != nil {
				return err
			}
		}
		if err := c.archive(ctx, a, prefix, left); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		c.r.log.Info("entries of the data folder that are not part of an image", "entries", strings.Join(slices.Sorted(maps.Keys(left)), " "))
	}
	return nil
}

func (c *copying) archive(ctx context.Context, a *pg.Archive, prefix string, left map[string]bool) error {
	for tr := tar.NewReader(&counting{r: a, c: c}); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read base backup: %w", err)
		}
		name := path.Join(prefix, path.Clean(h.Name))
		dir := h.Typeflag == tar.TypeDir
		switch {
		case name == "." || name == prefix:
			continue
		case !wanted(name, dir):
			if !empty[strings.SplitN(name, "/", 2)[0]] {
				left[strings.SplitN(name, "/", 2)[0]] = true
			}
			continue
		case dir:
			err = c.w.Dir(name, h.FileInfo().Mode().Perm())
		case h.Typeflag == tar.TypeReg && name == pg.ControlFile:
			err = c.control(ctx, h, tr)
		case h.Typeflag == tar.TypeReg:
			err = c.w.File(ctx, name, h.FileInfo().Mode().Perm(), h.ModTime, h.Size, tr)
		}
		if err != nil {
			return err
		}
	}
}

// control reads the parameter minimums on the way.
func (c *copying) control(ctx context.Context, h *tar.Header, r io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return fmt.Errorf("read base backup: %w", err)
	}
	control, err := pg.ParseControl(raw)
	if err != nil {
		return err
	}
	c.image.Minimums = control.Minimums
	return c.w.File(ctx, pg.ControlFile, h.FileInfo().Mode().Perm(), h.ModTime, int64(len(raw)), strings.NewReader(string(raw)))
}

// counting shows progress as the stream is read.
type counting struct {
	r io.Reader
	c *copying
}

func (n *counting) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	c := n.c
	c.done += int64(k)
	if now := time.Now(); now.Sub(c.shown) > 250*time.Millisecond {
		c.shown = now
		total := max(c.total, c.done)
		eta := now.Sub(c.began).Seconds() * float64(total-c.done) / float64(max(c.done, 1))
		c.r.update(func() {
			c.r.status.Image = &sandglass.Progress{Done: c.done, Total: total, Unit: "bytes", ETA: eta}
		})
	}
	return k, err
}
