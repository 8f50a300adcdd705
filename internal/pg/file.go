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

// ReadFile reads such a file of at most so many bytes; a larger one is none of PostgreSQL's making, and fs.ErrInvalid.
func ReadFile(folder, name string, most int64) ([]byte, error) {
	f, err := Open(folder, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, fmt.Errorf("read %s in %s: %w: it has more than %d bytes", name, folder, fs.ErrInvalid, most)
	}
	return b, err
}
