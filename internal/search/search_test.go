package search_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandglass/internal/search"
)

func find(t *testing.T, folder string, needles ...search.Needle) []search.Hit {
	t.Helper()
	hits, _, err := search.NewIndex(needles).Search(t.Context(), folder, search.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return hits
}

func write(t *testing.T, folder, name string, content []byte) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A value is found wherever it lies: at the ends of files and across the pieces they are read in.
func TestEverywhere(t *testing.T) {
	const size = 66 << 20 // more than a piece
	content := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < size; i += 8 {
		if i/8192%3 != 0 { // every third page is empty
			for j, v := 0, random.Uint64(); j < 8; j++ {
				content[i+j] = byte(v >> (8 * j))
			}
		}
	}
	folder := t.TempDir()
	var needles []search.Needle
	var want []search.Hit
	for i, at := range []int{0, 1600, 8191, 1<<20 - 20, 1<<20 + 500, 2<<20 - 7, 3<<20 - 1000, 64<<20 - 12, 64<<20 + 700, size - 2000, size - 17} {
		value := []byte(fmt.Sprintf("value-%011d", random.Uint64N(1e11)))
		if i%3 == 0 && at+900 < size {
			value = append(value, bytes.Repeat([]byte("0123456789"), 50)...)
		}
		copy(content[at:], value)
		needles = append(needles, search.Needle{Value: value, Of: i})
		want = append(want, search.Hit{Path: "a/big", Offset: int64(at), Of: i})
	}
	write(t, folder, "a/big", content)
	write(t, folder, "empty", nil)
	if diff := cmp.Diff(want, find(t, folder, needles...)); diff != "" {
		t.Error(diff)
	}
}

// What is like a needle is none: other beginnings and ends, and, for names, other names around it.
func TestExactly(t *testing.T) {
	folder := t.TempDir()
	for i, tt := range []struct {
		needle string
		word   bool
		in     string
		want   int
	}{
		{"swordfish-1", false, "swordfish-2 swordfish- Swordfish-1", 0},
		{"swordfish-1", false, "xswordfish-1x", 1},
		{"aaaaaaaab1c", false, "aaaaaaaaaaaaaaaaab1c", 1},
		{"\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08", false, "\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08", 1},
		{"db.prod.example", true, "host=db.prod.example port=5432", 1},
		{"db.prod.example", true, "DB.PROD.EXAMPLE", 1},
		{"DB.Prod.Example", true, "db.prod.example, DB.Prod.Example; dB.pROD.eXAMPLE dbnprod.example", 3},
		{"erpdb-01", true, "erpdb-01 ERPDB-01:5432 \\\\erpdb-01\\x erpdb-01.elsewhere.example erpdb-011", 3},
		{"swordfish-1", false, "SWORDFISH-1 sWordfish-1", 0},
		{"fd00:1:2::30", true, "fd00:1:2::30 [FD00:1:2::30]:5432 fd00:1:2::30/64 addr:fd00:1:2::30", 4},
		{"fd00:1:2::30", true, "fd00:1:2::301 fd00:1:2::30:1 1:fd00:1:2::30 afd00:1:2::30", 0},
		{"db.prod.example", true, "a.db.prod.example. The end", 1},
		{"db.prod.example", true, "olddb.prod.example db.prod.examples db.prod.example.org", 0},
		{"10.20.30.4", true, "10.20.30.41 110.20.30.4 1.10.20.30.4 10.20.30.4.5", 0},
		{"10.20.30.4", true, "(10.20.30.4:5432)", 1},
		{"short", false, "short short short", 0},
		{"********-*", false, "********-*", 0},
	} {
		name := fmt.Sprintf("%02d", i)
		write(t, folder, name+"/f", []byte(tt.in))
		got := find(t, filepath.Join(folder, name), search.Needle{Value: []byte(tt.needle), Word: tt.word})
		if got = slices.DeleteFunc(got, func(h search.Hit) bool { return h.Part }); len(got) != tt.want {
			t.Errorf("%q in %q: %v, want %d hits", tt.needle, tt.in, got, tt.want)
		}
	}
}

// A name beside letters or digits may be a whole one in a page of PostgreSQL, where these are lengths: it is told, once a file, unless a
// whole one is there too, or the byte before it is its very length. What lies where the file is read in pieces is judged by both sides.
func TestParts(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "page", []byte("\x00\x003db1.erp.prod.example.comA-- and xdb1.erp.prod.example.com"))
	write(t, folder, "name", []byte("x3db1.erp.prod.example.com"))
	write(t, folder, "both", []byte("xdb1.erp.prod.example.com db1.erp.prod.example.com"))
	write(t, folder, "none", []byte("db2.erp.prod.example.com"))
	big := bytes.Repeat([]byte{'.'}, 3<<20)
	copy(big[1<<20-24:], "db1.erp.prod.example.comx") // its end is the first piece's
	copy(big[2<<20-1:], "xdb1.erp.prod.example.com")  // its beginning is the third's
	write(t, folder, "big", big)
	want := []search.Hit{{Path: "big", Offset: 1<<20 - 24, Of: 7, Part: true}, {Path: "both", Offset: 26, Of: 7}, {Path: "name", Offset: 2, Of: 7, Part: true}, {Path: "page", Offset: 3, Of: 7}}
	if diff := cmp.Diff(want, find(t, folder, search.Needle{Value: []byte("db1.erp.prod.example.com"), Of: 7, Word: true})); diff != "" {
		t.Error(diff)
	}
}

