package demo

// This file plays the people at work in production: they post vendors' invoices and pay them, without a pause.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

// writersFor is how long a demo that is left running goes on writing, so that one forgotten does not fill the disk.
const writersFor = time.Hour

// Write is the body of the hidden process that plays production's users: it writes until ctx ends, or for an hour.
func Write(ctx context.Context, dir string) error {
	c, err := pgtest.Open(filepath.Join(dir, "production"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writersFor)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for i := range 3 {
		clerk := &clerk{name: fmt.Sprintf("%d%x", i, time.Now().UnixMilli())}
		g.Go(func() error { return session(ctx, c, erp.Business, 120*time.Millisecond, clerk.work) })
	}
	g.Go(func() error { return session(ctx, c, erp.Reporting, 250*time.Millisecond, report) })
	return g.Wait()
}

func session(ctx context.Context, c *pgtest.Cluster, database string, pause time.Duration, one func(context.Context, *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.URL(productionApp, productionAppPassword, database))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := one(ctx, conn); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// clerk posts invoices, and pays each some later.
type clerk struct {
	name   string
	posted int
	open   []int64 // invoices of its own that are to be paid, the oldest first
}

// openInvoices is how many of its own a clerk leaves unpaid.
const openInvoices = 5

func (k *clerk) work(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if len(k.open) > openInvoices {
			paid := k.open[0]
			k.open = k.open[1:]
			return k.pay(ctx, tx, paid)
		}
		return k.invoice(ctx, tx)
	})
}

const vendorTransaction = `INSERT INTO vendtrans (accountnum, dataareaid, currencycode, transdate, documentdate, duedate, voucher, invoice, txt, transtype,
		amountcur, amountmst, exchrate, settleamountcur, settleamountmst, closed, paymmode, postingprofile, approved, createdby)
	SELECT accountnum, dataareaid, currency, $2, $2, $2::date + 30, $3, $4, $5, $6, $7, $7, 100, $8, $8, $9, 'SEPA', 'GEN', 1, 'AP.CLERK' FROM vendtable WHERE recid = $1
	RETURNING recid`

var never = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)

// invoice posts one of a vendor that has been with us for long, in the subledger and the ledger.
func (k *clerk) invoice(ctx context.Context, tx pgx.Tx) error {
	var vendor int64
	var currency string
	if err := tx.QueryRow(ctx, "SELECT recid, currency FROM vendtable WHERE recid >= $1 AND vendgroup <> $2 ORDER BY recid LIMIT 1",
		erp.FirstRecID+rand.Int64N(200), erp.NewVendors).Scan(&vendor, &currency); err != nil {
		return fmt.Errorf("choose a vendor: %w", err)
	}
	k.posted++
	voucher, cents := fmt.Sprintf("VIL%s-%05d", k.name, k.posted), 1000+rand.Int64N(900000)
	amount, today := fmt.Sprintf("%d.%02d", cents/100, cents%100), time.Now().UTC()
	var posted, entry int64
	if err := tx.QueryRow(ctx, vendorTransaction, vendor, today, voucher, "RE-"+voucher[3:], "Invoice", 3, "-"+amount, "0", never).Scan(&posted); err != nil {
		return fmt.Errorf("post an invoice: %w", err)
	}
	if err := tx.QueryRow(ctx, `INSERT INTO generaljournalentry (accountingdate, documentdate, documentnumber, journalnumber, journalcategory, subledgervoucher)
		VALUES ($1, $1, $2, $3, 2, $4) RETURNING recid`, today, "RE-"+voucher[3:], "GJ"+voucher[3:], voucher).Scan(&entry); err != nil {
		return fmt.Errorf("post to the ledger: %w", err)
	}
	_, err := tx.Exec(ctx, `INSERT INTO generaljournalaccountentry (generaljournalentry, mainaccount, ledgerdimension, iscredit, accountingcurrencyamount, transactioncurrencyamount, transactioncurrencycode, text)
		SELECT $1, $2::bigint + side, 0, side, $3::numeric * (1 - 2 * side), $3::numeric * (1 - 2 * side), $4, 'Vendor invoice' FROM generate_series(0, 1) side`, entry, erp.FirstRecID+9, amount, currency)
	if err != nil {
		return fmt.Errorf("post to the ledger: %w", err)
	}
	k.open = append(k.open, posted)
	return nil
}

// pay settles an invoice with a payment.
func (k *clerk) pay(ctx context.Context, tx pgx.Tx, invoice int64) error {
	var vendor int64
	var amount string
	today := time.Now().UTC()
	err := tx.QueryRow(ctx, `UPDATE vendtrans t SET closed = $2::timestamp, settleamountcur = amountcur, settleamountmst = amountmst, lastsettledate = $2::date, modifieddatetime = now(), recversion = t.recversion + 1
		FROM vendtable v WHERE t.recid = $1 AND v.dataareaid = t.dataareaid AND v.accountnum = t.accountnum RETURNING v.recid, (-amountcur)::text`, invoice, today).Scan(&vendor, &amount)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // its vendor is gone
	}
	if err != nil {
		return fmt.Errorf("settle an invoice: %w", err)
	}
	k.posted++
	voucher := fmt.Sprintf("VPL%s-%05d", k.name, k.posted)
	var payment int64
	if err := tx.QueryRow(ctx, vendorTransaction, vendor, today, voucher, "", "Payment", 15, amount, amount, today).Scan(&payment); err != nil {
		return fmt.Errorf("pay an invoice: %w", err)
	}
	return nil
}

// report moves an amount in Financial Reporting.
func report(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `UPDATE fact_balance SET debit = debit + $1 WHERE company = 1 AND account = $2 AND period = 23`, rand.IntN(1000), 1+rand.IntN(300))
	return err
}
