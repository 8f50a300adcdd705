// The reader against WAL that a real server wrote, compared with pg_waldump and with SQL.

package wal_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/wal"
)

// workload makes every kind of record that an index notes. It is plain SQL for all majors, statement by statement.
var workload = []string{
	`CREATE TABLE t (id int PRIMARY KEY, note text)`,
	`INSERT INTO t SELECT i, 'note ' || i FROM generate_series(1, 20000) i`,
	`UPDATE t SET note = 'changed' WHERE id <= 812`,
	`DELETE FROM t WHERE id > 19500`,
	`SELECT pg_create_restore_point('before the accident')`,
	`BEGIN; SAVEPOINT a; INSERT INTO t VALUES (30001, 'kept'); SAVEPOINT b; INSERT INTO t VALUES (30002, 'gone'); ROLLBACK TO b; COMMIT`,
	`BEGIN; INSERT INTO t VALUES (40001, 'never'); ROLLBACK`,
	`BEGIN; INSERT INTO t VALUES (50001, 'prepared'); CREATE TABLE made_in_prepared (x int); PREPARE TRANSACTION 'one'`,
	`BEGIN; INSERT INTO t VALUES (50002, 'prepared'); PREPARE TRANSACTION 'two'`,
	`COMMIT PREPARED 'one'`,
	`ROLLBACK PREPARED 'two'`,
	`INSERT INTO t VALUES (1, 'conflict'), (60001, 'new') ON CONFLICT (id) DO NOTHING`,
	`BEGIN; DROP TABLE made_in_prepared; PREPARE TRANSACTION 'three'`,
	`COMMIT PREPARED 'three'`,
	`CREATE TABLE c (x text)`,
	`INSERT INTO c SELECT repeat('x', 100) FROM generate_series(1, 5000)`,
	`TRUNCATE c`,
	`DROP TABLE c`,
	`CREATE DATABASE another`,
	`DROP DATABASE another`,
	`SELECT pg_logical_emit_message(false, 'large', repeat('m', 3000000))`,
	`CHECKPOINT`,
	`VACUUM t`,
	`SELECT pg_switch_wal()`,
	`INSERT INTO t VALUES (70001, 'after the switch')`,
	`CREATE INDEX ON t (note)`,
	`CHECKPOINT`,
}

// production is a stopped cluster with 1 MiB segments and a varied WAL, and where it begins and ends.
type production struct {
	*pgtest.Cluster
	rel   wal.Relation // of table t
	begin sandglass.LSN
	end   sandglass.LSN
}

const segmentSize = 1 << 20

