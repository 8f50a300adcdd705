package web_test

// Who may speak to the API, and where it listens.

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sandglass"
	"sandglass/client"
	"sandglass/internal/pgtest"
	"sandglass/internal/web"
	"sandglass/internal/web/webtest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestSocketIsPrivate(t *testing.T) {
	s := serve(t, webtest.New(), false)
	info, err := os.Stat(s.socket)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(s.socket))
	if err != nil || len(entries) != 1 {
		t.Errorf("left beside the socket: %v, %v", entries, err)
	}
	s.stop()
	if _, err := os.Lstat(s.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left after the stop: %v", err)
	}
}

// Even who gets at the socket is asked for by the kernel's word: another user is refused.
func TestOtherUserIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		pgtest.Missing(t, "curl")
	}
	s := serve(t, webtest.New(), false)
	for dir := filepath.Dir(s.socket); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), curl, "-s", "--unix-socket", s.socket, "http://sandglass/v1/version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"code":"unauthorized"`) {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestStaleAndLiveSocket(t *testing.T) {
	s := serve(t, webtest.New(), false)
	_, err := web.Listen(web.Config{Socket: s.socket, Parts: webtest.New().Parts(), Log: quiet()})
	if code := sandglass.CodeOf(err); code != sandglass.CodeServeRunning {
		t.Errorf("a second server: %v", err)
	}
	stale := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	server, err := web.Listen(web.Config{Socket: stale, Parts: webtest.New().Parts(), Log: quiet()})
	if err != nil {
		t.Fatalf("over what a killed server left: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Serve(ctx); err != nil {
		t.Error(err)
	}
	_, err = web.Listen(web.Config{Socket: "/tmp/" + strings.Repeat("x", 110), Parts: webtest.New().Parts(), Log: quiet()})
	if code := sandglass.CodeOf(err); code != sandglass.CodeConfig {
		t.Errorf("a path that is too long: %v", err)
	}
}

func TestTCPNeedsToken(t *testing.T) {
	c := webtest.New(prod(), uat())
	s := serve(t, c, true)
	url := "http://" + s.address + "/v1/environments"
	transport := &http.Transport{DisableKeepAlives: true}
	for _, test := range []struct {
		name   string
		header []string
		status int
	}{
		{"no token", nil, 401},
		{"wrong token", []string{"Authorization", "Bearer " + strings.Repeat("0", 32)}, 401},
		{"token as a password", []string{"Authorization", "Basic " + secret}, 401},
		{"token", []string{"Authorization", "Bearer " + secret}, 200},
		{"token, but from another site's page", []string{"Authorization", "Bearer " + secret, "Sec-Fetch-Site", "cross-site"}, 200},
	} {
		if status, _, body := send(t, transport, url, "GET", "", test.header...); status != test.status {
			t.Errorf("%s: %d %s", test.name, status, body)
		}
	}
	start := []string{"Authorization", "Bearer " + secret, "Sec-Fetch-Site", "cross-site"}
	if status, _, body := send(t, transport, "http://"+s.address+"/v1/operations", "POST", `{"kind":"refresh","environment":"uat"}`, start...); status != 401 {
		t.Errorf("a change from another site's page: %d %s", status, body)
	}
	cl, err := client.New(client.Options{URL: "http://" + s.address, Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if o, err := cl.Start(t.Context(), sandglass.Request{Kind: sandglass.KindRefresh, Environment: "uat"}); err != nil || o.AskedBy != "anna" {
		t.Errorf("asked by %q, %v", o.AskedBy, err)
	}
	bad, err := client.New(client.Options{URL: "http://" + s.address, Token: "wrong"})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	if _, err := bad.Environments(t.Context()); sandglass.CodeOf(err) != sandglass.CodeUnauthorized {
		t.Errorf("wrong token: %v", err)
	}
}

func TestTokenFiles(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name, content string
		mode          os.FileMode
		ok            bool
	}{
		{"open to others", "anna " + secret, 0o644, false},
		{"too short", "anna secret", 0o600, false},
		{"empty", "# nobody\n", 0o600, false},
		{"three words", "anna " + secret + " x", 0o600, false},
		{"a token alone", secret + "\n", 0o600, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(dir, strings.ReplaceAll(test.name, " ", "_"))
			if err := os.WriteFile(file, []byte(test.content), test.mode); err != nil {
				t.Fatal(err)
			}
			server, err := web.Listen(web.Config{Socket: filepath.Join(t.TempDir(), "s"), Listen: "127.0.0.1:0", TokenFile: file, Parts: webtest.New().Parts(), Log: quiet()})
			if test.ok != (err == nil) || err != nil && sandglass.CodeOf(err) != sandglass.CodeConfig {
				t.Errorf("got %v", err)
			}
			if err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := server.Serve(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	_, err := web.Listen(web.Config{Socket: filepath.Join(dir, "s"), Listen: "127.0.0.1:0", Parts: webtest.New().Parts(), Log: quiet()})
	if sandglass.CodeOf(err) != sandglass.CodeConfig {
		t.Errorf("TCP without a token file: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	cl, err := client.New(client.Options{Socket: filepath.Join(t.TempDir(), "api.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, err = cl.Environments(t.Context())
	if e := sandglass.AsError(err); e.Code != sandglass.CodeServeUnreachable || !strings.Contains(e.Remedy, "sandglass serve") {
		t.Errorf("got %+v", e)
	}
	if _, err := client.New(client.Options{URL: "somewhere"}); sandglass.CodeOf(err) != sandglass.CodeUsage {
		t.Errorf("not an address: %v", err)
	}
}
