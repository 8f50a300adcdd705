package repo

// This file names the objects. The names carry what must be known without an identity.

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"sandglass"
)

const rootKey = "repo.json"

func environmentPrefix(env string) string { return "env/" + env + "/" }

func prefixOf(env string, inc sandglass.IncarnationID) string {
	return "env/" + env + "/" + string(inc) + "/"
}

// beginKey holds the facts that a recorder needs without an identity.
func beginKey(i sandglass.Incarnation) string {
	return fmt.Sprintf("%sbegin-%d-%d-%d", prefixOf(i.Environment, i.ID), i.Major, i.SegmentSize, i.SystemIdentifier)
}

func parseBegin(name string) (major int, segmentSize int64, system uint64, err error) {
	f := strings.Split(name, "-")
	if len(f) != 4 || f[0] != "begin" {
		return 0, 0, 0, fmt.Errorf("%q does not name an incarnation's beginning", name)
	}
	if major, err = strconv.Atoi(f[1]); err != nil {
		return 0, 0, 0, err
	}
	if segmentSize, err = strconv.ParseInt(f[2], 10, 64); err != nil {
		return 0, 0, 0, err
	}
	if segmentSize < 1<<20 || segmentSize > 1<<30 || segmentSize&(segmentSize-1) != 0 {
		return 0, 0, 0, fmt.Errorf("%q names an impossible segment size", name)
	}
	system, err = strconv.ParseUint(f[3], 10, 64)
	return major, segmentSize, system, err
}

func imageKey(env string, inc sandglass.IncarnationID, id sandglass.ImageID) string {
	return prefixOf(env, inc) + "image/" + string(id)
}

// bundleName is relative to the environment, because an image may share chunks with an earlier incarnation's.
func bundleName(inc sandglass.IncarnationID, id sandglass.ImageID, n int) string {
	return fmt.Sprintf("%s/bundle/%s/%06d", inc, id, n)
}

// walKey is the key of a segment ("wal") or of its index ("index"): 256 or fewer segments share a folder.
func walKey(kind, env string, inc sandglass.IncarnationID, segment string) string {
	return prefixOf(env, inc) + kind + "/" + segment[:8] + "/" + segment[8:16] + "/" + segment
}

func historyKey(env string, inc sandglass.IncarnationID, tli sandglass.TimelineID) string {
	return prefixOf(env, inc) + "history/" + tli.HistoryFileName()
}

func partPrefix(env string, inc sandglass.IncarnationID, segment string) string {
	return prefixOf(env, inc) + "part/" + segment + "."
}

// partName is what the name of a part says.
type partName struct {
	segment  string
	from, to sandglass.LSN
	beat     int64  // newest beat, microseconds since 1970; 0: none
	head     string // first half of the digest of its head, hexadecimal: parts with other beats have other names
}

func (p partName) key(env string, inc sandglass.IncarnationID) string {
	return fmt.Sprintf("%s%016X-%s", p.sameWAL(env, inc), uint64(p.beat), p.head)
}

// sameWAL begins the keys of all parts with the same stretch of WAL.
func (p partName) sameWAL(env string, inc sandglass.IncarnationID) string {
	return fmt.Sprintf("%s%016X-%016X-", partPrefix(env, inc, p.segment), uint64(p.from), uint64(p.to))
}

func parsePart(name string) (partName, error) {
	segment, rest, _ := strings.Cut(name, ".")
	f := strings.Split(rest, "-")
	if len(segment) != 24 || len(f) != 4 {
		return partName{}, fmt.Errorf("%q does not name a part", name)
	}
	var v [3]uint64
	for i := range v {
		var err error
		if v[i], err = strconv.ParseUint(f[i], 16, 64); err != nil {
			return partName{}, fmt.Errorf("%q does not name a part: %w", name, err)
		}
	}
	return partName{segment, sandglass.LSN(v[0]), sandglass.LSN(v[1]), int64(v[2]), f[3]}, nil
}

// baseName is what follows the key's last slash.
func baseName(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// validID refuses what could not be a part of a key.
func validID(kind, id string) error {
	if id == "" || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || id[0] == '-' {
		return fmt.Errorf("%q can't be the name of %s", id, kind)
	}
	return nil
}

const idTime = "20060102t150405"

// idBegan is the time in an id made by the clock of the host that chose it; zero when there is none.
func idBegan(id string) time.Time {
	if len(id) < len(idTime) {
		return time.Time{}
	}
	t, err := time.Parse(idTime, id[:len(idTime)])
	if err != nil {
		return time.Time{}
	}
	return t
}
