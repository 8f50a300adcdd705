// Package pgtest runs private, real PostgreSQL clusters: productions for the tests, the
// benchmarks and the demo. It knows nothing of Sandglass but the way a production is
// prepared for recording, so that a test of Sandglass never rests on Sandglass itself.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// TB is what pgtest needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Failed() bool
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// Options describe a cluster. The zero value is a production ready to be recorded: wal_level
// replica, slots, a bounded max_slot_wal_keep_size, TCP on 127.0.0.1 and a Unix socket.
type Options struct {
	Major    int               // of PostgreSQL; 0: the newest installed
	Dir      string            // of the cluster; "": a new short one under /tmp
	Port     int               // 0: a free one
	Settings map[string]string // win over the defaults
	HBA      []string          // lines placed before the defaults
	InitDB   []string          // further arguments of initdb, such as --wal-segsize=1
	Durable  bool              // fsync=on; off otherwise, for speed (a killed process loses nothing, a killed machine does)
	Detached bool              // outlives this process; otherwise the kernel ends it with us
}

// Superuser is the bootstrap superuser of every cluster; it has no password and may connect over the Unix socket only.
const Superuser = "postgres"

// New starts a cluster for a test and removes it at the test's end; the server's log is shown if the test failed.
func New(t TB, o Options) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", c.Dir, tail(c.Log(), 4000))
		}
		if err := c.Remove(); err != nil {
			t.Fatalf("remove PostgreSQL: %v", err)
		}
	})
	return c
}

// Start makes a cluster as o says and starts it. The caller owns it: Stop or Remove it.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	bin, major, err := Binaries(o.Major)
	if err != nil {
		return nil, err
	}
	owner, err := serverOwner()
	if err != nil {
		return nil, err
	}
	dir := o.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("/tmp", "sg"); err != nil {
			return nil, err
		}
	}
	c := &Cluster{Dir: dir, Bin: bin, Major: major, Port: o.Port, owner: owner, detached: o.Detached}
	if err := c.make(ctx, o); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		err = fmt.Errorf("%w; its log ends with:\n%s", err, tail(c.Log(), 2000))
		os.RemoveAll(dir)
		return nil, err
	}
	return c, nil
}

func (c *Cluster) make(ctx context.Context, o Options) error {
	for _, d := range []string{c.Dir, c.Socket()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := c.owner.own(d); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	if c.Port == 0 {
		port, err := FreePort()
		if err != nil {
			return err
		}
		c.Port = port
	}
	if err := c.fromTemplate(ctx, o.InitDB); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	settings := map[string]string{
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(c.Port), "unix_socket_directories": c.Socket(),
		"max_connections": "60", "shared_buffers": "64MB", "max_wal_senders": "8", "max_replication_slots": "8",
		"max_slot_wal_keep_size": "2GB", "log_line_prefix": "%m [%p] %a ", "timezone": "UTC", "log_timezone": "UTC",
	}
	if !o.Durable {
		settings["fsync"] = "off"
	}
	maps.Copy(settings, o.Settings)
	var conf strings.Builder
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", k, strings.ReplaceAll(settings[k], "'", "''"))
	}
	if err := c.owner.write(filepath.Join(c.Data(), "postgresql.conf"), conf.String()); err != nil {
		return err
	}
	hba := append(slices.Clone(o.HBA),
		"local all,replication "+Superuser+" trust",
		"local all,replication all scram-sha-256",
		"host all,replication all 127.0.0.1/32 scram-sha-256", "")
	return c.owner.write(filepath.Join(c.Data(), "pg_hba.conf"), strings.Join(hba, "\n"))
}

// Binaries finds the folder of PostgreSQL's programs: of the major asked for, or of the newest installed.
func Binaries(major int) (dir string, found int, err error) {
	var patterns []string
	if s := os.Getenv("SANDGLASS_PG_BIN"); s != "" {
		patterns = append(patterns, s)
	}
	patterns = append(patterns, "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql@*/bin")
	for _, p := range patterns {
		match, err := filepath.Glob(p)
		if err != nil {
			return "", 0, err
		}
		for _, m := range match {
			v := majorOf(m)
			if v > found && (major == 0 || v == major) {
				dir, found = m, v
			}
		}
	}
	if dir == "" {
		return "", 0, fmt.Errorf("no PostgreSQL server programs found (major %d, 0 is any); run: make install-postgres", major)
	}
	return dir, found, nil
}

// majorOf asks the postgres program of a folder for its major; 0 if there is none.
func majorOf(bin string) int {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	f := strings.Fields(string(out)) // postgres (PostgreSQL) 15.14 (Debian ...)
	if len(f) < 3 {
		return 0
	}
	text, _, _ := strings.Cut(f[2], ".")
	n, _ := strconv.Atoi(strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz0"))
	return n
}

// FreePort is a TCP port that nobody listens on, and that no other caller on this machine is given while this process lives. It
// lies below those that the kernel gives to outgoing connections (net.ipv4.ip_local_port_range), so that none of them takes it.
func FreePort() (int, error) {
	for range 1000 {
		port := 15000 + rand.IntN(15000)
		// A name in the abstract namespace of Unix sockets is gone with its process (unix(7)).
		held, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		if unix.Bind(held, &unix.SockaddrUnix{Name: fmt.Sprintf("@sandglass-test-port-%d", port)}) == nil {
			if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
				return port, l.Close()
			}
		}
		if err := unix.Close(held); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
	}
	return 0, errors.New("find a free port: none of 1000 is")
}

func tail(s string, n int) string {
	if len(s) > n {
		s = s[len(s)-n:]
	}
	return s
}

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	pollEvery    = 20 * time.Millisecond
)
