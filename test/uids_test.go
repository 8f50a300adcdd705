package test

// This file is whose the volumes are: each has an operating system user to itself, so that who may run programs on an open
// sandbox's server reaches nothing else of the host's.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// ownerOf is the user ID of a file or a folder, which must be private.
func ownerOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	if info.IsDir() && info.Mode().Perm() != 0o700 {
		t.Errorf("%s has mode %v", path, info.Mode())
	}
	return int(st.Uid)
}

// runsAs is the user ID of the one server of a folder.
func runsAs(t *testing.T, folder string) (uid, pid int) {
	t.Helper()
	pids := pgtest.Postmasters(folder)
	if len(pids) != 1 {
		t.Fatalf("%d servers run in %s", len(pids), folder)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pids[0]))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "\nUid:")
	uid, err = strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return uid, pids[0]
}

// uidsOf gives the user ID of each volume that is there, by the volume, and sees that the metadata, the folder and the server,
// if one runs, agree on it.
func uidsOf(t *testing.T, s *systest.System) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, row := range strings.Fields(metadata(t, s, "SELECT string_agg(id || '=' || COALESCE(uid, 0), ' ') FROM sandglass.volume WHERE state <> 'gone'")) {
		id, text, _ := strings.Cut(row, "=")
		uid, err := strconv.Atoi(text)
		must(t, err)
		folder := filepath.Join(s.State(), "volumes", id)
		// The folder around them is root's: nobody else puts anything in the place of one.
		info, err := os.Stat(folder)
		must(t, err)
		if whose := info.Sys().(*syscall.Stat_t); whose.Uid != 0 || info.Mode().Perm() != 0o711 {
			t.Errorf("%s has mode %v and is of %d", folder, info.Mode(), whose.Uid)
		}
		for _, path := range []string{folder + "/data", folder + "/run", folder + "/data/PG_VERSION", folder + "/log/postgresql.log"} {
			if got := ownerOf(t, path); uid != 0 && got != uid {
				t.Errorf("volume %s is of %d, but %s of %d", id, uid, path, got)
			}
		}
		if len(pgtest.Postmasters(folder)) > 0 {
			if got, _ := runsAs(t, folder); uid != 0 && got != uid {
				t.Errorf("volume %s is of %d, but its server runs as %d", id, uid, got)
			}
		}
		all[id] = uid
	}
	return all
}

// distinct fails the test unless every volume has a user ID, which is no other's.
func distinct(t *testing.T, uids map[string]int, n int) {
	t.Helper()
	seen := map[int]bool{}
	for id, uid := range uids {
		if uid < 60578 || uid > 61183 || seen[uid] {
			t.Errorf("volume %s has the user ID %d: %v", id, uid, uids)
		}
		seen[uid] = true
	}
	if len(uids) != n {
		t.Errorf("there are %d volumes, want %d", len(uids), n)
	}
}

func currentOf(t *testing.T, s *systest.System, name string) string {
	t.Helper()
	e, err := s.Client.Environment(t.Context(), name)
	must(t, err)
	if e.Volume == nil {
		t.Fatalf("%s is empty", name)
	}
	return e.Volume.ID
}

func TestVolumesAreTheirOwnUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run servers as several users")
	}
	t.Parallel()
	ctx := t.Context()
	accounts, err := os.ReadFile("/etc/passwd")
	must(t, err)
	c := newCrashSite(t)
	newSandbox(t, c.System, "qa", nil)
	distinct(t, uidsOf(t, c.System), 2)
	streaming(t, c.System, "prod")
	succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindRestore, Environment: "qa", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	distinct(t, uidsOf(t, c.System), 3)
	op := succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindPeek, Environment: "prod", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}, Reason: "to be looked at by nobody else"})
	peek, err := c.Client.Peek(ctx, op.ID)
	must(t, err)
	uids := uidsOf(t, c.System)
	distinct(t, uids, 4)

	t.Run("a superuser of one reaches nothing else", func(t *testing.T) { reachesNothingElse(t, c, peek) })
	t.Run("each keeps its own through restore and undo", func(t *testing.T) {
		same := func(what string, current string) {
			t.Helper()
			now := uidsOf(t, c.System)
			for id, uid := range uids {
				if now[id] != uid {
					t.Errorf("%s: volume %s is of %d, and was of %d", what, id, now[id], uid)
				}
			}
			distinct(t, now, len(now))
			if got := currentOf(t, c.System, "uat"); got != current {
				t.Errorf("%s: the current volume of uat is %s, want %s", what, got, current)
			}
			shows(t, c.System, "uat", map[bool]string{true: c.own, false: c.fromProd}[uids[current] != 0])
		}
		old := currentOf(t, c.System, "uat")
		succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
		restored := currentOf(t, c.System, "uat")
		same("restore", restored)
		succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"})
		same("undo", old)
		succeeds(t, c.System, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"})
		same("undo of the undo", restored)
	})
	t.Run("each keeps its own when serve is killed, and after a reboot", func(t *testing.T) {
		before := uidsOf(t, c.System)
		pids := pgtest.Postmasters(c.State() + "/volumes")
		must(t, c.Kill())
		must(t, c.Serve(ctx))
		if now := fmt.Sprint(uidsOf(t, c.System)); now != fmt.Sprint(before) {
			t.Errorf("after SIGKILL of serve: %v, before %v", now, before)
		}
		if now := pgtest.Postmasters(c.State() + "/volumes"); fmt.Sprint(now) != fmt.Sprint(pids) {
			t.Errorf("the servers are %v, and were %v", now, pids)
		}
		delete(before, filepath.Base(filepath.Dir(peek.Connection.Host))) // a peek ends with its server
		powerOff(t, c)
		must(t, c.Serve(ctx))
		for _, name := range []string{"uat", "qa"} {
			shows(t, c.System, name, c.fromProd)
		}
		must(t, c.Await(ctx, 30*time.Second, "the peek to be over", func() (bool, error) {
			peeks, err := c.Client.Peeks(ctx)
			return err == nil && len(peeks) == 0, err
		}))
		if now := fmt.Sprint(uidsOf(t, c.System)); now != fmt.Sprint(before) {
			t.Errorf("after a reboot: %v, before %v", now, before)
		}
	})
	if now, err := os.ReadFile("/etc/passwd"); err != nil || string(now) != string(accounts) {
		t.Errorf("the host's accounts were changed: %v", err)
	}
}

