// The two long lists of an index, written with the least bytes: transactions and rows.

package wal

import (
	"time"

	"sandglass"
)

// Bits of a transaction's flags.
const (
	flagAborted  = 1 << 0
	flagPrepared = 1 << 1
	flagDatabase = 1 << 2 // another database than the transaction before
	flagSubs     = 1 << 3
)

func (e *encoder) transactions(start sandglass.LSN, list []Transaction) {
	var xid, database uint32
	section(e, start, list, func(t *Transaction) {
		flags := uint64(0)
		if t.Aborted {
			flags |= flagAborted
		}
		if t.Prepared {
			flags |= flagPrepared
		}
		if t.Database != database {
			flags |= flagDatabase
		}
		if len(t.Subs) > 0 {
			flags |= flagSubs
		}
		e.uint(flags)
		e.lsn(t.LSN)
		e.lsn(t.End)
		e.int(int64(int32(t.XID - xid)))
		e.int(t.Time.UnixMicro() - e.tick)
		xid, e.tick = t.XID, t.Time.UnixMicro()
		if flags&flagDatabase != 0 {
			e.uint(uint64(t.Database))
			database = t.Database
		}
		if flags&flagSubs != 0 {
			e.uint(uint64(len(t.Subs)))
			before := t.XID
			for _, s := range t.Subs {
				e.int(int64(int32(s - before)))
				before = s
			}
		}
	})
}

func (d *decoder) transactions(start sandglass.LSN) []Transaction {
	var xid, database uint32
	return items(d, start, func(t *Transaction) {
		flags := d.uint()
		t.Aborted, t.Prepared = flags&flagAborted != 0, flags&flagPrepared != 0
		t.LSN, t.End = d.lsn(), d.lsn()
		xid += uint32(d.int())
		t.XID = xid
		d.tick += d.int()
		t.Time = time.UnixMicro(d.tick).UTC()
		if flags&flagDatabase != 0 {
			database = uint32(d.uint())
		}
		t.Database = database
		if flags&flagSubs != 0 {
			n := d.count()
			t.Subs = make([]uint32, n)
			before := t.XID
			for i := range t.Subs {
				before += uint32(d.int())
				t.Subs[i] = before
			}
		}
	})
}

// rows come sorted by relation, which is written once for all its transactions.
func (e *encoder) rows(list []Rows) {
	relations := 0
	for i := range list {
		if i == 0 || list[i].Relation != list[i-1].Relation {
			relations++
		}
	}
	e.uint(uint64(relations))
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].Relation == list[0].Relation {
			n++
		}
		e.relation(list[0].Relation)
		e.uint(uint64(n))
		var xid uint32
		for _, r := range list[:n] {
			e.uint(uint64(r.XID - xid))
			xid = r.XID
			e.uint(r.Inserted)
			e.uint(r.Updated)
			e.uint(r.Deleted)
		}
		list = list[n:]
	}
}

func (d *decoder) rows() []Rows {
	var list []Rows
	for range d.count() {
		relation, n := d.relation(), d.count()
		var xid uint32
		for range n {
			if d.bad {
				return nil
			}
			xid += uint32(d.uint())
			list = append(list, Rows{XID: xid, Relation: relation, Inserted: d.uint(), Updated: d.uint(), Deleted: d.uint()})
		}
	}
	return list
}
