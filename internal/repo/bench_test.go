package repo_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"sandglass"
	"sandglass/internal/repo"
)

// benchFiles are about 256 MiB that compress as a pgbench cluster does, to about a tenth.
func benchFiles() ([]file, int64) {
	var files []file
	var sum int64
	for i := range 16 {
		b := heap(uint64(i), 16<<20)
		files = append(files, file{fmt.Sprintf("base/1/%d", 16384+i), b})
		sum += int64(len(b))
	}
	return files, sum
}

// heap makes pages as pgbench_accounts has: counting keys, a balance, 84 blanks.
func heap(seed uint64, n int) []byte {
	b := make([]byte, 0, n+256)
	for row := 0; len(b) < n; row++ {
		b = fmt.Appendf(b, "%08x\x00\x00\x00\x00%02x\x04\x00\x02\x09\x18\x00%07d\x00\x00\x00\x01%06d", seed, row%61, row, (row*7919)%999983)
		b = append(b, bytes.Repeat([]byte{' '}, 84)...)
	}
	return b[:n]
}

func BenchmarkImageWrite(b *testing.B) {
	files, sum := benchFiles()
	b.SetBytes(sum)
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		x := newFixture(b)
		b.StartTimer()
		x.image(b, x.repo, x.inc.ID, sandglass.ImageID(fmt.Sprintf("img%d", n)), epoch, 0, nil, files)
	}
}

func BenchmarkImageWriteUnchanged(b *testing.B) {
	files, sum := benchFiles()
	x := newFixture(b)
	_, d := x.image(b, x.repo, x.inc.ID, "first", epoch, 0, nil, files)
	b.SetBytes(sum)
	for n := 0; b.Loop(); n++ {
		x.image(b, x.repo, x.inc.ID, sandglass.ImageID(fmt.Sprintf("img%d", n)), epoch, 0, d, files)
	}
}

func BenchmarkRestore(b *testing.B) {
	files, sum := benchFiles()
	x := newFixture(b)
	x.image(b, x.repo, x.inc.ID, "first", epoch, 0, nil, files)
	b.SetBytes(sum)
	for b.Loop() {
		i, err := x.repo.OpenImage(b.Context(), env, x.inc.ID, "first")
		if err != nil {
			b.Fatal(err)
		}
		if err := i.Restore(b.Context(), filepath.Join(b.TempDir(), "data"), nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutSegment(b *testing.B) {
	x := newFixture(b)
	wal := heap(1, segSize)
	b.SetBytes(segSize)
	for n := sandglass.SegmentNo(1); b.Loop(); n++ {
		if err := x.repo.PutSegment(b.Context(), env, x.inc.ID, 1, n, bytes.NewReader(wal)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenWAL(b *testing.B) {
	x := newFixture(b)
	if err := x.repo.PutSegment(b.Context(), env, x.inc.ID, 1, 1, bytes.NewReader(heap(1, segSize))); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(segSize)
	for b.Loop() {
		rc, _, err := x.repo.OpenWAL(b.Context(), env, x.inc.ID, 1, 1)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, rc); err != nil {
			b.Fatal(err)
		}
		rc.Close()
	}
}

func BenchmarkPutPart(b *testing.B) {
	x := newFixture(b)
	wal := heap(1, segSize)
	b.SetBytes(64 << 10)
	for n := 0; b.Loop(); n++ {
		p := repo.Part{Timeline: 1, From: sandglass.LSN(n * (64 << 10)), Data: wal[:64<<10]}
		if err := x.repo.PutPart(b.Context(), env, x.inc.ID, p); err != nil {
			b.Fatal(err)
		}
	}
}
