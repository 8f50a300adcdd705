package demo

import (
	"context"
	"io"

	"sandglass/internal/pgtest"
)

// What the tests look at from inside.

func PrepareDir(ctx context.Context, dir string) error {
	return prepareDir(ctx, dir, paper{w: io.Discard})
}

func NewProduction(ctx context.Context, dir string) (*pgtest.Cluster, error) {
	return newProduction(ctx, dir)
}

func Accident(ctx context.Context, c *pgtest.Cluster) (orders, payments int64, digest string, err error) {
	l, err := accident(ctx, c)
	return l.orders, l.payments, l.digest, err
}

const (
	LostDigest      = lostDigest
	ProductionApp   = productionApp
	ProductionAppPW = productionAppPassword
)
