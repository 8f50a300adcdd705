package server_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/server"
)

// sealedWithRole is a sealed server that lets the role app in.
func sealedWithRole(t *testing.T, dir string) server.Config {
	t.Helper()
	c, p := newCluster(t, dir, nil)
	must(t, p.Stop(testContext(t), server.Fast))
	c.Helper = helper(t, dir)
	c.Seal = &server.Seal{Volume: dir}
	c.HBA = []string{`local all app trust`}
	start(t, c)
	run(t, connect(t, c, "postgres"), "CREATE ROLE app LOGIN")
	return c
}

func nobody(t *testing.T) server.Owner {
	t.Helper()
	o, err := server.FindUser("nobody")
	must(t, err)
	return o
}

// guest is a shell script beside the server, with what it says.
func guest(t *testing.T, ctx context.Context, c server.Config, script string, edit func(*server.Command)) (exit int, said string, err error) {
	t.Helper()
	var lines []string
	command := server.Command{Args: []string{"sh", "-c", script}, User: nobody(t),
		Env:  []string{"PATH=" + filepath.Join(c.Binaries.Dir) + ":" + server.DefaultPath, "PGUSER=app", "PGDATABASE=postgres"},
		Line: func(l string) { lines = append(lines, l) }}
	if edit != nil {
		edit(&command)
	}
	exit, err = server.RunBeside(ctx, c, command)
	return exit, strings.Join(lines, "\n"), err
}

