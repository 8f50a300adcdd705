// A maker of WAL, record by record, and of a repository that holds it: the tests' production.

package window_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"testing"
	"time"

	"filippo.io/age"

	"sandglass"
	"sandglass/internal/repo"
	"sandglass/internal/wal"
	"sandglass/internal/window"
)

const segmentSize = 1 << 20

// t0 is when the tests' production begins.
var t0 = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// log makes WAL of PostgreSQL 15, as a server would write it.
type log struct {
	tli      sandglass.TimelineID
	start    sandglass.LSN
	b        []byte
	previous sandglass.LSN
	beats    []sandglass.Beat
	images   []sandglass.Image
}

func newLog() *log { return &log{tli: 1, start: 4 * segmentSize} }

func (l *log) end() sandglass.LSN { return l.start + sandglass.LSN(len(l.b)) }

// write appends bytes, with page headers where pages begin; left is what the record that goes on still has.
func (l *log) write(p []byte, continues bool) {
	for len(p) > 0 {
		if l.end()%wal.PageSize == 0 {
			l.page(uint32(len(p)), continues)
		}
		n := min(len(p), wal.PageSize-int(l.end()%wal.PageSize))
		l.b = append(l.b, p[:n]...)
		p, continues = p[n:], true
	}
}

func (l *log) page(left uint32, continues bool) {
	h := make([]byte, 24, 40)
	info := uint16(0)
	if continues {
		info |= 1
		binary.LittleEndian.PutUint32(h[16:], left)
	}
	binary.LittleEndian.PutUint16(h, 0xD110)
	binary.LittleEndian.PutUint32(h[4:], uint32(l.tli))
	binary.LittleEndian.PutUint64(h[8:], uint64(l.end()))
	if l.end()%segmentSize == 0 {
		info |= 2
		h = h[:40]
		binary.LittleEndian.PutUint64(h[24:], 4711)
		binary.LittleEndian.PutUint32(h[32:], segmentSize)
		binary.LittleEndian.PutUint32(h[36:], wal.PageSize)
	}
	binary.LittleEndian.PutUint16(h[2:], info)
	l.b = append(l.b, h...)
}

// record appends a record and gives its start.
func (l *log) record(manager, info uint8, xid uint32, blocks, main []byte) sandglass.LSN {
	if n := l.end() % 8; n != 0 {
		l.b = append(l.b, make([]byte, 8-n)...)
	}
	body := append([]byte(nil), blocks...)
	body = append(body, 254)
	body = binary.LittleEndian.AppendUint32(body, uint32(len(main)))
	body = append(body, main...)
	h := make([]byte, 24)
	binary.LittleEndian.PutUint32(h, uint32(24+len(body)))
	binary.LittleEndian.PutUint32(h[4:], xid)
	binary.LittleEndian.PutUint64(h[8:], uint64(l.previous))
	h[16], h[17] = info, manager
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(h[20:], crc32.Update(crc32.Checksum(body, table), table, h[:20]))
	if l.end()%wal.PageSize == 0 {
		l.page(0, false)
	}
	lsn := l.end()
	l.write(append(h, body...), false)
	l.previous = lsn
	return lsn
}

