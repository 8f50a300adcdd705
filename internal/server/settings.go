// The settings of each kind of server, by major, and those a user may not set.

package server

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sandglass"
)

// Recovery is what RecoverySettings needs to know.
type Recovery struct {
	Range          sandglass.Range
	Minimums       sandglass.Parameters // of the image; those of the range are added
	RestoreCommand string               // of walserve.RestoreCommand
	Preload        []string             // libraries that replay needs (custom resource managers)
	MaxSlots       int                  // production's max_replication_slots, which on 14 to 17 also bounds its origins; 0: not known
	MaxOrigins     int                  // production's max_active_replication_origins (18); 0: not known
}

// RecoverySettings are the settings of a sealed server that replays up to the range's stop and then
// promotes itself. Nothing can connect before that (hot_standby=off, so that a parameter change
// can't pause it), and no background worker starts (max_worker_processes=0).
func RecoverySettings(major int, r Recovery) map[string]string {
	s := StagingSettings(major, r.Minimums.AtLeast(r.Range.Minimums), r.Preload)
	maps.Copy(s, map[string]string{
		"hot_standby":               "off",
		"restore_command":           r.RestoreCommand,
		"recovery_target_lsn":       r.Range.Stop.String(),
		"recovery_target_inclusive": "on",
		"recovery_target_timeline":  strconv.FormatUint(uint64(r.Range.Timeline), 10),
		"recovery_target_action":    "promote",
		"recovery_init_sync_method": "syncfs",
		// Origins in use take a place in redo; more places than production's do no harm.
		"max_replication_slots": strconv.Itoa(max(r.MaxSlots, 64)),
	})
	if major >= 15 {
		s["log_startup_progress_interval"] = "500ms" // where Replayed reads its position
		s["recovery_prefetch"] = "try"
	}
	if major >= 18 {
		s["max_active_replication_origins"] = strconv.Itoa(max(r.MaxOrigins, r.MaxSlots, 64))
	}
	return s
}

// StagingSettings are the settings of a sealed server after its promotion: no archiver, no worker, no
// autovacuum, no job, no subscription, nothing recycled, room for what production had.
func StagingSettings(major int, min sandglass.Parameters, preload []string) map[string]string {
	s := map[string]string{
		"max_connections":                 strconv.Itoa(max(min.MaxConnections, 20)),
		"max_prepared_transactions":       strconv.Itoa(min.MaxPreparedXacts),
		"max_locks_per_transaction":       strconv.Itoa(max(min.MaxLocksPerXact, 64)),
		"max_wal_senders":                 strconv.Itoa(min.MaxWALSenders),
		"max_worker_processes":            "0",
		"max_logical_replication_workers": "0",
		"max_parallel_workers":            "0",
		"max_replication_slots":           "64",
		"track_commit_timestamp":          onOff(min.TrackCommitTimestamp),
		"wal_level":                       "replica",
		"wal_recycle":                     "off",
		"wal_init_zero":                   "off",
		"max_wal_size":                    "4GB",
		"checkpoint_timeout":              "1h",
		"archive_mode":                    "off",
		"autovacuum":                      "off",
		"synchronous_standby_names":       "",
		"shared_preload_libraries":        strings.Join(preload, ","),
		"dynamic_shared_memory_type":      "mmap", // a killed server leaves nothing outside its volume
		"shared_buffers":                  "128MB",
		"huge_pages":                      "off",
		"jit":                             "off",
		"default_transaction_read_only":   "off",
		"password_encryption":             "scram-sha-256",
	}
	if major >= 18 {
		s["max_active_replication_origins"] = "64"
		s["io_method"] = "sync" // no process of its own, no kernel feature the seal might lack
	}
	byMajor(s, major, true)
	return s
}

// SandboxSettings are the settings of a sandbox's own server: what its environment declares, over
// defaults that let it be recorded. A setting that Sandglass needs for itself is refused by name.
func SandboxSettings(major int, server sandglass.Server, min sandglass.Parameters) (map[string]string, error) {
	s := map[string]string{
		"listen_addresses":          server.Listen,
		"max_connections":           "100",
		"max_wal_senders":           "10",
		"max_replication_slots":     strconv.Itoa(10),
		"max_slot_wal_keep_size":    "4GB",
		"max_prepared_transactions": strconv.Itoa(min.MaxPreparedXacts),
		"max_locks_per_transaction": strconv.Itoa(max(min.MaxLocksPerXact, 64)),
		"wal_level":                 "replica",
		"password_encryption":       "scram-sha-256",
		// A killed server leaves nothing outside its volume; a sandbox may prefer posix.
		"dynamic_shared_memory_type": "mmap",
	}
	if s["listen_addresses"] == "" {
		s["listen_addresses"] = "localhost"
	}
	for name, value := range server.Settings {
		name = strings.ToLower(strings.TrimSpace(name))
		if why, ok := refused(name, value); ok {
			return nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "sandbox settings",
				Message: fmt.Sprintf("The setting %s can't be declared for a sandbox: %s.", name, why),
				Remedy:  fmt.Sprintf("Remove %s from server.settings and apply the declaration again.", name)}
		}
		s[name] = value
	}
	byMajor(s, major, false)
	return s, nil
}

