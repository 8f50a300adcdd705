package recorder

// The spool: the WAL of one timeline as files on local disk, from the first segment whose
// index is not yet in the repository on, and the segment before that.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"sandglass"
)

// spool is used by two goroutines: one writes, another reads what was written before.
type spool struct {
	dir  string // Dir/spool/INCARNATION
	tli  sandglass.TimelineID
	size int64 // of a segment

	seg  sandglass.SegmentNo // of file
	file *os.File            // being written; nil at first
}

func openSpool(dir string, inc sandglass.IncarnationID, tli sandglass.TimelineID, size int64) (*spool, error) {
	s := &spool{dir: filepath.Join(dir, "spool", string(inc)), tli: tli, size: size}
	return s, s.full(os.MkdirAll(s.dir, 0o700))
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

// has is how many bytes of a segment's start the spool holds.
func (s *spool) has(seg sandglass.SegmentNo) int64 {
	info, err := os.Stat(s.path(seg))
	if err != nil {
		return 0
	}
	return info.Size()
}

// write writes contiguous WAL; a segment's file begins at its first byte.
func (s *spool) write(at sandglass.LSN, data []byte) error {
	for len(data) > 0 {
		seg, off := at.Segment(s.size), at.Offset(s.size)
		if s.file == nil || s.seg != seg {
			if err := s.close(); err != nil {
				return err
			}
			f, err := os.OpenFile(s.path(seg), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				return s.full(fmt.Errorf("spool WAL: %w", err))
			}
			s.file, s.seg = f, seg
		}
		n := min(int64(len(data)), s.size-off)
		if _, err := s.file.WriteAt(data[:n], off); err != nil {
			return s.full(fmt.Errorf("spool WAL: %w", err))
		}
		at, data = at+sandglass.LSN(n), data[n:]
	}
	return nil
}

// close ends the file being written.
func (s *spool) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return s.full(err)
}

// read fills p from the spool.
func (s *spool) read(p []byte, at sandglass.LSN) error {
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

// sync makes what was written to a segment durable.
func (s *spool) sync(seg sandglass.SegmentNo) error {
	f, err := os.OpenFile(s.path(seg), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	defer f.Close()
	return s.full(unixFdatasync(f))
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
		if err == nil && tli == s.tli && !gone(seg) {
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

func unixFdatasync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}
