package web

// Windows, moments and commits.

import (
	"context"
	"time"

	"sandglass"
)

func (a *api) windows() {
	handle(a, route{id: "get-window", method: "GET", path: "/v1/environments/{environment}/window", summary: "The moments that can be restored, with their gaps"},
		func(ctx context.Context, in *EnvironmentPath) (sandglass.Window, error) {
			w, err := a.Windows.Window(ctx, in.Environment)
			w.Gaps, _ = list(w.Gaps, nil)
			w.Images, _ = list(w.Images, nil)
			w.Incarnations, _ = list(w.Incarnations, nil)
			return w, err
		})
	type momentInput struct {
		EnvironmentPath
		Body sandglass.Moment
	}
	handle(a, route{id: "resolve-moment", method: "POST", path: "/v1/environments/{environment}/moments", summary: "Resolve a moment to its range of WAL positions, or say why not and what is nearest"},
		func(ctx context.Context, in *momentInput) (sandglass.Range, error) {
			if err := checkMoment(in.Body); err != nil {
				return sandglass.Range{}, err
			}
			return a.Windows.Resolve(ctx, in.Environment, in.Body)
		})
	handle(a, route{id: "list-commits", method: "GET", path: "/v1/environments/{environment}/commits", summary: "Transactions with the rows they changed, oldest first"},
		a.commits)
}

type commitsInput struct {
	EnvironmentPath
	From     string `query:"from" doc:"Earliest commit time, RFC 3339 with a zone."`
	To       string `query:"to" doc:"Latest commit time, RFC 3339 with a zone."`
	Relation string `query:"relation" doc:"Only those that changed this relation."`
	MinRows  int64  `query:"min_rows" minimum:"0" doc:"Only those that changed so many rows; truncations always."`
	Limit    int    `query:"limit" minimum:"0" maximum:"10000" doc:"Only the newest so many; default 100."`
}

func (a *api) commits(ctx context.Context, in *commitsInput) ([]sandglass.Commit, error) {
	q := sandglass.CommitQuery{Relation: in.Relation, MinRows: in.MinRows, Limit: in.Limit}
	for text, t := range map[string]*time.Time{in.From: &q.From, in.To: &q.To} {
		if text == "" {
			continue
		}
		var err error
		if *t, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return nil, timeError(text)
		}
	}
	return list(a.Windows.Commits(ctx, in.Environment, q))
}

// checkMoment refuses a moment that does not say what its kind needs.
func checkMoment(m sandglass.Moment) error {
	missing := ""
	switch {
	case m.Kind == sandglass.AtTime && m.Time.IsZero():
		missing = "time"
	case m.Kind == sandglass.AtLSN && m.LSN == 0:
		missing = "lsn"
	case m.Kind == sandglass.AtXID && m.XID == 0:
		missing = "xid"
	case m.Kind == sandglass.AtName && m.Name == "":
		missing = "name"
	}
	if missing == "" {
		return nil
	}
	return &sandglass.Error{Code: sandglass.CodeUsage, Op: "read moment", Message: "A moment of kind " + string(m.Kind) + " needs \"" + missing + "\".",
		Remedy: "Add it to the moment."}
}
