package repo

// This file verifies: it reads every object once, remembers what was good, and says of what is not good which moments
// it costs.

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sandglass"
)

// VerifyOptions say what is verified.
type VerifyOptions struct {
	// State begins the names of the local files that remember what was verified, by key, size and time; "" remembers nothing.
	State string
	// Environment limits it to one; "": all, with the records of operations.
	Environment string
	// Again reads also what was verified before.
	Again bool
}

// verifyJob is an object on its way through the workers.
type verifyJob struct {
	obj     Object
	skip    bool
	problem error // the object is damaged
	fatal   error // it could not be found out
	done    chan struct{}
}

// Verify reads the repository. Damage is in the report; the error says why verifying could not go on, and then
// what was verified so far is remembered all the same.
func (r *Repository) Verify(ctx context.Context, o VerifyOptions, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
	report := sandglass.VerifyReport{Damaged: []sandglass.Damage{}}
	if len(r.identities) == 0 {
		return report, keyMissing("verify")
	}
	began := time.Now()
	v := &verifier{repo: r, options: o, report: &report, progress: progress}
	err := v.all(ctx)
	report.Seconds = time.Since(began).Seconds()
	if err != nil {
		return report, fmt.Errorf("verify: %w", err)
	}
	return report, nil
}

// all verifies environment by environment, each with a state of its own.
func (v *verifier) all(ctx context.Context) error {
	envs := []string{v.options.Environment}
	if v.options.Environment == "" {
		var err error
		if envs, err = v.repo.Environments(ctx); err != nil {
			return err
		}
		for _, prefix := range []string{"operation/", "plan/"} {
			if err := v.pass(ctx, prefix); err != nil {
				return err
			}
		}
	}
	for _, env := range envs {
		if err := v.pass(ctx, environmentPrefix(env)); err != nil {
			return err
		}
		if err := v.missing(ctx, env); err != nil {
			return err
		}
	}
	return v.explain(ctx)
}

// pass verifies the objects below a prefix.
func (v *verifier) pass(ctx context.Context, prefix string) error {
	path := v.options.State
	if path != "" {
		path += "." + strings.ReplaceAll(strings.Trim(prefix, "/"), "/", "-")
	}
	var err error
	if v.state, err = openVerifyState(path); err != nil {
		return err
	}
	err = v.run(ctx, prefix)
	return errors.Join(err, v.state.close(err == nil))
}

type verifier struct {
	repo     *Repository
	options  VerifyOptions
	state    *verifyState
	report   *sandglass.VerifyReport
	progress func(sandglass.Progress)
	found    []finding
}

// finding is a damaged object before its costs are known.
type finding struct {
	key     string
	problem string
}

