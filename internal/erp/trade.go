package erp

// This file has the rows of what the firm does: parties, vendors, customers, items, orders.

import (
	"fmt"
	"slices"
	"strings"
)

// fillers are all tables of the business database that have rows.
func (w *world) fillers() []filler {
	return slices.Concat(w.partyTables(), w.trading(), w.openItems(), w.ordering(), w.ledger(), w.people(), w.batch(), w.system(), w.documents(), w.links(), w.commerce(), w.encrypted())
}

func (w *world) partyTables() []filler {
	n := w.parties()
	return []filler{
		{"dirpartytable", "name namealias partynumber languageid knownas primaryaddresslocation primarycontactemail primarycontactphone", n, func(r *row, p int) {
			name := w.partyName(p)
			alias, _, _ := strings.Cut(name, " ")
			r.s(name, alias, fmt.Sprintf("%09d", p+1), "en-gb", name).id(2 * p).id(2 * p).id(2*p + 1)
		}},
		// Each party has an address and a place where it is reached.
		{"logisticslocation", "locationid description ispostaladdress", 2 * n, func(r *row, l int) {
			r.s(fmt.Sprintf("%09d", l+1), []string{"Head office", "Contact"}[l%2]).i(1 - l%2)
		}},
		{"dirpartylocation", "party location ispostaladdress isprimary isrolebusiness", 2 * n, func(r *row, l int) { r.id(l/2).id(l).i(1-l%2, 1, 1) }},
		{"logisticspostaladdress", "location street streetnumber city zipcode countryregionid address validfrom validto", n, func(r *row, p int) {
			c := pick(cities, w.chance(5, p))
			street, number := pick(streets, w.chance(6, p))+" "+pick(streetKinds, w.chance(7, p)), fmt.Sprint(1+w.chance(8, p)%180)
			r.id(2*p).s(street, number, c[0], c[1], c[2], number+" "+street+"\n"+c[1]+" "+c[0]).t(firstDay, firstDay.AddDate(100, 0, 0))
		}},
		{"logisticselectronicaddress", "location type locator description isprimary", 2 * n, func(r *row, a int) {
			p := a / 2
			r.id(2*p + 1)
			switch {
			case a%2 == 0:
				r.i(2).s(w.partyMail(p), "E-mail")
			case a%40 == 1:
				r.i(3).s("https://www."+strings.SplitN(w.partyMail(p), "@", 2)[1], "Web")
			default:
				r.i(1).s(fmt.Sprintf("+43 1 %07d", w.chance(9, p)%10000000), "Phone")
			}
			r.i(1)
		}},
	}
}

var vendorGroups = [][2]string{{"10", "Goods"}, {"20", "Services"}, {NewVendors, "New, not yet paid"}, {"40", "Freight"}}

func (w *world) trading() []filler {
	return []filler{
		{"companyinfo", "dataarea name namealias knownas partynumber vatnum templatefolder_w key", len(companies), func(r *row, i int) {
			c := companies[i]
			r.s(c[0], c[1], c[1], c[1], fmt.Sprintf("LE-%04d", i+1), fmt.Sprintf("ATU%08d", 66200000+i*1117), w.folder("templates")).i(i)
		}},
		{"vendgroup", "vendgroup name paymtermid dataareaid", len(vendorGroups) * len(companies), func(r *row, i int) {
			g := vendorGroups[i%len(vendorGroups)]
			r.s(g[0], g[1], "N030", companies[i/len(vendorGroups)][0])
		}},
		{"custgroup", "custgroup name paymtermid dataareaid", len(companies), func(r *row, i int) { r.s("10", "Customers", "N014", companies[i][0]) }},
		{"vendtable", "accountnum vendgroup currency party paymtermid paymmode taxgroup vatnum invoiceaccount blocked bankaccount youraccountnum dataareaid", w.vendors, func(r *row, v int) {
			r.s(vendorAccount(v), vendorGroup(v), currency(v)).id(v).s("N030", "SEPA", "DOM", fmt.Sprintf("ATU%08d", w.chance(10, v)%100000000), "").i(int(w.chance(11, v) % 50 / 49))
			r.s(fmt.Sprintf("AT%018d", w.chance(12, v)%1e18), fmt.Sprintf("K-%05d", w.chance(13, v)%100000), company(v))
		}},
		{"custtable", "accountnum custgroup currency party paymtermid paymmode taxgroup vatnum creditmax dlvmode dataareaid", w.customers, func(r *row, c int) {
			r.s(customerAccount(c), "10", currency(c)).id(w.vendors+c).s("N014", "TRANSFER", "DOM", fmt.Sprintf("DE%09d", w.chance(14, c)%1000000000)).money(100*(1000+int(w.chance(15, c)%90000))).s("ROAD", company(c))
		}},
		{"inventtable", "itemid namealias product itemtype netweight bomunitid primaryvendorid itembuyergroupid dataareaid", w.items, func(r *row, i int) {
			r.s(itemNumber(i), w.item(i)).id(i).i(0).money(int(w.chance(16, i)%5000)).s("pcs", vendorAccount(w.near(r, w.vendors, i)), "A", company(i))
		}},
	}
}

