// Package wal reads PostgreSQL's write-ahead log, majors 14 to 18, and makes an index of
// each segment: commits and aborts with their times, rows changed by relation and
// transaction, and the few other records that a restore must know of. It is pure: bytes in,
// indexes out, no I/O.
//
// An Indexer is fed contiguous WAL. The index of segment N holds the records that start in
// N, so it is finished only when the last of them is, maybe in segment N+1. Nothing is
// skipped silently: a page or record that does not check is a DamageError, and a page magic
// that is not known is refused by name. Only zeros may follow the last record, and one thing
// may stay unfinished: a record that a crash cut short, when the next one says so (XLOG_OVERWRITE_CONTRECORD).
//
// # Stored form of an index, version 1
//
// Elements:
//
//	uint   unsigned LEB128 (protobuf varint), at most 10 bytes
//	int    zigzag varint
//	lsn    uint: distance from the lsn before it in the same section; a section's first counts from the segment's
//	       first byte ("start")
//	olsn   uint: 0 for "none", else distance from start, plus 1
//	time   uint 0 for "none", else uint 1 and an int: microseconds since the time before it in the same
//	       section; a section's first counts from 1970-01-01 UTC
//	text   uint length, then that many bytes
//	flags  uint, a sum of bits
//	rel    three uints: OID of database, OID of tablespace, relfilenumber
//	list   uint count, then the items; each list is a section of its own
//
// An index is, in this order:
//
//	"SGWI"             magic, 4 bytes
//	uint               version, 1
//	uint               PostgreSQL major
//	uint               timeline
//	uint               segment size in bytes
//	uint               start: position of the segment's first byte
//	flags              1: whole (every record that starts in the segment is in here)
//	lsn lsn            from, end (see Index; these two are a section)
//	olsn olsn          first and last record start
//	uint uint uint     start of the run; newest notable segment, and newest with a restore point, of the run before this one (0 for
//	                   none): full positions
//	uint uint          start of the run's last commit or abort up to the segment's end, and of its last commit (0 for none); full positions
//	time time          time of the run's last commit or abort, the highest since the clock last stepped back (with the two above: a section)
//	uint uint          next and oldest running transaction number, with epoch; 0 where not known
//	list               ends of transactions: flags (1 aborted, 2 prepared, 4 a database follows, 8 subtransactions follow);
//	                   lsn start; lsn end; int: xid less that of the item before (modulo 2^32); int: microseconds
//	                   since the item before (no "none" here); if 4: uint database OID, which holds for the items after
//	                   it too; if 8: uint count, then an int each: xid less the one before it (the first less the item's)
//	uint               count of relations with changed rows, then for each: rel; uint count of transactions, then for
//	                   each: uint xid less the one before it; uint rows inserted; uint updated; uint deleted
//	list               relation changes: lsn; uint xid; uint kind (1 created, 2 dropped, 3 shortened, 4 truncated); rel; uint blocks left
//	list               restore points: lsn start; lsn end; time; text name
//	list               backup ends: lsn start; lsn end; uint redo position
//	list               checkpoints: lsn start; lsn end; uint kind (1 online, 2 shutdown, 3 end of recovery); uint redo
//	                   position; uint timeline; uint previous timeline; time; uint next xid with epoch
//	list               parameter changes: lsn; int each: max_connections, max_worker_processes, max_wal_senders,
//	                   max_prepared_transactions, max_locks_per_transaction; uint wal_level (0 unknown, 1 minimal, 2 replica,
//	                   3 logical); flags (1 wal_log_hints, 2 track_commit_timestamp)
//	list               tablespace changes: lsn; uint xid; uint OID; flags (1 dropped); text path
//	list               database changes: lsn; uint xid; uint OID; uint tablespace OID; flags (1 dropped)
//	list               clock steps: lsn; time highest before; time of the record; uint position of the record with the highest time
//	list               beats: int position less the one before it (the first less start); time
//	4 bytes            CRC-32C (Castagnoli) of all bytes before it, little-endian
package wal
