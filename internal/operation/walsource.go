// Where the WAL of a recovery comes from.

package operation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"sandglass"
	"sandglass/internal/repo"
	"sandglass/internal/walserve"
)

// source answers restore_command from the repository. Timelines beyond the range's own don't
// exist for the copy, so that its promotion always begins the next number.
type source struct {
	repository  *repo.Repository
	r           sandglass.Range
	segmentSize int64
	said        *saidOf // by the repository instead of a file
}

// saidOf keeps the last error of the repository that people can act upon: PostgreSQL only learns that a file could not be had.
type saidOf struct {
	mu  sync.Mutex
	err error
}

func (s *saidOf) keep(err error) {
	if _, ok := errors.AsType[*sandglass.Error](err); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
}

func (s *saidOf) last() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

var _ walserve.Source = source{}

// lastSegment names the segment that holds the range's stop, or the end of the record that
// starts there; no later one is ever needed.
func (s source) lastSegment() string {
	return sandglass.SegmentName(s.r.Timeline, s.r.Stop.Segment(s.segmentSize)+1, s.segmentSize)
}

// Fetch writes a segment or history file; found is false only where there certainly is none.
func (s source) Fetch(ctx context.Context, name, dst string) (found bool, err error) {
	defer func() { s.said.keep(err) }()
	if digits, ok := strings.CutSuffix(name, ".history"); ok {
		return s.history(ctx, digits, dst)
	}
	tli, seg, err := sandglass.ParseSegmentName(name, s.segmentSize)
	if err != nil || tli > s.r.Timeline {
		return false, nil // backup labels and the like: we serve none
	}
	wal, _, err := s.repository.OpenWAL(ctx, s.r.Environment, s.r.Incarnation, tli, seg)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open segment %s: %w", name, err)
	}
	defer wal.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(out, wal)
	if err = errors.Join(err, out.Close()); err != nil {
		return false, fmt.Errorf("fetch segment %s: %w", name, err)
	}
	return true, nil
}

func (s source) history(ctx context.Context, digits, dst string) (found bool, err error) {
	n, err := strconv.ParseUint(digits, 16, 32)
	tli := sandglass.TimelineID(n)
	if err != nil || tli > s.r.Timeline {
		return false, nil
	}
	content, err := s.repository.History(ctx, s.r.Environment, s.r.Incarnation, tli)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read history of timeline %d: %w", tli, err)
	}
	return true, os.WriteFile(dst, content, 0o600)
}
