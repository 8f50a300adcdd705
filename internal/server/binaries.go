// Finding the installed PostgreSQL binaries.

package server

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sandglass"
)

// The majors Sandglass runs.
const (
	MinMajor = 14
	MaxMajor = 18
)

// Binaries is one installed PostgreSQL.
type Binaries struct {
	Dir     string // the folder of postgres and initdb, symbolic links resolved
	Major   int
	Version string // as `postgres --version` says it: "15.14"
}

// Postgres is the path of the server's binary.
func (b Binaries) Postgres() string { return filepath.Join(b.Dir, "postgres") }

// initDB is the path of initdb.
func (b Binaries) initDB() string { return filepath.Join(b.Dir, "initdb") }

// prefix is the folder that holds the installation's bin, lib and share.
func (b Binaries) prefix() string { return filepath.Dir(b.Dir) }

// usualFolders are where the packages of Debian, of Red Hat and PostgreSQL's own Makefile put the binaries.
var usualFolders = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\S*)`)

// Installed is the PostgreSQL of this host. It remembers what each binary said of itself for as long as its file stays
// the same: starting one to ask takes longer than many an operation's step.
type Installed struct {
	extra []string
	mu    sync.Mutex
	said  map[string]said // by path
}

type said struct {
	file os.FileInfo
	Binaries
}

// Look is at the given folders, then at the usual places. A folder may hold wildcards.
func Look(extra ...string) *Installed {
	return &Installed{extra: extra, said: map[string]said{}}
}

// Find gives the installed PostgreSQL of each supported major, by asking the binaries. The first one found of a
// major wins; binaries that don't run, and development versions of other majors, are passed over.
func (i *Installed) Find(ctx context.Context) (map[int]Binaries, error) {
	found := map[int]Binaries{}
	seen := map[string]bool{}
	for _, pattern := range slices.Concat(i.extra, usualFolders) {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "find PostgreSQL", Err: err,
				Message: fmt.Sprintf("%q is not a folder name.", pattern), Remedy: "Correct the folders of PostgreSQL binaries in the configuration."}
		}
		for _, dir := range dirs {
			b, ok := i.inspect(ctx, dir)
			if !ok || seen[b.Dir] {
				continue
			}
			seen[b.Dir] = true
			if _, ok := found[b.Major]; !ok && b.Major >= MinMajor && b.Major <= MaxMajor {
				found[b.Major] = b
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// inspect tells who the binaries in a folder are.
func (i *Installed) inspect(ctx context.Context, dir string) (Binaries, bool) {
	// postgres finds its libraries from where it really lies.
	path, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return Binaries{}, false
	}
	file, err := os.Stat(path)
	if err != nil {
		return Binaries{}, false
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "initdb")); err != nil {
		return Binaries{}, false
	}
	i.mu.Lock()
	s, ok := i.said[path]
	i.mu.Unlock()
	if ok && os.SameFile(s.file, file) && s.file.ModTime().Equal(file.ModTime()) && s.file.Size() == file.Size() {
		return s.Binaries, true
	}
	b, err := ask(ctx, path)
	if err != nil {
		return Binaries{}, false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.said[path] = said{file, b}
	return b, true
}

// ask asks a server's binary who it is.
func ask(ctx context.Context, path string) (Binaries, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return Binaries{}, err
	}
	m := versionLine.FindStringSubmatch(strings.TrimSpace(string(out)))
	if m == nil {
		return Binaries{}, fmt.Errorf("%s is not PostgreSQL's server", path)
	}
	major, err := strconv.Atoi(m[2])
	return Binaries{Dir: filepath.Dir(path), Major: major, Version: m[1]}, err
}

// Pick gives the binaries of a major, or says how to get them.
func Pick(found map[int]Binaries, major int) (Binaries, error) {
	if b, ok := found[major]; ok {
		return b, nil
	}
	if major < MinMajor || major > MaxMajor {
		return Binaries{}, &sandglass.Error{Code: sandglass.CodeBinariesMissing, Op: "find PostgreSQL",
			Message: fmt.Sprintf("PostgreSQL %d is not supported; Sandglass runs %d to %d.", major, MinMajor, MaxMajor)}
	}
	have := "none is installed here"
	if len(found) > 0 {
		var majors []string
		for m := range found {
			majors = append(majors, strconv.Itoa(m))
		}
		slices.Sort(majors)
		have = "installed here: " + strings.Join(majors, ", ")
	}
	return Binaries{}, &sandglass.Error{Code: sandglass.CodeBinariesMissing, Op: "find PostgreSQL",
		Message: fmt.Sprintf("The server binaries of PostgreSQL %d are needed (%s).", major, have),
		Remedy:  fmt.Sprintf("Install them (apt-get install postgresql-%d), or name their folder in the configuration.", major)}
}
