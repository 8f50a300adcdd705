package main

// This file is the arithmetic and the table at the end.

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"sandglass"
)

// report is what was found.
type report struct {
	rows    []row
	peakRSS int64
}

// row is one measurement: what, how much, against what, and the target.
type row struct {
	what, ours, theirs string
	ratio              string
	target             string
	met                bool
}

func (r *report) add(what, ours, theirs, ratio, target string, met bool) {
	r.rows = append(r.rows, row{what, ours, theirs, ratio, target, met})
}

func (r *report) print(w io.Writer) {
	if r.peakRSS > 0 {
		r.add("memory of serve, at most", sandglass.Bytes(r.peakRSS).String(), "", "", "under 150 MB", r.peakRSS < 150e6)
	}
	fmt.Fprintf(w, "\n%-44s %14s %22s %18s   %-26s\n", "", "Sandglass", "the other", "ratio", "target")
	for _, x := range r.rows {
		met := "met"
		if !x.met {
			met = "MISSED"
		}
		if x.target == "" {
			met = ""
		}
		fmt.Fprintf(w, "%-44s %14s %22s %18s   %-26s %s\n", x.what, x.ours, x.theirs, x.ratio, x.target, met)
	}
}

func median[T ~float64 | ~int64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// interval is the mean and the half width of its 95 % confidence interval, by the normal approximation.
func interval(v []float64) (mean, half float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	if len(v) < 2 {
		return mean, 0
	}
	var variance float64
	for _, x := range v {
		variance += (x - mean) * (x - mean) / float64(len(v)-1)
	}
	return mean, 1.96 * math.Sqrt(variance/float64(len(v)))
}
