package web_test

// The API as a client sees it: over a real socket, with a control plane in memory behind it.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sandglass"
	"sandglass/client"
	"sandglass/internal/web"
	"sandglass/internal/web/webtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func prod() sandglass.EnvironmentStatus {
	return sandglass.EnvironmentStatus{Environment: sandglass.Environment{Name: "prod", Kind: sandglass.Production, Zone: "Europe/Vienna",
		Recording: &sandglass.Recording{Connection: "host=db"}}.WithDefaults()}
}

func uat() sandglass.EnvironmentStatus {
	return sandglass.EnvironmentStatus{Environment: sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox,
		Server: &sandglass.Server{Port: 5433, Source: "prod"}}.WithDefaults(), State: sandglass.SandboxRunning}
}

// serving is a server that runs until the test ends.
type serving struct {
	socket, address, tokenFile string
	log                        *bytes.Buffer // read it after stop
	stop                       func()
}

const secret = "0123456789abcdef0123456789abcdef"

func serve(t *testing.T, c *webtest.Control, tcp bool) *serving {
	t.Helper()
	dir := t.TempDir()
	s := &serving{socket: filepath.Join(dir, "api.sock"), tokenFile: filepath.Join(dir, "tokens"), log: new(bytes.Buffer)}
	config := web.Config{Socket: s.socket, Version: "test", Parts: c.Parts(), Log: slog.New(slog.NewTextHandler(s.log, nil))}
	if tcp {
		if err := os.WriteFile(s.tokenFile, []byte("# people\nanna "+secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		config.Listen, config.TokenFile = "127.0.0.1:0", s.tokenFile
	}
	server, err := web.Listen(config)
	if err != nil {
		t.Fatal(err)
	}
	s.address = server.Address()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(s.stop)
	return s
}

func (s *serving) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Socket: s.socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// do sends a raw request over the socket and reads the answer.
func (s *serving) do(t *testing.T, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}
	return send(t, transport, "http://sandglass"+path, method, body, header...)
}

func send(t *testing.T, transport http.RoundTripper, url, method, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(b)
}

func TestRefusals(t *testing.T) {
	s := serve(t, webtest.New(prod(), uat()), false)
	restore := func(moment string) string {
		return `{"kind":"restore","environment":"uat","source":"prod","moment":` + moment + `}`
	}
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		code                     sandglass.Code
		message                  string // part of it
	}{
		{"unknown environment", "GET", "/v1/environments/nowhere", "", 404, sandglass.CodeEnvironmentUnknown, "nowhere"},
		{"unknown operation", "GET", "/v1/operations/20260101t000000-abcd", "", 404, sandglass.CodeOperationUnknown, "no operation"},
		{"logs of an unknown operation", "GET", "/v1/operations/x/logs", "", 404, sandglass.CodeOperationUnknown, "no operation"},
		{"unknown path", "GET", "/v1/nothing", "", 404, "path.not_found", "/v1/nothing"},
		{"unknown method", "PATCH", "/v1/environments", "", 404, "path.not_found", ""},
		{"production as target", "POST", "/v1/plans", `{"kind":"restore","environment":"prod"}`, 409, sandglass.CodeEnvironmentKind, "production"},
		{"time without zone", "POST", "/v1/plans", restore(`{"kind":"time","time":"2026-11-22T10:43:07"}`), 422, sandglass.CodeMomentNoZone, "no zone"},
		{"time without zone, with a blank", "POST", "/v1/operations", restore(`{"kind":"time","time":"2026-11-22 10:43:07.5"}`), 422, sandglass.CodeMomentNoZone, "no zone"},
		{"not a time", "POST", "/v1/environments/prod/moments", `{"kind":"time","time":"yesterday"}`, 422, sandglass.CodeMomentSyntax, "yesterday"},
		{"commits without zone", "GET", "/v1/environments/prod/commits?from=2026-11-22T10:43:07", "", 422, sandglass.CodeMomentNoZone, "no zone"},
		{"moment in the future", "POST", "/v1/environments/prod/moments", `{"kind":"time","time":"2099-01-01T00:00:00Z"}`, 409, sandglass.CodeMomentFuture, "future"},
		{"unknown field", "POST", "/v1/plans", `{"kind":"restore","environment":"uat","momnet":{}}`, 422, sandglass.CodeUsage, "momnet"},
		{"unknown query parameter", "GET", "/v1/operations?envronment=uat", "", 422, sandglass.CodeUsage, "envronment"},
		{"unknown kind", "POST", "/v1/operations", `{"kind":"destroy","environment":"uat"}`, 422, sandglass.CodeUsage, "destroy"},
		{"kind of moment without its value", "POST", "/v1/plans", restore(`{"kind":"xid"}`), 422, sandglass.CodeUsage, `"xid"`},
		{"bad LSN", "POST", "/v1/plans", restore(`{"kind":"lsn","lsn":"here"}`), 422, sandglass.CodeUsage, ""},
		{"unknown kind of moment", "POST", "/v1/plans", restore(`{"kind":"wednesday"}`), 422, sandglass.CodeUsage, "moment.kind"},
		{"bad duration", "POST", "/v1/plans", `{"kind":"peek","environment":"prod","ttl":"long"}`, 422, sandglass.CodeUsage, "long"},
		{"peek without reason", "POST", "/v1/plans", `{"kind":"peek","environment":"prod"}`, 422, sandglass.CodeUsage, "reason"},
		{"not JSON", "POST", "/v1/plans", `restore`, 400, sandglass.CodeUsage, ""},
		{"no body", "POST", "/v1/plans", "", 400, sandglass.CodeUsage, "body"},
		{"too large", "POST", "/v1/plans", `"` + strings.Repeat("x", 1<<20) + `"`, 422, sandglass.CodeUsage, "too large"},
		{"another name in the declaration", "PUT", "/v1/environments/other", `{"name":"uat","kind":"sandbox","server":{"port":5433}}`, 422, sandglass.CodeUsage, "other"},
		{"wrong declaration", "PUT", "/v1/environments/uat", `{"name":"uat","kind":"sandbox","server":{"port":99999}}`, 422, sandglass.CodeConfig, "port"},
		{"wait too long", "GET", "/v1/operations/x?wait=2h", "", 422, sandglass.CodeUsage, "2h"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, header, body := s.do(t, test.method, test.path, test.body)
			var p web.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatalf("body %q: %v", body, err)
			}
			if status != test.status || p.Status != test.status || p.Code != test.code || !strings.Contains(p.Message, test.message) {
				t.Errorf("got %d %s, want %d %s with %q", status, body, test.status, test.code, test.message)
			}
			if ct := header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			if p.Remedy == "" || p.Title == "" || !strings.Contains(p.Detail, p.Message) {
				t.Errorf("incomplete problem: %s", body)
			}
		})
	}
}

