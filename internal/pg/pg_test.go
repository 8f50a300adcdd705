package pg_test

// Against a real server: pgtest's newest major, or the one that SANDGLASS_TEST_MAJOR names
// (with SANDGLASS_PG_BIN, where it is not in a usual place).

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/pgtest"
)

func production(t *testing.T, o pgtest.Options) (*pgtest.Cluster, pg.Target) {
	t.Helper()
	o.Major, _ = strconv.Atoi(os.Getenv("SANDGLASS_TEST_MAJOR"))
	c := pgtest.New(t, o)
	conninfo, err := c.RecorderRole(t.Context(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	return c, pg.Target{Conninfo: conninfo, Password: "secret", Application: "sandglass-prod"}
}

func connect(t *testing.T, target pg.Target) *pg.Conn {
	t.Helper()
	c, err := pg.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t *testing.T, err error, code sandglass.Code) {
	t.Helper()
	if got := sandglass.CodeOf(err); got != code {
		t.Errorf("code %q, want %q: %v", got, code, err)
	} else if e := sandglass.AsError(err); e.Message == "" || e.Remedy == "" {
		t.Errorf("%s: no sentence or no remedy", code)
	}
}

func TestControlFileAgreesWithPgControldata(t *testing.T) {
	c, _ := production(t, pgtest.Options{InitDB: []string{"--wal-segsize=1"}, Settings: map[string]string{
		"max_connections": "37", "max_prepared_transactions": "5", "wal_level": "logical", "track_commit_timestamp": "on", "max_locks_per_transaction": "77"}})
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	raw := must[[]byte](t)(os.ReadFile(filepath.Join(c.Data(), pg.ControlFile)))
	got := must[pg.Control](t)(pg.ParseControl(raw))
	if got.Major != c.Major || got.State != pg.StateShutDown || got.SegmentSize != 1<<20 || got.BlockSize != 8192 ||
		got.Minimums.MaxConnections != 37 || got.Minimums.MaxPreparedXacts != 5 || got.Minimums.MaxLocksPerXact != 77 ||
		got.Minimums.WALLevel != "logical" || !got.Minimums.TrackCommitTimestamp || !got.FullPageWrites {
		t.Errorf("parsed %+v", got)
	}
	program := filepath.Join(c.Bin, "pg_controldata")
	if _, err := os.Stat(program); err != nil {
		t.Skip("no pg_controldata here")
	}
	cmd := exec.Command(program, c.Data())
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out := string(must[[]byte](t)(cmd.Output()))
	for label, want := range map[string]any{
		"Database system identifier":         got.SystemIdentifier,
		"Database cluster state":             got.State,
		"Latest checkpoint location":         got.CheckpointLSN,
		"Latest checkpoint's REDO location":  got.RedoLSN,
		"Latest checkpoint's TimeLineID":     got.Timeline,
		"Latest checkpoint's NextXID":        fmt.Sprintf("%d:%d", got.NextXID>>32, uint32(got.NextXID)),
		"Time of latest checkpoint":          got.CheckpointTime.Format("Mon Jan _2 15:04:05 2006"),
		"pg_control last modified":           got.Modified.Format("Mon Jan _2 15:04:05 2006"),
		"max_worker_processes setting":       got.Minimums.MaxWorkerProcesses,
		"max_wal_senders setting":            got.Minimums.MaxWALSenders,
		"Minimum recovery ending location":   got.MinRecoveryPoint,
		"Blocks per segment of large relati": got.RelationSegment / 8192,
	} {
		found := false
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, label) {
				_, value, _ := strings.Cut(line, ":")
				found = true
				if v := strings.TrimSpace(value); v != fmt.Sprint(want) {
					t.Errorf("%s: parsed %v, pg_controldata says %s", label, want, v)
				}
			}
		}
		if !found {
			t.Errorf("%s: not in pg_controldata's output", label)
		}
	}
	for _, i := range []int{0, 40, 130, 180, 252} {
		bad := bytes.Clone(raw)
		bad[i] ^= 4
		if _, err := pg.ParseControl(bad); err == nil {
			t.Errorf("a flipped bit at %d went unnoticed", i)
		}
	}
}