// A command beside a sealed server reaches the server, over TCP and over its socket, as nobody but its role,
// and nothing else of the host.
func TestRunBeside(t *testing.T) {
	dir := tempDir(t)
	c := sealedWithRole(t, dir)
	tool := filepath.Join(tempDir(t), "tool")
	must(t, os.Mkdir(tool, 0o755))
	must(t, os.WriteFile(filepath.Join(tool, "hello"), []byte("#!/bin/sh\necho hello from $0\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(tool, "plain"), []byte("#!/bin/sh\n"), 0o644))
	other := tempDir(t)
	must(t, os.WriteFile(filepath.Join(other, "secret"), []byte("x"), 0o644))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	inTool := func(c *server.Command) { c.Dir = tool }
	for _, tt := range []struct {
		name, script string
		edit         func(*server.Command)
		exit         int
		says         string // the output, or a part of it
	}{
		{"over TCP", `psql -h 127.0.0.1 -Atc 'SELECT current_user'`, nil, 0, "app"},
		{"over the socket", `psql -h /run/postgresql -Atc 'SELECT current_user'`, nil, 0, "app"},
		{"not as us", `psql -h 127.0.0.1 -U sandglass -Atc 'SELECT current_user'`, nil, 2, "authentication failed for user \"sandglass\""},
		{"not as us over the socket", `psql -h /run/postgresql -U sandglass -Atc 'SELECT current_user'`, nil, 2, "authentication failed for user \"sandglass\""},
		{"not as another", `psql -h 127.0.0.1 -U postgres -c 'SELECT 1'`, nil, 2, "no pg_hba.conf entry"},
		{"as nobody", `id -un; id -G`, nil, 0, fmt.Sprintf("nobody\n%d", nobody(t).GID)},
		{"without capabilities", `grep -E 'CapEff|CapPrm|CapAmb|NoNewPrivs' /proc/self/status | tr -s '\t\n' '  '`, nil, 0,
			"CapPrm: 0000000000000000 CapEff: 0000000000000000 CapAmb: 0000000000000000 NoNewPrivs: 1 "},
		{"no other process", `cat /proc/1/comm; test $$ -lt 10 && echo alone`, nil, 0, "sandglass\nalone"},
		{"no host's files", `cat ` + other + `/secret`, nil, 1, "No such file"},
		{"no volume", `ls ` + c.Data, nil, 2, "No such file"},
		{"no run folder", `ls /var /home /root`, nil, 2, "No such file"},
		{"no network", `exec 3<>/dev/tcp/127.0.0.1/` + port, func(c *server.Command) { c.Args[0] = "bash" }, 1, "Connection refused"},
		{"no interface", `grep -c : /proc/net/dev`, nil, 0, "1"}, // lo
		{"open network", `exec 3<>/dev/tcp/127.0.0.1/` + port + `; psql -h /run/postgresql -Atc 'SELECT current_user'`,
			func(c *server.Command) { c.Args[0], c.OpenNetwork = "bash", true }, 0, "app"},
		{"its folder", `pwd; cd / ; echo x > ` + tool + `/new`, inTool, 2, tool + "\nsh: 1: cannot create"},
		{"its program", "", func(c *server.Command) { c.Dir, c.Args = tool, []string{"hello"} }, 0, "hello from " + tool + "/hello"},
		{"its program by path", "", func(c *server.Command) { c.Dir, c.Args = tool, []string{"./hello"} }, 0, "hello from"},
		{"a shown folder", "cat " + other + "/secret", func(c *server.Command) { c.Show = []string{other} }, 0, "x"},
		{"a hidden folder", "ls -A " + other, func(c *server.Command) { c.Show, c.Hidden = []string{filepath.Dir(other)}, []string{other} }, 0, ""},
		{"temporary files", `f=$(mktemp) && echo here > $f && cat $f`, nil, 0, "here"},
		{"its status", "exit 7", nil, 7, ""},
		{"a signal", "kill -9 $$", nil, 137, ""},
		{"both streams", "echo a; echo b >&2", nil, 0, "a\nb"},
		{"left behind", "sleep 600 & echo left", nil, 0, "left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exit, said, err := guest(t, testContext(t), c, tt.script, tt.edit)
			if err != nil {
				t.Fatal(err)
			}
			if exit != tt.exit || !strings.Contains(said, tt.says) || tt.says == "" && said != "" {
				t.Errorf("exit %d, said %q; want %d, %q", exit, said, tt.exit, tt.says)
			}
		})
	}
	for name, args := range map[string][]string{"no such program": {"no-such-program"}, "no such path": {"/srv/none"}, "not executable": {"./plain"}} {
		_, _, err := guest(t, testContext(t), c, "", func(c *server.Command) { c.Dir, c.Args = tool, args })
		if sandglass.CodeOf(err) != server.CodeCommandMissing {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// When its time is over, a command is killed with all it has started.
func TestRunBesideKilled(t *testing.T) {
	c := sealedWithRole(t, tempDir(t))
	ctx, cancel := context.WithCancelCause(testContext(t))
	mark := fmt.Sprintf("86%d", os.Getpid()) // seconds that name our own sleepers
	over := fmt.Errorf("over")
	_, _, err := guest(t, ctx, c, `setsid sleep `+mark+` & trap '' TERM; echo begun; sleep `+mark, func(c *server.Command) {
		c.Line = func(string) { cancel(over) }
	})
	if err != over {
		t.Errorf("ended with %v", err)
	}
	if out, err := exec.Command("pgrep", "-f", "^sleep "+mark).Output(); err == nil {
		t.Errorf("still there: %s", out)
	}
	if n := ask[int](t, connect(t, c, "postgres"), `SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'`); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// The command does not outlive the process that runs it, however that ends.
func TestRunBesideOrphaned(t *testing.T) {
	dir := tempDir(t)
	c := sealedWithRole(t, dir)
	mark := fmt.Sprintf("87%d", os.Getpid())
	cmd := exec.Command(helper(t, dir), "beside", c.Data, c.Run, mark)
	must(t, cmd.Start())
	sleeps := func() bool { return exec.Command("pgrep", "-f", "^sleep "+mark).Run() == nil }
	await := func(want bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); sleeps() != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the command runs: %t", !want)
			}
		}
	}
	await(true)
	must(t, cmd.Process.Kill())
	cmd.Wait()
	await(false)
}

// beside is the process that TestRunBesideOrphaned kills.
func beside(data, run, mark string) int {
	o, err := server.FindUser("nobody")
	if err != nil {
		return 1
	}
	c := server.Config{Data: data, Run: run, Owner: o}
	server.RunBeside(context.Background(), c, server.Command{Args: []string{"sh", "-c", "sleep " + mark + " & sleep " + mark}, Env: []string{"PATH=" + server.DefaultPath}, User: o})
	return 0
}

// What is declared for the command's environment means nothing to the helper, which has our rights and sees the host until it
// has closed the command in.
func TestRunBesideEnvironment(t *testing.T) {
	c := sealedWithRole(t, tempDir(t))
	trace := filepath.Join(tempDir(t), "trace") // the dynamic loader writes there, in the host as root, if it is asked to
	exit, said, err := guest(t, testContext(t), c, `echo "$A from $PWD"; env | grep SANDGLASS_GUEST_ && exit 3; exit 0`, func(c *server.Command) {
		c.Dir = "/opt"
		c.Env = append(c.Env, "A=b=c", "LD_DEBUG=statistics", "LD_DEBUG_OUTPUT="+trace)
	})
	if err != nil || exit != 0 || !strings.Contains(said, "b=c from /opt") {
		t.Errorf("exit %d, %v, said %q", exit, err, said)
	}
	if left, _ := filepath.Glob(trace + "*"); left != nil {
		t.Errorf("the helper obeyed the command's environment: %v", left)
	}
}
