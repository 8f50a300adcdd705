package sandglass

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time in declarations: Go's text form ("90s", "36h") or days ("7d").
type Duration time.Duration

// String writes whole days as "7d", all else as Go does.
func (d Duration) String() string {
	if day := Duration(24 * time.Hour); d != 0 && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return time.Duration(d).String()
}

// MarshalText writes String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads "7d" or Go's form.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.Atoi(n)
		if err != nil {
			return fmt.Errorf("%q is not a length of time; write 7d, 36h or 90s", s)
		}
		*d = Duration(time.Duration(days) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a length of time; write 7d, 36h or 90s", s)
	}
	*d = Duration(v)
	return nil
}

// Bytes is an amount of data in declarations: "16GiB", "64MiB", "512kB" or a plain number.
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// String is the amount with a binary unit and at most one decimal.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if int64(b) >= u.size || -int64(b) >= u.size {
			return strings.TrimSuffix(strconv.FormatFloat(float64(b)/float64(u.size), 'f', 1, 64), ".0") + " " + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + " B"
}

// MarshalText writes the plain number, so that nothing is lost.
func (b Bytes) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(b), 10), nil }

// UnmarshalText reads a number with or without a unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	size := int64(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			s, size = strings.TrimSpace(n), u.size
			break
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("%q is not an amount of data; write 16GiB, 64MiB or a number of bytes", text)
	}
	*b = Bytes(v * float64(size))
	return nil
}
