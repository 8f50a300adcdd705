// Package server runs PostgreSQL servers: the metadata cluster, staging and sandboxes. It finds the
// installed binaries, makes clusters, writes configuration of its own by major, seals a server in
// namespaces, starts it in a session of its own so that it outlives us, and finds it again.
package server

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"sandglass"
)

// Role is our own superuser in every cluster we run. It has no password and is reached only
// over the private Unix socket folder, by peer authentication.
const Role = "sandglass"

// Port is the default port: it names the private socket, and nothing listens on it over TCP
// unless the settings say so.
const Port = 5432

// Owner is the operating system user that servers run as.
type Owner struct {
	Name     string
	UID, GID int
	// NoAccount says that the host knows nobody of that name and number; see UIDOwner.
	NoAccount bool
}

// ServerOwner is the user that servers run as. PostgreSQL refuses to run as root, so that root uses
// the user of that name (default: postgres); anybody else runs servers as themselves.
func ServerOwner(name string) (Owner, error) {
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return Owner{}, fmt.Errorf("find out who runs servers: %w", err)
		}
		return Owner{Name: u.Username, UID: os.Geteuid(), GID: os.Getegid()}, nil
	}
	if name == "" {
		name = "postgres"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return Owner{}, &sandglass.Error{Code: sandglass.CodeBinariesMissing, Op: "find server owner", Err: err,
			Message: fmt.Sprintf("There is no operating system user %q to run PostgreSQL as.", name),
			Remedy:  "Install a PostgreSQL server package (apt-get install postgresql), which makes the user, or name another user in the configuration."}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return Owner{}, fmt.Errorf("read user %q: %w", name, err)
	}
	if uid == 0 {
		return Owner{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "find server owner",
			Message: "PostgreSQL servers can't run as root.", Remedy: "Name another operating system user in the configuration."}
	}
	return Owner{Name: name, UID: uid, GID: gid}, nil
}

// Config is everything needed to run one server. The same Config starts it, adopts it and connects to it.
type Config struct {
	Binaries Binaries
	Data     string // data folder
	Run      string // private folder: socket, generated configuration; 0700, of Owner
	Log      string // file that takes the server's output
	Owner    Owner
	Port     int // default Port; with the settings' listen_addresses also the TCP port
	// Settings are written to postgresql.conf; see RecoverySettings, StagingSettings, SandboxSettings, MetaSettings.
	Settings map[string]string
	// HBA are lines that follow our own in pg_hba.conf; Ident those that follow ours in pg_ident.conf.
	HBA, Ident []string
	// KeepAlterSystem leaves postgresql.auto.conf as it is: a sandbox's own ALTER SYSTEM
	// survives its restarts. Else it is emptied before each start.
	KeepAlterSystem bool
	// Seal closes the server in; nil runs it in the open.
	Seal *Seal
	// Helper is the sandglass binary that seals, re-executed with the hidden command seal-exec; default: this one.
	Helper string
}

// Seal says what a sealed server sees: a read-only system, its volume, and nothing else; no network.
type Seal struct {
	// Volume is the one folder it can write to, under the same path inside and outside.
	Volume string
	// ReadOnly are further files and folders it sees, read-only: the binary of restore_command.
	ReadOnly []string
	// Loopback brings up the namespace's own 127.0.0.1.
	Loopback bool
	// ConfigOnly accepts a server closed by configuration alone where namespaces can't be had;
	// Postmaster.Sealed then says false.
	ConfigOnly bool
}

func (c Config) port() int {
	if c.Port == 0 {
		return Port
	}
	return c.Port
}

func (c Config) pidFile() string { return filepath.Join(c.Data, "postmaster.pid") }

func (c Config) conf(name string) string { return filepath.Join(c.Run, name) }
