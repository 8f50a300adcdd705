// The indexer: WAL in, indexes out.

package wal

import "sandglass"

// Config says what WAL an Indexer will be given.
type Config struct {
	Major       int
	SegmentSize int64                // bytes
	Timeline    sandglass.TimelineID // of the stream, for messages; pages name their own
	// Start is the position of the first byte that Write will be given: a segment's first
	// byte, or any position in mid-stream (the indexer then begins at the next record start it can be sure of).
	Start sandglass.LSN
	// Previous is the index of the segment before Start, if held: the run goes on from it. Optional.
	Previous *Index
}

// Indexer reads contiguous WAL and makes the index of each segment. It is not safe for concurrent use.
type Indexer struct{}

// NewIndexer begins an index run.
func NewIndexer(c Config) *Indexer { return &Indexer{} }

// Write takes the next bytes of WAL, in slices of any size. After an error the indexer is of no more use.
func (x *Indexer) Write(p []byte) error { return nil }

// Position is the position of the next byte that Write wants.
func (x *Indexer) Position() sandglass.LSN { return 0 }

// Finished gives the indexes of segments all of whose records are complete, and forgets them.
func (x *Indexer) Finished() []*Index { return nil }

// Tail is a copy of what is known of the unfinished segment (of the oldest one, when a
// record is still incomplete that started in the segment before).
func (x *Indexer) Tail() *Index { return nil }
