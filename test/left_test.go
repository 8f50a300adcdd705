package test

// This file is what an operation, however it ended, must not leave on a host: volumes, servers and other processes, namespaces,
// mounts, shared memory, locks, slots.

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
)

// advisoryLocks are those of the metadata database, held or waited for.
const advisoryLocks = `SELECT coalesce(string_agg(format('%s/%s %s', classid, objid, granted), ', ' ORDER BY classid, objid, granted), '')
	FROM pg_locks WHERE locktype = 'advisory'`

// nothingLeft checks that there is no orphan.
func (c *crashSite) nothingLeft(t *testing.T) {
	t.Helper()
	c.noVolumeLeft(t)
	c.noProcessLeft(t)
	if mounts := pgtest.MountsOf(c.Dir); len(mounts) > 0 {
		t.Errorf("mounts are left: %v", mounts)
	}
	if left := c.memory.left(t); len(left) > 0 {
		t.Errorf("shared memory of dead servers is left: %v", left)
	}
	// A recorder may just be beginning anew, after `serve` was started.
	var locks string
	err := wait(t.Context(), 30*time.Second, "the advisory locks to be those of a quiet serve", func() bool {
		locks = metadata(t, c.System, advisoryLocks)
		return locks == c.locks
	})
	if err != nil {
		t.Errorf("%v: %s; before: %s", err, locks, c.locks)
	}
	if got := c.prod.Query(t, "postgres", "SELECT string_agg(slot_name::text, ',') FROM pg_replication_slots"); got != c.slot {
		t.Errorf("production's slots are %q, want %q", got, c.slot)
	}
	if got := c.prod.Query(t, "postgres", whoAmI); got != c.fromProd {
		t.Errorf("production is %q", got)
	}
}

func (c *crashSite) noVolumeLeft(t *testing.T) {
	t.Helper()
	known, err := c.Client.Volumes(t.Context(), "")
	must(t, err)
	var ids []string
	for _, v := range known {
		switch v.State {
		case sandglass.VolumeCurrent, sandglass.VolumeKept:
			ids = append(ids, v.ID)
		case sandglass.VolumeStaging:
			t.Errorf("volume %s is still staging", v.ID)
		}
	}
	entries, err := os.ReadDir(filepath.Join(c.State(), "volumes"))
	must(t, err)
	for _, e := range entries {
		if !slices.Contains(ids, e.Name()) {
			t.Errorf("the folder of volume %s is left over", e.Name())
		}
	}
}

// noProcessLeft allows `serve` and so many servers, all of them in the network of the host.
func (c *crashSite) noProcessLeft(t *testing.T) {
	t.Helper()
	if servers := pgtest.Postmasters(c.Dir); len(servers) != c.servers {
		t.Errorf("%d PostgreSQL servers run, want %d: %v", len(servers), c.servers, pgtest.ProcessesOf(c.Dir))
	}
	host, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	for _, p := range pgtest.ProcessesOf(c.Dir) {
		if name := filepath.Base(p.Argv[0]); p.PID != c.PID() && !strings.HasPrefix(name, "postgres") {
			t.Errorf("a process is left: %s", p)
		}
		net, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.PID), "ns", "net"))
		if err == nil && net != host { // else it has just ended
			t.Errorf("a process in a network of its own is left: %s", p)
		}
	}
}

// sharedMemory is what the servers of a folder have had: a dead server's is nobody's any more, so it must be seen while it lives.
type sharedMemory struct {
	dir string

	mu       sync.Mutex
	servers  map[int]bool    // postmasters that have run, which make the System V segment
	segments map[string]bool // POSIX segments that they mapped, by path; none, as dynamic_shared_memory_type is mmap
}

// watchSharedMemory looks at the servers of a folder until the test ends. One that lives for less than the interval may be missed;
// those of a restore take longer to recover.
func watchSharedMemory(t *testing.T, dir string) *sharedMemory {
	m := &sharedMemory{dir: dir, servers: map[int]bool{}, segments: map[string]bool{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-t.Context().Done():
				tick.Stop()
				return
			case <-tick.C:
				m.look()
			}
		}
	}()
	t.Cleanup(func() { <-done }) // the context of a test ends before its cleanups
	return m
}

// look notes what the running servers have, and gives it.
func (m *sharedMemory) look() (servers []int, mapped map[string]bool) {
	servers, mapped = pgtest.Postmasters(m.dir), map[string]bool{}
	for _, pid := range servers {
		maps, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "maps")) // none: it has just ended
		for line := range strings.Lines(string(maps)) {
			if f := strings.Fields(line); len(f) > 5 && strings.HasPrefix(f[5], "/dev/shm/PostgreSQL.") {
				mapped[f[5]] = true
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, pid := range servers {
		m.servers[pid] = true
	}
	for path := range mapped {
		m.segments[path] = true
	}
	return servers, mapped
}

// left are the segments of servers that have ended.
func (m *sharedMemory) left(t *testing.T) (left []string) {
	t.Helper()
	servers, mapped := m.look()
	m.mu.Lock()
	defer m.mu.Unlock()
	for path := range m.segments {
		if _, err := os.Stat(path); mapped[path] || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		left = append(left, path)
	}
	b, err := os.ReadFile("/proc/sysvipc/shm") // key shmid perms size cpid ..., under a heading
	must(t, err)
	seen := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		switch {
		case err != nil || !m.servers[pid]: // the heading, or not ours
		case slices.Contains(servers, pid):
			seen++
		default:
			left = append(left, "System V "+f[1]+" of "+f[4])
		}
	}
	if seen < len(servers) { // each has one, whatever its settings: it guards the data folder
		t.Errorf("%d servers have only %d System V segments: the watch is blind", len(servers), seen)
	}
	return left
}
