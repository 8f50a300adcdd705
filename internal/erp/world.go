package erp

// This file says who and what there is by number alone, so that every table can name the others' rows without reading them.

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"time"
)

// pattern is how often the companies' shares repeat: number i belongs to the same company as i+pattern.
const pattern = 20

// company is the legal entity that number i belongs to; the last one is for tests, and small.
func company(i int) string {
	switch i %= pattern; {
	case i < 9:
		return "nwat"
	case i < 15:
		return "nwde"
	case i < 19:
		return "nwgb"
	}
	return "test"
}

var companies = [][3]string{{"nwat", "Nordwind Austria", "EUR"}, {"nwde", "Nordwind Germany", "EUR"}, {"nwgb", "Nordwind United Kingdom", "GBP"}, {"test", "Nordwind Training", "EUR"}}

func currency(i int) string {
	if company(i) == "nwgb" {
		return "GBP"
	}
	return "EUR"
}

// The rows' dates lie in this time.
var firstDay = time.Date(2025, 1, 2, 6, 0, 0, 0, time.UTC)

const days = 680

// never is what the ERP writes where a date is not set.
var never = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)

// when is the day of the i-th of n things that happened one after another.
func when(i, n int) time.Time { return firstDay.AddDate(0, 0, i*days/n) }

// random is a table's own source of chance.
func (w *world) random(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.Seed, h.Sum64()))
}

// chance is a number that belongs to (what, i) for good.
func (w *world) chance(what uint64, i int) uint64 {
	x := w.Seed ^ what<<56 ^ uint64(i)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func pick[T any](list []T, n uint64) T { return list[n%uint64(len(list))] }

// parties are the vendors, then the customers, then the workers.
func (w *world) parties() int { return w.vendors + w.customers + w.workers }

// partyName is what a party is called: a firm, or a worker.
func (w *world) partyName(p int) string {
	n := w.chance(1, p)
	if p >= w.vendors+w.customers {
		return pick(firstNames, n) + " " + pick(lastNames, n>>16)
	}
	return pick(tradeWords, n) + " " + pick(trades, n>>16) + " " + pick(legalForms, n>>32)
}

// partyMail is its e-mail address.
func (w *world) partyMail(p int) string {
	name := strings.ToLower(w.partyName(p))
	if p >= w.vendors+w.customers {
		return strings.ReplaceAll(name, " ", ".") + "@nordwind.example"
	}
	words := strings.Fields(name)
	n := w.chance(2, p)
	return strings.ToLower(pick(lastNames, n)) + "@" + words[0] + "-" + words[1] + ".example"
}

func vendorAccount(v int) string   { return fmt.Sprintf("V%06d", v+1) }
func customerAccount(c int) string { return fmt.Sprintf("C%06d", c+1) }
func itemNumber(i int) string      { return fmt.Sprintf("D%05d", i+1) }
func salesNumber(i int) string     { return fmt.Sprintf("SO-%07d", i+1) }
func purchaseNumber(i int) string  { return fmt.Sprintf("PO-%07d", i+1) }
func journalNumber(i int) string   { return fmt.Sprintf("J%07d", i+1) }
func (w *world) item(i int) string {
	n := w.chance(3, i)
	return pick(adjectives, n) + " " + pick(things, n>>16)
}
func (w *world) price(i int) int              { return 150 + int(w.chance(4, i)%40000) }
func (w *world) near(r *row, n, like int) int { return r.rng.IntN(n/pattern)*pattern + like%pattern }

// NewVendors is the group of vendors that were taken on lately: nothing of theirs has been paid yet.
const NewVendors = "30"

// vendorGroup is the group of a vendor by its number: 10 goods, 20 services, 30 new, 40 freight.
func vendorGroup(v int) string {
	switch v % 16 {
	case 3, 8, 12:
		return "20"
	case 7:
		return NewVendors
	case 15:
		return "40"
	}
	return "10"
}

// people are the users but for the administrator and the service users.
const people = 240

// userID is the sign-in id of one of the people.
func userID(i int) string {
	return strings.ToUpper(firstNames[(i/len(lastNames)+i)%len(firstNames)] + "." + lastNames[i%len(lastNames)])
}

// host is a machine of the environment.
func (w *world) host(kind string, i int) string {
	return fmt.Sprintf("%s-%02d.%s.nordwind.example", kind, i+1, w.Name)
}

// folder is a share of its file server.
func (w *world) folder(name string) string { return `\\` + w.host("files", 0) + `\` + name }

// guid is an identifier that belongs to (what, i) for good.
func (w *world) guid(what uint64, i int) string {
	a, b := w.chance(what, i), w.chance(what+1, i)
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(a), uint16(a>>32), a>>48&0xfff, b&0xfff, b>>16)
}
