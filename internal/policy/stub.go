package policy

import (
	"context"
	"errors"

	"sandglass"
)

type Target struct{}

func FirstContact(ctx context.Context, st Staging) (Contact, error) { return Contact{}, errors.ErrUnsupported }
func ReadTarget(ctx context.Context, connect Connect) (*Target, error) { return nil, errors.ErrUnsupported }
func Inspect(ctx context.Context, st Staging, in Input) ([]sandglass.Finding, Facts, error) { return nil, Facts{}, errors.ErrUnsupported }
func Neutralize(ctx context.Context, st Staging, in Input) (Report, error) { return Report{}, errors.ErrUnsupported }
func Prove(ctx context.Context, st Staging, in Input) ([]sandglass.Finding, error) { return nil, errors.ErrUnsupported }
// Finish closes the databases FirstContact opened; after the last Prove.
func Finish(ctx context.Context, st Staging) error { return errors.ErrUnsupported }
// MapDatabases says which databases of the copy stay, under which name, and which are dropped.
func MapDatabases(source, target sandglass.Environment, names []string) (keep map[string]string, drop []string, err error) { return nil, nil, errors.ErrUnsupported }
// Describe says what Neutralize will do, for the plan.
func Describe(in Input, databases []string) []sandglass.PlanLine { return nil }
