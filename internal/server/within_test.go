package server_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sandglass/internal/server"
)

// The folders of a server belong to its user, as whom a superuser of its databases can run programs. Links that are put
// there lead root to no file of the host: none is overwritten, given away or opened up.
func TestLinksLeadNowhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be led astray")
	}
	type victim struct {
		path, content string
		uid           uint32
		mode          os.FileMode
	}
	look := func(path string) victim {
		t.Helper()
		info, err := os.Stat(path)
		must(t, err)
		content, err := os.ReadFile(filepath.Join(path, "file"))
		if !info.IsDir() {
			content, err = os.ReadFile(path)
		}
		must(t, err)
		return victim{path, string(content), info.Sys().(*syscall.Stat_t).Uid, info.Mode()}
	}
	for _, name := range []string{"run/pg_hba.conf.new", "run/postgresql.conf.new", "data/postgresql.auto.conf.new", "log/postgresql.log", "log", "run"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			dir, host := tempDir(t), tempDir(t)
			c, p := newCluster(t, dir, nil)
			c.Log = filepath.Join(dir, "log/postgresql.log")
			must(t, p.Stop(testContext(t), server.Fast))
			must(t, os.RemoveAll(filepath.Join(dir, "log")))
			must(t, os.Mkdir(filepath.Join(dir, "log"), 0o700))
			file := filepath.Join(host, "file")
			must(t, os.WriteFile(file, []byte("root's"), 0o644))
			target := host
			if strings.Contains(name, "/") {
				target = file
			}
			link := filepath.Join(dir, name)
			must(t, os.RemoveAll(link))
			must(t, os.Symlink(target, link))
			folder, before := look(host), look(file)
			if p, err := server.Start(testContext(t), c); err == nil { // where the link can be replaced
				must(t, p.Ready(testContext(t)))
				p.Close()
				must(t, server.Discard(context.Background(), c))
			}
			if after := look(file); after != before {
				t.Errorf("the file was %v, and is %v", before, after)
			}
			if after := look(host); after != folder {
				t.Errorf("the folder was %v, and is %v", folder, after)
			}
			if entries, err := os.ReadDir(host); err != nil || len(entries) != 1 {
				t.Errorf("in the folder are %v, %v", entries, err)
			}
		})
	}
}
