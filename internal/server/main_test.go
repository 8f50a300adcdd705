// What the tests share: the test binary is its own helper, and a production to copy.

package server_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/server"
	"sandglass/internal/volume"
	"sandglass/internal/walserve"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case server.SealCommand:
			os.Exit(server.SealMain(os.Args[2:]))
		case walserve.ClientCommand:
			os.Exit(walserve.ClientMain(os.Args[2:]))
		case "beside":
			os.Exit(beside(os.Args[2], os.Args[3], os.Args[4]))
		}
	}
	status := m.Run()
	if template.dir != "" {
		os.RemoveAll(template.dir)
	}
	os.Exit(status)
}

// template is a cluster made once, which newCluster copies.
var template struct {
	sync.Once
	dir string
}

// tempDir is a short folder that the server's user can reach.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sg")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func owner(t *testing.T) server.Owner {
	t.Helper()
	o, err := server.ServerOwner("")
	must(t, err)
	return o
}

// volumeOwner is whose a volume is: as root, a user's without an account.
func volumeOwner(t *testing.T) server.Owner {
	t.Helper()
	if os.Geteuid() != 0 {
		return owner(t)
	}
	running := server.RunningUIDs()
	uid, err := server.DefaultUIDs.Choose(nil, func(uid int) bool { return running[uid] || server.HasAccount(uid) })
	must(t, err)
	return server.UIDOwner(uid)
}

// helper is a copy of the test binary that the server's user can run.
func helper(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	path := filepath.Join(dir, "sandglass")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	b, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o755))
	return path
}

// major is the PostgreSQL the tests run with: the newest found, unless a test names another.
func binaries(t *testing.T) server.Binaries {
	t.Helper()
	var extra []string
	if dir := os.Getenv("SANDGLASS_TEST_BINARIES"); dir != "" {
		extra = append(extra, dir)
	}
	found, err := server.Look(extra...).Find(testContext(t))
	must(t, err)
	if len(extra) > 0 {
		for _, b := range found {
			if b.Dir == extra[0] {
				return b
			}
		}
		t.Fatalf("nothing in %s", extra[0])
	}
	for major := server.MaxMajor; major >= server.MinMajor; major-- {
		if b, ok := found[major]; ok {
			return b
		}
	}
	pgtest.Missing(t, "a PostgreSQL server")
	return server.Binaries{}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// newCluster makes and starts a cluster, ended with the test.
func newCluster(t *testing.T, dir string, settings map[string]string) (server.Config, *server.Postmaster) {
	t.Helper()
	ctx := testContext(t)
	must(t, os.MkdirAll(dir, 0o711))
	c := server.Config{Binaries: binaries(t), Owner: owner(t), Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Log: filepath.Join(dir, "log"),
		Settings: map[string]string{"listen_addresses": "", "fsync": "off", "shared_buffers": "16MB", "wal_level": "logical", "wal_keep_size": "512MB", "dynamic_shared_memory_type": "mmap"}}
	for k, v := range settings {
		c.Settings[k] = v
	}
	template.Do(func() {
		dir, err := os.MkdirTemp("/tmp", "sg")
		must(t, err)
		template.dir = dir
		must(t, os.Chmod(dir, 0o711))
		made := c
		made.Data = filepath.Join(dir, "data")
		must(t, server.InitDB(ctx, made, server.InitOptions{}))
	})
	copyTree(t, filepath.Join(template.dir, "data"), c.Data)
	return c, start(t, c)
}

// start starts a server, waits until it is ready, and ends it with the test.
func start(t *testing.T, c server.Config) *server.Postmaster {
	t.Helper()
	p, err := server.Start(testContext(t), c)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		p.Close()
		if err := server.Discard(context.Background(), c); err != nil {
			t.Errorf("discard: %v", err)
		}
	})
	if err := p.Ready(testContext(t)); err != nil {
		t.Fatalf("ready: %v", err)
	}
	return p
}