// Many needles with the same beginning don't make it slow: each is known by what is its own.
func TestAgainstPlainSearch(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var needles []search.Needle
	var content bytes.Buffer
	for i := range 3000 {
		value := fmt.Sprintf("https://erp.example/%d/%x", i%7, random.Uint32N(1<<24)+1<<24)
		needles = append(needles, search.Needle{Value: []byte(value), Of: i})
		if i%5 == 0 {
			fmt.Fprintf(&content, "<%s>", value)
		} else {
			fmt.Fprintf(&content, "<https://erp.example/%d/%x>", i%7, random.Uint32N(1<<24)+2<<24)
		}
	}
	folder := t.TempDir()
	write(t, folder, "f", content.Bytes())
	want := 0
	for _, n := range needles {
		want += bytes.Count(content.Bytes(), n.Value)
	}
	if got := find(t, folder, needles...); len(got) != want {
		t.Errorf("%d hits, want %d", len(got), want)
	}
}

func BenchmarkSearch(b *testing.B) {
	folder := b.TempDir()
	content := make([]byte, 256<<20)
	random := rand.New(rand.NewPCG(5, 6))
	for i := range content {
		content[i] = "abcdefghijklmnopqrstuvwxyz @.0123456789"[random.Uint32N(39)]
	}
	if err := os.WriteFile(filepath.Join(folder, "f"), content, 0o600); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{10, 100_000} {
		var needles []search.Needle
		for i := range n {
			needles = append(needles, search.Needle{Value: fmt.Appendf(nil, "secret-%d-%x", i, random.Uint64()), Of: i})
		}
		index := search.NewIndex(needles)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				if hits, _, err := index.Search(b.Context(), folder, search.Options{Workers: 1}); err != nil || len(hits) > 0 {
					b.Fatal(hits, err)
				}
			}
		})
	}
}

// The server sends arrays and composites with the length of each element before it, which may look like a letter.
func TestMentioned(t *testing.T) {
	name := "prod-erp.cabcdefghijk.eu-central-1.rds.amazonaws.com"
	x := search.NewIndex([]search.Needle{{Value: []byte(name), Of: 3, Word: true}})
	for text, want := range map[string]bool{
		name:                             true,
		"\x00\x00\x00\x34" + name:        true, // 52, which is a 4
		"\x00\x00\x00\x35x" + name:       false,
		"x4" + name:                      false,
		"\x00\x00\x00\x36" + name + "xx": false,
	} {
		if got := x.Mentioned([]byte(text)); got[3] != want {
			t.Errorf("%q: %t, want %t", text, got[3], want)
		}
	}
}