// openItems are what is owed to vendors and by customers. Of new vendors there are only open invoices.
func (w *world) openItems() []filler {
	n, m := w.some(45000), w.some(45000)
	return []filler{
		{"vendtrans", "accountnum transdate documentdate duedate voucher invoice txt transtype amountcur amountmst currencycode exchrate settleamountcur settleamountmst closed paymmode postingprofile approved dataareaid", n, func(r *row, i int) {
			v, day := r.rng.IntN(w.vendors), when(i, n)
			cents, closed, settled := w.price(i)*(1+int(w.chance(17, i)%40)), never, 0
			invoice, text, kind, voucher := fmt.Sprintf("RE-%06d", w.chance(18, i)%1000000), "Invoice for "+strings.ToLower(w.item(r.rng.IntN(w.items)))+"s", 3, fmt.Sprintf("VIN%09d", i+1)
			if vendorGroup(v) != NewVendors && r.rng.IntN(10) < 4 {
				cents, invoice, text, kind, voucher = -cents, "", "Payment", 15, fmt.Sprintf("VPM%09d", i+1)
			}
			if vendorGroup(v) != NewVendors && r.rng.IntN(100) < 88 {
				closed, settled = day.AddDate(0, 0, 5+r.rng.IntN(40)), -cents
			}
			r.s(vendorAccount(v)).t(day, day, day.AddDate(0, 0, 30)).s(voucher, invoice, text).i(kind).money(-cents, -cents).s(currency(v)).i(100).money(settled, settled).t(closed).s("SEPA", "GEN").i(1).s(company(v))
		}},
		{"custtrans", "accountnum orderaccount transdate documentdate duedate voucher invoice txt transtype amountcur amountmst currencycode exchrate settleamountcur settleamountmst closed paymmode postingprofile approved dataareaid", m, func(r *row, i int) {
			c, day := r.rng.IntN(w.customers), when(i, m)
			cents, closed, settled := w.price(i)*(1+int(w.chance(19, i)%60)), never, 0
			invoice, text, kind, voucher := fmt.Sprintf("INV-%07d", i+1), "Sales invoice", 2, fmt.Sprintf("CIN%09d", i+1)
			if r.rng.IntN(10) < 4 {
				cents, invoice, text, kind, voucher = -cents, "", "Payment received", 15, fmt.Sprintf("CPM%09d", i+1)
			}
			if r.rng.IntN(100) < 85 {
				closed, settled = day.AddDate(0, 0, 3+r.rng.IntN(30)), cents
			}
			r.s(customerAccount(c), customerAccount(c)).t(day, day, day.AddDate(0, 0, 14)).s(voucher, invoice, text).i(kind).money(cents, cents).s(currency(c)).i(100).money(settled, settled).t(closed).s("TRANSFER", "GEN").i(1).s(company(c))
		}},
	}
}

