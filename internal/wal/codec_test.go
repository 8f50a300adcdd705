// The stored form: any index comes back as it was, damaged bytes never pass.

package wal_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sandglass"
	"sandglass/internal/wal"
)

func drawTime(t *rapid.T) time.Time {
	return time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "time")).UTC()
}

// drawList draws a list of items with growing positions in the segment at start.
func drawList[T any](t *rapid.T, start sandglass.LSN, name string, item func(at sandglass.LSN) T) []T {
	var list []T
	at := start
	for range rapid.IntRange(0, 5).Draw(t, name) {
		at += sandglass.LSN(rapid.IntRange(1, 1000).Draw(t, "step") * 8)
		list = append(list, item(at))
	}
	return list
}

func drawIndex(t *rapid.T) *wal.Index {
	u32 := rapid.Uint32()
	u64 := rapid.Uint64()
	start := sandglass.LSN(rapid.Uint64Range(0, 1<<24).Draw(t, "segment") << 24)
	relation := func() wal.Relation {
		return wal.Relation{Tablespace: u32.Draw(t, "spc"), Database: u32.Draw(t, "db"), File: u32.Draw(t, "file")}
	}
	x := &wal.Index{Major: rapid.IntRange(14, 18).Draw(t, "major"), Timeline: sandglass.TimelineID(u32.Draw(t, "tli")), SegmentSize: 1 << 24, Start: start,
		From: start + 8, End: start + 4096, Whole: rapid.Bool().Draw(t, "whole"), RunStart: sandglass.LSN(u64.Draw(t, "run")),
		Notable: sandglass.LSN(u64.Draw(t, "notable")), LastEnded: 1 << 30, LastCommit: sandglass.LSN(u64.Draw(t, "commit")), NextXID: u64.Draw(t, "next"), OldestXID: u64.Draw(t, "oldest")}
	if rapid.Bool().Draw(t, "records") {
		x.First, x.Last, x.LastTime, x.HighTime = start, start+24, drawTime(t), drawTime(t)
	}
	x.Transactions = drawList(t, start, "transactions", func(at sandglass.LSN) wal.Transaction {
		return wal.Transaction{LSN: at, End: at + 40, XID: u32.Draw(t, "xid"), Time: drawTime(t), Aborted: rapid.Bool().Draw(t, "aborted"), Prepared: rapid.Bool().Draw(t, "prepared"),
			Database: rapid.SampledFrom([]uint32{0, 5, 16384}).Draw(t, "db"), Subs: slices.Clip(append([]uint32(nil), rapid.SliceOfN(u32, 0, 3).Draw(t, "subs")...))}
	})
	for i := range rapid.IntRange(0, 3).Draw(t, "relations with rows") {
		for xid := range rapid.IntRange(1, 3).Draw(t, "transactions with rows") {
			x.Rows = append(x.Rows, wal.Rows{XID: uint32(xid) * 1e9, Relation: wal.Relation{Tablespace: 1663, Database: 5, File: uint32(i)},
				Inserted: u64.Draw(t, "inserted"), Updated: u64.Draw(t, "updated"), Deleted: u64.Draw(t, "deleted")})
		}
	}
	x.Relations = drawList(t, start, "relations", func(at sandglass.LSN) wal.RelationChange {
		return wal.RelationChange{LSN: at, XID: u32.Draw(t, "xid"), Kind: wal.RelationChangeKind(rapid.IntRange(1, 4).Draw(t, "kind")), Relation: relation(), Blocks: u32.Draw(t, "blocks")}
	})
	x.RestorePoints = drawList(t, start, "points", func(at sandglass.LSN) wal.RestorePoint {
		return wal.RestorePoint{LSN: at, End: at + 104, Time: drawTime(t), Name: rapid.String().Draw(t, "name")}
	})
	x.BackupEnds = drawList(t, start, "backups", func(at sandglass.LSN) wal.BackupEnd {
		return wal.BackupEnd{LSN: at, End: at + 40, Redo: sandglass.LSN(u64.Draw(t, "redo"))}
	})
	x.Checkpoints = drawList(t, start, "checkpoints", func(at sandglass.LSN) wal.Checkpoint {
		return wal.Checkpoint{LSN: at, End: at + 120, Kind: wal.CheckpointKind(rapid.IntRange(1, 3).Draw(t, "kind")), Redo: sandglass.LSN(u64.Draw(t, "redo")),
			Timeline: sandglass.TimelineID(u32.Draw(t, "tli")), Previous: 1, Time: drawTime(t), NextXID: u64.Draw(t, "next")}
	})
	x.Parameters = drawList(t, start, "parameters", func(at sandglass.LSN) wal.ParameterChange {
		return wal.ParameterChange{LSN: at, Values: sandglass.Parameters{MaxConnections: rapid.IntRange(0, 1e6).Draw(t, "connections"), MaxPreparedXacts: 3,
			WALLevel: rapid.SampledFrom([]string{"minimal", "replica", "logical"}).Draw(t, "level"), WALLogHints: rapid.Bool().Draw(t, "hints")}}
	})
	x.Tablespaces = drawList(t, start, "tablespaces", func(at sandglass.LSN) wal.TablespaceChange {
		return wal.TablespaceChange{LSN: at, XID: u32.Draw(t, "xid"), OID: u32.Draw(t, "oid"), Path: rapid.String().Draw(t, "path"), Dropped: rapid.Bool().Draw(t, "dropped")}
	})
	x.Databases = drawList(t, start, "databases", func(at sandglass.LSN) wal.DatabaseChange {
		return wal.DatabaseChange{LSN: at, XID: u32.Draw(t, "xid"), OID: u32.Draw(t, "oid"), Tablespace: 1663, Dropped: rapid.Bool().Draw(t, "dropped")}
	})
	x.ClockSteps = drawList(t, start, "steps", func(at sandglass.LSN) wal.ClockStep {
		return wal.ClockStep{LSN: at, High: drawTime(t), Low: drawTime(t), Previous: sandglass.LSN(u64.Draw(t, "previous"))}
	})
	x.Beats = drawList(t, start, "beats", func(at sandglass.LSN) sandglass.Beat { return sandglass.Beat{Time: drawTime(t), LSN: at} })
	return x
}

func TestIndexStoredForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawIndex(t)
		b := x.Marshal()
		y, err := wal.Unmarshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(x, y); d != "" {
			t.Fatalf("-stored +read:\n%s", d)
		}
		if !slices.Equal(b, y.Marshal()) {
			t.Fatal("stored again, the bytes differ")
		}
		bad := slices.Clone(b)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := wal.Unmarshal(bad); !errors.Is(err, wal.ErrIndex) {
			t.Fatalf("a flipped bit gave %v", err)
		}
		if _, err := wal.Unmarshal(b[:rapid.IntRange(0, len(b)-1).Draw(t, "length")]); !errors.Is(err, wal.ErrIndex) {
			t.Fatalf("cut bytes gave %v", err)
		}
	})
}

// FuzzIndexer: no bytes make the reader panic, and what passes is an index that can be stored.
func FuzzIndexer(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add(make([]byte, wal.PageSize), uint64(1<<24))
	page := make([]byte, 2*wal.PageSize)
	copy(page, "\x10\xD1\x02\x00\x01\x00\x00\x00")
	f.Add(page, uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, start uint64) {
		x := wal.NewIndexer(wal.Config{Major: 15, SegmentSize: segmentSize, Timeline: 1, Start: sandglass.LSN(start % (1 << 40))})
		if err := x.Write(b); err != nil {
			return
		}
		if _, err := wal.Unmarshal(x.Tail().Marshal()); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzUnmarshal: no bytes make Unmarshal panic.
func FuzzUnmarshal(f *testing.F) {
	f.Add((&wal.Index{Major: 15, SegmentSize: segmentSize, Transactions: []wal.Transaction{{LSN: 8, End: 40, Time: time.Unix(1, 0)}}}).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := wal.Unmarshal(b); err == nil {
			x.Marshal()
		}
	})
}
