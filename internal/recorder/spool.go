package recorder

// The spool: the WAL of one timeline as files on local disk, from the first segment whose
// index is not yet in the repository on, and the segment before that.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"sandglass"
)

// spool is used by two goroutines: one writes, another reads what was written before. What is written is not
// synced: it outlives the process, and after the system's own restart the spool begins empty.
type spool struct {
	dir  string // Dir/spool/INCARNATION
	tli  sandglass.TimelineID
	size int64 // of a segment

	mu   sync.Mutex
	seg  sandglass.SegmentNo // of file
	file *os.File            // being written; nil at first
	off  int64               // of tail in file
	tail []byte              // written here, not yet to the file
}

const (
	// spoolTail bounds what is gathered before it is written: a message of the stream is often a single commit.
	spoolTail = 256 << 10
	// bootFile holds the kernel's boot ID of the time when the spool was begun.
	bootFile = "boot"
)

func openSpool(dir string, inc sandglass.IncarnationID, tli sandglass.TimelineID, size int64) (*spool, error) {
	s := &spool{dir: filepath.Join(dir, "spool", string(inc)), tli: tli, size: size, tail: make([]byte, 0, spoolTail)}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, s.full(err)
	}
	return s, s.boot()
}

// boot empties a spool of before the system's start: what was not synced then may read as zeros.
func (s *spool) boot() error {
	now, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		now = nil // not known; then no spool is trusted
	}
	name := filepath.Join(s.dir, bootFile)
	if then, err := os.ReadFile(name); err == nil && len(now) > 0 && bytes.Equal(then, now) {
		return nil
	}
	if err := s.remove(func(sandglass.SegmentNo) bool { return true }); err != nil {
		return err
	}
	return s.full(os.WriteFile(name, now, 0o600))
}

// full gives a full disk its code.
func (s *spool) full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &sandglass.Error{Code: sandglass.CodeDiskFull, Op: "spool WAL", Err: err,
			Message: "The disk of the recorder's spool is full.", Remedy: "Make room on the disk of the state folder; recording goes on by itself then."}
	}
	return err
}

func (s *spool) path(seg sandglass.SegmentNo) string {
	return filepath.Join(s.dir, sandglass.SegmentName(s.tli, seg, s.size))
}

// has is how many bytes of a segment's start the spool's file holds.
func (s *spool) has(seg sandglass.SegmentNo) int64 {
	info, err := os.Stat(s.path(seg))
	if err != nil {
		return 0
	}
	return info.Size()
}

// write writes contiguous WAL; a segment's file begins at its first byte.
func (s *spool) write(at sandglass.LSN, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(data) > 0 {
		seg, off := at.Segment(s.size), at.Offset(s.size)
		if s.file == nil || s.seg != seg {
			if err := s.closeFile(); err != nil {
				return err
			}
			f, err := os.OpenFile(s.path(seg), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				return s.full(fmt.Errorf("spool WAL: %w", err))
			}
			s.file, s.seg, s.off = f, seg, off
		}
		if off != s.off+int64(len(s.tail)) || len(s.tail) == cap(s.tail) {
			if err := s.flush(); err != nil {
				return err
			}
			s.off = off
		}
		n := min(int64(len(data)), s.size-off, int64(cap(s.tail)-len(s.tail)))
		s.tail = append(s.tail, data[:n]...)
		at, data = at+sandglass.LSN(n), data[n:]
	}
	return nil
}

// flush writes the tail to the file. Called with the lock held.
func (s *spool) flush() error {
	if len(s.tail) == 0 {
		return nil
	}
	if _, err := s.file.WriteAt(s.tail, s.off); err != nil {
		return s.full(fmt.Errorf("spool WAL: %w", err))
	}
	s.off, s.tail = s.off+int64(len(s.tail)), s.tail[:0]
	return nil
}

// settle writes everything to its file.
func (s *spool) settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

// close ends the file being written.
func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeFile()
}

func (s *spool) closeFile() error {
	if s.file == nil {
		return nil
	}
	err := s.flush()
	s.tail = s.tail[:0]
	err = errors.Join(err, s.full(s.file.Close()))
	s.file = nil
	return err
}

// read fills p from the spool.
func (s *spool) read(p []byte, at sandglass.LSN) error {
	if err := s.settle(); err != nil {
		return err
	}
	for len(p) > 0 {
		seg, off := at.Segment(s.size), at.Offset(s.size)
		n := min(int64(len(p)), s.size-off)
		f, err := os.Open(s.path(seg))
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		_, err = f.ReadAt(p[:n], off)
		f.Close()
		if err != nil {
			return fmt.Errorf("read spool at %s: %w", at, err)
		}
		at, p = at+sandglass.LSN(n), p[n:]
	}
	return nil
}

// open reads a whole segment.
func (s *spool) open(seg sandglass.SegmentNo) (io.ReadSeekCloser, error) { return os.Open(s.path(seg)) }

// cut drops everything from at on: bytes that the repository does not hold are asked for again.
func (s *spool) cut(at sandglass.LSN) error {
	seg, off := at.Segment(s.size), at.Offset(s.size)
	if s.has(seg) > off {
		if err := os.Truncate(s.path(seg), off); err != nil {
			return fmt.Errorf("cut spool: %w", err)
		}
	}
	return s.remove(func(n sandglass.SegmentNo) bool { return n > seg })
}

// remove removes the segments of this timeline that gone names, and all of other timelines.
func (s *spool) remove(gone func(sandglass.SegmentNo) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("tidy spool: %w", err)
	}
	for _, e := range entries {
		tli, seg, err := sandglass.ParseSegmentName(e.Name(), s.size)
		if err == nil && tli == s.tli && !gone(seg) || e.Name() == bootFile {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tidy spool: %w", err)
		}
	}
	return nil
}

// forgetOthers removes the spools of other incarnations.
func forgetOthers(dir string, inc sandglass.IncarnationID) error {
	entries, err := os.ReadDir(filepath.Join(dir, "spool"))
	if err != nil {
		return fmt.Errorf("tidy spool: %w", err)
	}
	for _, e := range entries {
		if e.Name() != string(inc) {
			if err := os.RemoveAll(filepath.Join(dir, "spool", e.Name())); err != nil {
				return fmt.Errorf("tidy spool: %w", err)
			}
		}
	}
	return nil
}
