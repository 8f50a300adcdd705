// Writing a server's configuration: nothing that came with the data folder is believed.

package server

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"sandglass"
)

// logPrefix begins each line of a server's log; logLine reads it.
const logPrefix = "%m [%p] "

// write writes postgresql.conf, pg_hba.conf and pg_ident.conf to the run folder, and empties
// postgresql.auto.conf unless it is the sandbox's own. fenced leaves nobody but Role a way in; starting says that no server runs with it yet.
func (c Config) write(fenced, starting bool) error {
	if err := c.folders(); err != nil {
		return err
	}
	files, settings, err := c.withTLS(starting)
	if err != nil {
		return err
	}
	files["postgresql.conf"] = postgresqlConf(settings, fenced)
	if files["pg_hba.conf"], err = c.hba(fenced); err != nil {
		return err
	}
	if files["pg_ident.conf"], err = c.ident(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := c.writeFile(c.conf(name), files[name]); err != nil {
			return fmt.Errorf("write server configuration: %w", err)
		}
	}
	if c.KeepAlterSystem {
		return nil
	}
	// The file must be there: ALTER SYSTEM reads it before it writes.
	return c.writeFile(filepath.Join(c.Data, "postgresql.auto.conf"), "# Emptied by Sandglass; its settings are in the run folder.\n")
}

// folders makes the run folder and the log's, private to the owner.
func (c Config) folders() error {
	for _, dir := range []string{c.Run, filepath.Dir(c.Log)} {
		if err := c.makeFolder(dir, dir == c.Run); err != nil {
			return fmt.Errorf("make server folder: %w", err)
		}
	}
	if n := len(filepath.Join(c.Run, fmt.Sprintf(".s.PGSQL.%d", c.port()))); n > 107 {
		return &sandglass.Error{Code: sandglass.CodeConfig, Op: "make server folder",
			Message: fmt.Sprintf("The folder %s is too deep for a Unix socket: %d bytes, at most 107 are possible.", c.Run, n),
			Remedy:  "Move the state folder to a shorter path."}
	}
	return nil
}

func postgresqlConf(settings map[string]string, fenced bool) string {
	if fenced {
		// For writers that a fence can't end for good, such as workers that are started again.
		settings["default_transaction_read_only"] = "on"
	}
	var b strings.Builder
	b.WriteString("# Written by Sandglass at every start; changes here are lost.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(settings[name]))
	}
	return b.String()
}

// quoteSetting writes a value as guc-file.l reads it.
func quoteSetting(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`).Replace(v) + "'"
}

// hba lets Role in over the private socket by who asks, nowhere else, and then what the environment declares.
func (c Config) hba(fenced bool) (string, error) {
	lines := []string{
		"# Written by Sandglass at every start; changes here are lost.",
		"local all " + Role + " peer map=" + Role,
		"local replication " + Role + " peer map=" + Role,
		"local all " + Role + " reject",
		"host all,replication " + Role + " all reject",
	}
	if fenced {
		return strings.Join(lines, "\n") + "\n", nil
	}
	return addLines(lines, c.HBA, "server.hba")
}

// ident lets the operating system user that runs us be Role.
func (c Config) ident() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("find out who we are: %w", err)
	}
	return addLines([]string{"# Written by Sandglass at every start; changes here are lost.", Role + ` "` + u.Username + `" ` + Role}, c.Ident, "the name map")
}

func addLines(lines, more []string, what string) (string, error) {
	for _, line := range more {
		if strings.ContainsAny(line, "\n\r\x00") || strings.HasPrefix(strings.TrimSpace(line), "@") || strings.HasPrefix(strings.TrimSpace(line), "include") {
			return "", &sandglass.Error{Code: sandglass.CodeConfig, Op: "write server configuration",
				Message: fmt.Sprintf("The line %q of %s is not one line of its own.", line, what), Remedy: "Write one rule a line, without includes."}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// PrepareRecovery makes a restored data folder ready for a recovery of ours: it will follow nobody,
// holds no slot, no key and no configuration of production, and asks for archive recovery
// (recovery.signal). It may be repeated, until the first start.
func PrepareRecovery(c Config) error {
	for _, name := range []string{"standby.signal", "postmaster.pid", "postmaster.opts", "server.key", "server.crt",
		"postgresql.conf", "pg_hba.conf", "pg_ident.conf", "current_logfiles"} {
		if err := os.Remove(filepath.Join(c.Data, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("prepare recovery: %w", err)
		}
	}
	// The server starts on these folders being there; slots in them would hold WAL back for ever.
	for _, name := range []string{"pg_replslot", "pg_notify", "pg_dynshmem", "pg_stat_tmp", "pg_stat", "pg_serial", "pg_snapshots", "pg_subtrans"} {
		dir := filepath.Join(c.Data, name)
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			return fmt.Errorf("prepare recovery: %w", err)
		}
		if err := os.Chown(dir, c.Owner.UID, c.Owner.GID); err != nil {
			return fmt.Errorf("prepare recovery: %w", err)
		}
	}
	if err := c.writeFile(filepath.Join(c.Data, "recovery.signal"), ""); err != nil {
		return fmt.Errorf("prepare recovery: %w", err)
	}
	return nil
}
