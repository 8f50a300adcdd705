// Carrying again, 8c: the sandbox is fenced, and what its people changed of their own rows since
// they were carried is the last word. Whoever is killed in here is followed by another, who must
// make the proof that was not made.

package policy

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"sandglass"
)

// ruleUnproven is the record, in the transaction that carries again, that the proof of it is still
// to be made. Its missed are the rows that had stayed behind before.
const ruleUnproven = ruleCarry + " unproven"

// CarryAgain is 8c: what the sandbox's people have changed of their own rows since Neutralize is
// given to the copy, and the assertions about these tables are asked again. The report is of the
// databases where that was so. The sandbox must be fenced, so that this is the last word; whatever the copy can't
// hold now, though it could before, is an error of CodeCarryChanged.
func CarryAgain(ctx context.Context, st Staging, in Input) (again Report, err error) {
	if in.FromTarget == nil {
		return again, nil
	}
	rules := slices.DeleteFunc(in.rules(), func(r rule) bool { return r.carries == nil })
	reports := make([]Report, len(rules))
	databases, carrying := errgroup.WithContext(ctx)
	databases.SetLimit(2) // each has a session in both servers, which may have few to spare
	for i, r := range rules {
		databases.Go(func() error {
			return st.in(carrying, r.database, func(conn *pgx.Conn) error {
				j := newJob(st, in)
				err := j.carryAgain(carrying, conn, r)
				reports[i] = j.report
				return err
			})
		})
	}
	err = databases.Wait()
	for _, r := range reports {
		again.Rules = append(again.Rules, r.Rules...)
	}
	return again, err
}

// carryAgain does so in one database; the report is empty where nothing had changed.
func (j *job) carryAgain(ctx context.Context, conn *pgx.Conn, r rule) error {
	before, _, unproven, err := doneBefore(ctx, conn, ruleUnproven)
	if err != nil {
		return err
	}
	if !unproven {
		if before.missed, err = missedBy(ctx, conn, r); err != nil {
			return err
		}
	}
	j.unproven = &before
	if err := j.carryOver(ctx, conn, r.database, r); err != nil {
		return ruleError(r, r.database, err)
	}
	if !unproven && (len(j.report.Rules) == 0 || j.report.Rules[0].Skipped) {
		j.report.Rules = nil
		return nil
	}
	now, err := missedBy(ctx, conn, r)
	if err != nil {
		return err
	}
	for _, missed := range now {
		if !slices.Contains(before.missed, missed) { // nobody has been told of these
			return &sandglass.Error{Code: CodeCarryChanged, Op: "carry over", Message: "Rows that stay the sandbox's own were changed while it was about to be swapped, and the copy can't hold them all. " + missed,
				Remedy: "The sandbox is as it was. Start the restore again."}
		}
	}
	if err := proveCarried(ctx, conn, j.in, r); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = $1`, ruleUnproven); err != nil {
		return fmt.Errorf("note the proof: %w", err)
	}
	return nil
}

// noteUnproven belongs into the transaction that carries again.
func (j *job) noteUnproven(ctx context.Context, tx pgx.Tx) error {
	if j.unproven == nil {
		return nil
	}
	if _, err := tx.Exec(ctx, `DELETE FROM sandglass.rule_done WHERE rule = $1`, ruleUnproven); err != nil {
		return err
	}
	return record(ctx, tx, ruleUnproven, outcome{missed: j.unproven.missed}, 0)
}

// missedBy is what of the sandbox stayed behind by the rules of one database, as recorded.
func missedBy(ctx context.Context, q querier, r rule) (all []string, err error) {
	for _, c := range r.carries {
		o, _, _, err := doneBefore(ctx, q, c.name())
		if err != nil {
			return nil, err
		}
		all = append(all, o.missed...)
	}
	return all, nil
}
