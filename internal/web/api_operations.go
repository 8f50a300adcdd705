package web

// Operations: their plan, their start, waiting for them, their logs; and peeks.

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sandglass"
)

// maxWait bounds a long poll.
const maxWait = time.Minute

// OperationPath names the operation.
type OperationPath struct {
	ID string `path:"id" maxLength:"64" doc:"ID of the operation."`
}

type requestInput struct {
	Body sandglass.Request
}

func (a *api) operations() {
	handle(a, route{id: "plan-operation", method: "POST", path: "/v1/plans", summary: "What an operation would do; changes nothing"},
		func(ctx context.Context, in *requestInput) (sandglass.Plan, error) {
			if err := checkRequest(in.Body); err != nil {
				return sandglass.Plan{}, err
			}
			p, err := a.Operations.Plan(ctx, in.Body)
			p.Findings, _ = list(p.Findings, nil)
			p.Lines, _ = list(p.Lines, nil)
			p.NotCopied, _ = list(p.NotCopied, nil)
			return p, err
		})
	handle(a, route{id: "start-operation", method: "POST", path: "/v1/operations", status: http.StatusAccepted, summary: "Start an operation"},
		func(ctx context.Context, in *requestInput) (sandglass.Operation, error) {
			if err := checkRequest(in.Body); err != nil {
				return sandglass.Operation{}, err
			}
			return withSteps(a.Operations.Start(ctx, in.Body, askedBy(ctx)))
		})
	type listInput struct {
		Environment string `query:"environment" doc:"Only those on this target."`
		Limit       int    `query:"limit" minimum:"0" maximum:"1000" doc:"Only the newest so many; default 50."`
	}
	handle(a, route{id: "list-operations", method: "GET", path: "/v1/operations", summary: "Operations, newest first"},
		func(ctx context.Context, in *listInput) ([]sandglass.Operation, error) {
			return list(a.Operations.List(ctx, sandglass.OperationQuery{Environment: in.Environment, Limit: in.Limit}))
		})
	handle(a, route{id: "get-operation", method: "GET", path: "/v1/operations/{id}", summary: "One operation, at once or when it has changed (long poll)"}, a.waitOperation)
	handle(a, route{id: "cancel-operation", method: "POST", path: "/v1/operations/{id}/cancel", status: http.StatusAccepted, summary: "Ask an operation to stop and go back"},
		func(ctx context.Context, in *OperationPath) (sandglass.Operation, error) {
			return withSteps(a.Operations.Cancel(ctx, in.ID, askedBy(ctx)))
		})
	handle(a, route{id: "retry-operation", method: "POST", path: "/v1/operations/{id}/retry", status: http.StatusAccepted, summary: "Go on with a way back that was given up"},
		func(ctx context.Context, in *OperationPath) (sandglass.Operation, error) {
			return withSteps(a.Operations.Retry(ctx, in.ID, askedBy(ctx)))
		})
	a.operationLogs()
}

// withSteps makes absent steps an empty list.
func withSteps(o sandglass.Operation, err error) (sandglass.Operation, error) {
	o.Steps, _ = list(o.Steps, nil)
	return o, err
}

type waitInput struct {
	OperationPath
	After int64  `query:"after" default:"-1" doc:"Wait for a version greater than this."`
	Wait  string `query:"wait" doc:"How long to wait for it, such as 25s; at most 1m. The operation as it is comes back then."`
}

// waitOperation answers at once, or when the operation's version has grown, or when the wait is over.
func (a *api) waitOperation(ctx context.Context, in *waitInput) (sandglass.Operation, error) {
	if in.Wait == "" {
		return withSteps(a.Operations.Wait(ctx, in.ID, -1))
	}
	wait, err := time.ParseDuration(in.Wait)
	if err != nil || wait < 0 || wait > maxWait {
		return sandglass.Operation{}, &sandglass.Error{Code: sandglass.CodeUsage, Op: "wait", Message: "\"" + in.Wait + "\" is not a length of time up to 1m.",
			Remedy: "Write it as 25s."}
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(a.stopping, cancel)()
	o, err := a.Operations.Wait(waiting, in.ID, in.After)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil { // the wait is over, or the server stops: as it is
		o, err = a.Operations.Wait(ctx, in.ID, -1)
	}
	return withSteps(o, err)
}

// operationLogs streams the zip. The answer's status is decided by the first byte: an error before it is a problem.
func (a *api) operationLogs() {
	op := a.operation(route{id: "get-operation-logs", method: "GET", path: "/v1/operations/{id}/logs", summary: "A zip of the plan, findings, step logs, PostgreSQL's logs and timings"})
	op.Responses["200"] = &huma.Response{Description: "The zip.", Content: map[string]*huma.MediaType{"application/zip": {}}}
	huma.Register(a.huma, op, func(ctx context.Context, in *OperationPath) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			w := newStream(hctx, "application/zip")
			err := a.Operations.Logs(hctx.Context(), in.ID, w)
			if err == nil {
				err = w.start() // an empty answer is still one
			}
			if err != nil {
				logError(hctx.Context(), a.log, err, op.OperationID)
				w.fail(err)
			}
		}}, nil
	})
}

// checkRequest refuses what no operation could make sense of.
func checkRequest(r sandglass.Request) error {
	switch r.Kind {
	case sandglass.KindRestore, sandglass.KindRefresh, sandglass.KindUndo, sandglass.KindRelease, sandglass.KindPeek, sandglass.KindStart, sandglass.KindStop:
	default:
		return &sandglass.Error{Code: sandglass.CodeUsage, Op: "read request", Message: "\"" + string(r.Kind) + "\" is not a kind of operation.",
			Remedy: "Use restore, refresh, undo, release, peek, start or stop."}
	}
	if r.Kind == sandglass.KindPeek && r.Reason == "" {
		return &sandglass.Error{Code: sandglass.CodeUsage, Op: "read request", Message: "A peek needs a reason.",
			Remedy: "Say why the copy is opened; the reason is kept with it."}
	}
	if r.TTL < 0 {
		return &sandglass.Error{Code: sandglass.CodeUsage, Op: "read request", Message: "The ttl is negative.", Remedy: "Give a length of time such as 1h."}
	}
	if r.Moment != nil {
		return checkMoment(*r.Moment)
	}
	return nil
}

func (a *api) peeks() {
	handle(a, route{id: "list-peeks", method: "GET", path: "/v1/peeks", summary: "The copies that are open for reading"},
		func(ctx context.Context, _ *struct{}) ([]sandglass.Peek, error) { return list(a.Peeks.Peeks(ctx)) })
	handle(a, route{id: "get-peek", method: "GET", path: "/v1/peeks/{id}", summary: "One of them, with how to connect"},
		func(ctx context.Context, in *OperationPath) (sandglass.Peek, error) { return a.Peeks.Peek(ctx, in.ID) })
	handleNone(a, route{id: "end-peek", method: "DELETE", path: "/v1/peeks/{id}", summary: "Close it and remove its copy"},
		func(ctx context.Context, in *OperationPath) error { return a.Peeks.EndPeek(ctx, in.ID, askedBy(ctx)) })
}
