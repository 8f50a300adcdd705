// The files that a sandbox's settings name for TLS.

package server

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"

	"sandglass"
	"sandglass/internal/pg"
)

// tlsFiles are the settings that name files for TLS, with the name in the run folder and what the file may hold.
var tlsFiles = map[string]struct{ name, holds string }{
	"ssl_key_file":       {"server.key", "PRIVATE KEY"},
	"ssl_cert_file":      {"server.crt", "CERTIFICATE"},
	"ssl_ca_file":        {"root.crt", "CERTIFICATE"},
	"ssl_crl_file":       {"root.crl", "X509 CRL"},
	"ssl_dh_params_file": {"dh.pem", "DH PARAMETERS"},
}

// withTLS gives the files of the host that settings name for TLS, by their names in the run folder, and the settings with their
// places there. PostgreSQL takes only a key of its own user (check_ssl_key_file_permissions in libpq/be-secure-common.c), which
// no file of the host is whose volume has a user of its own; and a sealed server sees the run folder wherever the files are.
// One that can't be had any more is left as it was taken before: a running server must be fenced and opened without it.
func (c Config) withTLS() (files, settings map[string]string, err error) {
	files, settings = map[string]string{}, map[string]string{}
	maps.Copy(settings, c.Settings)
	for setting, file := range tlsFiles {
		path := settings[setting]
		if !filepath.IsAbs(path) || within(path, []string{filepath.Dir(c.Data)}) { // of the data folder, or none
			continue
		}
		content, err := readPEM(path, file.holds)
		if err == nil {
			files[file.name] = content
		} else if before, e := c.open(c.conf(file.name)); e == nil {
			before.Close()
		} else {
			return nil, nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "write server configuration", Err: err,
				Message: fmt.Sprintf("The file %s of the setting %s can't be taken: it must be there, and hold PEM of a %s.", path, setting, file.holds),
				Remedy:  "Correct server.settings, or bring the file to this host."}
		}
		settings[setting] = c.conf(file.name)
	}
	return files, settings, nil
}

// readPEM reads the blocks of one type, and nothing else, of a file: the server's user may read what comes of it.
func readPEM(path, holds string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	f, err := pg.Open(filepath.Dir(real), filepath.Base(real))
	if err != nil {
		return "", err
	}
	defer f.Close()
	rest, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, holds) {
			if err := pem.Encode(&out, block); err != nil {
				return "", err
			}
		}
	}
	if out.Len() == 0 {
		return "", errors.New("there is no " + holds + " in it")
	}
	return out.String(), nil
}
