// An operation's logs as one zip file.

package engine

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Logs writes a zip of an operation: operation.json, plan.json, each step's log and whatever
// else its steps put in the operation's folder, but what they keep encrypted. On a host other than the operation's, the files are not there and only the first two are written.
func (e *Engine) Logs(ctx context.Context, id string, w io.Writer) error {
	o, err := e.DB.Operation(ctx, id)
	if err != nil {
		return err
	}
	z := zip.NewWriter(w)
	if err := zipJSON(z, "operation.json", o.Operation); err != nil {
		return err
	}
	if o.Plan != nil {
		if err := zipJSON(z, "plan.json", o.Plan); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(filepath.Join(e.Dir, o.ID)) // a link in the folder leads nowhere outside it
	if errors.Is(err, fs.ErrNotExist) {
		return z.Close()
	}
	if err != nil {
		return fmt.Errorf("open the operation's folder: %w", err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == "operation.json" || path == "plan.json" || filepath.Ext(path) == ".age" {
			return err
		}
		return zipFile(z, root, path)
	})
	if err != nil {
		return fmt.Errorf("zip the logs of operation %s: %w", id, err)
	}
	return z.Close()
}

func zipJSON(z *zip.Writer, name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()})
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return err
}

func zipFile(z *zip.Writer, root *os.Root, path string) error {
	in, err := root.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	header, err := zip.FileInfoHeader(info)
	if err != nil {
		return err
	}
	header.Name, header.Method = path, zip.Deflate
	out, err := z.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return err
}
