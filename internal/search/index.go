// Package search finds values in the files of a folder, many values in one pass: the proof that
// nothing of production is left in a copy, whatever the files are.
package search

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Limits of what can be looked for.
const (
	MinLength   = 8    // bytes; what is shorter is found everywhere
	MaxLength   = 1024 // bytes; of a longer value its beginning
	minDistinct = 4    // different bytes; "********" is nobody's secret
	beside      = 2    // bytes next to a name that say whether it is a whole one; see alone
)

// Needle is a value to look for.
type Needle struct {
	Value []byte
	// Of is what the caller knows the value by; a Hit has the same.
	Of int
	// Word is a name or an address in ASCII, which counts only where it is not part of a longer one, and whose letters may be
	// large or small.
	Word bool
}

// Searchable says whether a value is long and varied enough to be looked for.
func Searchable(value []byte) bool {
	if len(value) < MinLength {
		return false
	}
	var seen [256]bool
	distinct := 0
	for _, b := range value {
		if !seen[b] {
			seen[b] = true
			distinct++
		}
	}
	return distinct >= minDistinct && window(value, nil) >= 0
}

// Index finds needles by a window of 8 bytes of each, in which letters are as good as small: a bitmap says of most
// bytes of a file, in a nanosecond each, that no window begins there.
type Index struct {
	bits    []uint64 // a power of two of them
	shift   uint
	windows map[uint64][]entry
	reach   int // how far from a window a needle goes, and what is beside it
}

type entry struct {
	needle Needle
	offset int // of the window in the needle
}

// NewIndex makes an index of the needles that are Searchable.
func NewIndex(needles []Needle) *Index {
	var all []Needle
	counts := map[uint64]int{} // how many needles could use a window: the rarest is used
	x := &Index{windows: map[uint64][]entry{}}
	for _, n := range needles {
		n.Value = n.Value[:min(len(n.Value), MaxLength)]
		if !Searchable(n.Value) {
			continue
		}
		all = append(all, n)
	}
	for _, n := range all {
		for _, offset := range offsets(n.Value) {
			counts[word(n.Value[offset:])]++
		}
	}
	size := max(9, min(19, bits.Len(uint(len(all)/2)))) // of the bitmap, as a power of two of words
	x.bits, x.shift = make([]uint64, 1<<size), uint(64-size)
	for _, n := range all {
		offset := window(n.Value, counts)
		w := word(n.Value[offset:])
		h := hash(w)
		x.bits[h>>x.shift] |= mask(h)
		x.windows[w] = append(x.windows[w], entry{n, offset})
		x.reach = max(x.reach, len(n.Value)+beside)
	}
	return x
}

// Empty says that there is nothing to look for.
func (x *Index) Empty() bool { return len(x.windows) == 0 }

// hash spreads windows (Fibonacci hashing; Knuth, The Art of Computer Programming 3, 6.4): the highest bits say which
// word of the bitmap, others which two bits in it (a Bloom filter whose bits lie together).
func hash(w uint64) uint64 { return w * 0x9E3779B97F4A7C15 }

func mask(h uint64) uint64 { return 1<<(h>>20&63) | 1<<(h>>26&63) }

// small makes letters small, and other bytes something else of their own or of a few: a sieve, not a comparison.
const small = 0x2020202020202020

func word(b []byte) uint64 { return binary.LittleEndian.Uint64(b) | small }

// offsets are where a needle's window may be: a few, spread over it. A window never begins with a zero byte, so that
// stretches of zeros can be passed over, nor consists of one byte repeated.
func offsets(value []byte) []int {
	last := len(value) - MinLength
	var out []int
	add := func(at int) {
		if at >= 0 && at <= last && value[at] != 0 && !uniform(value[at:at+MinLength]) {
			out = append(out, at)
		}
	}
	for i := range 5 {
		add(last * i / 4)
	}
	for at := 0; at <= last && out == nil; at++ {
		add(at)
	}
	return out
}

func uniform(b []byte) bool {
	for _, c := range b {
		if c|0x20 != b[0]|0x20 {
			return false
		}
	}
	return true
}

