package web

// The API's frame: one huma API on the standard ServeMux, and how a handler is registered.

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sandglass"
)

// maxBody bounds a request's body, in bytes; a declaration is some kilobytes.
const maxBody = 1 << 20

// api is what the handlers share.
type api struct {
	Parts
	huma     huma.API
	log      *slog.Logger
	version  string
	stopping context.Context // done when the server is about to stop: waits and streams end then
}

// newAPI registers all the operations on a mux.
func newAPI(stopping context.Context, parts Parts, version string, log *slog.Logger) *http.ServeMux {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Sandglass", version)
	config.Info.Description = "Records production PostgreSQL servers, and brings any moment of them into a sandbox. " +
		"Times are RFC 3339 with a zone. Every refusal is a problem (RFC 9457) with a stable code, a message and a remedy."
	config.CreateHooks = nil // no $schema member in the answers: they are the root types, no more
	config.SchemasPath = ""
	config.DocsPath = "" // ours needs no script from elsewhere
	config.RejectUnknownQueryParameters = true
	config.Transformers = append(config.Transformers, toProblem)
	a := &api{Parts: parts, huma: humago.New(mux, config), log: log, version: version, stopping: stopping}
	a.environments()
	a.recordings()
	a.windows()
	a.operations()
	a.peeks()
	a.volumes()
	a.repository()
	a.system()
	// huma does not know the JSON option "string", which keeps 64 bits whole in clients that count in floating point.
	a.huma.OpenAPI().Components.Schemas.Map()["Incarnation"].Properties["system_identifier"] = &huma.Schema{Type: huma.TypeString}
	mux.HandleFunc("GET /docs", a.docs)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, &sandglass.Error{Code: "path.not_found", Message: "There is nothing at " + r.URL.Path + ".",
			Remedy: "The API is described at /openapi.json and /docs."})
	})
	return mux
}

// route is one row of the API.
type route struct {
	id, method, path, summary string
	status                    int // of success; 0 means 200
}

// operation is the route as huma wants it. Bodies are read before the mux, see server.go.
func (a *api) operation(r route) huma.Operation {
	problem := a.huma.OpenAPI().Components.Schemas.Schema(typeFor[Problem](), true, "Problem")
	return huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Summary: r.summary, DefaultStatus: r.status,
		MaxBodyBytes: maxBody, BodyReadTimeout: -1,
		Responses: map[string]*huma.Response{"default": {
			Description: "A refusal or a failure.",
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problem}},
		}},
	}
}

// output is an answer of one JSON value.
type output[T any] struct{ Body T }

// none is the answer without a body.
type none struct{}

// handle registers a handler whose errors become problems.
func handle[I, O any](a *api, r route, f func(ctx context.Context, in *I) (O, error)) {
	huma.Register(a.huma, a.operation(r), func(ctx context.Context, in *I) (*output[O], error) {
		v, err := f(ctx, in)
		if err != nil {
			logError(ctx, a.log, err, r.id)
			return nil, newProblem(err)
		}
		return &output[O]{v}, nil
	})
}

// handleNone is handle for handlers that have nothing to say but that it is done.
func handleNone[I any](a *api, r route, f func(ctx context.Context, in *I) error) {
	r.status = http.StatusNoContent
	huma.Register(a.huma, a.operation(r), func(ctx context.Context, in *I) (*none, error) {
		if err := f(ctx, in); err != nil {
			logError(ctx, a.log, err, r.id)
			return nil, newProblem(err)
		}
		return &none{}, nil
	})
}

// list makes an absent list an empty one, so that clients never meet null.
func list[T any](v []T, err error) ([]T, error) {
	if v == nil && err == nil {
		v = []T{}
	}
	return v, err
}