func connect(t *testing.T, c server.Config, database string) *pgx.Conn {
	t.Helper()
	conn, err := server.Connect(testContext(t), c, database)
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(testContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func ask[T any](t *testing.T, c *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRow(testContext(t), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// takeImage takes an image with the functions for it, so that no client tool of each major is needed: the files
// while the server runs, then the label and the map of tablespaces.
func takeImage(t *testing.T, c server.Config, dir string) image {
	t.Helper()
	conn := connect(t, c, "postgres")
	defer conn.Close(context.Background())
	begin, end := "pg_backup_start('test', true)", "pg_backup_stop(false)"
	if c.Binaries.Major < 15 {
		begin, end = "pg_start_backup('test', true, false)", "pg_stop_backup(false, false)"
	}
	run(t, conn, "SELECT "+begin)
	must(t, os.MkdirAll(filepath.Join(dir, "tablespaces"), 0o700))
	copyTree(t, c.Data, filepath.Join(dir, "base"))
	links, err := filepath.Glob(filepath.Join(c.Data, "pg_tblspc/*"))
	must(t, err)
	for _, link := range links {
		copyTree(t, link+"/.", filepath.Join(dir, "tablespaces", filepath.Base(link)))
	}
	var label, spaces string
	must(t, conn.QueryRow(testContext(t), "SELECT labelfile, spcmapfile FROM "+end).Scan(&label, &spaces))
	must(t, os.WriteFile(filepath.Join(dir, "base/backup_label"), []byte(label), 0o600))
	if spaces != "" {
		must(t, os.WriteFile(filepath.Join(dir, "base/tablespace_map"), []byte(spaces), 0o600))
	}
	for _, name := range []string{"pg_wal", "postmaster.pid", "postmaster.opts"} {
		must(t, os.RemoveAll(filepath.Join(dir, "base", name)))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "base/pg_wal/archive_status"), 0o700))
	return image(dir)
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(testContext(t), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// image is a folder of copied files, as a volume.Source.
type image string

func (i image) Bytes() int64 { return 0 }

func (i image) Restore(ctx context.Context, root string, tablespace func(string) string, progress func(int64)) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(string(i), "base")+"/.", root).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	spaces, err := os.ReadDir(filepath.Join(string(i), "tablespaces"))
	if err != nil {
		return err
	}
	for _, s := range spaces {
		if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(string(i), "tablespaces", s.Name()), tablespace(s.Name())).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// walFolder is a production's pg_wal as a source of WAL.
type walFolder string

func (w walFolder) Fetch(ctx context.Context, name, dst string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(string(w), name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(dst, b, 0o600)
}

// copyOf is a volume made of an image of production, with a restore_command server for it.
type copyOf struct {
	config server.Config
	layout volume.Layout
	driver *volume.Full
	id     string
}

func newCopy(t *testing.T, dir string, i image, wal walserve.Source) copyOf {
	t.Helper()
	o := volumeOwner(t)
	log := slog.New(slog.DiscardHandler)
	d := volume.NewFull(filepath.Join(dir, "volumes"), log)
	must(t, os.MkdirAll(filepath.Join(dir, "volumes"), 0o711))
	id := fmt.Sprintf("v%d", time.Now().UnixNano()%1e6)
	must(t, d.Create(testContext(t), id, volume.Owner{UID: o.UID, GID: o.GID}, i, func(int64) {}))
	l := d.Layout(id)
	s, err := walserve.Listen(wal, walserve.Options{Socket: filepath.Join(l.Run, "wal.sock"), Dir: filepath.Join(l.Run, "wal"), UID: o.UID, GID: o.GID, Log: log})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	c := server.Config{Binaries: binaries(t), Owner: o, Data: l.Data, Run: l.Run, Log: filepath.Join(l.Log, "postgresql.log"), Helper: helper(t, dir),
		Seal: &server.Seal{Volume: l.Root}}
	return copyOf{config: c, layout: l, driver: d, id: id}
}

// recover prepares the copy to replay up to stop.
func (c *copyOf) recoverTo(t *testing.T, stop sandglass.LSN) {
	t.Helper()
	c.config.Settings = server.RecoverySettings(c.config.Binaries.Major, server.Recovery{
		Range:          sandglass.Range{Timeline: 1, From: stop, Stop: stop},
		RestoreCommand: walserve.RestoreCommand(c.config.Helper, filepath.Join(c.layout.Run, "wal.sock")),
	})
	must(t, server.PrepareRecovery(c.config))
}
