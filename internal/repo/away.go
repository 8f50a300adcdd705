package repo

// This file keeps when an environment left an incarnation for another, and came back to it: an undone volume
// continues its own. Both are objects of their own, so that nothing ever changes; their names hold the time.

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sandglass"
)

const (
	awayTime = "20060102t150405.000000" // UTC
	leftEnd  = "-left"
	backEnd  = "-back"
)

func awayPrefix(env string, id sandglass.IncarnationID) string { return prefixOf(env, id) + "away/" }

// LeaveIncarnation records that from a.From on the environment shows another state. It is for the caller to
// know that it showed this one; doing it again is fine.
func (r *Repository) LeaveIncarnation(ctx context.Context, env string, id sandglass.IncarnationID, a sandglass.Absence) error {
	a.From, a.To = a.From.UTC(), time.Time{}
	return firstStays(r.putJSON(ctx, awayPrefix(env, id)+a.From.Format(awayTime)+leftEnd, a))
}

// ReturnIncarnation records that from a time on the environment shows the incarnation again. Doing it again is fine.
func (r *Repository) ReturnIncarnation(ctx context.Context, env string, id sandglass.IncarnationID, at time.Time) error {
	at = at.UTC()
	return firstStays(r.putJSON(ctx, awayPrefix(env, id)+at.Format(awayTime)+backEnd, endRecord{At: at}))
}

// absences reads an incarnation's, oldest first. The times are in the names; the rest needs an identity.
func (r *Repository) absences(ctx context.Context, env string, id sandglass.IncarnationID) ([]sandglass.Absence, error) {
	var away []sandglass.Absence
	var back []time.Time
	for obj, err := range r.store.List(ctx, awayPrefix(env, id), "") {
		if err != nil {
			return nil, fmt.Errorf("list absences of incarnation %s: %w", id, err)
		}
		name, isLeft := strings.CutSuffix(baseName(obj.Key), leftEnd)
		name, isBack := strings.CutSuffix(name, backEnd)
		at, err := time.Parse(awayTime, name)
		if err != nil || isLeft == isBack {
			return nil, damaged(obj.Key, fmt.Errorf("its name is not that of an absence"))
		}
		if isBack {
			back = append(back, at)
			continue
		}
		a := sandglass.Absence{From: at}
		if len(r.identities) > 0 {
			err := r.readJSON(ctx, obj.Key, &a)
			if sandglass.CodeOf(err) == sandglass.CodeRepositoryDamaged { // costs what it says besides its time, not the window or the recording
				a, err = sandglass.Absence{}, nil
			}
			if err != nil {
				return nil, err
			}
			a.From, a.To = at, time.Time{}
		}
		away = append(away, a)
	}
	for i := range min(len(away), len(back)) {
		away[i].To = back[i]
	}
	return away, nil
}
