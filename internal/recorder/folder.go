package recorder

// Which entries of a data folder belong into an image. Only what is known to be needed is
// copied: keys, logs, configuration with passwords and whatever else people put there stay out.

import (
	"regexp"
	"strings"
)

// whole are folders that are copied with their contents; empty are folders that must
// exist but whose contents are of no use to a copy; files are single files.
var (
	whole = names("base global pg_commit_ts pg_multixact pg_subtrans pg_tblspc pg_twophase pg_xact pg_logical")
	empty = names("pg_dynshmem pg_notify pg_replslot pg_serial pg_snapshots pg_stat pg_stat_tmp pg_wal")
	files = names("PG_VERSION backup_label tablespace_map")
)

// relations are folders in which whatever is not PostgreSQL's own by its name stays out too; database is what it names
// there: databases and tablespaces, relations' files (common/relpath.c, storage/file/fd.c), maps.
var (
	relations = names("base global pg_tblspc")
	database  = regexp.MustCompile(`^([0-9]+|t[0-9]+_[0-9]+)(_fsm|_vm|_init)?(\.[0-9]+)?$|^PG_[0-9]+_[0-9]+$|^(PG_VERSION|pg_control|pg_filenode\.map|pg_internal\.init)$`)
)

func names(s string) map[string]bool {
	m := make(map[string]bool)
	for _, n := range strings.Fields(s) {
		m[n] = true
	}
	return m
}

// wanted says whether an entry of a data folder is copied, by its slash-separated path.
func wanted(path string, dir bool) bool {
	top, rest, nested := strings.Cut(path, "/")
	switch {
	case whole[top]:
		// what init forks re-create, and most of what sessions have for a time, is left out by BASE_BACKUP itself
		return !nested || !relations[top] || database.MatchString(path[strings.LastIndexByte(path, '/')+1:])
	case empty[top]:
		return dir && (!nested || top == "pg_wal" && (rest == "archive_status" || rest == "summaries"))
	}
	return files[top] && !nested && !dir
}
