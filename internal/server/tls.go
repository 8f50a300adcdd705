// The files that a sandbox's settings name for TLS.

package server

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"sandglass"
	"sandglass/internal/pg"
)

// tlsFiles are the settings that name files for TLS, with the name in the run folder and the types of PEM that the file may hold:
// those that OpenSSL reads there, and none of another program's keys.
var tlsFiles = map[string]struct {
	name  string
	holds []string
}{
	"ssl_key_file":       {"server.key", []string{"PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY"}},
	"ssl_cert_file":      {"server.crt", []string{"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"}},
	"ssl_ca_file":        {"root.crt", []string{"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"}},
	"ssl_crl_file":       {"root.crl", []string{"X509 CRL"}},
	"ssl_dh_params_file": {"dh.pem", []string{"DH PARAMETERS", "X9.42 DH PARAMETERS"}},
}

// withTLS gives the files of the host that settings name for TLS, by their names in the run folder, and the settings with their
// places there. PostgreSQL takes only a key of its own user (check_ssl_key_file_permissions in libpq/be-secure-common.c), which
// no file of the host is whose volume has a user of its own; and a sealed server sees the run folder wherever the files are.
// One that can't be had any more is left as it was taken from there before, in a running server also from elsewhere: a running server must be fenced and opened without it.
func (c Config) withTLS(starting bool) (files, settings map[string]string, err error) {
	files, settings = map[string]string{}, map[string]string{}
	maps.Copy(settings, c.Settings)
	for setting, file := range tlsFiles {
		path := settings[setting]
		if !filepath.IsAbs(path) || within(path, []string{filepath.Dir(c.Data)}) { // of the data folder, or none
			continue
		}
		content, err := readPEM(path, file.holds)
		if err == nil {
			files[file.name] = takenFrom(path) + content
		} else if !c.taken(file.name, path, starting) {
			return nil, nil, &sandglass.Error{Code: sandglass.CodeConfig, Op: "write server configuration", Err: err,
				Message: fmt.Sprintf("The file %s of the setting %s can't be taken: it must be there, and hold PEM of type %s.", path, setting, file.holds[0]),
				Remedy:  "Correct server.settings, or bring the file to this host."}
		}
		settings[setting] = c.conf(file.name)
	}
	return files, settings, nil
}

// takenFrom is the first line of a copy. What stands before a block is no part of PEM (RFC 7468, section 2).
func takenFrom(path string) string { return fmt.Sprintf("Copied by Sandglass from %q\n", path) }

// taken says whether a file is in the run folder and, at a start, was taken from there.
func (c Config) taken(name, path string, starting bool) bool {
	f, err := c.open(c.conf(name))
	if err != nil {
		return false
	}
	defer f.Close()
	if !starting {
		return true
	}
	first := []byte(takenFrom(path))
	begin := make([]byte, len(first))
	_, err = io.ReadFull(f, begin)
	return err == nil && bytes.Equal(begin, first)
}

// maxPEM is more than a bundle of all public authorities has; lists of revoked certificates may be large.
const maxPEM = 32 << 20

// readPEM reads the blocks of some types, and nothing else, of a file: the server's user may read what comes of it.
func readPEM(path string, holds []string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	text, err := pg.ReadFile(filepath.Dir(real), filepath.Base(real), maxPEM)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if slices.Contains(holds, block.Type) {
			if err := pem.Encode(&out, block); err != nil {
				return "", err
			}
		}
	}
	if out.Len() == 0 {
		return "", errors.New("there is no " + holds[0] + " in it")
	}
	return out.String(), nil
}