func TestSlotsAndSystem(t *testing.T) {
	cluster, target := production(t, pgtest.Options{})
	c := connect(t, target)
	ctx := t.Context()
	if c.Major() != cluster.Major {
		t.Errorf("major %d", c.Major())
	}
	sys := must[pg.System](t)(c.IdentifySystem(ctx))
	if sys.Identifier == 0 || sys.Timeline != 1 || sys.Flushed == 0 {
		t.Errorf("system %+v", sys)
	}
	_, err := c.TimelineHistory(ctx, 7)
	wantCode(t, err, pg.CodeHistoryFile)
	if n := must[int64](t)(c.SegmentSize(ctx)); n != 16<<20 {
		t.Errorf("segment size %d", n)
	}
	if created := must[bool](t)(c.CreateSlot(ctx, "sg")); !created {
		t.Error("not created")
	}
	if created := must[bool](t)(c.CreateSlot(ctx, "sg")); created {
		t.Error("created twice")
	}
	f := must[pg.Facts](t)(pg.ReadFacts(ctx, target, "sg"))
	if f.Slot == nil || f.Slot.Type != "physical" || f.Slot.Active || f.Slot.Restart == 0 || !f.MayReplicate || !f.ReadsSettings ||
		f.WALLevel != "replica" || f.Databases["postgres"] < 1<<20 || !f.FullPageWrites || f.MaxSlotWALKeep <= 0 || f.Settings["port"] == "" {
		t.Errorf("facts %+v", f)
	}
	if c.Major() >= 15 {
		if s := must[pg.Slot](t)(c.ReadSlot(ctx, "sg")); !s.Exists || s.Restart == 0 {
			t.Errorf("slot %+v", s)
		}
		if s := must[pg.Slot](t)(c.ReadSlot(ctx, "nil")); s.Exists {
			t.Errorf("slot %+v", s)
		}
	}
	if err := c.DropSlot(ctx, "sg"); err != nil {
		t.Error(err)
	}
	wantCode(t, c.DropSlot(ctx, "sg"), sandglass.CodeSlotMissing)
	if _, err := c.IdentifySystem(ctx); err != nil { // an error leaves the connection usable
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	cluster, target := production(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "1", "max_wal_senders": "3"}})
	ctx := t.Context()
	wrong := target
	wrong.Password = "wrong"
	_, err := pg.Connect(ctx, wrong)
	wantCode(t, err, sandglass.CodeProductionPassword)
	if strings.Contains(sandglass.AsError(err).Message, "wrong") || strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("shows the password: %v", err)
	}
	gone := target
	gone.Conninfo = strings.Replace(gone.Conninfo, strconv.Itoa(cluster.Port), "1", 1)
	_, err = pg.Connect(ctx, gone)
	wantCode(t, err, sandglass.CodeProductionUnreachable)
	_, err = pg.Connect(ctx, pg.Target{Conninfo: "host=x port=abc password=hush"})
	wantCode(t, err, sandglass.CodeConfig)
	cluster.Exec(t, "postgres", "create role plain login password 'secret'")
	plain := target
	plain.Conninfo = strings.Replace(plain.Conninfo, "sandglass_recorder", "plain", 1)
	_, err = pg.Connect(ctx, plain)
	wantCode(t, err, sandglass.CodeProductionGrants)
	if f := must[pg.Facts](t)(pg.ReadFacts(ctx, plain, "sg")); f.MayReplicate || f.ReadsSettings || f.ReadsStatistics {
		t.Errorf("facts of a plain role %+v", f)
	}
	nodb := target
	nodb.Conninfo = strings.Replace(nodb.Conninfo, "dbname=postgres", "dbname=nowhere", 1)
	_, err = pg.ReadFacts(ctx, nodb, "sg")
	wantCode(t, err, sandglass.CodeConfig)

	c := connect(t, target)
	must[bool](t)(c.CreateSlot(ctx, "one"))
	_, err = c.CreateSlot(ctx, "two")
	wantCode(t, err, pg.CodeProductionSlots)
	sys := must[pg.System](t)(c.IdentifySystem(ctx))
	_, err = c.StartReplication(ctx, "none", sys.Timeline, sys.Flushed)
	wantCode(t, err, sandglass.CodeSlotMissing)
	must[*pg.Stream](t)(c.StartReplication(ctx, "one", sys.Timeline, sys.Flushed))
	d := connect(t, target)
	_, err = d.StartReplication(ctx, "one", sys.Timeline, sys.Flushed)
	wantCode(t, err, sandglass.CodeSlotTaken)
	connect(t, target)
	_, err = pg.Connect(ctx, target)
	wantCode(t, err, sandglass.CodeProductionSenders)
}

