package recorder_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/recorder"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func at(second int) time.Time { return noon.Add(time.Duration(second) * time.Second) }

func data(start, length, serverEnd sandglass.LSN) pg.Message {
	return pg.Message{Start: start, Data: make([]byte, length), ServerEnd: serverEnd}
}

func keepalive(second int, end sandglass.LSN) pg.Message {
	return pg.Message{Keepalive: true, ServerTime: at(second), ServerEnd: end}
}

func TestKeepalivesAsEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		messages []pg.Message
		want     []sandglass.Beat
	}{
		"one alone proves nothing": {[]pg.Message{data(0, 100, 100), keepalive(1, 100)}, nil},
		"two prove the first": {[]pg.Message{data(0, 100, 100), keepalive(1, 100), keepalive(2, 100), keepalive(3, 100)},
			[]sandglass.Beat{{Time: at(1), LSN: 100}, {Time: at(2), LSN: 100}}},
		"WAL between two counts": {[]pg.Message{data(0, 100, 100), keepalive(1, 100), data(100, 50, 150), keepalive(2, 150)},
			[]sandglass.Beat{{Time: at(1), LSN: 150}}},
		"catching up proves nothing": {[]pg.Message{data(0, 100, 900), keepalive(1, 100), keepalive(2, 100), data(100, 100, 900), keepalive(3, 200)}, nil},
		"caught up, it begins anew": {[]pg.Message{data(0, 100, 200), keepalive(1, 100), data(100, 100, 200), keepalive(2, 200), keepalive(3, 200)},
			[]sandglass.Beat{{Time: at(2), LSN: 200}}},
		"sent but not here yet": {[]pg.Message{data(0, 100, 100), keepalive(1, 100), keepalive(2, 200)}, nil},
		"a clock that steps back": {[]pg.Message{data(0, 100, 100), keepalive(9, 100), keepalive(2, 100), keepalive(3, 100)},
			[]sandglass.Beat{{Time: at(2), LSN: 100}}},
		"the server's own question is not an answer": {[]pg.Message{data(0, 100, 100), keepalive(1, 100),
			{Keepalive: true, Reply: true, ServerTime: at(2), ServerEnd: 100}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var p recorder.Pulse
			var got []sandglass.Beat
			for _, m := range c.messages {
				if b, ok := p.Hear(m); ok {
					got = append(got, b)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFewBeatsAreKept(t *testing.T) {
	var beats []sandglass.Beat
	for i := range 100 { // busy, then idle
		beats = recorder.AddBeat(beats, sandglass.Beat{Time: at(i), LSN: sandglass.LSN(100 * i)})
	}
	busy := len(beats)
	for i := 100; i < 1000; i++ {
		beats = recorder.AddBeat(beats, sandglass.Beat{Time: at(i), LSN: 20000})
	}
	if busy > 25 || len(beats) > busy+2 {
		t.Errorf("%d beats busy, %d in all", busy, len(beats))
	}
	if last := beats[len(beats)-1]; last != (sandglass.Beat{Time: at(999), LSN: 20000}) {
		t.Errorf("last %v", last)
	}
	if !slices.IsSortedFunc(beats, func(a, b sandglass.Beat) int { return a.Time.Compare(b.Time) }) {
		t.Error("not in order of time")
	}
	for i := 1; i < busy; i++ {
		if d := beats[i].Time.Sub(beats[i-1].Time); d > 20*time.Second {
			t.Errorf("%s without a beat", d)
		}
	}
}

func TestWhatIsCopied(t *testing.T) {
	for path, want := range map[string]bool{
		"base": true, "base/1/1259": true, "global/pg_control": true, "pg_tblspc/16385/PG_15_202209061/5/1": true, "PG_VERSION": true, "backup_label": true,
		"pg_logical/replorigin_checkpoint": true, "pg_twophase/0000": true,
		"server.key": false, "backup_label.old": false, "tablespace_map.old": false, "backup_manifest": false, "recovery.signal": false, "standby.signal": false, "log": false, "log/postgresql.log": false, "postgresql.auto.conf": false, "pg_hba.conf": false,
		"pg_wal": true, "pg_wal/archive_status": true, "pg_wal/000000010000000000000001": false, "pg_stat": true, "pg_stat/pg_stat_statements.stat": false,
		"pg_replslot": true, "pg_replslot/x": false, "pg_replslot/x/state": false, "base/pgsql_tmp": false, "base/5/pgsql_tmp12.0": false,
		"base/16384": true, "base/16384/16400_vm": true, "base/16384/16400.12": true, "base/16384/16400_fsm.1": true, "base/16384/t3_16401": true, "base/1/PG_VERSION": true, "base/1/pg_filenode.map": true,
		"global/pg_filenode.map": true, "pg_tblspc/16385": true, "pg_tblspc/16385/PG_15_202209061": true, "pg_tblspc/16385/PG_15_202209061/5": true, "pg_multixact/members/0000": true,
		"base/dump.sql": false, "base/1/1259.bak": false, "global/pg_hba.conf.bak": false, "pg_tblspc/16385/notes.txt": false, "pg_log/postgresql.log": false, "PG_VERSION/x": false,
	} {
		dir := path == "base" || path == "base/16384" || path == "pg_tblspc/16385" || path == "pg_tblspc/16385/PG_15_202209061" || path == "pg_tblspc/16385/PG_15_202209061/5" || path == "log" || path == "pg_wal" || path == "pg_wal/archive_status" || path == "pg_stat" || path == "pg_replslot" || path == "pg_replslot/x"
		if got := recorder.Wanted(path, dir); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}