// reachesNothingElse tries, as a superuser of uat, all that one may who runs programs and reads files on its server.
func reachesNothingElse(t *testing.T, c *crashSite, peek sandglass.Peek) {
	ctx := t.Context()
	conn, err := c.Connect(ctx, "uat", "postgres")
	must(t, err)
	defer conn.Close(ctx)
	for _, sql := range []string{"CREATE TEMP TABLE said (line text)", "CREATE EXTENSION dblink"} {
		_, err := conn.Exec(ctx, sql)
		must(t, err)
	}
	// program gives all that a program says, and "ok" when it ends with 0.
	program := func(command string) string {
		t.Helper()
		_, err := conn.Exec(ctx, "TRUNCATE said; COPY said FROM PROGRAM '("+command+") 2>&1 && echo ok || true'", pgx.QueryExecModeSimpleProtocol)
		must(t, err)
		var said string
		must(t, conn.QueryRow(ctx, "SELECT COALESCE(string_agg(line, ' '), '') FROM said").Scan(&said))
		return said
	}
	volume := func(id string) string { return filepath.Join(c.State(), "volumes", id) }
	own, other, kept, peeked, meta := volume(currentOf(t, c.System, "uat")), volume(currentOf(t, c.System, "qa")), "", filepath.Dir(peek.Connection.Host), filepath.Join(c.State(), "meta")
	volumes, err := c.Client.Volumes(ctx, "qa")
	must(t, err)
	for _, v := range volumes {
		if v.State == sandglass.VolumeKept {
			kept = volume(v.ID)
		}
	}
	// It can do all of this with what is its own, so that what fails below fails for whose it is.
	_, ownPID := runsAs(t, own)
	if said := program(fmt.Sprintf("cat %[1]s/data/PG_VERSION && kill -0 %[2]d && touch %[1]s/data/touched && wc -c /proc/%[2]d/environ", own, ownPID)); !strings.HasSuffix(said, "ok") {
		t.Fatalf("its own: %s", said)
	}
	var n int
	must(t, conn.QueryRow(ctx, "SELECT length(pg_read_binary_file($1)) + lo_import($1)::int", own+"/data/PG_VERSION").Scan(&n))

	for what, folder := range map[string]string{"the other sandbox": other, "its kept state": kept, "the peek": peeked, "the metadata": meta} {
		for _, name := range []string{"data/PG_VERSION", "data/global/pg_control", "run/postgresql.conf", "log/postgresql.log"} {
			path := filepath.Join(folder, name)
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			unreadable(t, conn, program, what, path)
		}
		for _, command := range []string{"ls " + folder + "/data", "ls " + folder + "/run", "touch " + folder + "/data/touched", "chmod 755 " + folder + "/data"} {
			if said := program(command); !strings.Contains(said, "Permission denied") && !strings.Contains(said, "Operation not permitted") {
				t.Errorf("%s: %s says %q", what, command, said)
			}
		}
		if what == "its kept state" {
			continue // no server runs on it
		}
		uid, pid := runsAs(t, folder)
		for _, command := range []string{"kill -0 %d", "kill -HUP %d", "cat /proc/%d/environ", "ls /proc/%d/root/", "ls /proc/%d/cwd/", "head -c 1 /proc/%d/mem"} {
			command = fmt.Sprintf(command, pid)
			if said := program(command); !strings.Contains(said, "Permission denied") && !strings.Contains(said, "not permitted") {
				t.Errorf("%s, which runs as %d: %s says %q", what, uid, command, said)
			}
		}
		_, err := conn.Exec(ctx, "SELECT dblink_connect($1)", "host="+folder+"/run user=sandglass dbname=postgres")
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || !strings.Contains(e.Detail, "Permission denied") {
			t.Errorf("%s: its socket says %v", what, err)
		}
	}
	for what, path := range map[string]string{"the key": c.State() + "/key.txt", "the recorder's password": c.Dir + "/prod.password"} {
		unreadable(t, conn, program, what, path)
	}
	if said := program(fmt.Sprintf("kill -0 %d", c.PID())); !strings.Contains(said, "not permitted") {
		t.Errorf("serve can be signalled: %q", said)
	}
	if said := program("grep -c ^sandglass- /etc/passwd"); said != "0" {
		t.Errorf("the accounts of the host: %q", said)
	}
}

// unreadable tries all ways to read a file of the server's host.
func unreadable(t *testing.T, conn *pgx.Conn, program func(string) string, what, path string) {
	t.Helper()
	ctx := t.Context()
	if said := program("cat " + path); !strings.Contains(said, "Permission denied") || strings.HasSuffix(said, "ok") {
		t.Errorf("%s: cat %s says %q", what, path, said)
	}
	for _, sql := range []string{"SELECT pg_read_binary_file($1)", "SELECT pg_read_file($1)", "SELECT lo_import($1)"} {
		_, err := conn.Exec(ctx, sql, path)
		if got := pgtest.SQLState(err); got != "42501" {
			t.Errorf("%s: %s of %s: %v, want SQLSTATE 42501", what, sql, path, err)
		}
	}
}

