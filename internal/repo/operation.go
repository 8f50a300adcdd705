package repo

// This file keeps the records of finished operations, with their logs.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"sandglass"
)

func operationPrefix(id string) string { return "operation/" + id + "/" }

// PutOperation keeps the record of a finished operation. The first record of an operation stays: one that is put
// again, after a crash, may differ in what does not matter.
func (r *Repository) PutOperation(ctx context.Context, op sandglass.Operation) error {
	if err := validID("an operation", op.ID); err != nil {
		return fmt.Errorf("keep operation: %w", err)
	}
	if !op.State.Finished() {
		return fmt.Errorf("keep operation %s: it is %s, not finished", op.ID, op.State)
	}
	return firstStays(r.putJSON(ctx, operationPrefix(op.ID)+"record", op))
}

// Operations are all operations kept, oldest first. Records that are damaged are left out: they are named by an error of
// CodeRepositoryDamaged, beside the others.
func (r *Repository) Operations(ctx context.Context) ([]sandglass.Operation, error) {
	var out []sandglass.Operation
	var damage []error
	for obj, err := range r.store.List(ctx, "operation/", "") {
		if err != nil {
			return nil, fmt.Errorf("list operations: %w", err)
		}
		if !strings.HasSuffix(obj.Key, "/record") {
			continue
		}
		var op sandglass.Operation
		err = r.readJSON(ctx, obj.Key, &op)
		switch {
		case sandglass.CodeOf(err) == sandglass.CodeRepositoryDamaged:
			damage = append(damage, err)
		case err != nil:
			return nil, err
		default:
			out = append(out, op)
		}
	}
	return out, errors.Join(damage...)
}

// PutOperationLog keeps the zip of an operation's logs; the first one stays.
func (r *Repository) PutOperationLog(ctx context.Context, id string, zip io.ReadSeeker) error {
	if err := validID("an operation", id); err != nil {
		return fmt.Errorf("keep operation's log: %w", err)
	}
	return firstStays(r.putStream(ctx, operationPrefix(id)+"log.zip", r.NewDraft(0), zip))
}

// OperationLog is the zip; fs.ErrNotExist when none is kept.
func (r *Repository) OperationLog(ctx context.Context, id string) (io.ReadCloser, error) {
	if err := validID("an operation", id); err != nil {
		return nil, fmt.Errorf("read operation's log: %w", err)
	}
	_, rc, err := r.openSealed(ctx, operationPrefix(id)+"log.zip", false)
	return rc, err
}
