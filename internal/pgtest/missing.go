package pgtest

// This file is for tests that need a tool which not every machine has.

import "os"

// Missing ends a test whose tool is not installed: skipped on a person's machine, failed where CI=true, which installs them all
// (`make install-test-tools`), so that green there means that it ran.
func Missing(t interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}, tool string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and CI=true: make install-test-tools installs it", tool)
	}
	t.Skipf("%s is not installed: make install-test-tools installs it", tool)
}