func le(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		if t, ok := v.(time.Time); ok {
			v = t.UnixMicro() - 946_684_800_000_000
		}
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func (l *log) commit(xid uint32, t time.Time) sandglass.LSN {
	return l.record(1, 0x00, xid, nil, le(t))
}
func (l *log) abort(xid uint32, t time.Time) sandglass.LSN { return l.record(1, 0x20, xid, nil, le(t)) }

// commitWith commits a transaction with subtransactions; commitPrepared is COMMIT PREPARED by another one.
func (l *log) commitWith(xid uint32, t time.Time, subs ...uint32) sandglass.LSN {
	return l.record(1, 0x80, xid, nil, append(le(t, uint32(2), uint32(len(subs))), le(subs)...))
}
func (l *log) commitPrepared(xid uint32, t time.Time) sandglass.LSN {
	return l.record(1, 0x30|0x80, 0, nil, le(t, uint32(1<<4), xid))
}

// filler is WAL of no interest: an XLOG_NOOP of n bytes.
func (l *log) filler(n int) sandglass.LSN { return l.record(0, 0x20, 0, nil, make([]byte, n)) }

func (l *log) point(name string, t time.Time) sandglass.LSN {
	return l.record(0, 0x70, 0, nil, append(le(t), append([]byte(name), make([]byte, 64-len(name))...)...))
}
func (l *log) parameters(connections, level int) sandglass.LSN {
	return l.record(0, 0x60, 0, nil, le(int32(connections), int32(8), int32(10), int32(0), int32(64), int32(level), false, false))
}
func (l *log) tablespace(oid uint32, path string) sandglass.LSN {
	return l.record(5, 0x00, 0, nil, append(le(oid), append([]byte(path), 0)...))
}
func (l *log) dropTablespace(oid uint32) sandglass.LSN { return l.record(5, 0x10, 0, nil, le(oid)) }

// checkpoint is an online one, or with info 0 that of a shutdown.
func (l *log) checkpoint(info uint8, redo sandglass.LSN, nextXID uint64, t time.Time) sandglass.LSN {
	if redo == 0 {
		redo = l.next()
	}
	return l.record(0, info, 0, nil, le(uint64(redo), uint32(l.tli), uint32(l.tli), uint64(1), nextXID, make([]byte, 32), t.Unix(), make([]byte, 16)))
}

// running is an xl_running_xacts.
func (l *log) running(next, oldest uint32) sandglass.LSN {
	return l.record(8, 0x10, 0, nil, le(int32(0), int32(0), uint32(0), next, oldest, oldest))
}

// delete deletes n rows of a table.
func (l *log) delete(xid, file uint32, n int) {
	for range n {
		block := le(uint8(0), uint8(0), uint16(0), uint32(1663), uint32(5), file, uint32(0))
		l.record(10, 0x10, xid, block, le(xid, uint16(1), uint8(0), uint8(0)))
	}
}

// switchSegment ends the segment, as pg_switch_wal does.
func (l *log) switchSegment() {
	l.record(0, 0x40, 0, nil, nil)
	l.b = append(l.b, make([]byte, segmentSize-l.end().Offset(segmentSize))...)
}

// next is where the next record will start.
func (l *log) next() sandglass.LSN {
	n := (l.end() + 7) &^ 7
	switch {
	case n%segmentSize == 0:
		return n + 40
	case n%wal.PageSize == 0:
		return n + 24
	}
	return n
}

// image takes an image from now to now, finished at t.
func (l *log) image(id string, nextXID uint64, t time.Time) sandglass.Image {
	i := sandglass.Image{ID: sandglass.ImageID(id), Timeline: l.tli, Began: t, Ended: t, Redo: l.next(), Minimums: sandglass.Parameters{MaxConnections: 100, WALLevel: "replica"}}
	l.checkpoint(0x10, i.Redo, nextXID, t)
	i.Consistent = l.record(0, 0x50, 0, nil, le(uint64(i.Redo)))
	i.End = (l.end() + 7) &^ 7
	l.images = append(l.images, i)
	return i
}

// beat is a keepalive: production's WAL ended here at t.
func (l *log) beat(t time.Time) { l.beats = append(l.beats, sandglass.Beat{Time: t, LSN: l.end()}) }

// world is a repository with incarnations of environment "prod".
type world struct {
	*repo.Repository
	tb  testing.TB
	dir string
	// runs says after how many segments the recorder is started anew, so that its index run ends; 0: never.
	runs int
}

var env = sandglass.Environment{Name: "prod", Kind: sandglass.Production}

func newWorld(tb testing.TB) *world {
	dir, err := os.MkdirTemp(fast(), "sg")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	id, err := age.GenerateX25519Identity()
	if err != nil {
		tb.Fatal(err)
	}
	folder, err := repo.NewFolder(dir + "/repo")
	if err != nil {
		tb.Fatal(err)
	}
	r, err := repo.Create(context.Background(), folder, repo.CreateOptions{Recipients: []string{id.Recipient().String()}, Identities: []age.Identity{id}})
	if err != nil {
		tb.Fatal(err)
	}
	return &world{Repository: r, tb: tb, dir: dir}
}

// fast is a folder in memory where there is one: these tests are not about durability.
func fast() string {
	if i, err := os.Stat("/dev/shm"); err == nil && i.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func (w *world) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) begin(id sandglass.IncarnationID, t time.Time) sandglass.Incarnation {
	inc := sandglass.Incarnation{ID: id, Environment: env.Name, SystemIdentifier: 4711, Major: 15, SegmentSize: segmentSize, Began: t}
	w.must(w.BeginIncarnation(context.Background(), inc))
	return inc
}

// beatsOf are the keepalives heard while a segment was being written.
func (l *log) beatsOf(seg sandglass.SegmentNo) (beats []sandglass.Beat) {
	for _, b := range l.beats {
		if b.LSN > seg.Start(segmentSize) && b.LSN <= (seg+1).Start(segmentSize) {
			beats = append(beats, b)
		}
	}
	return beats
}

// put stores an incarnation's WAL as a recorder does, but for segments for which skip says so.
func (w *world) put(inc sandglass.IncarnationID, l *log, skip func(sandglass.SegmentNo) bool) {
	w.tb.Helper()
	ctx := context.Background()
	config := wal.Config{Major: 15, SegmentSize: segmentSize, Timeline: l.tli, Start: l.start}
	x := wal.NewIndexer(config)
	indexed := 0 // bytes in segments whose index is there
	for n, i := 0, 0; i < len(l.b); n, i = n+1, i+segmentSize {
		if w.runs > 0 && n%w.runs == 0 { // which begins with the first segment that lacks its index
			config.Start = l.start + sandglass.LSN(indexed)
			x = wal.NewIndexer(config)
			w.must(x.Write(l.b[indexed:i]))
		}
		data := l.b[i:min(len(l.b), i+segmentSize)]
		w.must(x.Write(data))
		seg := (l.start + sandglass.LSN(i)).Segment(segmentSize)
		beats := l.beatsOf(seg)
		for _, f := range x.Finished() {
			indexed += segmentSize
			if s := f.Start.Segment(segmentSize); skip == nil || !skip(s) {
				f.Beats = l.beatsOf(s) // it may be of a segment before, whose last record has only now become whole
				w.must(w.PutIndex(ctx, env.Name, inc, l.tli, s, f.Marshal()))
			}
		}
		switch {
		case skip != nil && skip(seg):
		case len(data) == segmentSize:
			w.must(w.PutSegment(ctx, env.Name, inc, l.tli, seg, bytes.NewReader(data)))
		default:
			w.must(w.PutPart(ctx, env.Name, inc, repo.Part{Timeline: l.tli, From: seg.Start(segmentSize), Data: data, Beats: beats}))
		}
	}
	for _, i := range l.images {
		i.Environment, i.Incarnation = env.Name, inc
		iw, err := w.NewImage(ctx, i, repo.ImageOptions{Dir: w.dir})
		w.must(err)
		w.must(iw.Dir("global", fs.ModeDir|0o700))
		_, d, err := iw.Finish(ctx, i)
		w.must(err)
		d.Close()
	}
}

func (w *world) resolve(m sandglass.Moment) (sandglass.Range, error) {
	return window.Resolve(context.Background(), w.Repository, env, m, nil)
}

func timeMoment(t time.Time) sandglass.Moment {
	return sandglass.Moment{Kind: sandglass.AtTime, Time: t}
}

// live is a recorder's status.
type live sandglass.RecorderStatus

func (l live) Status() sandglass.RecorderStatus { return sandglass.RecorderStatus(l) }

func show(r sandglass.Range, err error) string {
	if err != nil {
		return string(sandglass.CodeOf(err))
	}
	return fmt.Sprintf("%s %s [%s,%s) stop %s", r.Incarnation, r.Image, r.From, r.Until, r.Stop)
}
