package repo

// What a repository holds, counted from the names and sizes of its objects: no key is needed.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"sandglass"
)

// Info counts what the repository holds. Path and FreeBytes are the store's to say, and left for the caller.
func (r *Repository) Info(ctx context.Context) (sandglass.RepositoryInfo, error) {
	info := sandglass.RepositoryInfo{FreeBytes: -1, Environments: []sandglass.RepositoryEnvironmentInfo{}}
	if err := r.rootInfo(ctx, &info); err != nil {
		return info, err
	}
	var e *sandglass.RepositoryEnvironmentInfo
	for o, err := range r.store.List(ctx, "", "") {
		if err != nil {
			return info, fmt.Errorf("list repository: %w", err)
		}
		info.Objects++
		info.Bytes += o.Size
		part := strings.Split(o.Key, "/")
		if part[0] != "env" || len(part) < 4 {
			continue
		}
		if e == nil || e.Environment != part[1] { // names come in order
			info.Environments = append(info.Environments, sandglass.RepositoryEnvironmentInfo{Environment: part[1]})
			e = &info.Environments[len(info.Environments)-1]
		}
		switch {
		case strings.HasPrefix(part[3], "begin-"):
			e.Incarnations++
		case part[3] == "image":
			e.Images++
			e.ImageBytes += o.Size
		case part[3] == "bundle":
			e.ImageBytes += o.Size
		default:
			e.WALBytes += o.Size
		}
	}
	return info, nil
}

func (r *Repository) rootInfo(ctx context.Context, info *sandglass.RepositoryInfo) error {
	rc, err := r.store.Open(ctx, rootKey, 0, -1)
	if err != nil {
		return missing(rootKey, err)
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	if err != nil {
		return fmt.Errorf("read %s: %w", rootKey, err)
	}
	var f rootFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return damaged(rootKey, err)
	}
	info.ID, info.Format, info.Created, info.Recipients = f.ID, f.Format, f.Created, f.Recipients
	return nil
}