func TestBaseBackup(t *testing.T) {
	cluster, target := production(t, pgtest.Options{})
	ctx := t.Context()
	space := filepath.Join(cluster.Dir, "spa ce")
	if out, err := exec.Command("install", "-d", "-o", "postgres", space).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	cluster.Exec(t, "postgres", "create tablespace s location '"+space+"'")
	cluster.Exec(t, "postgres", "create table far tablespace s as select generate_series(1,10000) i")
	cluster.Exec(t, "postgres", "create table near as select generate_series(1,10000) i")
	oid := cluster.Query(t, "postgres", "select oid from pg_tablespace where spcname='s'")
	c := connect(t, target)
	for _, readAll := range []bool{true, false} {
		b := must[*pg.Backup](t)(c.BaseBackup(ctx, pg.BackupOptions{Label: "it's one", Fast: true, MaxRate: 1 << 40}))
		archives, control := 0, false
		var label pg.BackupLabel
		for {
			a, err := b.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			archives++
			if !readAll {
				continue
			}
			files := 0
			for tr := tar.NewReader(a); ; {
				h, err := tr.Next()
				if err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				files++
				body := must[[]byte](t)(io.ReadAll(tr))
				switch h.Name {
				case pg.ControlFile:
					control = must[pg.Control](t)(pg.ParseControl(body)).State == pg.StateInProduction
				case pg.BackupLabelFile:
					label = must[pg.BackupLabel](t)(pg.ParseBackupLabel(string(body)))
				case pg.TablespaceMapFile:
					m := must[map[string]string](t)(pg.ParseTablespaceMap(string(body)))
					if m[oid] != space || pg.FormatTablespaceMap(m) != string(body) {
						t.Errorf("tablespace map %q from %q", m, body)
					}
				}
			}
			if files < 2 || (a.OID != "" && (a.OID != oid || a.Path != space)) {
				t.Errorf("archive %q at %q with %d files", a.OID, a.Path, files)
			}
		}
		if archives != 2 || b.End <= b.Start || b.Total < 10<<20 || b.EndTimeline != 1 {
			t.Errorf("backup %+v, %d archives", b, archives)
		}
		if readAll && (!control || label.Redo != b.Start || label.Label != "it's one" || label.Timeline != 1 || label.From != "primary") {
			t.Errorf("label %+v, control %v", label, control)
		}
	}
	if _, err := c.IdentifySystem(ctx); err != nil {
		t.Error(err)
	}
}

