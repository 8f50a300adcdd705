// The client binary against a server, with sources that are slow, empty or broken.

package walserve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/walserve"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == walserve.ClientCommand {
		os.Exit(walserve.ClientMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "stranger" {
		stranger(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stranger asks, and prints what it is told.
func stranger(socket string) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Print(err)
		return
	}
	c.Write([]byte("000000010000000000000001\n"))
	if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
		fmt.Print(line)
		return
	}
	fmt.Print("nothing")
}

const segmentSize = 1 << 20

// source holds segments 1 to last of timeline 1, each half full, and the history of timeline 2.
type source struct {
	last sandglass.SegmentNo
	mu   sync.Mutex
	asks []string
	fail map[string]int // how often a name fails
	gate chan struct{}  // if set, each fetch waits for it
}

func (s *source) Fetch(ctx context.Context, name, dst string) (bool, error) {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	s.mu.Lock()
	s.asks = append(s.asks, name)
	fail := s.fail[name] > 0
	s.fail[name]--
	s.mu.Unlock()
	if fail {
		os.WriteFile(dst, []byte("half"), 0o600)
		return false, errors.New("out\nof order")
	}
	if name == "00000002.history" {
		return true, os.WriteFile(dst, []byte("1\t0/300000\tno reason\n"), 0o600)
	}
	tli, seg, err := sandglass.ParseSegmentName(name, segmentSize)
	if err != nil || tli != 1 || seg > s.last {
		return false, nil
	}
	return true, os.WriteFile(dst, []byte(strings.Repeat(name[23:], segmentSize/2)), 0o600)
}

func (s *source) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.asks...)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sg")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func listen(t *testing.T, dir string, s walserve.Source, change func(*walserve.Options)) *walserve.Server {
	t.Helper()
	o := walserve.Options{Socket: filepath.Join(dir, "s"), Dir: filepath.Join(dir, "wal"), SegmentSize: segmentSize,
		UID: os.Geteuid(), GID: os.Getegid(), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	server, err := walserve.Listen(s, o)
	must(t, err)
	t.Cleanup(func() { server.Close() })
	return server
}

// get runs restore_command as PostgreSQL does, by the shell.
func get(t *testing.T, dir, name string) (status int, content, said string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	path := filepath.Join(dir, "RECOVERYXLOG")
	os.Remove(path)
	line := strings.NewReplacer("%f", name, "%p", path, "%%", "%").Replace(walserve.RestoreCommand(self, filepath.Join(dir, "s")))
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	return cmd.ProcessState.ExitCode(), string(b), string(out)
}

// TestAnswers sees each answer as PostgreSQL gets it.
func TestAnswers(t *testing.T) {
	dir := folder(t)
	src := &source{last: 3, fail: map[string]int{"000000010000000000000003": 100}}
	listen(t, dir, src, nil)
	whole := strings.Repeat("1", segmentSize/2) + strings.Repeat("\x00", segmentSize/2)
	for _, test := range []struct {
		name    string
		status  int
		content string
		said    string
	}{
		{"000000010000000000000001", 0, whole, ""},
		{"000000010000000000000001", 0, whole, ""}, // asked again
		{"00000002.history", 0, "1\t0/300000\tno reason\n", ""},
		{"00000003.history", 1, "", ""},
		{"000000010000000000000004", 1, "", ""},
		{"000000020000000000000001", 1, "", ""},
		{"000000010000000000000003", 255, "", "out; of order"},
		{"../../etc/passwd", 255, "", "not the name"},
		{"backup_label", 255, "", "not the name"},
	} {
		status, content, said := get(t, dir, test.name)
		if status != test.status || content != test.content || !strings.Contains(said, test.said) {
			t.Errorf("%s: status %d, %d bytes, %q; want %d, %d bytes, %q", test.name, status, len(content), said, test.status, len(test.content), test.said)
		}
	}
}

// TestPrefetch sees the next segments fetched once, ahead, and none that is not needed.
func TestPrefetch(t *testing.T) {
	dir := folder(t)
	src := &source{last: 20, fail: map[string]int{"000000010000000000000003": 1}}
	listen(t, dir, src, func(o *walserve.Options) { o.Prefetch, o.Last = 3, "000000010000000000000006" })
	for _, name := range []string{"000000010000000000000001", "000000010000000000000002", "000000010000000000000003",
		"000000010000000000000004", "000000010000000000000005", "000000010000000000000006"} {
		if status, _, said := get(t, dir, name); status != 0 {
			t.Errorf("%s: status %d: %s", name, status, said)
		}
	}
	count := map[string]int{}
	for _, name := range src.asked() {
		count[name]++
		if name > "000000010000000000000006" {
			t.Errorf("%s was fetched for nothing", name)
		}
	}
	// The third failed once while nobody waited for it.
	if count["000000010000000000000002"] != 1 || count["000000010000000000000003"] != 2 || count["000000010000000000000006"] != 1 {
		t.Errorf("fetched %v", count)
	}
	left, err := os.ReadDir(filepath.Join(dir, "wal"))
	must(t, err)
	if len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// TestRestart sees that a client outlasts a restart of the worker: before it is there, and while it waits for an answer.
func TestRestart(t *testing.T) {
	dir := folder(t)
	type answer struct {
		status  int
		content string
	}
	answers := make(chan answer)
	ask := func() {
		status, content, _ := get(t, dir, "000000010000000000000001")
		answers <- answer{status, content}
	}
	go ask()
	time.Sleep(50 * time.Millisecond) // most likely it has found nobody; the test holds either way
	stuck := &source{last: 1, fail: map[string]int{}, gate: make(chan struct{})}
	first := listen(t, dir, stuck, nil)
	time.Sleep(50 * time.Millisecond)
	must(t, first.Close())
	listen(t, dir, &source{last: 1, fail: map[string]int{}}, nil)
	if a := <-answers; a.status != 0 || len(a.content) != segmentSize {
		t.Errorf("status %d, %d bytes", a.status, len(a.content))
	}
}

// TestStrangers sees that another user is not served.
func TestStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir := folder(t)
	must(t, os.Chmod(dir, 0o777))
	listen(t, dir, &source{last: 1, fail: map[string]int{}}, nil)
	must(t, os.Chmod(filepath.Join(dir, "s"), 0o777))
	self, err := os.Executable()
	must(t, err)
	b, err := os.ReadFile(self)
	must(t, err)
	copied := filepath.Join(dir, "stranger")
	must(t, os.WriteFile(copied, b, 0o755))
	cmd := exec.CommandContext(t.Context(), copied, "stranger", filepath.Join(dir, "s"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "nothing" {
		t.Errorf("%v: a stranger got %q", err, out)
	}
}
