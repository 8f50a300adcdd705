package main

// sandglass init: the state folder, the key, the repository, config.yaml.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"sandglass"
	"sandglass/internal/repo"
)

func newInit(a *app) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "init", Short: "Make the state folder, the key, the repository and config.yaml", Args: takes(),
		Long: `Make the state folder, the key, the repository and config.yaml.

What is already there stays as it is: a key is never overwritten. Keep a copy of the key
where the repository is not: without it, nothing in the repository can be read.`,
		RunE: func(c *cobra.Command, _ []string) error { return a.init(c.Context(), path) },
	}
	c.Flags().StringVar(&path, "repository", "", "`folder` of the repository (default: repository, in the state folder)")
	c.Flags().StringVar(&path, "repo", "", "")
	_ = c.Flags().MarkHidden("repo") // exists: the line above made it
	return c
}

// initialized is what init prints with --json.
type initialized struct {
	State      string `json:"state"`
	Config     string `json:"config"`
	Key        string `json:"key"`
	PublicKey  string `json:"public_key"`
	Repository string `json:"repository"`
	Made       bool   `json:"made"` // false: it was all there before
}

func (a *app) init(ctx context.Context, path string) error {
	state, err := a.stateFolder()
	if err != nil {
		return err
	}
	out := initialized{State: state, Config: filepath.Join(state, configFile), Key: filepath.Join(state, keyFile)}
	_, err = os.Stat(out.Config)
	known := err == nil
	if known {
		c, err := readConfig(state)
		if err != nil {
			return err
		}
		out.Repository = c.Repository.Path
	} else if out.Repository, err = repositoryFolder(state, path); err != nil {
		return err
	}
	if known && path != "" {
		if abs, err := filepath.Abs(path); err != nil || abs != out.Repository {
			return usage("To use another repository, change repository.path in it, or remove it and run `sandglass init` again.",
				"%s already names the repository %s.", out.Config, out.Repository)
		}
	}
	if err := makeState(state); err != nil {
		return err
	}
	identity, keyMade, err := ensureKey(out.Key, out.Repository)
	if err != nil {
		return err
	}
	out.PublicKey = identity.Recipient().String()
	repositoryMade, err := ensureRepository(ctx, out.Repository, identity)
	if err != nil {
		return err
	}
	if !known {
		if err := writeNew(out.Config, fmt.Sprintf(configTemplate, out.Repository)); err != nil {
			return err
		}
	}
	out.Made = keyMade || repositoryMade || !known
	return a.print(out, func(w io.Writer) error { return out.tell(w) })
}

func (o initialized) tell(w io.Writer) error {
	if !o.Made {
		fmt.Fprintln(w, "Everything is here already; nothing was changed.")
	}
	if err := pairs(w, "", [][]string{{"State", o.State}, {"Configuration", o.Config}, {"Repository", o.Repository}, {"Key", o.Key}, {"Public key", o.PublicKey}}); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nKeep a copy of the key in a safe place away from this machine: without it, nothing in\nthe repository can be read.\n\nNext: `sandglass serve`, then `sandglass apply -f FILE`.\n")
	return err
}

func repositoryFolder(state, path string) (string, error) {
	if path == "" {
		return filepath.Join(state, "repository"), nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find repository folder: %w", err)
	}
	return abs, nil
}

// makeState makes the state folder, which the server's user must be able to pass through (0711).
func makeState(state string) error {
	err := os.MkdirAll(state, 0o711)
	if err == nil {
		err = os.Chmod(state, 0o711) // whatever the umask
	}
	if err != nil {
		return &sandglass.Error{Code: sandglass.CodeConfig, Op: "make state folder", Message: fmt.Sprintf("The state folder can't be made: %v.", err),
			Remedy: "Run the command as root, or name a folder of your own with --state.", Err: err}
	}
	return nil
}

// ensureKey reads the age identity, or makes one. It makes none for a repository that already exists: that one has its own.
func ensureKey(path, repository string) (*age.X25519Identity, bool, error) {
	content, err := os.ReadFile(path)
	if err == nil {
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "AGE-SECRET-KEY-") {
				id, err := age.ParseX25519Identity(line)
				if err != nil {
					break
				}
				return id, false, nil
			}
		}
		return nil, false, &sandglass.Error{Code: sandglass.CodeKeyWrong, Op: "read key", Message: path + " is not an age identity.",
			Remedy: "Put the repository's key there, or move the file away so that a new key is made.", Err: err}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("read key: %w", err)
	}
	if entries, err := os.ReadDir(repository); err == nil && len(entries) > 0 {
		return nil, false, &sandglass.Error{Code: sandglass.CodeKeyMissing, Op: "make key", Message: repository + " is not empty, and its key is not at " + path + ".",
			Remedy: "Put the repository's key there (mode 0600), or name an empty folder with --repository."}
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, false, fmt.Errorf("make key: %w", err)
	}
	return id, true, writeNew(path, fmt.Sprintf("# The key of a Sandglass repository. Keep a copy in a safe place.\n# created: %s\n# public key: %s\n%s\n",
		time.Now().UTC().Format(time.RFC3339), id.Recipient(), id))
}

// ensureRepository makes the repository, or opens the one that is there to see that the key fits.
func ensureRepository(ctx context.Context, path string, identity age.Identity) (made bool, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return false, &sandglass.Error{Code: sandglass.CodeConfig, Op: "make repository", Message: fmt.Sprintf("The folder of the repository can't be made: %v.", err),
			Remedy: "Name another with --repository.", Err: err}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return false, fmt.Errorf("read repository folder: %w", err)
	}
	store, err := repo.NewFolder(path)
	if err != nil {
		return false, err
	}
	if len(entries) > 0 {
		_, err := repo.Open(ctx, store, repo.Keys{Identities: []age.Identity{identity}})
		return false, err
	}
	recipient := identity.(*age.X25519Identity).Recipient().String()
	_, err = repo.Create(ctx, store, repo.CreateOptions{Recipients: []string{recipient}, Identities: []age.Identity{identity}})
	return true, err
}

// writeNew writes a file of mode 0600 that must not exist yet, durably.
func writeNew(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open folder of %s: %w", path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	return nil
}