func TestStream(t *testing.T) {
	cluster, target := production(t, pgtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := connect(t, target)
	must[bool](t)(c.CreateSlot(ctx, "sg"))
	sys := must[pg.System](t)(c.IdentifySystem(ctx))
	from := sys.Flushed &^ 0xFFFFFF
	s := must[*pg.Stream](t)(c.StartReplication(ctx, "sg", sys.Timeline, from))
	cluster.Exec(t, "postgres", "create table t as select generate_series(1,100000) i")
	end := must[sandglass.LSN](t)(sandglass.ParseLSN(cluster.Query(t, "postgres", "select pg_current_wal_flush_lsn()")))
	at := from
	for at < end {
		m := must[pg.Message](t)(s.Receive())
		if len(m.Data) > 0 {
			if m.Start != at || m.ServerEnd < m.Start {
				t.Fatalf("got %s, want %s", m.Start, at)
			}
			at += sandglass.LSN(len(m.Data))
		}
		if d := time.Since(m.ServerTime); d > time.Minute || d < -time.Minute {
			t.Fatalf("server time %s", m.ServerTime)
		}
	}
	if err := s.Status(at, at, true); err != nil {
		t.Fatal(err)
	}
	for {
		m := must[pg.Message](t)(s.Receive())
		if m.Keepalive && !m.Reply {
			break
		}
	}
	flush := cluster.Query(t, "postgres", "select flush_lsn from pg_stat_replication")
	if l := must[sandglass.LSN](t)(sandglass.ParseLSN(flush)); l != at {
		t.Errorf("flush %s, want %s", l, at)
	}
	cancel()
	if _, err := s.Receive(); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestEndOfTimeline(t *testing.T) {
	cluster, target := production(t, pgtest.Options{})
	ctx := t.Context()
	c := connect(t, target)
	sys := must[pg.System](t)(c.IdentifySystem(ctx))
	// a server that promotes itself: archive recovery without an archive, ended at once
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("install", "-o", "postgres", "-m", "600", "/dev/null", filepath.Join(cluster.Data(), "recovery.signal")).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	conf := filepath.Join(cluster.Data(), "postgresql.conf")
	text := string(must[[]byte](t)(os.ReadFile(conf)))
	if err := os.WriteFile(conf, []byte(text+"\nrestore_command = 'false'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for cluster.Query(t, "postgres", "select 1 where pg_is_in_recovery()") != "" {
		time.Sleep(50 * time.Millisecond)
	}
	c = connect(t, target)
	now := must[pg.System](t)(c.IdentifySystem(ctx))
	if now.Timeline != 2 || now.Identifier != sys.Identifier {
		t.Fatalf("system %+v", now)
	}
	h := must[sandglass.History](t)(sandglass.ParseHistory(must[string](t)(c.TimelineHistory(ctx, 2))))
	if len(h) != 1 || h[0].Timeline != 1 {
		t.Fatalf("history %v", h)
	}
	s := must[*pg.Stream](t)(c.StartReplication(ctx, "", 1, h[0].Switch&^0xFFFFFF))
	for at := h[0].Switch &^ 0xFFFFFF; ; {
		m := must[pg.Message](t)(s.Receive())
		at += sandglass.LSN(len(m.Data))
		if m.Next != 0 {
			if m.Next != 2 || m.NextAt != h[0].Switch || at != h[0].Switch {
				t.Errorf("end %+v at %s, want timeline 2 at %s", m, at, h[0].Switch)
			}
			break
		}
	}
	if s = must[*pg.Stream](t)(c.StartReplication(ctx, "", 2, h[0].Switch)); s == nil {
		t.Error("no stream")
	}
}

func TestTablespaceMapText(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                                {},
		"16384 /a b\n":                    {"16384": "/a b"},
		"1 /x\\\\y\n2 /new\\\nline\n3 /z": {"1": `/x\y`, "2": "/new\nline", "3": "/z"},
	} {
		if got := must[map[string]string](t)(pg.ParseTablespaceMap(text)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %q", text, got)
		}
	}
	for _, bad := range []string{"x /a\n", "1\n", "1 \n"} {
		if m, err := pg.ParseTablespaceMap(bad); err == nil {
			t.Errorf("%q read as %q", bad, m)
		}
	}
}