func TestForeignErrorIsHidden(t *testing.T) {
	c := webtest.New(prod())
	c.Refuse = errors.New("dial tcp 10.0.0.5: password=hunter2")
	s := serve(t, c, false)
	status, _, body := s.do(t, "GET", "/v1/environments", "")
	if status != 500 || !strings.Contains(body, `"code":"internal"`) || strings.Contains(body, "hunter2") {
		t.Errorf("got %d %s", status, body)
	}
	s.stop()
	if !strings.Contains(s.log.String(), "hunter2") {
		t.Errorf("the cause is not in the log: %s", s.log)
	}
}

func TestErrorsComeBackWhole(t *testing.T) {
	c := webtest.New(prod())
	c.Window.Latest = noon
	cl := serve(t, c, false).client(t)
	_, err := cl.Resolve(t.Context(), "prod", sandglass.Moment{Kind: sandglass.AtTime, Time: noon.Add(time.Hour)})
	want := &sandglass.Error{Code: sandglass.CodeMomentFuture, Message: "That moment is in the future, by production's clock.", Remedy: "Name an earlier one, or --latest.", Before: noon}
	if diff := cmp.Diff(want, sandglass.AsError(err)); diff != "" {
		t.Error(diff)
	}
}

func TestEveryCall(t *testing.T) {
	c := webtest.New(prod(), uat())
	c.Window = sandglass.Window{Environment: "prod", Earliest: noon.Add(-time.Hour), Latest: noon, LatestLSN: 0x5000000, LagBytes: 12}
	c.Commits = []sandglass.Commit{{XID: 7, LSN: 0x4000000, Time: noon, Rows: []sandglass.RelationRows{{Database: "erp", Relation: "orders", Deleted: 3}}}}
	c.Plan = sandglass.Plan{Findings: []sandglass.Finding{{Code: "preflight.disk_space", Level: sandglass.OK, Message: "There is room."}}, Seconds: 3}
	c.Range = sandglass.Range{Environment: "prod", Stop: 0x4000028, CommitTime: noon}
	c.Kept = []sandglass.Volume{{ID: "aaaa1111", State: sandglass.VolumeKept}}
	c.Repo = sandglass.RepositoryInfo{Path: "/repo", FreeBytes: -1}
	c.Prune = sandglass.PrunePlan{ID: "p1", Items: []sandglass.PruneItem{{Kind: "wal", Objects: 2}}}
	c.Verify = sandglass.VerifyReport{Objects: 4}
	c.Peek = sandglass.Peek{ID: "20261122t104307-0001", Connection: sandglass.Connection{Until: noon}}
	c.Findings = []sandglass.Finding{{Code: "production.slot_cap_unlimited", Level: sandglass.Warning, Message: "No cap."}}
	s := serve(t, c, false)
	cl, ctx := s.client(t), t.Context()

	try := func(name string, want any, call func() (any, error)) {
		t.Helper()
		got, err := call()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	try("apply", client.Applied{Environment: sandglass.EnvironmentStatus{Environment: prod().Environment}, Findings: c.Findings},
		func() (any, error) { return cl.Apply(ctx, prod().Environment) })
	try("environments", []sandglass.EnvironmentStatus{prod(), uat()}, func() (any, error) { return cl.Environments(ctx) })
	try("environment", uat(), func() (any, error) { return cl.Environment(ctx, "uat") })
	try("check pack", "shop/mails", func() (any, error) { v, err := cl.CheckPack(ctx, "uat", "shop"); return v[0].Rule, err })
	try("connect", "erp", func() (any, error) { v, err := cl.Connect(ctx, "uat", "erp"); return v.Database, err })
	try("start recording", true, func() (any, error) {
		f, err := cl.StartRecording(ctx, "prod", []sandglass.Code{"production.slot_cap_unlimited"})
		return len(f) == 1 && f[0].Accepted, err
	})
	try("stop recording", 1, func() (any, error) { f, err := cl.StopRecording(ctx, "prod"); return len(f), err })
	try("take image", nil, func() (any, error) { return nil, cl.TakeImage(ctx, "prod") })
	window := c.Window
	window.Gaps, window.Images, window.Incarnations = []sandglass.Gap{}, []sandglass.Image{}, []sandglass.Incarnation{}
	try("window", window, func() (any, error) { return cl.Window(ctx, "prod") })
	try("resolve", c.Range, func() (any, error) { return cl.Resolve(ctx, "prod", sandglass.Moment{Kind: sandglass.AtLatest}) })
	try("commits", c.Commits, func() (any, error) {
		return cl.Commits(ctx, "prod", sandglass.CommitQuery{From: noon.In(time.FixedZone("", 3600)), To: noon, MinRows: 2, Limit: 5})
	})
	try("plan", 3.0, func() (any, error) {
		p, err := cl.Plan(ctx, sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat", TTL: sandglass.Duration(time.Hour), Moment: &sandglass.Moment{Kind: sandglass.AtLSN, LSN: 77}})
		return p.Seconds, err
	})
	o, err := cl.Start(ctx, sandglass.Request{Kind: sandglass.KindRefresh, Environment: "uat", Source: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	try("operation", o, func() (any, error) { return cl.Operation(ctx, o.ID) })
	try("operations", []sandglass.Operation{o}, func() (any, error) {
		all, err := cl.Operations(ctx, sandglass.OperationQuery{Environment: "uat", Limit: 3})
		for i := range all {
			all[i].Steps = []sandglass.Step{}
		}
		return all, err
	})
	var zip bytes.Buffer
	try("logs", true, func() (any, error) {
		err := cl.Logs(ctx, o.ID, &zip)
		return strings.HasPrefix(zip.String(), "PK"), err
	})
	try("cancel", sandglass.Cancelled, func() (any, error) { o, err := cl.Cancel(ctx, o.ID); return o.State, err })
	try("retry", o.ID, func() (any, error) { o, err := cl.Retry(ctx, o.ID); return o.ID, err })
	try("peeks", 1, func() (any, error) { p, err := cl.Peeks(ctx); return len(p), err })
	try("peek", c.Peek, func() (any, error) { return cl.Peek(ctx, c.Peek.ID) })
	try("end peek", nil, func() (any, error) { return nil, cl.EndPeek(ctx, c.Peek.ID) })
	try("volumes", 1, func() (any, error) { v, err := cl.Volumes(ctx, "uat"); return len(v), err })
	try("drop volume", nil, func() (any, error) { return nil, cl.DropVolume(ctx, "aaaa1111", false) })
	try("repository", "/repo", func() (any, error) { v, err := cl.Repository(ctx); return v.Path, err })
	try("plan prune", "p1", func() (any, error) { v, err := cl.PlanPrune(ctx); return v.ID, err })
	progress := 0
	count := func(sandglass.Progress) { progress++ }
	try("execute prune", true, func() (any, error) { v, err := cl.ExecutePrune(ctx, "p1", count); return v.Executed, err })
	try("verify", 4, func() (any, error) { v, err := cl.Verify(ctx, true, count); return v.Objects, err })
	try("progress of both", 2, func() (any, error) { return progress, nil })
	try("doctor", 1, func() (any, error) { v, err := cl.Doctor(ctx); return len(v), err })
	try("version", "test", func() (any, error) { return cl.Version(ctx) })
	try("remove", 1, func() (any, error) { f, err := cl.RemoveEnvironment(ctx, "prod"); return len(f), err })

	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range c.By {
		if by != me.Username {
			t.Errorf("asked by %q, want %q", by, me.Username)
		}
	}
}

func TestStreamEndsWithItsError(t *testing.T) {
	c := webtest.New()
	c.Refuse = &sandglass.Error{Code: sandglass.CodeRepositoryDamaged, Message: "A bundle is damaged.", Remedy: "Put it back."}
	cl := serve(t, c, false).client(t)
	_, err := cl.Verify(t.Context(), false, nil)
	if diff := cmp.Diff(c.Refuse, err, cmp.AllowUnexported()); diff != "" {
		t.Error(diff)
	}
}

func TestLongPoll(t *testing.T) {
	c := webtest.New(prod(), uat())
	c.Script = []sandglass.Operation{{State: sandglass.Running}}
	s := serve(t, c, false)
	cl, ctx := s.client(t), t.Context()
	o, err := cl.Start(ctx, sandglass.Request{Kind: sandglass.KindRefresh, Environment: "uat"})
	if err != nil {
		t.Fatal(err)
	}
	same, err := cl.Wait(ctx, o.ID, o.Version, 10*time.Millisecond) // nothing happens: as it is
	if err != nil || same.Version != o.Version {
		t.Errorf("wait without a change: version %d, %v", same.Version, err)
	}
	got := make(chan sandglass.Operation, 1)
	go func() {
		defer close(got)
		if o, err := cl.Wait(ctx, o.ID, o.Version, 30*time.Second); err == nil {
			got <- o
		}
	}()
	c.Next()
	if o := <-got; o.State != sandglass.Running {
		t.Errorf("after the change: %q", o.State)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := cl.Wait(ctx, o.ID, 99, time.Minute)
		ended <- err
	}()
	begin := time.Now()
	time.Sleep(50 * time.Millisecond) // let the request arrive; when it does not, it ends as well
	s.stop()
	if err := <-ended; err != nil && sandglass.CodeOf(err) != sandglass.CodeServeUnreachable {
		t.Errorf("wait across a stop: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop waited %v for a long poll", took)
	}
}

// A body is read with a deadline; it must not end the answer's context later on.
func TestSlowAnswerAfterBody(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	c := webtest.New(prod(), uat())
	c.Script = []sandglass.Operation{{State: sandglass.Running}}
	cl := serve(t, c, false).client(t)
	o, err := cl.Start(t.Context(), sandglass.Request{Kind: sandglass.KindRefresh, Environment: "uat"})
	if err != nil {
		t.Fatal(err)
	}
	o, err = cl.Wait(t.Context(), o.ID, o.Version, 6*time.Second) // longer than huma's own read deadline of 5 s
	if err != nil || o.State != sandglass.Queued {
		t.Errorf("got %q, %v", o.State, err)
	}
}

func TestOpenAPIAndDocs(t *testing.T) {
	s := serve(t, webtest.New(), false)
	status, _, body := s.do(t, "GET", "/openapi.json", "")
	var spec struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &spec); err != nil || status != 200 {
		t.Fatalf("%d: %v", status, err)
	}
	if !strings.HasPrefix(spec.OpenAPI, "3.1") || len(spec.Paths) < 15 {
		t.Errorf("OpenAPI %q with %d paths", spec.OpenAPI, len(spec.Paths))
	}
	for path, methods := range spec.Paths {
		for method, op := range methods {
			if _, ok := op.Responses["default"].Content["application/problem+json"]; !ok {
				t.Errorf("%s %s describes no problem", method, path)
			}
		}
	}
	status, header, body := s.do(t, "GET", "/docs", "")
	if status != 200 || !strings.Contains(body, "/v1/environments/{environment}/window") || strings.Contains(body, "<script") || header.Get("Content-Security-Policy") == "" {
		t.Errorf("docs: %d %s", status, body)
	}
}
