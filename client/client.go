// Package client is the typed client of Sandglass's HTTP API, over its Unix socket or over TCP with a
// token. Every refusal comes back as a *sandglass.Error with the code, message and remedy that the
// control plane gave; when nothing answers, its code is serve.unreachable.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"sandglass"
)

// Options say where the control plane is. Give Socket, or URL with Token.
type Options struct {
	Socket string // path of the Unix socket
	URL    string // http://host:port, when not over the socket
	Token  string // bearer token for URL
}

// Client speaks to one control plane. It may be used by many goroutines.
type Client struct {
	http  *http.Client
	base  string
	token string
	where string // for people
}

// answerTimeout bounds an ordinary request.
const answerTimeout = 3 * time.Minute

// New makes a client; nothing is sent yet.
func New(o Options) (*Client, error) {
	if o.URL == "" {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", o.Socket)
		}
		return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}, base: "http://sandglass", where: o.Socket}, nil
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &sandglass.Error{Code: sandglass.CodeUsage, Op: "connect to serve", Message: fmt.Sprintf("%q is not the address of a control plane.", o.URL),
			Remedy: "Write it as http://host:port or https://host.", Err: err}
	}
	return &Client{http: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}, base: strings.TrimSuffix(o.URL, "/"), token: o.Token, where: o.URL}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// path joins escaped segments below /v1.
func path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String()
}

// call sends body as JSON (nil: none) and reads the answer into out (nil: none is expected).
func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		return c.lost(ctx, fmt.Errorf("read answer of %s %s: %w", method, path, err))
	}
	return nil
}

// ask is call for an answer of type T.
func ask[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var v T
	err := c.call(ctx, method, path, body, &v)
	return v, err
}

// send sends a request and returns the answer if it is a success; its body must be closed.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write request %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, fmt.Errorf("make request %s %s: %w", method, path, err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if answer.StatusCode < 300 {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, problem(answer)
}

// lost is a request that got no whole answer: the caller's own end, or nobody there.
func (c *Client) lost(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	e := &sandglass.Error{Code: sandglass.CodeServeUnreachable, Op: "connect to serve", Message: "No control plane answers at " + c.where + ".",
		Remedy: "Start `sandglass serve`, or name its state folder with --state.", Err: err}
	if c.base != "http://sandglass" {
		e.Remedy = "Check the address and that `sandglass serve` listens there."
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) {
		e.Message = "The control plane at " + c.where + " did not finish its answer."
		e.Remedy = "Look at the log of `sandglass serve`, and ask again."
	}
	if strings.Contains(err.Error(), "permission denied") {
		e.Code, e.Message = sandglass.CodeUnauthorized, "You may not use the control plane at "+c.where+"."
		e.Remedy = "Run the command as the user that runs `sandglass serve`, or as root."
	}
	return e
}

// problem reads a refusal (RFC 9457 with the members of sandglass.Error).
func problem(r *http.Response) error {
	var e sandglass.Error
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&e); err != nil || e.Code == "" {
		return &sandglass.Error{Code: sandglass.CodeServeUnreachable, Op: "ask serve", Message: fmt.Sprintf("The answer, %s, is not one of Sandglass.", r.Status),
			Remedy: "Check that the address is that of `sandglass serve`.", Err: err}
	}
	return &e
}

// event is one line of a streamed answer.
type event[T any] struct {
	Progress *sandglass.Progress `json:"progress"`
	Result   *T                  `json:"result"`
	Error    *sandglass.Error    `json:"error"`
}

// follow sends a request whose answer is lines of progress, then a result or an error.
func follow[T any](ctx context.Context, c *Client, method, path string, body any, progress func(sandglass.Progress)) (T, error) {
	var zero T
	r, err := c.send(ctx, method, path, body)
	if err != nil {
		return zero, err
	}
	defer r.Body.Close()
	for d := json.NewDecoder(r.Body); ; {
		var e event[T]
		switch err := d.Decode(&e); {
		case err != nil:
			return zero, c.lost(ctx, err)
		case e.Error != nil:
			return zero, e.Error
		case e.Result != nil:
			return *e.Result, nil
		case e.Progress != nil && progress != nil:
			progress(*e.Progress)
		}
	}
}
