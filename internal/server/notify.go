// Waiting for a change in a folder.

package server

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// notifier tells of changes to the files right in a folder.
type notifier struct {
	changed chan struct{} // has one entry when something may have changed
	file    *os.File
	done    chan struct{}
}

// lookAgain is how often a notifier speaks up by itself, for file systems that tell of nothing.
const lookAgain = 250 * time.Millisecond

// notify begins to watch a folder; close ends it.
func notify(dir string) (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	n := &notifier{changed: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		n.file.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	go func() {
		defer close(n.done)
		buf := make([]byte, 4096)
		for {
			n.file.SetReadDeadline(time.Now().Add(lookAgain)) // fails only once closed, and so does Read
			if _, err := n.file.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			select {
			case n.changed <- struct{}{}:
			default:
			}
		}
	}()
	return n, nil
}

func (n *notifier) close() {
	n.file.Close()
	<-n.done
}
