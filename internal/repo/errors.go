package repo

// This file has the codes of this package and the errors that people see.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"sandglass"
)

// Codes that only the repository gives.
const (
	CodeRepositoryExists sandglass.Code = "repository.exists"
	CodeRepositoryNewer  sandglass.Code = "repository.newer_format"
)

// damaged names an object that can't be read as it was written. Errors that say nothing about
// the object (a missing key, a cancelled context, a store that can't be reached) pass unchanged.
func damaged(key string, err error) error {
	if err == nil {
		return nil
	}
	var pathError *fs.PathError
	if _, ok := errors.AsType[*sandglass.Error](err); ok || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) || errors.As(err, &pathError) && !errors.Is(err, syscall.EIO) {
		return err
	}
	return &sandglass.Error{Code: sandglass.CodeRepositoryDamaged, Op: "read " + key,
		Message: fmt.Sprintf("The repository's object %s is damaged.", key),
		Remedy:  "Run `sandglass repo verify` to see which moments it costs; restore the object from a copy of the repository if there is one.",
		Err:     err}
}

// missing names an object that another one refers to and that is not there.
func missing(key string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeRepositoryDamaged, Op: "read " + key,
		Message: fmt.Sprintf("The repository's object %s is missing.", key),
		Remedy:  "Run `sandglass repo verify` to see which moments it costs; restore the object from a copy of the repository if there is one.",
		Err:     err}
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// putError turns a full disk into its code.
func putError(key string, err error) error {
	if isFull(err) {
		return &sandglass.Error{Code: sandglass.CodeRepositoryFull, Op: "write " + key,
			Message: "The repository's disk is full.",
			Remedy:  "Make room on it, or shorten the retention and run `sandglass repo prune`; recording goes on by itself then.", Err: err}
	}
	return fmt.Errorf("write %s: %w", key, err)
}

func keyMissing(op string) error {
	return &sandglass.Error{Code: sandglass.CodeKeyMissing, Op: op,
		Message: "The repository can't be read without its key.",
		Remedy:  "Give the age identity that `sandglass init` made (key.txt in the state folder, or its copy)."}
}

func keyWrong(op string, err error) error {
	return &sandglass.Error{Code: sandglass.CodeKeyWrong, Op: op,
		Message: "The key given does not open this repository.",
		Remedy:  "Give the age identity that `sandglass init` made for it (key.txt in the state folder, or its copy).", Err: err}
}

// forked says that an object exists already with other contents.
func forked(key string) error {
	return &sandglass.Error{Code: sandglass.CodeHistoryForked, Op: "write " + key,
		Message: fmt.Sprintf("The repository holds other contents for %s than those now sent.", key),
		Remedy:  "The server's history has forked: begin a new incarnation. What is held stays as it is."}
}

// firstStays takes it as success that an object exists with other contents.
func firstStays(err error) error {
	if sandglass.CodeOf(err) == sandglass.CodeHistoryForked {
		return nil
	}
	return err
}
