package pg

// Reading files of a server's folders. They belong to the server's user, as whom a superuser of its databases can run
// programs: what he puts there must neither lead root to other files nor keep it waiting.

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFile is how much ReadFile reads: a segment of WAL has at most 1 GiB, all else is small.
const maxFile = 1 << 30

// Open opens an ordinary file by its name below a folder, for reading. A link that leads out of the folder is refused, and so is
// what is no ordinary file, such as a pipe, which would keep its reader waiting.
func Open(folder, name string) (*os.File, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s in %s: %w: it is no ordinary file", name, folder, fs.ErrInvalid)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadFile reads such a file.
func ReadFile(folder, name string) ([]byte, error) {
	f, err := Open(folder, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}
