package server_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/server"
)

func TestChooseUID(t *testing.T) {
	r := server.UIDs{First: 5000, Last: 5003}
	now := time.Now()
	given := func(ages ...time.Duration) map[int]time.Time {
		all := map[int]time.Time{}
		for i, age := range ages {
			if age != 0 {
				all[r.First+i] = now.Add(-age)
			}
		}
		return all
	}
	for _, row := range []struct {
		what  string
		given map[int]time.Time
		taken []int
		want  int // 0: none is left
	}{
		{"the first", nil, nil, 5000},
		{"taken ones are left out", nil, []int{5000, 5002}, 5001},
		{"what no volume had comes first", given(time.Hour, 0, time.Minute, 0), nil, 5001},
		{"then what was given longest ago", given(3*time.Hour, 4*time.Hour, time.Hour, 2*time.Hour), nil, 5001},
		{"but not what is taken", given(3*time.Hour, 4*time.Hour, time.Hour, 2*time.Hour), []int{5001}, 5000},
		{"the only one left", given(3*time.Hour, 4*time.Hour, time.Hour, 2*time.Hour), []int{5000, 5001, 5003}, 5002},
		{"those outside the range mean nothing", map[int]time.Time{4999: now, 5004: now}, []int{4999, 5004}, 5000},
		{"used up", given(time.Hour), []int{5000, 5001, 5002, 5003}, 0},
	} {
		got, err := r.Choose(row.given, func(uid int) bool {
			for _, one := range row.taken {
				if one == uid {
					return true
				}
			}
			return false
		})
		if got != row.want || (err != nil) != (row.want == 0) || err != nil && sandglass.CodeOf(err) != server.CodeNoUID {
			t.Errorf("%s: %d, %v; want %d", row.what, got, err, row.want)
		}
	}
	if _, err := (server.UIDs{}).Choose(nil, func(int) bool { return false }); sandglass.CodeOf(err) != server.CodeNoUID {
		t.Errorf("the empty range: %v", err)
	}
}

// TestTakenUIDs: an ID that a user, a group or a running program of the host has is never chosen.
func TestTakenUIDs(t *testing.T) {
	self := os.Geteuid()
	if !server.HasAccount(self) || !server.RunningUIDs()[self] {
		t.Errorf("our own ID %d has no account, or nothing runs as it", self)
	}
	users, err := os.ReadFile("/etc/passwd")
	must(t, err)
	groups, err := os.ReadFile("/etc/group")
	must(t, err)
	seen := 0
	for _, line := range strings.Split(string(users)+string(groups), "\n") {
		if f := strings.Split(line, ":"); len(f) > 2 {
			id, err := strconv.Atoi(f[2])
			must(t, err)
			seen++
			if !server.HasAccount(id) {
				t.Errorf("%d is taken for free: %s", id, line)
			}
			if _, err := (server.UIDs{First: id, Last: id}).Choose(nil, server.HasAccount); sandglass.CodeOf(err) != server.CodeNoUID {
				t.Errorf("%d was chosen: %s", id, line)
			}
		}
	}
	if seen == 0 {
		t.Error("the host has no accounts")
	}
	if os.Geteuid() != 0 {
		return
	}
	free := volumeOwner(t)
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(free.UID), Gid: uint32(free.GID)}}
	must(t, cmd.Start())
	running := server.RunningUIDs()[free.UID]
	next := volumeOwner(t)
	cmd.Process.Kill()
	cmd.Wait()
	if !running || next.UID == free.UID {
		t.Errorf("a process runs as %d: %t; chosen next: %d", free.UID, running, next.UID)
	}
}

func TestParseUIDs(t *testing.T) {
	for text, want := range map[string]server.UIDs{"": server.DefaultUIDs, "none": {}, "60578-61183": server.DefaultUIDs, "1000-1000": {First: 1000, Last: 1000},
		"65536-2147483647": {First: 65536, Last: 1<<31 - 1}} {
		if got, err := server.ParseUIDs(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"60578", "60578-", "-5", "5-4", "0-100", "999-2000", "2000-1000", "65000-66000", "65535-65535", "2000-99999999999", "2000 - 3000", "all"} {
		if got, err := server.ParseUIDs(text); sandglass.CodeOf(err) != sandglass.CodeConfig {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestNoAccount: a user of whom the host knows nothing makes a cluster, enters it in single-user mode, and runs it, sealed and in
// the open; and the host's accounts stay as they are.
func TestNoAccount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run servers as somebody else")
	}
	accounts, err := os.ReadFile("/etc/passwd")
	must(t, err)
	o := volumeOwner(t)
	if u, err := user.LookupId(strconv.Itoa(o.UID)); err == nil {
		t.Fatalf("%d is %s", o.UID, u.Username)
	}
	dir := tempDir(t)
	root := filepath.Join(dir, "volume")
	must(t, os.Mkdir(root, 0o700))
	must(t, os.Chown(root, o.UID, o.GID))
	c := server.Config{Binaries: binaries(t), Owner: o, Data: filepath.Join(root, "data"), Run: filepath.Join(root, "run"), Log: filepath.Join(root, "log", "log"), Helper: helper(t, dir),
		Seal: &server.Seal{Volume: root}, Settings: map[string]string{"shared_buffers": "16MB"}}
	must(t, server.InitDB(testContext(t), c, server.InitOptions{}))
	if err := server.InitDB(testContext(t), c, server.InitOptions{}); sandglass.CodeOf(err) != sandglass.CodeServerFailed || !strings.Contains(err.Error(), "exists but is not empty") {
		t.Errorf("a second initdb: %v", err)
	}
	must(t, server.FirstContact(testContext(t), c))
	runs := func(sealed bool) {
		t.Helper()
		p := start(t, c)
		if p.Sealed() != sealed {
			t.Errorf("sealed: %t", p.Sealed())
		}
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID()), "status"))
		must(t, err)
		id := strconv.Itoa(o.UID)
		for _, want := range []string{"Uid:\t" + strings.Repeat(id+"\t", 3) + id, "Gid:\t" + strings.Repeat(id+"\t", 3) + id, "Groups:\t \n", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("sealed %t: the server's process lacks %q:\n%s", sealed, want, status)
			}
		}
		conn := connect(t, c, "postgres")
		run(t, conn, "COPY (SELECT 1) TO PROGRAM 'cat > "+root+"/out'")
		if info, err := os.Stat(root + "/out"); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(o.UID) {
			t.Errorf("a program of the server: %v", err)
		}
		must(t, conn.Close(testContext(t)))
		must(t, p.Stop(testContext(t), server.Fast))
	}
	runs(true)
	c.Seal = nil
	runs(false)
	if now, err := os.ReadFile("/etc/passwd"); err != nil || string(now) != string(accounts) {
		t.Errorf("the host's accounts were changed: %v", err)
	}
}
