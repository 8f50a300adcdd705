// Whether a server is fit to be opened.

package operation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/server"
)

// healthy connects to every database and asks what the environment declares.
func healthy(ctx context.Context, c server.Config, e sandglass.Environment) error {
	names, err := databases(ctx, c)
	if err != nil {
		return healthError("postgres", err)
	}
	for _, name := range names {
		if err := ask(ctx, c, name, append([]string{"SELECT 1"}, e.Server.Health[name]...)); err != nil {
			return healthError(name, err)
		}
	}
	for name := range e.Server.Health {
		if !strings.Contains("\x00"+strings.Join(names, "\x00")+"\x00", "\x00"+name+"\x00") {
			return healthError(name, errors.New("no such database"))
		}
	}
	return nil
}

func databases(ctx context.Context, c server.Config) ([]string, error) {
	conn, err := server.Connect(ctx, c, "postgres")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func ask(ctx context.Context, c server.Config, database string, queries []string) error {
	conn, err := server.Connect(ctx, c, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on; SET search_path TO DEFAULT"); err != nil {
		return err
	}
	for _, q := range queries {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("health query %q: %w", q, err)
		}
	}
	return nil
}

func healthError(database string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeHealthFailed, Op: "health check", Err: err,
		Message: fmt.Sprintf("The new server did not pass its health check in database %q: %v.", database, err),
		Remedy:  "The sandbox is as it was. See the PostgreSQL log of the operation (sandglass ops logs)."}
}

// listening sees that something accepts connections at the environment's address.
func listening(ctx context.Context, e sandglass.Environment) error {
	host := DialHost(e.Server.Listen)
	if host == "" {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(e.Server.Port)))
	if err != nil {
		return &sandglass.Error{Code: sandglass.CodeHealthFailed, Op: "health check", Err: err,
			Message: fmt.Sprintf("The new server does not listen on %s port %d.", host, e.Server.Port),
			Remedy:  "The sandbox is as it was. Look at server.listen and server.port of its declaration."}
	}
	return conn.Close()
}

// DialHost is an address on this host by which a server with these listen_addresses is reached; "" for none.
func DialHost(listen string) string {
	first, _, _ := strings.Cut(listen, ",")
	switch first = strings.TrimSpace(first); first {
	case "*", "0.0.0.0":
		return "127.0.0.1"
	case "::":
		return "::1"
	}
	return first
}
