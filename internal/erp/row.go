package erp

// This file writes rows in the text form of COPY.

import (
	"encoding/hex"
	"io"
	"math/rand/v2"
	"strconv"
	"time"
)

// row is one line of COPY under construction, and the table's own source of chance.
type row struct {
	rng *rand.Rand
	buf []byte
}

// s writes texts, one a column.
func (r *row) s(values ...string) *row {
	for _, v := range values {
		for i := range len(v) {
			switch v[i] {
			case '\\':
				r.buf = append(r.buf, '\\', '\\')
			case '\t':
				r.buf = append(r.buf, '\\', 't')
			case '\n':
				r.buf = append(r.buf, '\\', 'n')
			default:
				r.buf = append(r.buf, v[i])
			}
		}
		r.buf = append(r.buf, '\t')
	}
	return r
}

// i writes whole numbers.
func (r *row) i(values ...int) *row {
	for _, v := range values {
		r.buf = append(strconv.AppendInt(r.buf, int64(v), 10), '\t')
	}
	return r
}

// id writes the record id of a table's row by its number.
func (r *row) id(number int) *row { return r.i(int(FirstRecID) + number) }

// money writes cents as an amount.
func (r *row) money(cents ...int) *row {
	for _, v := range cents {
		if v < 0 {
			r.buf = append(r.buf, '-')
			v = -v
		}
		r.buf = strconv.AppendInt(r.buf, int64(v/100), 10)
		r.buf = append(r.buf, '.', byte('0'+v/10%10), byte('0'+v%10), '\t')
	}
	return r
}

// t writes times, or dates where the column is one.
func (r *row) t(values ...time.Time) *row {
	for _, v := range values {
		r.buf = append(v.AppendFormat(r.buf, "2006-01-02 15:04:05"), '\t')
	}
	return r
}

// bytes writes n bytes that look encrypted.
func (r *row) bytes(n int) *row {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	return r.binary(b)
}

// binary writes bytes as they are.
func (r *row) binary(b []byte) *row {
	r.buf = append(r.buf, `\\x`...)
	r.buf = append(hex.AppendEncode(r.buf, b), '\t')
	return r
}

func (r *row) null() *row {
	r.buf = append(r.buf, `\N`+"\t"...)
	return r
}

// stream reads as the rows of a table.
type stream struct {
	filler
	row
	numbered, tracked bool // the columns that every row of the business database has
	done              int
	left              []byte
}

func (w *world) stream(f filler, numbered, tracked bool) *stream {
	return &stream{filler: f, row: row{rng: w.random(f.table)}, numbered: numbered, tracked: tracked}
}

// chunk is how much is made at a time.
const chunk = 64 << 10

func (s *stream) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		if s.done == s.rows {
			return 0, io.EOF
		}
		s.buf = s.buf[:0]
		for ; s.done < s.rows && len(s.buf) < chunk; s.done++ {
			s.line()
		}
		s.left = s.buf
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *stream) line() {
	if s.numbered {
		s.id(s.done)
	}
	s.filler.row(&s.row, s.done)
	if s.tracked {
		created := firstDay.Add(time.Duration(int64(days) * int64(24*time.Hour) / int64(s.rows) * int64(s.done)).Truncate(time.Second))
		who := userID(s.rng.IntN(people))
		s.t(created, created).s(who, who)
	}
	s.buf[len(s.buf)-1] = '\n'
}
