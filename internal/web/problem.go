package web

// How errors leave the API: RFC 9457 problem bodies that carry a sandglass.Error.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"sandglass"
)

// Problem is the body of every refusal (RFC 9457, application/problem+json).
type Problem struct {
	Title  string `json:"title" doc:"The HTTP status in words."`
	Status int    `json:"status" doc:"The HTTP status."`
	Detail string `json:"detail" doc:"Message and remedy in one text, for clients that know no more."`
	// The members of sandglass.Error.
	Code    sandglass.Code `json:"code" doc:"Stable name of the refusal."`
	Message string         `json:"message" doc:"One human sentence."`
	Remedy  string         `json:"remedy,omitempty" doc:"What can be done."`
	Before  time.Time      `json:"nearest_before,omitzero" doc:"The nearest moment before that can be restored."`
	After   time.Time      `json:"nearest_after,omitzero" doc:"The nearest moment after that can be restored."`
}

// Error is the sentence.
func (p *Problem) Error() string { return p.Message }

// GetStatus is the HTTP status (huma.StatusError).
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of problems (huma.ContentTypeFilter).
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// newProblem gives an error the shape that people may see.
func newProblem(err error) *Problem {
	e := sandglass.AsError(err)
	status, _ := sandglass.Outcome(e.Code)
	return &Problem{
		Title: http.StatusText(status), Status: status, Detail: strings.TrimSpace(e.Message + " " + e.Remedy),
		Code: e.Code, Message: e.Message, Remedy: e.Remedy, Before: e.Before, After: e.After,
	}
}

// writeProblem answers outside of huma's handlers.
func writeProblem(w http.ResponseWriter, err error) {
	p := newProblem(err)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone; there is nobody left to tell
}

// logError keeps what the person is not shown.
func logError(ctx context.Context, log *slog.Logger, err error, what string) {
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil: // the client went away
	case sandglass.CodeOf(err) == sandglass.CodeInternal:
		log.Error("request failed", "request", what, "error", err)
	default:
		log.Info("request refused", "request", what, "code", sandglass.CodeOf(err), "error", err)
	}
}

// toProblem turns huma's own refusals (validation, unknown fields, sizes) into problems (huma.Transformer).
func toProblem(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	e := &sandglass.Error{Code: sandglass.CodeUsage, Message: "The request is not understood: " + m.Detail + ".",
		Remedy: "The API is described at /openapi.json and /docs."}
	if m.Status >= 500 {
		e.Code, e.Message, e.Remedy = sandglass.CodeInternal, "Something went wrong inside Sandglass.", "The cause is in the log of `sandglass serve`."
	}
	if len(m.Errors) > 0 {
		describe(e, m.Errors[0])
	}
	p := newProblem(e)
	p.Status, p.Title = m.Status, http.StatusText(m.Status)
	return p, nil
}

// describe says in a sentence what huma's validation found. A time without a zone has a code of its own.
func describe(e *sandglass.Error, d *huma.ErrorDetail) {
	where := strings.TrimPrefix(cmp.Or(d.Location, "the request"), "body.")
	e.Message = "The request is not understood: " + where + ": " + d.Message + "."
	s, ok := d.Value.(string)
	if ok && d.Message == validation.MsgExpectedRFC3339DateTime {
		*e = *timeError(s)
	}
}

// timeError says why a text is not a time that the API takes.
func timeError(s string) *sandglass.Error {
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if _, err := time.Parse(layout, s); err == nil {
			return &sandglass.Error{Code: sandglass.CodeMomentNoZone, Op: "read time", Message: "The time \"" + s + "\" has no zone.",
				Remedy: "Write it with its offset from UTC, such as 2026-11-22T10:43:07Z or 2026-11-22T11:43:07+01:00."}
		}
	}
	return &sandglass.Error{Code: sandglass.CodeMomentSyntax, Op: "read time", Message: "\"" + s + "\" is not a time.",
		Remedy: "Write it as RFC 3339 does, such as 2026-11-22T10:43:07Z."}
}
