package web

// Answers that take long: a zip, and lines of progress (NDJSON).

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sandglass"
)

// writeTimeout is how long a client may take to accept one piece of a streamed answer.
const writeTimeout = time.Minute

// stream writes an answer piece by piece; its status is sent with the first.
type stream struct {
	w           http.ResponseWriter
	control     *http.ResponseController
	contentType string
	started     bool
}

func newStream(ctx huma.Context, contentType string) *stream {
	_, w := humago.Unwrap(ctx)
	return &stream{w: w, control: http.NewResponseController(w), contentType: contentType}
}

// start sends the status, once, and gives the next piece its time.
func (s *stream) start() error {
	if !s.started {
		s.started = true
		s.w.Header().Set("Content-Type", s.contentType)
		s.w.WriteHeader(http.StatusOK)
	}
	return s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
}

// Write sends a piece.
func (s *stream) Write(p []byte) (int, error) {
	if err := s.start(); err != nil {
		return 0, err
	}
	return s.w.Write(p)
}

// fail answers with a problem, or, when the answer has begun, breaks it off so that nobody takes it for whole.
func (s *stream) fail(err error) {
	if s.started {
		panic(http.ErrAbortHandler)
	}
	s.started = true
	writeProblem(s.w, err)
}

// Event is one line of a streamed answer; exactly one of its members is there. The last line is the result or the error.
type Event[T any] struct {
	Progress *sandglass.Progress `json:"progress,omitempty"`
	Result   *T                  `json:"result,omitempty"`
	Error    *sandglass.Error    `json:"error,omitempty"`
}

// handleStream registers a handler that reports progress: NDJSON, a line for each event.
func handleStream[I, O any](a *api, r route, f func(ctx context.Context, in *I, progress func(sandglass.Progress)) (O, error)) {
	op := a.operation(r)
	op.Responses["200"] = &huma.Response{Description: "Lines of JSON; the last one is the result or the error.",
		Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(typeFor[Event[O]](), true, r.id+"-event")}}}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			w := newStream(hctx, "application/x-ndjson")
			enc := json.NewEncoder(w)
			ctx, cancel := context.WithCancel(hctx.Context())
			defer cancel()
			defer context.AfterFunc(a.stopping, cancel)()
			send := func(e Event[O]) {
				if enc.Encode(e) != nil || w.control.Flush() != nil {
					cancel() // nobody listens any more
				}
			}
			v, err := f(ctx, in, func(p sandglass.Progress) { send(Event[O]{Progress: &p}) })
			switch {
			case err == nil:
				send(Event[O]{Result: &v})
			case !w.started:
				logError(ctx, a.log, err, r.id)
				w.fail(err)
			default:
				logError(ctx, a.log, err, r.id)
				send(Event[O]{Error: shown(err)})
			}
		}}, nil
	})
}

// shown is the error as people may see it, without what is for logs.
func shown(err error) *sandglass.Error {
	e := *sandglass.AsError(err)
	e.Op, e.Err = "", nil
	return &e
}