// MetaSettings are the settings of the private metadata cluster: small, on its Unix socket only.
func MetaSettings(major int) map[string]string {
	s := map[string]string{
		"listen_addresses":           "",
		"max_connections":            "60",
		"shared_buffers":             "16MB",
		"max_wal_size":               "256MB",
		"min_wal_size":               "32MB",
		"wal_level":                  "minimal",
		"max_wal_senders":            "0",
		"archive_mode":               "off",
		"jit":                        "off",
		"huge_pages":                 "off",
		"max_worker_processes":       "2",
		"max_parallel_workers":       "0",
		"dynamic_shared_memory_type": "mmap",
		"autovacuum_naptime":         "1min",
	}
	if major >= 18 {
		s["io_method"] = "sync"
	}
	return s
}

// byMajor adds what only some majors know.
func byMajor(s map[string]string, major int, sealed bool) {
	if major < 17 {
		return
	}
	s["sync_replication_slots"] = "off"
	if sealed {
		s["event_triggers"] = "off"
		s["summarize_wal"] = "off"
	}
}

// ours are the settings that Sandglass gives every server, and why a user can't.
var ours = map[string]string{
	"config_file":                   "Sandglass writes the server's configuration",
	"data_directory":                "the data lies in a volume",
	"hba_file":                      "Sandglass writes pg_hba.conf; declare its lines in server.hba",
	"ident_file":                    "Sandglass writes pg_ident.conf",
	"external_pid_file":             "Sandglass finds its servers by postmaster.pid",
	"listen_addresses":              "declare it as server.listen",
	"port":                          "declare it as server.port",
	"unix_socket_directories":       "the socket folder is private to Sandglass",
	"unix_socket_group":             "the socket folder is private to Sandglass",
	"unix_socket_permissions":       "the socket folder is private to Sandglass",
	"log_destination":               "the server's output goes to a log of Sandglass",
	"logging_collector":             "the server's output goes to a log of Sandglass",
	"log_line_prefix":               "Sandglass reads the server's log",
	"lc_messages":                   "Sandglass reads the server's log",
	"archive_mode":                  "a sandbox must not archive into another cluster's archive; record it instead",
	"archive_command":               "a sandbox must not archive into another cluster's archive; record it instead",
	"archive_library":               "a sandbox must not archive into another cluster's archive; record it instead",
	"restore_command":               "recovery is run by Sandglass",
	"archive_cleanup_command":       "recovery is run by Sandglass",
	"recovery_end_command":          "recovery is run by Sandglass",
	"promote_trigger_file":          "recovery is run by Sandglass",
	"primary_conninfo":              "a sandbox follows no other server",
	"primary_slot_name":             "a sandbox follows no other server",
	"hot_standby":                   "recovery is run by Sandglass",
	"allow_alter_system":            "Sandglass decides which settings survive a restore",
	"sync_replication_slots":        "a sandbox follows no other server",
	"synchronous_standby_names":     "a sandbox must not wait for another server",
	"default_transaction_read_only": "Sandglass uses it to fence a sandbox at a cutover",
}

// refused says why a setting can't be declared for a sandbox, and false when it can.
func refused(name, value string) (why string, refused bool) {
	if why, ok := ours[name]; ok {
		return why, true
	}
	switch {
	case name == "include", name == "include_dir", name == "include_if_exists":
		return "settings of other files are not taken", true
	case strings.HasPrefix(name, "recovery_target"):
		return "recovery is run by Sandglass", true
	case name == "wal_level" && strings.EqualFold(strings.TrimSpace(value), "minimal"):
		return "a sandbox with wal_level=minimal can't be recorded nor undone safely", true
	case !validName(name):
		return "it is not the name of a setting", true
	}
	return "", false
}

// validName says whether name can be a setting: letters, digits, _ and $, with at most one dot for an extension's.
func validName(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789_$") != "" || strings.ContainsRune("0123456789$", rune(part[0])) {
			return false
		}
	}
	return name != "" && strings.Count(name, ".") <= 1
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// fixed are the settings that win over everything a data folder or a declaration says: they go on the command line.
func (c Config) fixed() []string {
	s := map[string]string{
		"config_file":             c.conf("postgresql.conf"),
		"hba_file":                c.conf("pg_hba.conf"),
		"ident_file":              c.conf("pg_ident.conf"),
		"unix_socket_directories": `"` + strings.ReplaceAll(c.Run, `"`, `""`) + `"`, // a list
		"unix_socket_permissions": "0700",
		"port":                    strconv.Itoa(c.port()),
		"archive_mode":            "off",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"log_line_prefix":         logPrefix,
		"lc_messages":             "C",
		"update_process_title":    "on",
	}
	if c.Seal != nil {
		s["listen_addresses"] = ""
		if c.Seal.Loopback {
			s["listen_addresses"] = "127.0.0.1"
		}
		for _, name := range []string{"max_worker_processes", "max_logical_replication_workers", "autovacuum", "shared_preload_libraries"} {
			if v, ok := c.Settings[name]; ok {
				s[name] = v
			}
		}
	}
	var args []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		args = append(args, "-c", name+"="+s[name])
	}
	return args
}
