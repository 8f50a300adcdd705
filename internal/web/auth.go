package web

// Who asks: on the Unix socket the kernel says it, on TCP a bearer token does.

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sandglass"
)

type contextKey int

const (
	peerKey contextKey = iota // *peer: who is at the other end of the connection
	nameKey                   // string: who asks
)

// peer is the other end of a Unix socket, as the kernel knows it; err when it could not be asked.
type peer struct {
	uid  int
	name string // of the user
	err  error
}

// withPeer notes the peer of a new connection (http.Server.ConnContext); of TCP there is none.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	p := &peer{uid: -1}
	raw, err := u.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			var cred *unix.Ucred
			if cred, p.err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); p.err == nil {
				p.uid = int(cred.Uid)
			}
		})
	}
	if p.err = errors.Join(p.err, err); p.err == nil {
		p.name = "uid " + strconv.Itoa(p.uid)
		if u, err := user.LookupId(strconv.Itoa(p.uid)); err == nil {
			p.name = u.Username
		}
	}
	return context.WithValue(ctx, peerKey, p)
}

// allowed says whether the peer is the operator: the user that runs serve, or root.
func (p *peer) allowed() bool { return p.err == nil && (p.uid == os.Getuid() || p.uid == 0) }

// askedBy is who asks: a user's name, or that of a token.
func askedBy(ctx context.Context) string {
	name, _ := ctx.Value(nameKey).(string)
	return name
}

// authenticate lets the operator through, and on TCP who bears a token.
func authenticate(tokens tokens, next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := ""
		if p, ok := r.Context().Value(peerKey).(*peer); ok {
			if p.allowed() {
				name = p.name
			}
		} else if secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			name = tokens.name(secret)
		}
		if name == "" {
			log.Warn("request without authority", "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path)
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, &sandglass.Error{Code: sandglass.CodeUnauthorized, Message: "You may not use this control plane.",
				Remedy: "Run the command as the user that runs `sandglass serve`, or as root; over TCP, give a token with --token-file."})
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), nameKey, name)))
	})
}

// tokens are the digests of the known tokens with their names.
type tokens []struct {
	name   string
	digest [sha256.Size]byte
}

// minToken is the least length of a token, in characters.
const minToken = 24

// readTokens reads lines of NAME TOKEN, or a token alone, whose name is "token".
func readTokens(path string) (tokens, error) {
	bad := func(message, remedy string, err error) error {
		return &sandglass.Error{Code: sandglass.CodeConfig, Op: "read tokens", Message: message, Remedy: remedy, Err: err}
	}
	howTo := "Make one with: umask 077; echo \"$USER $(openssl rand -hex 32)\" > FILE, and name it as token_file in config.yaml."
	if path == "" {
		return nil, bad("The API listens on TCP only with a token, and no token_file is given.", howTo, nil)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, bad("The token file "+path+" can't be read.", howTo, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, bad(fmt.Sprintf("The token file %s is open to others (mode %04o).", path, info.Mode().Perm()), "chmod 600 "+path, nil)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, bad("The token file "+path+" can't be read.", howTo, err)
	}
	var all tokens
	for i, line := range strings.Split(string(content), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) == 1 {
			fields = []string{"token", fields[0]}
		}
		if len(fields) != 2 || len(fields[1]) < minToken {
			return nil, bad(fmt.Sprintf("Line %d of the token file %s is not NAME TOKEN with a token of at least %d characters.", i+1, path, minToken), howTo, nil)
		}
		all = append(all, struct {
			name   string
			digest [sha256.Size]byte
		}{fields[0], sha256.Sum256([]byte(fields[1]))})
	}
	if len(all) == 0 {
		return nil, bad("The token file "+path+" holds no token.", howTo, nil)
	}
	return all, nil
}

// name is the name of the token, "" for an unknown one; it takes the same time for each.
func (t tokens) name(secret string) string {
	digest, found := sha256.Sum256([]byte(secret)), ""
	for _, known := range t {
		if subtle.ConstantTimeCompare(known.digest[:], digest[:]) == 1 {
			found = known.name
		}
	}
	return found
}