func newProduction(t *testing.T, major int, settings map[string]string) *production {
	t.Helper()
	all := map[string]string{"max_prepared_transactions": "10", "wal_keep_size": "1GB", "autovacuum": "off", "wal_level": "replica", "track_commit_timestamp": "on"}
	for k, v := range settings {
		all[k] = v
	}
	c := pgtest.New(t, pgtest.Options{Major: major, Settings: all, InitDB: []string{"--wal-segsize=1"}})
	p := &production{Cluster: c}
	p.begin = p.lsn(t, "pg_current_wal_insert_lsn()")
	conn := c.Conn(t, "postgres")
	for _, sql := range workload {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for i := range 50 {
		if _, err := conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO t VALUES (%d, 'small')", 80000+i)); err != nil {
			t.Fatal(err)
		}
	}
	row := strings.Split(c.Query(t, "postgres", `SELECT CASE reltablespace WHEN 0 THEN 1663 ELSE reltablespace END || ',' || (SELECT oid FROM pg_database WHERE datname = 'postgres') || ',' || relfilenode FROM pg_class WHERE relname = 't'`), ",")
	n := make([]uint32, 3)
	for i := range n {
		v, err := strconv.ParseUint(row[i], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		n[i] = uint32(v)
	}
	p.rel = wal.Relation{Tablespace: n[0], Database: n[1], File: n[2]}
	p.end = p.lsn(t, "pg_current_wal_flush_lsn()")
	return p
}

func (p *production) lsn(t *testing.T, sql string) sandglass.LSN {
	t.Helper()
	l, err := sandglass.ParseLSN(p.Query(t, "postgres", "SELECT "+sql+"::text"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read is the WAL in pg_wal from the start of from's segment up to to.
func (p *production) read(t *testing.T, from, to sandglass.LSN) (sandglass.LSN, []byte) {
	t.Helper()
	var b []byte
	seg := from.Segment(segmentSize)
	for s := seg; s.Start(segmentSize) < to; s++ {
		data, err := os.ReadFile(filepath.Join(p.Data(), "pg_wal", sandglass.SegmentName(1, s, segmentSize)))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, data...)
	}
	return seg.Start(segmentSize), b[:to-seg.Start(segmentSize)]
}

// dumped is one line of pg_waldump.
type dumped struct {
	LSN       sandglass.LSN
	XID       uint64
	Length    int
	Manager   string
	Statement string
}

var dumpLine = regexp.MustCompile(`^rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: ([0-9A-F/]+), prev [0-9A-F/]+, desc: (.*)$`)

func (p *production) waldump(t *testing.T, from, to sandglass.LSN) []dumped {
	t.Helper()
	out, err := p.Command(t.Context(), "pg_waldump", "-p", filepath.Join(p.Data(), "pg_wal"), "-s", from.String(), "-e", to.String()).Output()
	if err != nil {
		t.Fatalf("pg_waldump: %v", err)
	}
	var list []dumped
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		m := dumpLine.FindStringSubmatch(sc.Text())
		if m == nil {
			t.Fatalf("pg_waldump says %q", sc.Text())
		}
		d := dumped{Manager: m[1], Statement: m[5]}
		d.Length, _ = strconv.Atoi(m[2])
		d.XID, _ = strconv.ParseUint(m[3], 10, 64)
		d.LSN, err = sandglass.ParseLSN(m[4])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

// feed writes b in pieces of random sizes.
func feed(w func([]byte) error, b []byte, rng *rand.Rand) error {
	for len(b) > 0 {
		n := min(len(b), 1+rng.IntN(1<<rng.IntN(18)))
		if err := w(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// indexAll indexes b whole and gives the finished indexes and the tail, each through its stored form.
func indexAll(t *testing.T, c wal.Config, b []byte, rng *rand.Rand) []*wal.Index {
	t.Helper()
	x := wal.NewIndexer(c)
	var list []*wal.Index
	err := feed(func(p []byte) error {
		err := x.Write(p)
		list = append(list, x.Finished()...)
		return err
	}, b, rng)
	if err != nil {
		t.Fatal(err)
	}
	list = append(list, x.Tail())
	for i, y := range list {
		back, err := wal.Unmarshal(y.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(y, back); d != "" {
			t.Fatalf("index of %s changed in its stored form:\n%s", y.Start, d)
		}
		list[i] = back
	}
	return list
}

func TestAgainstWaldump(t *testing.T) {
	p := newProduction(t, 15, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	start, b := p.read(t, p.begin, p.end)
	c := wal.Config{Major: 15, SegmentSize: segmentSize, Timeline: 1, Start: start}

	var records []dumped
	r, err := wal.NewReader(c, func(r *wal.Record) error {
		records = append(records, dumped{LSN: r.LSN, XID: uint64(r.XID), Length: r.Length})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := feed(func(p []byte) error { _, err := r.Write(p); return err }, b, rng); err != nil {
		t.Fatal(err)
	}
	want := p.waldump(t, records[0].LSN, p.end)
	var plain []dumped
	for _, d := range want {
		plain = append(plain, dumped{LSN: d.LSN, XID: d.XID, Length: d.Length})
	}
	if d := cmp.Diff(plain, records); d != "" {
		t.Fatalf("records (-pg_waldump +ours):\n%s", d)
	}
	t.Logf("%d records in %d bytes", len(records), len(b))

	indexes := indexAll(t, c, b, rng)
	p.compareTransactions(t, want, indexes)
	p.checkIndexes(t, indexes)
}

var finishLine = regexp.MustCompile(`^(COMMIT|ABORT)(_PREPARED)?(?: (\d+):)? (\S+ \S+ UTC)`)

// compareTransactions compares ends of transactions: position, number, kind, time.
func (p *production) compareTransactions(t *testing.T, want []dumped, indexes []*wal.Index) {
	t.Helper()
	var a, b []string
	for _, d := range want {
		m := finishLine.FindStringSubmatch(d.Statement)
		if d.Manager != "Transaction" || m == nil {
			continue
		}
		at, err := time.Parse("2006-01-02 15:04:05.999999 MST", m[4])
		if err != nil {
			t.Fatal(err)
		}
		xid := strconv.FormatUint(d.XID, 10)
		if m[3] != "" {
			xid = m[3]
		}
		a = append(a, fmt.Sprint(d.LSN, " ", xid, " ", m[1] == "ABORT", " ", m[2] != "", " ", at.UTC()))
	}
	for _, x := range indexes {
		for _, c := range x.Transactions {
			b = append(b, fmt.Sprint(c.LSN, " ", c.XID, " ", c.Aborted, " ", c.Prepared, " ", c.Time))
		}
	}
	if len(a) < 60 {
		t.Fatalf("pg_waldump shows only %d commits and aborts", len(a))
	}
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("commits and aborts (-pg_waldump +ours):\n%s", d)
	}
}

// checkIndexes checks what the workload must have left in the indexes.
func (p *production) checkIndexes(t *testing.T, indexes []*wal.Index) {
	t.Helper()
	subs := map[uint32]bool{} // transactions and subtransactions that committed
	var points []string
	var checkpoints, created, dropped, databases int
	for i, x := range indexes {
		if x.Whole != (i < len(indexes)-1) || x.Start != indexes[0].Start+sandglass.LSN(i*segmentSize) {
			t.Errorf("index %d: whole %v, start %s", i, x.Whole, x.Start)
		}
		if x.First != 0 && (x.First.Segment(segmentSize) != x.Start.Segment(segmentSize) || x.Last < x.First || x.End <= x.Last) {
			t.Errorf("index of %s: first %s, last %s, end %s", x.Start, x.First, x.Last, x.End)
		}
		for _, c := range x.Transactions {
			if !c.Aborted {
				subs[c.XID] = true
				for _, s := range c.Subs {
					subs[s] = true
				}
			}
		}
		for _, r := range x.RestorePoints {
			points = append(points, r.Name)
		}
		for _, r := range x.Relations {
			switch {
			case r.Kind == wal.RelationCreated:
				created++
			case r.Kind == wal.RelationDropped:
				dropped++
			}
		}
		for _, d := range x.Databases {
			if d.LSN >= p.begin { // before it lie those of initdb
				databases++
			}
		}
		checkpoints += len(x.Checkpoints)
	}
	var got wal.Rows
	for _, x := range indexes {
		for _, r := range x.Rows {
			if r.Relation == p.rel && subs[r.XID] {
				got.Inserted += r.Inserted
				got.Updated += r.Updated
				got.Deleted += r.Deleted
			}
		}
	}
	want := wal.Rows{Inserted: 20000 + 1 + 1 + 1 + 1 + 50, Updated: 812, Deleted: 500}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rows of t in committed transactions (-want +got):\n%s", d)
	}
	if !slices.Equal(points, []string{"before the accident"}) {
		t.Errorf("restore points: %q", points)
	}
	if checkpoints < 2 || created < 4 || dropped < 4 || databases != 2 {
		t.Errorf("checkpoints %d, relations created %d and dropped %d, databases %d", checkpoints, created, dropped, databases)
	}
	last := indexes[len(indexes)-1]
	next := p.Query(t, "postgres", "SELECT pg_current_xact_id()::text")
	if strconv.FormatUint(last.NextXID, 10) != next {
		t.Errorf("next xid %d, production says %s", last.NextXID, next)
	}
	if last.OldestXID == 0 || last.OldestXID > last.NextXID {
		t.Errorf("oldest xid %d of next %d", last.OldestXID, last.NextXID)
	}
}

// TestCutAndResume: an indexer that begins anywhere finds the same records from its first page header on.
func TestCutAndResume(t *testing.T) {
	p := newProduction(t, 15, nil)
	rng := rand.New(rand.NewPCG(3, 4))
	start, b := p.read(t, p.begin, p.end)
	c := wal.Config{Major: 15, SegmentSize: segmentSize, Timeline: 1, Start: start}
	whole := indexAll(t, c, b, rng)
	for range 40 {
		cut := rng.IntN(len(b))
		c := c
		c.Start = start + sandglass.LSN(cut)
		got := indexAll(t, c, b[cut:], rng)
		want := whole[len(whole)-len(got)+1:]
		for i, x := range got[1:] { // from the next segment on, equal but for what is said of the run
			if d := cmp.Diff(want[i].Transactions, x.Transactions); d != "" || !x.Whole && i < len(want)-1 || x.First != want[i].First {
				t.Fatalf("begun at %s, index of %s differs: %s", c.Start, x.Start, d)
			}
		}
		var first []wal.Transaction
		for _, tx := range whole[len(whole)-len(got)].Transactions {
			if got[0].First != 0 && tx.LSN >= got[0].First {
				first = append(first, tx)
			}
		}
		if d := cmp.Diff(first, got[0].Transactions); d != "" || got[0].Whole && cut%segmentSize != 0 {
			t.Fatalf("begun at %s, the first index differs: %s", c.Start, d)
		}
	}
	// A run that is handed the index before it goes on as if it had never been interrupted.
	at := len(whole) / 2
	c.Start, c.Previous = whole[at].Start, whole[at-1]
	got := indexAll(t, c, b[whole[at].Start-start:], rng)
	if d := cmp.Diff(whole[at:], got); d != "" {
		t.Errorf("resumed run differs:\n%s", d)
	}
}

// TestTail: zeros after the last record are a clean end, anything else is damage.
func TestTail(t *testing.T) {
	p := newProduction(t, 15, nil)
	start, b := p.read(t, p.begin, p.end)
	c := wal.Config{Major: 15, SegmentSize: segmentSize, Timeline: 1, Start: start}
	padded := append(slices.Clone(b), make([]byte, segmentSize-len(b)%segmentSize)...)
	x := wal.NewIndexer(c)
	if err := x.Write(padded); err != nil {
		t.Fatalf("zero-padded tail: %v", err)
	}
	x = wal.NewIndexer(c)
	padded[len(padded)-100] = 1
	err := x.Write(padded)
	if _, ok := errors.AsType[*wal.DamageError](err); !ok {
		t.Errorf("bytes after the end: %v", err)
	}
}

// TestFlippedBits: a changed bit is an error, or lies where nothing is stored; it never panics and never changes what is read.
func TestFlippedBits(t *testing.T) {
	p := newProduction(t, 15, nil)
	start, b := p.read(t, p.begin, p.end)
	rng := rand.New(rand.NewPCG(5, 6))
	c := wal.Config{Major: 15, SegmentSize: segmentSize, Timeline: 1, Start: start}
	read := func(b []byte) (list []wal.Record, err error) {
		r, err := wal.NewReader(c, func(r *wal.Record) error {
			e := *r
			e.Data = nil
			list = append(list, e)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Write(b)
		return list, err
	}
	b = b[:2*segmentSize]
	want, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for range 300 {
		bad := slices.Clone(b)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		got, err := read(bad)
		if err != nil {
			damaged++
			continue
		}
		// In the last page a record that claims to be longer looks unfinished, until the next page comes.
		if len(got) < len(want) && want[len(got)].LSN < start+sandglass.LSN(len(b)-wal.PageSize) {
			t.Errorf("%d records of %d, and no error", len(got), len(want))
		}
	}
	t.Logf("%d of 300 flipped bits were refused, the rest lay in padding", damaged)
	if damaged < 200 {
		t.Errorf("only %d of 300 flipped bits were refused", damaged)
	}
}

func TestUnknownMajorAndMagic(t *testing.T) {
	if _, err := wal.NewReader(wal.Config{Major: 13, SegmentSize: segmentSize}, nil); err == nil || !strings.Contains(err.Error(), "PostgreSQL 13") {
		t.Errorf("major 13: %v", err)
	}
	for magic, text := range map[uint16]string{0xD10D: "PostgreSQL 14", 0xD0AA: "0xd0aa is not known"} {
		page := make([]byte, wal.PageSize)
		page[0], page[1] = byte(magic), byte(magic>>8)
		r, err := wal.NewReader(wal.Config{Major: 15, SegmentSize: segmentSize}, func(*wal.Record) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write(page); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("magic %#x: %v", magic, err)
		}
	}
}

// BenchmarkIndexer measures the indexer on pgbench's WAL; compare MB/s with the wanted 300.
func BenchmarkIndexer(b *testing.B) {
	c := pgtest.New(b, pgtest.Options{Settings: map[string]string{"wal_keep_size": "1GB", "synchronous_commit": "off", "full_page_writes": "off"}})
	ctx := context.Background()
	if err := c.PgbenchInit(ctx, "postgres", 5); err != nil {
		b.Fatal(err)
	}
	from, _ := sandglass.ParseLSN(c.Query(b, "postgres", "SELECT pg_current_wal_insert_lsn()::text"))
	if out, err := c.Pgbench(ctx, "postgres", 2, 6*time.Second).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	to, _ := sandglass.ParseLSN(c.Query(b, "postgres", "SELECT pg_current_wal_flush_lsn()::text"))
	var data []byte
	start := from.Segment(sandglass.DefaultSegmentSize)
	for s := start; s.Start(sandglass.DefaultSegmentSize) < to; s++ {
		seg, err := os.ReadFile(filepath.Join(c.Data(), "pg_wal", sandglass.SegmentName(1, s, sandglass.DefaultSegmentSize)))
		if err != nil {
			b.Fatal(err)
		}
		data = append(data, seg...)
	}
	data = data[:to-start.Start(sandglass.DefaultSegmentSize)]
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	var size, commits int
	for b.Loop() {
		x := wal.NewIndexer(wal.Config{Major: 15, SegmentSize: sandglass.DefaultSegmentSize, Timeline: 1, Start: start.Start(sandglass.DefaultSegmentSize)})
		r := bytes.NewReader(data)
		buf := make([]byte, 128<<10)
		for size, commits = 0, 0; ; {
			n, err := r.Read(buf)
			if err == io.EOF {
				break
			}
			if err := x.Write(buf[:n]); err != nil {
				b.Fatal(err)
			}
			for _, f := range x.Finished() {
				size += len(f.Marshal())
				commits += len(f.Transactions)
			}
		}
	}
	b.ReportMetric(float64(size)/float64(len(data)), "index/WAL")
	b.ReportMetric(float64(commits), "commits")
}
