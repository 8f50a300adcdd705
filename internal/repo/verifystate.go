package repo

// This file remembers what was verified: a text file with a line for each object, in the order of the keys, that is
// read and rewritten in one pass beside the listing, so that it is never in memory.

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// verifyState is one pass. known is called by the goroutine that lists, good by the one that takes the results.
type verifyState struct {
	path string
	in   *os.File
	old  *bufio.Scanner
	line string // of old, not passed yet; "" at the end
	out  *os.File
	w    *bufio.Writer
	last string // key of the last line written
}

// openVerifyState begins a pass; a path of "" remembers nothing.
func openVerifyState(path string) (*verifyState, error) {
	s := &verifyState{path: path}
	if path == "" {
		return s, nil
	}
	in, err := os.Open(path)
	if err == nil {
		s.in, s.old = in, bufio.NewScanner(in)
		s.next()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.out, err = os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		if s.in != nil {
			s.in.Close()
		}
		return nil, err
	}
	s.w = bufio.NewWriter(s.out)
	return s, nil
}

func (s *verifyState) next() {
	s.line = ""
	if s.old.Scan() {
		s.line = s.old.Text()
	}
}

func keyOf(line string) string {
	key, _, _ := strings.Cut(line, "\t")
	return key
}

func lineOf(obj Object) string {
	return obj.Key + "\t" + strconv.FormatInt(obj.Size, 10) + "\t" + strconv.FormatInt(obj.ModTime.UnixNano(), 10)
}

// known says whether the object is as it was when it was verified; objects come in the order of their keys.
func (s *verifyState) known(obj Object) bool {
	for s.line != "" && keyOf(s.line) < obj.Key {
		s.next()
	}
	return s.line != "" && s.line == lineOf(obj)
}

// good remembers an object.
func (s *verifyState) good(obj Object) error {
	if s.w == nil {
		return nil
	}
	s.last = obj.Key
	_, err := s.w.WriteString(lineOf(obj) + "\n")
	return err
}

// close ends the pass. What a pass that was broken off did not come to stays remembered.
func (s *verifyState) close(complete bool) error {
	if s.path == "" {
		return nil
	}
	var err error
	if s.in != nil {
		if !complete {
			err = s.copyRest()
		}
		s.in.Close()
	}
	err = errors.Join(err, s.w.Flush(), s.out.Close())
	if err != nil {
		os.Remove(s.path + ".tmp")
		return err
	}
	return os.Rename(s.path+".tmp", s.path)
}

func (s *verifyState) copyRest() error {
	if _, err := s.in.Seek(0, 0); err != nil {
		return err
	}
	for old := bufio.NewScanner(s.in); old.Scan(); {
		if keyOf(old.Text()) > s.last {
			if _, err := s.w.WriteString(old.Text() + "\n"); err != nil {
				return err
			}
		}
	}
	return nil
}
