package repo

import (
	"context"
	"time"

	"sandglass"
)

// PlanPrune plans what retention no longer needs and keeps the plan in the repository, to be executed by its ID.
// retention gives a negative duration for "keep everything" (an unknown environment).
func (r *Repository) PlanPrune(ctx context.Context, retention func(env string) time.Duration, now time.Time) (*sandglass.PrunePlan, error) {
	panic("not yet")
}
func (r *Repository) PrunePlan(ctx context.Context, id string) (*sandglass.PrunePlan, error) {
	panic("not yet")
}
func (r *Repository) ExecutePrune(ctx context.Context, id string, progress func(sandglass.Progress)) (*sandglass.PrunePlan, error) {
	panic("not yet")
}

type VerifyOptions struct {
	State       string // file that remembers what was verified; "": read everything
	Environment string // "": all
	Again       bool   // read also what was verified before
}

func (r *Repository) Verify(ctx context.Context, o VerifyOptions, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
	panic("not yet")
}
