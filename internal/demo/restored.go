package demo

// This file tells of the restore, of what uat is afterwards, and of the way back.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/erp"
	"sandglass/internal/pgtest"
)

// plan shows what the restore would do, before anybody says yes.
func (s *story) plan(ctx context.Context) error {
	s.chapter("The plan, before anybody says yes")
	s.say("The moment just before that transaction, into uat. --plan only tells, and changes nothing. It also says what is not copied, and why.")
	_, err := s.command(ctx, []cut{{from: "What happens", to: "Databases that come", note: "(The list of its steps and rules is left out here.)"}},
		"restore", "uat", "--xid", fmt.Sprint(s.loss.xid), "--before", "--plan")
	return err
}

func (s *story) restore(ctx context.Context) error {
	s.chapter("The moment before it, in uat")
	s.say("A copy is made beside uat, sealed from the network. uat stays online until it is proven; only then are the two swapped.")
	var err error
	if _, s.postings, err = s.production(ctx); err != nil {
		return err
	}
	s.uat.probe.Reset()
	took, err := s.command(ctx, []cut{{from: "last commit in it", to: "preflight", note: "(The plan, as above.)"}, {from: "uat kept its own"}, {from: "What of uat could not"}, {from: "Left to do"}, {from: "warning"}},
		"restore", "uat", "--xid", fmt.Sprint(s.loss.xid), "--before", "--yes")
	if err != nil {
		return err
	}
	gap, answers := s.uat.probe.Longest()
	if s.restored, s.result, err = s.succeeded(ctx); err != nil {
		return err
	}
	s.took, s.silent = took, gap
	// The client may wait for a processor too; what counts is that nothing but the swap kept it out.
	swap := time.Duration(s.result.UnreachableSeconds * float64(time.Second))
	s.check("uat answered all the while, but for the swap", answers > 0 && gap < swap+5*time.Second, fmt.Sprintf("%s answers, %s without", count(answers), seconds(gap)))
	s.fact("restore of the moment before", seconds(took))
	s.fact("uat unreachable at the swap", seconds(gap))
	return nil
}

// succeeded looks into the history whether the newest operation on uat went well.
func (s *story) succeeded(ctx context.Context) (o sandglass.Operation, r sandglass.Result, err error) {
	ops, err := s.client.Operations(ctx, sandglass.OperationQuery{Environment: "uat", Limit: 1})
	if err != nil {
		return o, r, err
	}
	if len(ops) == 0 {
		return o, r, errors.New("the operation is not in the history")
	}
	if o, err = s.client.Operation(ctx, ops[0].ID); err != nil {
		return o, r, err
	}
	if o.State != sandglass.Succeeded {
		return o, r, fmt.Errorf("the %s ended as %s", o.Kind, o.State)
	}
	return o, r, json.Unmarshal(o.Result, &r)
}

// compare looks at uat with its own eyes: the lost rows, the roles, and what must not be there.
func (s *story) compare(ctx context.Context) error {
	s.chapter("What came back")
	conn, err := pgx.Connect(ctx, s.uatURL())
	s.check("uat's application keeps its own password", err == nil, uatApp)
	if err != nil {
		return fmt.Errorf("connect as %s: %w", uatApp, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	got, err := readLost(ctx, conn)
	if err != nil {
		return err
	}
	s.check("the lost rows are there", got.vendors == s.loss.vendors && got.transactions == s.loss.transactions, fmt.Sprintf("%s vendors, %s transactions", count(got.vendors), count(got.transactions)))
	s.check("they are the same to the last byte", got.digest == s.loss.digest, got.sums())

	_, err = pgx.Connect(ctx, s.uat.url(productionApp, productionAppPassword, "business"))
	s.check("production's password opens nothing here", pgtest.SQLState(err) == "28P01" || pgtest.SQLState(err) == "28000", productionApp)
	_, err = pgx.Connect(ctx, s.uat.url(uatApp, uatAppPassword, scratch))
	s.check("a database uat has no use for stayed out", pgtest.SQLState(err) == "3D000", scratch)

	left, postings, err := s.production(ctx)
	if err != nil {
		return err
	}
	since := postings - s.postings
	s.check("production went on; its rows are still lost", left == 0 && since > 0, fmt.Sprintf("%s postings meanwhile", count(since)))
	s.fact("rows found again", count(got.rows()))
	return nil
}

// production counts what of the lost vendors is in production, and what its people have posted so far.
func (s *story) production(ctx context.Context) (vendors, postings int64, err error) {
	conn, err := s.prod.Connect(ctx, erp.Business)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM vendtable WHERE "+accidentCondition+"), (SELECT count(*) FROM vendtrans WHERE createdby = 'AP.CLERK')").Scan(&vendors, &postings)
	return vendors, postings, err
}

func (s *story) undo(ctx context.Context) error {
	s.chapter("The way back: uat as it was")
	s.say("uat's team wants its own data again. The state before the restore was kept.")
	s.uat.probe.Reset()
	took, err := s.command(ctx, []cut{{from: "What happens", to: "preflight"}}, "undo", "uat", "--yes")
	if err != nil {
		return err
	}
	gap, _ := s.uat.probe.Longest()
	if _, _, err := s.succeeded(ctx); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.uatURL())
	if err != nil {
		return fmt.Errorf("connect as %s: %w", uatApp, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	digest, err := pgtest.QueryText(ctx, conn, uatDigest)
	if err != nil {
		return err
	}
	s.check("uat is what it was before, to the last byte", digest == s.uat.digest, seconds(gap)+" without an answer")
	e, err := s.client.Environment(ctx, "uat")
	if err != nil {
		return err
	}
	s.check("and Sandglass says so", e.LastRestored == s.uat.shows, "uat shows "+e.LastRestored)
	s.fact("undo", seconds(took))
	s.fact("uat unreachable at the undo", seconds(gap))
	return nil
}
