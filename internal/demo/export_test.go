package demo

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5"

	"sandglass/internal/pgtest"
)

// What the tests look at from inside.

func PrepareDir(ctx context.Context, dir string) error {
	return prepareDir(ctx, dir, paper{w: &screen{Writer: io.Discard}})
}

func NewProduction(ctx context.Context, dir string) (*pgtest.Cluster, error) {
	return newProduction(ctx, dir, 0.1)
}

func ReadLost(ctx context.Context, conn *pgx.Conn) (vendors, transactions int64, digest string, err error) {
	l, err := readLost(ctx, conn)
	return l.vendors, l.transactions, l.digest, err
}

func Accident(ctx context.Context, c *pgtest.Cluster) (vendors, transactions int64, digest string, err error) {
	l, err := accident(ctx, c)
	return l.vendors, l.transactions, l.digest, err
}

// Search is how the demo looks through files.
var Search = search

// Show is what the paper makes of a command's output.
func Show(w io.Writer, output string, cuts ...[3]string) {
	var all []cut
	for _, c := range cuts {
		all = append(all, cut{c[0], c[1], c[2]})
	}
	o := paper{w: &screen{Writer: w}}.output(all)
	for _, b := range []byte(output) {
		o.Write([]byte{b})
	}
	o.flush()
}

// LinesOf are how many lines of the report count a rule of the pack.
func LinesOf(rule string) (n int) {
	for _, l := range countedLines {
		if l.has(rule) {
			n++
		}
	}
	return n
}

// BackScript is what is pasted to bring the lost rows back.
func BackScript() string {
	return backScript("psql", socket{"/tmp/a/run", 5432, "peek"}, socket{"/tmp/b/run", 5433, "postgres"})
}
