package test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// refused runs a command that must be refused: once for people, with its exit code, a sentence, its code and a remedy, which is the
// result; and once for programs, with the same as an object.
func refused(t *testing.T, s *systest.System, exit int, code sandglass.Code, args ...string) systest.Result {
	t.Helper()
	command := strings.Join(args, " ")
	r := s.Run(t.Context(), args...)
	if r.Exit != exit {
		t.Errorf("sandglass %s: exit %d, want %d\n%s%s", command, r.Exit, exit, r.Stdout, r.Stderr)
	}
	said := strings.Join(strings.Fields(r.Stderr), " ") // it may be wrapped
	_, said, _ = strings.Cut(said, "sandglass: ")
	sentence, remedy, found := strings.Cut(said, " ["+string(code)+"] ")
	if !found || strings.TrimRight(sentence, ".^") == sentence || remedy == "" { // a line of YAML is quoted, with a mark below
		t.Errorf("sandglass %s: not a sentence, [%s] and a remedy:\n%s%s", command, code, r.Stdout, r.Stderr)
	}

	j := s.Run(t.Context(), append(args, "--json")...)
	lines := strings.Split(strings.TrimSpace(j.Stderr), "\n") // `serve` may have logged before
	var e struct{ Code, Message, Remedy string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil || j.Exit != exit || e.Code != string(code) || e.Message == "" || e.Remedy == "" {
		t.Errorf("sandglass %s --json: exit %d, want %d, and an error object with %s, message and remedy (%v)\n%s%s", command, j.Exit, exit, code, err, j.Stdout, j.Stderr)
	}
	return r
}

// Each bad input has its code, a sentence and a remedy, and changes nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, func(e *sandglass.Environment) { e.Zone = "Europe/Vienna" }))
	_, err := s.Sandbox(ctx, "uat", "prod", func(e *sandglass.Environment) { e.Zone = "Europe/Vienna" })
	must(t, err)

	for _, row := range []struct {
		name string
		exit int
		code sandglass.Code
		args string
	}{
		{"a moment in the future", 3, sandglass.CodeMomentFuture, "restore uat --yes --at 2099-01-01T00:00:00Z"},
		{"a moment before the window", 3, sandglass.CodeMomentBefore, "restore uat --yes --at 2001-01-01T00:00:00Z"},
		{"not a time", 2, sandglass.CodeMomentSyntax, "restore uat --yes --at soon"},
		{"an hour that occurs twice", 2, sandglass.CodeMomentAmbiguous, "restore uat --yes --at 2025-10-26T02:30:00"},
		{"no such transaction", 3, sandglass.CodeMomentNotFound, "restore uat --yes --xid 999999999"},
		{"no such environment", 4, sandglass.CodeEnvironmentUnknown, "restore nowhere --yes --latest"},
		{"no such source", 4, sandglass.CodeEnvironmentUnknown, "restore uat --yes --latest --from nowhere"},
		{"production as the target", 3, sandglass.CodeEnvironmentKind, "restore prod --yes --latest"},
		{"nothing to undo", 3, sandglass.CodeNothingToUndo, "undo uat --yes"},
		{"no such operation", 4, sandglass.CodeOperationUnknown, "ops show 20260101t000000-abcd"},
		{"no such volume", 4, sandglass.CodeVolumeUnknown, "volume drop zzzzzzzz --yes"},
		{"an unknown flag", 2, sandglass.CodeUsage, "restore uat --soon"},
		{"an unknown command", 2, sandglass.CodeUsage, "restoer uat"},
	} {
		t.Run(row.name, func(t *testing.T) { refused(t, s, row.exit, row.code, strings.Fields(row.args)...) })
	}

	t.Run("an unknown key in YAML", func(t *testing.T) {
		file := filepath.Join(s.Dir, "bad.yaml")
		must(t, os.WriteFile(file, []byte("name: x\nkind: sandbox\nserver: {port: 5999}\nretension: 7d\n"), 0o600))
		r := refused(t, s, 2, sandglass.CodeConfig, "apply", "-f", file)
		if !strings.Contains(r.Stderr, "retension") {
			t.Errorf("the line is not quoted:\n%s", r.Stderr)
		}
	})
	t.Run("a time without a zone in the API", func(t *testing.T) {
		status, body := post(ctx, t, s, "/v1/environments/prod/moments", `{"kind":"time","time":"2026-01-01T10:00:00"}`)
		var e struct{ Code, Message, Remedy string }
		if err := json.Unmarshal([]byte(body), &e); err != nil || status != 422 || e.Code != string(sandglass.CodeMomentNoZone) || e.Message == "" || e.Remedy == "" {
			t.Errorf("status %d, %v: %s", status, err, body)
		}
	})
	t.Run("the target is busy", func(t *testing.T) {
		op, err := s.Client.Start(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", Moment: &sandglass.Moment{Kind: sandglass.AtLatest}})
		must(t, err)
		refused(t, s, 8, sandglass.CodeEnvironmentBusy, "restore", "uat", "--yes", "--latest")
		op, err = s.Finish(ctx, op.ID)
		must(t, err)
		if op.State != sandglass.Succeeded {
			t.Errorf("the operation that was under way: %s %v", op.State, op.Error)
		}
	})
}

func post(ctx context.Context, t *testing.T, s *systest.System, path, body string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.State(), "api.sock"))
	}}}
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://sandglass"+path, strings.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/json")
	a, err := c.Do(r)
	must(t, err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	must(t, err)
	return a.StatusCode, string(b)
}