// window is the offset of the window of which there are fewest; -1 when there is none.
func window(value []byte, counts map[uint64]int) int {
	best, least := -1, 0
	for _, offset := range offsets(value) {
		if n := counts[word(value[offset:])]; best < 0 || n < least {
			best, least = offset, n
		}
	}
	return best
}

// scan calls found for each needle in b whose window begins in b[from:to]. What lies around that must be in b as far
// as x.reach, or not be there at all.
func (x *Index) scan(b []byte, from, to int, found func(e entry, at int)) {
	bitmap, shift := x.bits, x.shift
	to = min(to, len(b)-MinLength+1)
	for i := from; i < to; i++ {
		w := binary.LittleEndian.Uint64(b[i:])
		if w == 0 {
			i += MinLength - 1
			continue
		}
		w |= small
		h := hash(w)
		if m := mask(h); bitmap[h>>(shift&63)]&m != m { // &63: no test for a larger shift
			continue
		}
		for _, e := range x.windows[w] {
			if at := i - e.offset; at >= 0 && e.needle.in(b, at) {
				found(e, at)
			}
		}
	}
}

// in says whether the needle's bytes are at b[at:].
func (n Needle) in(b []byte, at int) bool {
	end := at + len(n.Value)
	if end > len(b) {
		return false
	}
	if !n.Word {
		return bytes.Equal(b[at:end], n.Value)
	}
	return bytes.EqualFold(b[at:end], n.Value)
}

// whole says whether the needle, whose bytes are at b[at:], is not part of a longer name there.
func (n Needle) whole(b []byte, at int) bool { return !n.Word || alone(b, at, at+len(n.Value)) }

// stored says whether the needle, whose bytes are at b[at:], is a short value by itself in a row: its length, with its own byte,
// stands before it in one odd byte (SET_VARSIZE_1B in varatt.h), which may look like a letter. That it does, and no name goes on before
// it, is no accident.
func (n Needle) stored(b []byte, at int) bool {
	return at > 0 && int(b[at-1]) == 2*len(n.Value)+3 && (at == 1 || !part(b[at-2]))
}

// sent says whether the needle, whose bytes are at b[at:], is an element by itself of an array or a composite as the server sends it:
// the length of what begins with it stands before it in four bytes, of which the last may look like a letter. No text has a NUL.
func (n Needle) sent(b []byte, at int) bool {
	return at > 1 && b[at-2] == 0 && n.whole(b[at:], 0)
}

// Mentioned says which needles, by their Of, are in a value as the server sends it.
func (x *Index) Mentioned(text []byte) map[int]bool {
	of := map[int]bool{}
	x.scan(text, 0, len(text), func(e entry, at int) {
		if e.needle.whole(text, at) || e.needle.sent(text, at) {
			of[e.needle.Of] = true
		}
	})
	return of
}

// part says whether a byte is part of a name.
func part(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_'
}

func hexadecimal(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// alone says whether what is at b[at:end] is a whole name or address: "10.0.0.12" is not in "10.0.0.123" or
// "110.0.0.12", nor "fd00::1:2" in "fd00::1:2:3", but db.example.com is in "x.db.example.com".
func alone(b []byte, at, end int) bool {
	if at > 0 && part(b[at-1]) || end < len(b) && part(b[end]) {
		return false
	}
	if bytes.IndexByte(b[at:end], ':') >= 0 { // IPv6
		return !(at > 1 && b[at-1] == ':' && (hexadecimal(b[at-2]) || b[at-2] == ':')) &&
			!(end+1 < len(b) && b[end] == ':' && (hexadecimal(b[end+1]) || b[end+1] == ':'))
	}
	numeric := b[at] >= '0' && b[at] <= '9' && b[end-1] >= '0' && b[end-1] <= '9'
	if numeric && at > 1 && b[at-1] == '.' && part(b[at-2]) {
		return false
	}
	return end+1 >= len(b) || b[end] != '.' || !part(b[end+1])
}
