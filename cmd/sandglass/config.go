package main

// config.yaml of the state folder, and strict YAML in general.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"sandglass"
)

// The files of the state folder that the command line knows.
const (
	configFile = "config.yaml"
	keyFile    = "key.txt"
	socketFile = "api.sock"
)

// config is what `sandglass serve` reads at its start; the template of `sandglass init` explains each key.
type config struct {
	Repository struct {
		Path string `yaml:"path"`
	} `yaml:"repository"`
	Listen      string   `yaml:"listen"`
	TokenFile   string   `yaml:"token_file"`
	MetadataURL string   `yaml:"metadata_url"`
	Binaries    []string `yaml:"binaries"`
	ServerUser  string   `yaml:"server_user"`
	VolumeUIDs  string   `yaml:"volume_uids"`
	Host        string   `yaml:"host"`
}

const configTemplate = `# The configuration of sandglass serve. It is read once, at the start.

repository:
  # The folder that holds images and WAL. Keep it on another disk than production's.
  path: %q

# Listen on TCP too, for commands on other hosts; the Unix socket api.sock is always there. Needs token_file:
# lines of NAME TOKEN, mode 0600. There is no encryption: keep it on the loopback, or behind a TLS proxy.
# listen: 127.0.0.1:7411
# token_file: /etc/sandglass/tokens

# Use this PostgreSQL database for Sandglass's own records, instead of a private one in the state folder.
# metadata_url: postgres://sandglass@db.internal/sandglass

# Folders with PostgreSQL binaries (postgres, initdb, pg_ctl), besides the usual places.
# binaries:
#   - /opt/pgsql-16/bin

# The operating system user that Sandglass's own PostgreSQL server runs as when Sandglass runs as root; default: postgres.
# server_user: postgres

# The user IDs of which each volume, with its server, gets one to itself when Sandglass runs as root; default: 60578-61183, which
# no system gives to anybody (https://systemd.io/UIDS-GIDS/). A second Sandglass on this host needs others. With none, all servers
# run as server_user, and who may run programs on one of them can read the files of all.
# volume_uids: 60578-61183

# The name of this host among those that share the metadata; default: its host name.
# host: db-tools-1
`

// readConfig reads and checks config.yaml; relative paths are relative to the state folder.
func readConfig(state string) (config, error) {
	path := filepath.Join(state, configFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "read config", Message: "There is no " + path + ".",
			Remedy: "Run `sandglass init` first, or name the state folder with --state."}
	}
	if err != nil {
		return config{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "read config", Message: fmt.Sprintf("The configuration can't be read: %v.", err),
			Remedy: "Run the command as the user that runs Sandglass, or as root.", Err: err}
	}
	var c config
	if err := yaml.UnmarshalWithOptions(content, &c, yaml.Strict()); err != nil && !errors.Is(err, io.EOF) {
		return config{}, badYAML(path, err)
	}
	if c.Repository.Path == "" {
		return config{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "read config", Message: path + " names no repository.path.",
			Remedy: "Add the folder of the repository."}
	}
	for _, p := range []*string{&c.Repository.Path, &c.TokenFile} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(state, *p)
		}
	}
	return c, nil
}

// badYAML says what is wrong with a file, with the line in question.
func badYAML(name string, err error) error {
	text := strings.TrimSpace(yaml.FormatError(err, false, true))
	return &sandglass.Error{Code: sandglass.CodeConfig, Op: "read YAML", Message: name + " is not right: " + strings.ReplaceAll(text, "\n", "\n  "),
		Remedy: "Correct that line.", Err: err}
}

// readEnvironments reads the documents of a file of declarations; an unknown key is refused with its line.
func readEnvironments(name string, r io.Reader) ([]sandglass.Environment, error) {
	var all []sandglass.Environment
	for d := yaml.NewDecoder(r, yaml.Strict()); ; {
		var e sandglass.Environment
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badYAML(name, err)
		}
		if e.Name == "" && e.Kind == "" {
			continue // an empty document, such as after a last ---
		}
		if err := e.Validate(); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		return nil, usage("Declare environments in it; see docs/OPERATIONS.md.", "%s declares no environment.", name)
	}
	return all, nil
}
