package test

// This file is what an operation, however it ended, must not leave on a host: volumes, servers and other processes, namespaces,
// mounts, shared memory, locks, slots.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// sharedMemory is what the servers of a folder's volumes have had: a dead server's is nobody's any more, so the folder it was
// for must be seen while it is there.
type sharedMemory struct {
	volumes string

	mu sync.Mutex
	// keys are those of the data folders that were there: PostgreSQL makes the key of its System V segment of the
	// folder's inode (PGSharedMemoryCreate in port/sysv_shmem.c).
	keys map[int32]string
}

// watchSharedMemory looks at the folder until the test ends.
func watchSharedMemory(t *testing.T, volumes string) *sharedMemory {
	m := &sharedMemory{volumes: volumes, keys: map[int32]string{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
				m.look()
			}
		}
	}()
	t.Cleanup(func() { <-done }) // the context of a test ends before its cleanups
	return m
}

// look notes the keys of the data folders that are there.
func (m *sharedMemory) look() {
	data, _ := filepath.Glob(filepath.Join(m.volumes, "*", "data"))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, path := range data {
		if info, err := os.Stat(path); err == nil {
			m.keys[int32(info.Sys().(*syscall.Stat_t).Ino)] = path
		}
	}
}

// left are the segments that nobody is attached to any more.
func (m *sharedMemory) left(t *testing.T) (left []string) {
	t.Helper()
	servers := pgtest.Postmasters(m.volumes)
	for _, pid := range servers {
		// With dynamic_shared_memory_type=mmap there is none in /dev/shm that a killed server could leave.
		maps, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "maps")) // none: it has just ended
		if strings.Contains(string(maps), "/dev/shm/PostgreSQL.") {
			t.Errorf("the server %d has POSIX shared memory", pid)
		}
	}
	m.look()
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := os.ReadFile("/proc/sysvipc/shm") // key shmid perms size cpid lpid nattch ..., under a heading
	must(t, err)
	seen := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		key, err := strconv.ParseInt(f[0], 10, 64)
		data := m.keys[int32(key)]
		switch {
		case err != nil || data == "": // the heading, or not ours
		case f[6] == "0":
			left = append(left, fmt.Sprintf("the System V segment %s of %s", f[1], data))
		default:
			seen++
		}
	}
	if seen < len(servers) { // each has one, whatever its settings: it guards the data folder
		t.Errorf("%d servers have only %d System V segments: the watch is blind", len(servers), seen)
	}
	return left
}
