package erp

// This file has the rows of the general ledger, and those of Financial Reporting.

import (
	"fmt"
	"time"
)

func (w *world) ledger() []filler {
	entries, lines := w.some(25000), w.journals*10
	mainAccount := func(n uint64) int { return int(n % uint64(len(accountNames))) }
	return []filler{
		{"mainaccount", "mainaccountid name type ledgerchartofaccounts currencycode", len(accountNames), func(r *row, i int) {
			r.s(fmt.Sprint(110000+i*10100), accountNames[i]).i(i % 6).id(0).s("EUR")
		}},
		{"generaljournalentry", "accountingdate documentdate documentnumber journalnumber journalcategory subledgervoucher subledgervoucherdataareaid ledger", entries, func(r *row, e int) {
			day := when(e, entries)
			r.t(day, day).s(fmt.Sprintf("RE-%06d", r.rng.IntN(1e6)), fmt.Sprintf("GJ%09d", e+1)).i(2+e%12).s(fmt.Sprintf("VIN%09d", e+1), company(e)).id(e % len(companies))
		}},
		// Two lines an entry: what is debited here is credited there.
		{"generaljournalaccountentry", "generaljournalentry mainaccount ledgeraccount ledgerdimension iscredit accountingcurrencyamount transactioncurrencyamount reportingcurrencyamount transactioncurrencycode text postingtype", 2 * entries, func(r *row, l int) {
			e, credit := l/2, l%2
			cents := (100 + int(w.chance(20, e)%2000000)) * (1 - 2*credit)
			a := mainAccount(w.chance(21, l))
			r.id(e).id(a).s(fmt.Sprintf("%d-%03d", 110000+a*10100, w.chance(22, e)%40)).id(a).i(credit).money(cents, cents, cents).s(currency(e), "Posting "+accountNames[a]).i(14 + credit)
		}},
		{"ledgerjournaltable", "journalnum journalname name journaltype posted posteddatetime journaltotaldebit journaltotalcredit numoflines currencycode dataareaid", w.journals, func(r *row, j int) {
			day := when(j, w.journals)
			r.s(journalNumber(j), []string{"GenJrn", "VendInv", "VendPay", "CustPay"}[j%4], "Journal of "+day.Format("2 January 2006")).i(j%4, 1).t(day.Add(9*time.Hour)).money(500000, 500000).i(10).s(currency(j), company(j))
		}},
		{"ledgerjournaltrans", "journalnum linenum accounttype company transdate voucher txt amountcurdebit amountcurcredit currencycode exchrate offsetaccounttype paymmode dataareaid", lines, func(r *row, l int) {
			j, cents := l/10, 1000+int(w.chance(23, l)%900000)
			r.s(journalNumber(j)).i(l%10+1, 2).s(company(j)).t(when(j, w.journals)).s(fmt.Sprintf("JV%09d", l+1), "Posting "+pick(accountNames, w.chance(24, l)))
			r.money(cents*(l%2), cents*(1-l%2)).s(currency(j)).i(100, 6).s("SEPA", company(j))
		}},
	}
}

// reporting is the data mart: balances by company, account and month.
func (w *world) reporting() []filler {
	const months = 23
	accounts := w.some(400)
	reports := []string{"Balance sheet", "Income statement", "Cash flow", "Trial balance", "Ageing of payables", "Cost centres", "Budget against actual", "Intercompany"}
	tasks := []string{"Companies", "Accounts", "Fiscal years", "General ledger transactions", "Exchange rates", "Budget"}
	return []filler{
		{"dim_company", "id code name currency", len(companies), func(r *row, i int) { r.i(i + 1).s(companies[i][:]...) }},
		{"dim_account", "id code name category", accounts, func(r *row, i int) {
			r.i(i+1).s(fmt.Sprint(110000+i*100), fmt.Sprintf("%s %d", accountNames[i%len(accountNames)], i/len(accountNames)+1), []string{"Assets", "Liabilities", "Revenue", "Expense"}[i%4])
		}},
		{"dim_period", "id begins ends", months, func(r *row, i int) {
			begins := time.Date(2025, time.Month(1+i), 1, 0, 0, 0, 0, time.UTC)
			r.i(i+1).t(begins, begins.AddDate(0, 1, -1))
		}},
		{"fact_balance", "company account period debit credit", len(companies) * accounts * months, func(r *row, i int) {
			r.i(i%len(companies)+1, i/len(companies)%accounts+1, i/len(companies)/accounts+1).money(r.rng.IntN(90000000), r.rng.IntN(90000000))
		}},
		{"report_definition", "id name owner", len(reports), func(r *row, i int) { r.i(i+1).s(reports[i], userID(i)) }},
		{"integration_map", "id task last_run rows_moved", len(tasks), func(r *row, i int) {
			r.i(i + 1).s(tasks[i]).t(firstDay.AddDate(0, 0, days)).i(1000 * (i + 1))
		}},
	}
}
