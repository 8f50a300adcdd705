// Sessions that are kept from one use to the next: to open one costs the server more than what most of them are for.

package policy

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// kept are the sessions of a staging server that nobody uses at the moment, at most one for each database.
type kept struct {
	mu   sync.Mutex
	idle map[string]*pgx.Conn
}

// keeping is the same server with sessions that stay open between uses, until release is called. No database may be dropped,
// renamed or copied meanwhile.
func (st Staging) keeping(ctx context.Context) (_ Staging, release func()) {
	st.kept = &kept{idle: map[string]*pgx.Conn{}}
	return st, func() {
		for _, conn := range st.kept.idle {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}
}

// in runs do in a session of the database that is as a new one.
func (st Staging) in(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	if st.kept == nil {
		return st.Connect.in(ctx, database, do)
	}
	conn := st.kept.take(ctx, database)
	if conn == nil {
		var err error
		if conn, err = st.Connect.open(ctx, database); err != nil {
			return err
		}
	}
	defer st.kept.put(ctx, database, conn)
	return do(conn)
}

// take gives an idle session of the database, made as new; nil if there is none.
func (k *kept) take(ctx context.Context, database string) *pgx.Conn {
	k.mu.Lock()
	conn := k.idle[database]
	delete(k.idle, database)
	k.mu.Unlock()
	if conn == nil {
		return nil
	}
	if err := renew(ctx, conn); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil
	}
	return conn
}

// renew takes from a session all that its last use left in it.
func renew(ctx context.Context, conn *pgx.Conn) error {
	if err := conn.DeallocateAll(ctx); err != nil { // what pgx believes to be prepared, too
		return err
	}
	if _, err := conn.Exec(ctx, "DISCARD ALL"); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, sessionSettings)
	return err
}

// put keeps a session that has just been used, unless it is broken or one is kept already.
func (k *kept) put(ctx context.Context, database string, conn *pgx.Conn) {
	const idle = 'I' // not in a transaction
	if !conn.IsClosed() && conn.PgConn().TxStatus() == idle && ctx.Err() == nil {
		k.mu.Lock()
		if k.idle[database] == nil {
			k.idle[database], conn = conn, nil
		}
		k.mu.Unlock()
	}
	if conn != nil { // a context that has ended must still let the session say goodbye
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}