// Each fault of a production is refused with its code before anything is recorded.
func TestBadProductions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSystem(t)
	good := production(t, nil)
	conninfo, err := good.RecorderRole(ctx, "right")
	must(t, err)
	good.Exec(t, "postgres", "CREATE ROLE nobody LOGIN PASSWORD 'right'")
	minimal := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}})
	unlimited := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_slot_wal_keep_size": "-1"}})
	waiting := pgtest.New(t, pgtest.Options{Settings: map[string]string{"synchronous_standby_names": "*", "synchronous_commit": "local"}})
	connect := func(c *pgtest.Cluster) string {
		conninfo, err := c.RecorderRole(ctx, "right")
		must(t, err)
		return conninfo
	}
	for _, row := range []struct {
		name, connection, password string
		code                       sandglass.Code
	}{
		{"wrong-password", conninfo, "wrong", sandglass.CodeProductionPassword},
		{"unreachable", "host=127.0.0.1 port=1 user=x dbname=postgres", "right", sandglass.CodeProductionUnreachable},
		{"no-grants", strings.Replace(conninfo, "sandglass_recorder", "nobody", 1), "right", sandglass.CodeProductionGrants},
		{"minimal", connect(minimal), "right", sandglass.CodeProductionWALLevel},
		{"unlimited-slots", connect(unlimited), "right", sandglass.CodeProductionSlotCap},
		{"synchronous", connect(waiting), "right", sandglass.CodeProductionSync},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(s.Dir, row.name+".password")
			must(t, os.WriteFile(file, []byte(row.password), 0o600))
			e := sandglass.Environment{Name: row.name, Kind: sandglass.Production, Recording: &sandglass.Recording{Connection: row.connection, PasswordFile: file}}
			_, err := s.Client.Apply(ctx, e)
			must(t, err)
			_, err = s.Client.StartRecording(ctx, row.name, nil)
			if e := sandglass.AsError(err); e == nil || e.Code != row.code || e.Message == "" || e.Remedy == "" {
				t.Errorf("record start gives %v, want %s with a sentence and a remedy", err, row.code)
			}
			r := s.Run(ctx, "env", "rm", row.name, "--yes")
			if r.Exit != 0 {
				t.Errorf("env rm: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
			}
		})
	}
}

// Damage to the repository is named by verify, with what it costs, and a restore that needs the damaged object goes back by itself.
func TestDamage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	prod := production(t, nil)
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	must(t, err)
	prod.Exec(t, "postgres", "CREATE TABLE later AS SELECT 1", "SELECT pg_switch_wal()")
	must(t, s.Stop())

	// One byte in the middle of the largest object: a bundle.
	object := largest(t, s.Repository())
	b, err := os.ReadFile(object)
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.Chmod(object, 0o600))
	must(t, os.WriteFile(object, b, 0o600))

	must(t, s.Serve(ctx))
	report, err := s.Client.Verify(ctx, true, nil)
	must(t, err)
	if len(report.Damaged) != 1 || !strings.HasSuffix(object, report.Damaged[0].Object) || report.Damaged[0].Costs == "" {
		t.Errorf("verify names %+v, want %s with its costs", report.Damaged, object)
	}
	r := s.Run(ctx, "repo", "verify", "--all")
	if r.Exit != sandglass.ExitDamaged {
		t.Errorf("repo verify: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
	}
	_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	saysDamaged(t, err)
	if got, err := s.Query(ctx, "uat", "postgres", "SELECT to_regclass('later') IS NULL"); err != nil || got != "t" {
		t.Errorf("uat is not as it was: %s %v", got, err)
	}
	// Without the key nothing starts, and it says so.
	must(t, s.Stop())
	must(t, os.Rename(filepath.Join(s.State(), "key.txt"), filepath.Join(s.Dir, "key.txt")))
	refused(t, s, sandglass.ExitDamaged, sandglass.CodeKeyMissing, "serve")
}

// saysDamaged: the error of a restore that needs what is damaged says so in a sentence, with a remedy.
func saysDamaged(t *testing.T, err error) {
	t.Helper()
	if e := sandglass.AsError(err); e == nil || e.Code != sandglass.CodeRepositoryDamaged || e.Message == "" || e.Remedy == "" {
		t.Errorf("a restore that needs what is damaged ended with %+v, want %s with a sentence and a remedy", e, sandglass.CodeRepositoryDamaged)
	}
}

func largest(t *testing.T, dir string) (path string) {
	t.Helper()
	var size int64
	must(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Size() > size {
			path, size = p, i.Size()
		}
		return err
	}))
	return path
}
