package search

// This file reads the files, in pieces, by several workers.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Hit is a value that was found.
type Hit struct {
	Path   string // below the folder
	Offset int64
	Of     int
	// Part says that a letter, a digit or a dash is beside the name. It may be part of a longer one, or the byte is PostgreSQL's: the
	// length of a short value stands before it in one odd byte (SET_VARSIZE_1B in varatt.h), and the next value's right behind
	// it. Of a file and a needle, only the first such hit is given, and only where there is none that is whole.
	Part bool
}

// Options of a search.
type Options struct {
	Workers  int              // default 2
	MaxHits  int              // the search ends when there are so many whole ones; default 1000
	Progress func(done int64) // bytes read so far; may be nil, and is called by several workers
	// Open opens a file by its name below the folder; default: as it is found there, whatever it is by then.
	Open func(folder, name string) (*os.File, error)
}

// piece is what one worker reads at a time: window positions [from, to) of a file.
type piece struct {
	name     string // below the folder
	from, to int64
}

const (
	pieceSize = 64 << 20
	chunkSize = 1 << 20
)

// errEnough ends a search that has found what it may.
var errEnough = errors.New("enough found")

// Search looks for the needles in all ordinary files below the folder, and gives what it found, by path and offset,
// and how many bytes it read. Links are not followed.
func (x *Index) Search(ctx context.Context, folder string, o Options) ([]Hit, int64, error) {
	if x.Empty() {
		return nil, 0, nil
	}
	pieces, err := piecesOf(folder)
	if err != nil {
		return nil, 0, fmt.Errorf("search %s: %w", folder, err)
	}
	o.Workers, o.MaxHits = cmp.Or(o.Workers, 2), cmp.Or(o.MaxHits, 1000)
	if o.Open == nil {
		o.Open = func(folder, name string) (*os.File, error) { return os.Open(filepath.Join(folder, name)) }
	}
	var mu sync.Mutex
	var hits []Hit
	parts := map[string]map[int]Hit{} // by path and needle
	var done, next atomic.Int64
	found := func(h Hit) error {
		mu.Lock()
		defer mu.Unlock()
		if h.Part {
			if parts[h.Path] == nil {
				parts[h.Path] = map[int]Hit{}
			}
			if first, ok := parts[h.Path][h.Of]; !ok || h.Offset < first.Offset {
				parts[h.Path][h.Of] = h
			}
			return nil
		}
		if hits = append(hits, h); len(hits) >= o.MaxHits {
			return errEnough
		}
		return nil
	}
	workers, ctx := errgroup.WithContext(ctx)
	for range o.Workers {
		workers.Go(func() error {
			buffer := make([]byte, 2*x.reach+chunkSize)
			for i := next.Add(1) - 1; i < int64(len(pieces)); i = next.Add(1) - 1 {
				if err := x.searchPiece(ctx, folder, pieces[i], buffer, &done, o, found); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err = workers.Wait(); errors.Is(err, errEnough) {
		err = nil
	}
	for _, h := range hits {
		delete(parts[h.Path], h.Of)
	}
	for _, of := range parts {
		hits = slices.AppendSeq(hits, maps.Values(of))
	}
	slices.SortFunc(hits, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Of, b.Of))
	})
	return hits, done.Load(), err
}

// piecesOf lists the files, large ones in several pieces.
func piecesOf(folder string) ([]piece, error) {
	var all []piece
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err1 := d.Info()
		name, err2 := filepath.Rel(folder, path)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		for from := int64(0); from < info.Size(); from += pieceSize {
			all = append(all, piece{name, from, min(from+pieceSize, info.Size())})
		}
		return nil
	})
	return all, err
}

// searchPiece looks at the windows that begin in the piece; around it, it reads as far as a needle reaches.
func (x *Index) searchPiece(ctx context.Context, folder string, p piece, buffer []byte, done *atomic.Int64, o Options, found func(Hit) error) error {
	f, err := o.Open(folder, p.name)
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	defer f.Close()
	for from := p.from; from < p.to; from += chunkSize {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		to := min(from+chunkSize, p.to)
		base := max(0, from-int64(x.reach))
		n, err := f.ReadAt(buffer[:to-base+int64(x.reach)], base)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("search %s: %w", p.name, err)
		}
		var full error
		x.scan(buffer[:n], int(from-base), int(to-base), func(e entry, at int) {
			whole := e.needle.whole(buffer[:n], at) || e.needle.stored(buffer[:n], at)
			full = cmp.Or(full, found(Hit{Path: p.name, Offset: base + int64(at), Of: e.needle.Of, Part: !whole}))
		})
		if full != nil {
			return full
		}
		if read := done.Add(to - from); o.Progress != nil {
			o.Progress(read)
		}
	}
	return nil
}
