package test

// This file is what the two commands do on a machine without PostgreSQL: packaging/install, run where its programs are hidden and apt-get only notes what it is told.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeApt stands in for apt-get: it notes what it is told, and brings what the packages would: a server of the major in $major, and a cluster
// unless that was switched off.
const fakeApt = `#!/bin/sh
[ "$1 $2 $3" = "-qq -o Dpkg::Use-Pty=0" ] && shift 3
echo "apt-get $*" >&3
case "$*" in
*" postgresql-common") echo "#create_main_cluster = true" >/etc/postgresql-common/createcluster.conf ;;
*" postgresql")
	grep -qx "create_main_cluster = false" /etc/postgresql-common/createcluster.conf || echo "a cluster is made" >&3
	bin=/usr/lib/postgresql/$major/bin
	mkdir -p $bin && printf '#!/bin/sh\necho "postgres (PostgreSQL) %s.1 (Debian %s.1-1)"\n' $major $major >$bin/postgres && chmod 755 $bin/postgres ;;
esac
`

// bare runs packaging/install for a PostgreSQL server as on a machine without one: how it ended, what it said, and what apt-get was told.
func bare(t *testing.T, user string, env ...string) (exit int, said, told string) {
	t.Helper()
	folder, err := os.MkdirTemp("/tmp", "sg")
	must(t, err)
	defer os.RemoveAll(folder)
	must(t, os.Chmod(folder, 0o755)) // other users run in it
	must(t, os.WriteFile(filepath.Join(folder, "apt-get"), []byte(fakeApt), 0o755))
	script, err := filepath.Abs("../packaging/install")
	must(t, err)
	copied, err := os.ReadFile(script) // the tree may be closed to them
	must(t, err)
	must(t, os.WriteFile(filepath.Join(folder, "install"), copied, 0o755))
	log := filepath.Join(folder, "log")
	must(t, os.WriteFile(log, nil, 0o666))
	must(t, os.Chmod(log, 0o666))
	const hide = `mount -t tmpfs none /usr/lib/postgresql && mount -t tmpfs none /etc/postgresql-common || exit 99
exec setpriv --reuid "$1" --clear-groups "$2" postgresql 3>>"$3"`
	cmd := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", hide, "sh", user, filepath.Join(folder, "install"), log)
	cmd.Env = append([]string{"PATH=" + folder + ":/usr/sbin:/usr/bin:/sbin:/bin", "major=15"}, env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == 99 {
		t.Skipf("PostgreSQL can't be hidden here: %v %s", err, out)
	}
	noted, err := os.ReadFile(log)
	must(t, err)
	return cmd.ProcessState.ExitCode(), string(out), string(noted)
}

// On a machine without PostgreSQL its server is installed, after saying so and without Debian's cluster; INSTALL=no and users who may not are told what to do.
func TestInstallsPostgreSQL(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("hiding PostgreSQL from a process needs root")
	}
	for _, row := range []struct {
		name, user string
		env        []string
		exit       int
		says       []string
		told       string
	}{
		{"installs", "root", nil, 0, []string{"is missing. Installing it now with apt-get (INSTALL=no would refuse).", "default cluster is switched off first"},
			"apt-get update\napt-get install --no-install-recommends -y postgresql-common\napt-get install --no-install-recommends -y postgresql\n"},
		{"refuses", "root", []string{"INSTALL=no"}, 1, []string{"A PostgreSQL server of a major from 14 to 18 is missing, and INSTALL=no forbids", "apt-get install postgresql"}, ""},
		{"may not", "nobody", nil, 1, []string{"Installing it needs root", "apt-get install postgresql"}, ""},
		{"too old", "root", []string{"major=13"}, 1, []string{"a PostgreSQL server", "another major"}, "*"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := exec.LookPath("sudo"); err == nil && row.user != "root" {
				t.Skip("there is a sudo, which would be used")
			}
			exit, said, told := bare(t, row.user, row.env...)
			if exit != row.exit || row.told != "*" && told != row.told {
				t.Errorf("exit %d, want %d; apt-get was told %q, want %q\n%s", exit, row.exit, told, row.told, said)
			}
			for _, want := range row.says {
				if !strings.Contains(strings.ToLower(said), strings.ToLower(want)) {
					t.Errorf("it does not say %q:\n%s", want, said)
				}
			}
		})
	}
}