// ordering is sales and purchase orders, and what they moved.
func (w *world) ordering() []filler {
	lines, bought, moved := w.orders*5/2, w.purchases*5/2, w.some(30000)
	return []filler{
		{"salestable", "salesid custaccount invoiceaccount custgroup currencycode languageid salesname salesstatus shippingdaterequested deliverydate inventsiteid inventlocationid dlvmode dataareaid", w.orders, func(r *row, i int) {
			c, day := w.near(r, w.customers, i), when(i, w.orders)
			r.s(salesNumber(i), customerAccount(c), customerAccount(c), "10", currency(i), "en-gb", w.partyName(w.vendors+c)).i(1+r.rng.IntN(3)).t(day, day).s("1", "11", "ROAD", company(i))
		}},
		{"salesline", "salesid custaccount custgroup linenum itemid name salesqty qtyordered salesprice lineamount currencycode salesunit salesstatus shippingdaterequested dataareaid", lines, func(r *row, l int) {
			i := l * 2 / 5
			item, day, qty := w.near(r, w.items, i), when(l, lines), 1+r.rng.IntN(50)
			r.s(salesNumber(i), "", "10").i(l*2%5+1).s(itemNumber(item), w.item(item)).i(qty, qty).money(w.price(item), qty*w.price(item)).s(currency(i), "pcs").i(3).t(day).s(company(i))
		}},
		{"custinvoicejour", "invoiceid salesid orderaccount invoiceaccount custgroup currencycode invoicedate duedate invoiceamount invoiceamountmst sumtax languageid ledgervoucher qty dataareaid", w.orders, func(r *row, i int) {
			c, day, cents := w.near(r, w.customers, i), when(i, w.orders), w.price(i)*12
			r.s(fmt.Sprintf("INV-%07d", i+1), salesNumber(i), customerAccount(c), customerAccount(c), "10", currency(i)).t(day, day.AddDate(0, 0, 14)).money(cents, cents, cents/6).s("en-gb", fmt.Sprintf("CIN%09d", i+1)).i(12).s(company(i))
		}},
		{"purchtable", "purchid orderaccount invoiceaccount vendgroup currencycode languageid purchname purchstatus deliverydate accountingdate inventsiteid dataareaid", w.purchases, func(r *row, i int) {
			v, day := w.near(r, w.vendors, i), when(i, w.purchases)
			r.s(purchaseNumber(i), vendorAccount(v), vendorAccount(v), vendorGroup(v), currency(i), "en-gb", w.partyName(v)).i(1+r.rng.IntN(3)).t(day, day).s("1", company(i))
		}},
		{"purchline", "purchid vendaccount vendgroup linenumber itemid name purchqty qtyordered purchprice lineamount currencycode purchunit purchstatus deliverydate dataareaid", bought, func(r *row, l int) {
			i := l * 2 / 5
			item, day, qty := w.near(r, w.items, i), when(l, bought), 5+r.rng.IntN(200)
			r.s(purchaseNumber(i), "", "10").i(l*2%5+1).s(itemNumber(item), w.item(item)).i(qty, qty).money(w.price(item)*2/3, qty*w.price(item)*2/3).s(currency(i), "pcs").i(3).t(day).s(company(i))
		}},
		{"inventtrans", "itemid inventdimid inventtransorigin qty costamountposted datephysical datefinancial statusissue statusreceipt currencycode voucher dataareaid", moved, func(r *row, i int) {
			item, day, qty := r.rng.IntN(w.items), when(i, moved), 1+r.rng.IntN(60)
			out := i % 2
			r.s(itemNumber(item), fmt.Sprintf("%06d", 1+r.rng.IntN(40))).id(i/2).i(qty*(1-2*out)).money(qty*w.price(item)*(1-2*out)).t(day, day).i(out, 1-out).s(currency(item), fmt.Sprintf("INV%09d", i+1), company(item))
		}},
	}
}