// What was made when all volumes were of one user stays as it is, beside those that have one to themselves, also where a way leads
// from one to the other. When no user ID is left, that is told before anything is begun.
func TestVolumesOfBeforeAndUsedUpUIDs(t *testing.T) {
	inLong(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can run servers as several users")
	}
	ctx := t.Context()
	prod := production(t, nil)
	prod.Exec(t, "postgres", "CREATE TABLE identity AS SELECT 'production' AS who")
	binary, err := build()
	must(t, err)
	s := systest.New(t, binary)
	path := filepath.Join(s.State(), "config.yaml")
	config, err := os.ReadFile(path)
	must(t, err)
	serve := func(uids string) {
		t.Helper()
		must(t, s.Stop())
		must(t, os.WriteFile(path, fmt.Appendf(nil, "%s\nvolume_uids: %s\n", config, uids), 0o600))
		must(t, s.Serve(ctx))
	}
	serve("none")
	must(t, s.Record(ctx, "prod", prod, nil))
	newSandbox(t, s, "uat", nil)
	old := currentOf(t, s, "uat")
	if uid := uidsOf(t, s)[old]; uid != 0 {
		t.Errorf("with no range, a volume is of %d", uid)
	}
	server, _ := runsAs(t, filepath.Join(s.State(), "volumes", old))
	common, _ := runsAs(t, filepath.Join(s.State(), "meta"))
	if server != common || server == 0 {
		t.Errorf("its server runs as %d, the metadata's as %d", server, common)
	}
	if out := ran(t, s, "doctor").Stdout; !strings.Contains(out, "All servers run as the user postgres") {
		t.Errorf("doctor says:\n%s", out)
	}

	only := 70000 + os.Getpid()%1000000 // of no other test that runs now
	serve(fmt.Sprintf("%d-%d", only, only))
	streaming(t, s, "prod")
	if out := s.Run(ctx, "doctor").Stdout; !strings.Contains(out, "1 volumes were made when all belonged to the user postgres") {
		t.Errorf("doctor says:\n%s", out)
	}
	succeeds(t, s, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
	restored := currentOf(t, s, "uat")
	if uids := uidsOf(t, s); uids[restored] != only || uids[old] != 0 {
		t.Errorf("the volumes are of %v", uids)
	}
	for _, want := range []struct {
		volume, who string
		uid         int
	}{{old, "the sandbox", common}, {restored, "production", only}} {
		succeeds(t, s, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"})
		shows(t, s, "uat", want.who)
		if uid, _ := runsAs(t, filepath.Join(s.State(), "volumes", want.volume)); uid != want.uid {
			t.Errorf("%s runs as %d, want %d", want.who, uid, want.uid)
		}
	}

	t.Run("used up", func(t *testing.T) {
		for _, args := range []string{"restore uat --latest --plan", "restore uat --latest --yes", "peek prod --latest --reason look --no-wait"} {
			r := refused(t, s, 3, "volume.no_uid", strings.Fields(args)...)
			if out := r.Stdout + r.Stderr; !strings.Contains(out, "volume_uids") || !strings.Contains(out, fmt.Sprintf("%d-%d", only, only)) {
				t.Errorf("%s: neither the range nor the remedy is told:\n%s", args, out)
			}
		}
		_, err := s.Sandbox(ctx, "qa", "prod", nil)
		must(t, err)
		op, err := s.Operate(ctx, sandglass.Request{Kind: sandglass.KindStart, Environment: "qa", New: true})
		must(t, err)
		if op.State != sandglass.Failed || op.Error == nil || op.Error.Code != "volume.no_uid" {
			t.Errorf("a new cluster: %s, %v", op.State, op.Error)
		}
		if uids := uidsOf(t, s); len(uids) != 2 {
			t.Errorf("there are volumes %v", uids)
		}
		shows(t, s, "uat", "production")
	})
	t.Run("free again", func(t *testing.T) {
		succeeds(t, s, sandglass.Request{Kind: sandglass.KindUndo, Environment: "uat"})
		ran(t, s, "volume", "drop", restored, "--yes")
		succeeds(t, s, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
		if uids := uidsOf(t, s); uids[currentOf(t, s, "uat")] != only {
			t.Errorf("the volumes are of %v", uids)
		}
	})
}