// run passes all objects through the workers, and takes their results in the order of their keys.
func (v *verifier) run(ctx context.Context, prefix string) error {
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	work, order := make(chan *verifyJob, 2*workers), make(chan *verifyJob, 2*workers)
	group.Go(func() error {
		defer close(work)
		defer close(order)
		for obj, err := range v.repo.store.List(ctx, prefix, "") {
			if err != nil {
				return err
			}
			known := v.state.known(obj)
			j := &verifyJob{obj: obj, skip: known && !v.options.Again, done: make(chan struct{}, 1)}
			select {
			case order <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
			work <- j // a worker takes it: they run until work is closed
		}
		return nil
	})
	for range workers {
		group.Go(func() error {
			c := &checker{repo: v.repo}
			defer c.close()
			for j := range work {
				if !j.skip {
					j.problem, j.fatal = c.check(ctx, j.obj)
				}
				j.done <- struct{}{}
			}
			return nil
		})
	}
	group.Go(func() error {
		var first error
		for j := range order { // to the end, so that nobody waits for us
			<-j.done
			if first == nil {
				first = v.take(j)
			}
		}
		return first
	})
	return group.Wait()
}

func (v *verifier) take(j *verifyJob) error {
	switch {
	case j.fatal != nil:
		return j.fatal
	case j.problem != nil:
		v.found = append(v.found, finding{j.obj.Key, problemOf(j.problem)})
		v.report.Objects++
		v.report.Bytes += j.obj.Size
		return nil
	case j.skip:
		v.report.Skipped++
	default:
		v.report.Objects++
		v.report.Bytes += j.obj.Size
		if v.progress != nil {
			v.progress(sandglass.Progress{Done: v.report.Bytes, Unit: "bytes", Note: j.obj.Key, ETA: -1})
		}
	}
	return v.state.good(j.obj)
}

// problemOf is the innermost cause: the object itself is named elsewhere.
func problemOf(err error) string {
	if e, ok := errors.AsType[*sandglass.Error](err); ok && e.Err != nil {
		err = e.Err
	}
	return err.Error()
}

// checker reads single objects. It is for one goroutine.
type checker struct {
	repo  *Repository
	dec   *frameDecoder
	frame []byte
	chunk []byte
}

func (c *checker) close() {
	if c.dec != nil {
		c.dec.close()
	}
}

// check tells damage of the object from what stands in the way of reading it. An object that was removed meanwhile is fine.
func (c *checker) check(ctx context.Context, obj Object) (problem, fatal error) {
	err := c.read(ctx, obj.Key)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if code := sandglass.CodeOf(err); code == sandglass.CodeKeyMissing {
		return nil, err
	}
	return err, nil // also what the disk itself can't read
}

func (c *checker) read(ctx context.Context, key string) error {
	part := strings.Split(key, "/")
	if part[0] != "env" || len(part) < 4 {
		switch {
		case part[0] == "env" && len(part) == 3, part[0] == "operation", part[0] == "plan":
			return c.sealed(ctx, key)
		}
		return errors.New("it is not an object of a repository")
	}
	switch part[3] {
	case "bundle":
		return c.bundle(ctx, key)
	case "image":
		return c.manifest(ctx, key)
	case "wal":
		inc, err := c.repo.begun(ctx, part[1], sandglass.IncarnationID(part[2]))
		if err != nil {
			return err
		}
		return c.length(ctx, key, inc.SegmentSize)
	case "part":
		return c.part(ctx, key)
	}
	return c.sealed(ctx, key)
}

func (c *checker) sealed(ctx context.Context, key string) error { return c.length(ctx, key, -1) }

func (c *checker) length(ctx context.Context, key string, want int64) error {
	_, rc, err := c.repo.openSealed(ctx, key, false)
	if err != nil {
		return err
	}
	defer rc.Close()
	n, err := io.Copy(io.Discard, rc)
	if err == nil && want >= 0 && n != want {
		err = fmt.Errorf("it has %d bytes instead of %d", n, want)
	}
	return err
}

func (c *checker) part(ctx context.Context, key string) error {
	name, err := parsePart(baseName(key))
	if err != nil {
		return err
	}
	head, rc, err := c.repo.openSealed(ctx, key, true)
	if err != nil {
		return err
	}
	defer rc.Close()
	p, length, err := parseHead(head)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, rc)
	if err == nil && (n != length || p.From != name.from || int64(name.to-name.from) != n) {
		err = errors.New("it holds other WAL than its name says")
	}
	return err
}

// manifest checks the MAC at its end, and that the bundles it refers to are there.
func (c *checker) manifest(ctx context.Context, key string) error {
	rc, err := c.repo.store.Open(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer rc.Close()
	plain, err := c.repo.decrypt(&contextReader{ctx, rc})
	if err != nil {
		return err
	}
	h := hmac.New(sha256.New, c.repo.digestKey)
	br := bufio.NewReaderSize(plain, 64<<10)
	for {
		b, err := br.Peek(32 << 10)
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF {
			if len(b) < manifestMAC {
				return errors.New("it is cut short")
			}
			end := len(b) - manifestMAC
			h.Write(b[:end])
			if !hmac.Equal(h.Sum(nil), b[end:]) {
				return errors.New("its contents do not have its MAC")
			}
			return nil
		}
		n := len(b) - manifestMAC // these may be the last
		h.Write(b[:n])
		br.Discard(n)
	}
}

// bundle checks every chunk by the digest in its label.
func (c *checker) bundle(ctx context.Context, key string) error {
	if c.dec == nil {
		c.dec, c.frame, c.chunk = newFrameDecoder(c.repo), make([]byte, 2*chunkSize), make([]byte, chunkSize)
	}
	rc, err := c.repo.store.Open(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer rc.Close()
	plain, err := c.repo.decrypt(bufio.NewReaderSize(&contextReader{ctx, rc}, 256<<10))
	if err != nil {
		return err
	}
	var label [labelSize]byte
	for {
		if _, err := io.ReadFull(plain, label[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		d, n, m, err := parseLabel(label[:])
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(plain, c.frame[:m]); err != nil {
			return err
		}
		if err := c.dec.decode(c.frame[:m], c.chunk[:n], d); err != nil {
			return err
		}
	}
}
