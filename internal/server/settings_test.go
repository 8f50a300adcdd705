// The settings of each kind of server, taken by a real one, and those refused.

package server_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/server"
)

// TestSettingsAreTaken starts a server with the settings of each kind.
func TestSettingsAreTaken(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	major := c.Binaries.Major
	min := sandglass.Parameters{MaxConnections: 150, MaxPreparedXacts: 7, MaxLocksPerXact: 128, MaxWALSenders: 12}
	sandbox, err := server.SandboxSettings(major, sandglass.Server{Port: 1, Listen: "127.0.0.1", Settings: map[string]string{
		"work_mem": "9MB", "Application_Name": `it's \here`, "myapp.setting": "x", "max_connections": "33"}}, min)
	must(t, err)
	for _, test := range []struct {
		kind     string
		settings map[string]string
		want     map[string]string
	}{
		{"meta", server.MetaSettings(major), map[string]string{"listen_addresses": ""}},
		{"staging", server.StagingSettings(major, min, nil), map[string]string{"max_connections": "150", "max_prepared_transactions": "7", "autovacuum": "off", "listen_addresses": "localhost"}},
		{"sandbox", sandbox, map[string]string{"work_mem": "9MB", "application_name": server.Role, "myapp.setting": "x", "max_connections": "33", "listen_addresses": "127.0.0.1"}},
	} {
		t.Run(test.kind, func(t *testing.T) {
			c := c
			c.Settings, c.Port = test.settings, freePort(t)
			p := start(t, c)
			conn := connect(t, c, "postgres")
			for name, want := range test.want {
				if got := ask[string](t, conn, "SELECT current_setting($1)", name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			conn.Close(testContext(t))
			must(t, p.Stop(testContext(t), server.Fast))
		})
	}
}

// TestSettingsRefused names what a declaration may not set.
func TestSettingsRefused(t *testing.T) {
	for name, value := range map[string]string{"archive_mode": "on", "ARCHIVE_COMMAND": "cp", "listen_addresses": "*", "data_directory": "/", "recovery_target_time": "now",
		"wal_level": "minimal", "unix_socket_directories": "/tmp", "primary_conninfo": "x", "synchronous_standby_names": "*", "a b": "c", "x = 'y'\narchive_mode": "on", "include": "/etc/passwd", "include_dir": "/etc"} {
		_, err := server.SandboxSettings(15, sandglass.Server{Settings: map[string]string{name: value}}, sandglass.Parameters{})
		if sandglass.CodeOf(err) != sandglass.CodeConfig || !strings.Contains(sandglass.AsError(err).Message, strings.ToLower(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := server.SandboxSettings(15, sandglass.Server{Settings: map[string]string{"wal_level": "logical"}}, sandglass.Parameters{})
	if err != nil || s["wal_level"] != "logical" {
		t.Errorf("wal_level = logical: %v, %v", s, err)
	}
}

// TestRecoverySettings sees that the minimums of image and range meet, and the target is pinned.
func TestRecoverySettings(t *testing.T) {
	for major := server.MinMajor; major <= server.MaxMajor; major++ {
		s := server.RecoverySettings(major, server.Recovery{
			Range:    sandglass.Range{Timeline: 3, Stop: 0x1_0000_0028, Minimums: sandglass.Parameters{MaxConnections: 500, MaxPreparedXacts: 3}},
			Minimums: sandglass.Parameters{MaxConnections: 100, MaxPreparedXacts: 9}, MaxSlots: 100, RestoreCommand: "x"})
		for name, want := range map[string]string{"max_connections": "500", "max_prepared_transactions": "9", "recovery_target_lsn": "1/28", "recovery_target_timeline": "3",
			"hot_standby": "off", "max_worker_processes": "0", "archive_mode": "off", "max_replication_slots": "100"} {
			if s[name] != want {
				t.Errorf("%d: %s = %q, want %q", major, name, s[name], want)
			}
		}
		for name, since := range map[string]int{"event_triggers": 17, "sync_replication_slots": 17, "max_active_replication_origins": 18, "io_method": 18, "log_startup_progress_interval": 15} {
			if _, ok := s[name]; ok != (major >= since) {
				t.Errorf("%d: %s is there: %t", major, name, ok)
			}
		}
	}
}

// TestConfigOnly runs without namespaces only where that was accepted.
func TestConfigOnly(t *testing.T) {
	dir := tempDir(t)
	c, p := newCluster(t, dir, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	c.Seal, c.Helper = &server.Seal{Volume: dir}, filepath.Join(dir, "missing")
	c.Settings["listen_addresses"] = "*"
	if _, err := server.Start(testContext(t), c); sandglass.CodeOf(err) != sandglass.CodeSealNamespace {
		t.Errorf("start said %v, want %s", err, sandglass.CodeSealNamespace)
	}
	c.Seal.ConfigOnly = true
	p = start(t, c)
	if p.Sealed() {
		t.Error("it claims to be sealed")
	}
	if got := ask[string](t, connect(t, c, "postgres"), "SELECT current_setting('listen_addresses')"); got != "" {
		t.Errorf("it listens on %q", got)
	}
}

// TestSealedLife goes through what a restore does: sealed with a loopback of its own, adopted while it starts, stopped, and opened.
func TestSealedLife(t *testing.T) {
	dir := tempDir(t)
	root := filepath.Join(dir, "v")
	open, p := newCluster(t, root, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	// The state folder may be reached over a symbolic link.
	link := filepath.Join(dir, "l")
	must(t, os.Symlink(root, link))
	c := open
	c.Data, c.Run, c.Log = filepath.Join(link, "data"), filepath.Join(link, "run"), filepath.Join(link, "log")
	c.Seal, c.Helper = &server.Seal{Volume: link, Loopback: true}, helper(t, dir)
	c.Settings = server.StagingSettings(c.Binaries.Major, sandglass.Parameters{}, nil)
	first, err := server.Start(testContext(t), c)
	must(t, err)
	first.Close() // the keeper is killed before postmaster.pid is written
	p, err = server.Adopt(testContext(t), c)
	must(t, err)
	t.Cleanup(func() { server.Discard(context.Background(), c) })
	if p.PID() != first.PID() || !p.Sealed() {
		t.Errorf("adopted %d, sealed %t", p.PID(), p.Sealed())
	}
	must(t, p.Ready(testContext(t)))
	conn := connect(t, c, "postgres")
	if got := ask[string](t, conn, "SELECT current_setting('listen_addresses')"); got != "127.0.0.1" {
		t.Errorf("listens on %q", got)
	}
	dev, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/net/tcp")
	must(t, err)
	if !strings.Contains(string(dev), "0100007F:1538") { // 127.0.0.1:5432, of its own
		t.Errorf("nothing listens on the namespace's loopback: %s", dev)
	}
	if _, err := server.Adopt(testContext(t), open); err == nil {
		t.Error("a sealed server was adopted as an open one")
	}
	whatever, err := server.Adopt(testContext(t), server.Config{Data: c.Data, Run: c.Run, Owner: c.Owner})
	must(t, err)
	whatever.Close()
	conn.Close(testContext(t))
	must(t, p.Stop(testContext(t), server.Fast))
	settings, err := server.SandboxSettings(c.Binaries.Major, sandglass.Server{}, sandglass.Parameters{})
	must(t, err)
	open.Settings = settings
	open.Port = freePort(t)
	p = start(t, open)
	if p.Sealed() {
		t.Error("the opened server is sealed")
	}
}

// TestReplayed watches a recovery that waits for WAL, over a restart of its keeper.
func TestReplayed(t *testing.T) {
	dir := tempDir(t)
	prod, _ := newCluster(t, filepath.Join(dir, "p"), nil)
	conn := connect(t, prod, "postgres")
	i := takeImage(t, prod, filepath.Join(dir, "image"))
	for range 3 {
		run(t, conn, "CREATE TABLE IF NOT EXISTS public.t (n int)")
		run(t, conn, "INSERT INTO public.t SELECT generate_series(1, 100000)")
		run(t, conn, "SELECT pg_switch_wal()")
	}
	lsn := mark(t, conn)
	src := &slow{walFolder: walFolder(filepath.Join(prod.Data, "pg_wal")), from: sandglass.SegmentName(1, lsn.Segment(sandglass.DefaultSegmentSize)-1, sandglass.DefaultSegmentSize), gate: make(chan struct{})}
	c := newCopy(t, dir, i, src)
	c.recoverTo(t, lsn)
	first, err := server.Start(testContext(t), c.config)
	must(t, err)
	first.Close()
	p, err := server.Adopt(testContext(t), c.config)
	must(t, err)
	t.Cleanup(func() { server.Discard(context.Background(), c.config) })
	waiting := lsn.Segment(sandglass.DefaultSegmentSize) - 2
	deadline := time.Now().Add(20 * time.Second)
	for {
		at, ok := p.Replayed(sandglass.DefaultSegmentSize)
		if ok && at >= waiting.Start(sandglass.DefaultSegmentSize) && at < lsn {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("replay is said to be at %s, %t; want segment %d", at, ok, waiting)
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(src.gate)
	must(t, p.Ready(testContext(t)))
	end, err := server.Recovered(c.config)
	if err != nil || end.Last != lsn {
		t.Errorf("recovery ended at %v, %v; want %s", end, err, lsn)
	}
	if got := ask[int](t, connect(t, c.config, "postgres"), "SELECT count(*)::int FROM public.t"); got != 300000 {
		t.Errorf("%d rows", got)
	}
	if _, ok := p.Replayed(sandglass.DefaultSegmentSize); ok {
		t.Error("it is said to replay after the end")
	}
}

// slow is a source that holds back the segments from one on.
type slow struct {
	walFolder
	from string
	gate chan struct{}
}

func (s *slow) Fetch(ctx context.Context, name, dst string) (bool, error) {
	if len(name) == len(s.from) && name >= s.from {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return false, errors.New("ended")
		}
	}
	return s.walFolder.Fetch(ctx, name, dst)
}
