package sandglass

import (
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultSynchronizeTimeout is how long a sandbox's migrations may take unless declared.
const DefaultSynchronizeTimeout = time.Hour

// Synchronize declares the sandbox's own migrations: one command that brings the copy up to date before anybody
// sees it. It is run against the sealed copy, as an unprivileged user, closed off from network and host.
type Synchronize struct {
	// Command is the program and its arguments; no shell reads it. The program is a path, or a name that is
	// looked for in the folder and in the usual places for programs.
	Command []string `json:"command" yaml:"command"`
	// Folder is where it runs and what it sees of the host besides the system, read-only; absolute.
	Folder string `json:"folder,omitempty" yaml:"folder"`
	// Show are further files and folders of the host that it sees, read-only; absolute.
	Show []string `json:"show,omitempty" yaml:"show"`
	// Environment are its environment variables, besides PGHOST, PGPORT, PGUSER, PGDATABASE, PATH, HOME, TMPDIR and LANG.
	Environment map[string]string `json:"environment,omitempty" yaml:"environment"`
	// Timeout ends it; default 1 h.
	Timeout Duration `json:"timeout,omitempty" yaml:"timeout"`
	// Database is the role of the database it is about (PGDATABASE); default: business, or the only one.
	Database string `json:"database,omitempty" yaml:"database"`
	// Role is the PostgreSQL role it logs in as (PGUSER), for this step without a password; default: the database's owner.
	Role string `json:"role,omitempty" yaml:"role"`
	// User is the operating system user it runs as where Sandglass runs as root; default nobody.
	User string `json:"user,omitempty" yaml:"user"`
	// Network is "closed" (the default: it reaches the copy alone, at 127.0.0.1 or the Unix socket) or "open"
	// (it runs in the host's network, and reaches the copy over the Unix socket).
	Network string `json:"network,omitempty" yaml:"network" enum:"closed,open,"`
}

// OpenNetwork says whether the command reaches the host's network.
func (s Synchronize) OpenNetwork() bool { return s.Network == "open" }

// withDefaults fills what the declaration leaves out.
func (s Synchronize) withDefaults() *Synchronize {
	if s.Timeout == 0 {
		s.Timeout = Duration(DefaultSynchronizeTimeout)
	}
	if s.Network == "" {
		s.Network = "closed"
	}
	return &s
}

// DatabaseRole is the role of the database the command is about; "" when the declaration does not say.
func (s Synchronize) DatabaseRole(databases map[string]string) string {
	if s.Database != "" {
		return s.Database
	}
	if _, ok := databases["business"]; ok {
		return "business"
	}
	for role := range databases {
		if len(databases) == 1 {
			return role
		}
	}
	return ""
}

// wrong says what is not right with the declaration; "" when nothing is.
func (s Synchronize) wrong(databases map[string]string) string {
	absolute := func(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/" }
	// Other processes' files and memory are in there.
	kernels := func(path string) bool {
		return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
	}
	role := s.DatabaseRole(databases)
	_, named := databases[role]
	switch {
	case len(s.Command) == 0 || s.Command[0] == "":
		return "server.synchronize.command is a list: the program, then its arguments."
	case slices.ContainsFunc(s.Command, func(a string) bool { return strings.ContainsRune(a, 0) }):
		return "server.synchronize.command holds a zero byte."
	case s.Folder != "" && !absolute(s.Folder):
		return "server.synchronize.folder is an absolute path, and not the whole host."
	case slices.ContainsFunc(s.Show, func(path string) bool { return !absolute(path) }):
		return "server.synchronize.show are absolute paths, and not the whole host."
	case kernels(s.Folder) || slices.ContainsFunc(s.Show, kernels):
		return "server.synchronize.folder and show are files of the disk, not of /proc, /sys or /dev."
	case s.Timeout < 0:
		return "server.synchronize.timeout can't be negative."
	case s.Network != "" && s.Network != "closed" && s.Network != "open":
		return "server.synchronize.network is closed or open."
	case role == "" && len(databases) > 0:
		return "server.synchronize.database says which role of databases the command is about."
	case role == "" || !named:
		return "server.synchronize.database names no role of databases; declare databases, and which of them the command is about."
	case s.User == "root":
		return "server.synchronize.user can't be root."
	case s.Role == "sandglass":
		return "server.synchronize.role can't be sandglass, which is Sandglass's own."
	}
	for name := range s.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(s.Environment[name], 0) {
			return "server.synchronize.environment has a name or value that no environment can hold."
		}
	}
	return ""
}
