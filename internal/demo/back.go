package demo

// This file brings the lost rows back into production: read from a sealed, un-neutralized copy, never from the sandbox.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/erp"
)

func (s *story) bringBack(ctx context.Context) error {
	s.chapter("The lost rows, back in production")
	s.say("Never from a sandbox: values were taken out of it. A peek opens the same moment as it was, sealed and read-only.")
	begin := time.Now()
	if _, err := s.command(ctx, nil, "peek", "prod", "--xid", fmt.Sprint(s.loss.xid), "--before", "--reason", "lost vendors", "--no-wait"); err != nil {
		return err
	}
	peeks, err := s.client.Peeks(ctx)
	if err != nil {
		return err
	}
	if len(peeks) != 1 {
		return fmt.Errorf("%d peeks are open, not one", len(peeks))
	}
	if err := s.copyBack(ctx, peeks[0]); err != nil {
		return err
	}
	s.fact("lost rows back in production", seconds(time.Since(begin)))
	_, err = s.command(ctx, nil, "peek", "end", peeks[0].ID)
	return err
}

// copyBack reads the lost rows through the peek's socket and puts them into production in one transaction.
func (s *story) copyBack(ctx context.Context, p sandglass.Peek) error {
	peek, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s", p.Connection.Host, p.Connection.Port, p.Connection.User, erp.Business))
	if err != nil {
		return fmt.Errorf("connect to the peek: %w", err)
	}
	defer peek.Close(context.WithoutCancel(ctx))
	prod, err := s.prod.Connect(ctx, erp.Business)
	if err != nil {
		return err
	}
	defer prod.Close(context.WithoutCancel(ctx))

	was, err := readLost(ctx, peek)
	if err != nil {
		return err
	}
	s.check("the peek has the rows as they were", was.digest == s.loss.digest, was.digest)
	var out, in []string
	for _, t := range lostTables {
		out, in = append(out, "COPY ("+t.query+") TO STDOUT"), append(in, "COPY "+t.name+" FROM STDIN")
	}
	s.say("Vendors first, since their transactions refer to them. From the peek:")
	s.statement("peek", out...)
	s.say("into production, in one transaction:")
	s.statement("business", append(append([]string{"BEGIN"}, in...), "COMMIT")...)
	var copied int64
	err = pgx.BeginFunc(ctx, prod, func(tx pgx.Tx) error {
		for i := range out {
			n, err := pour(ctx, peek, out[i], prod, in[i])
			if err != nil {
				return err
			}
			copied += n
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("copy the lost rows back: %w", err)
	}
	now, err := readLost(ctx, prod)
	if err != nil {
		return err
	}
	s.check("production has them, to the last byte", copied == s.loss.rows() && now.digest == s.loss.digest,
		fmt.Sprintf("%s vendors, %s postings", count(now.vendors), count(now.transactions)))
	return nil
}

// pour copies what one session says into another, a piece at a time.
func pour(ctx context.Context, from *pgx.Conn, out string, to *pgx.Conn, in string) (rows int64, err error) {
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		_, err := from.PgConn().CopyTo(ctx, w, out)
		w.CloseWithError(err)
		read <- err
	}()
	tag, err := to.PgConn().CopyFrom(ctx, r, in)
	r.CloseWithError(err) // nothing more is read
	return tag.RowsAffected(), errors.Join(err, <-read)
}
