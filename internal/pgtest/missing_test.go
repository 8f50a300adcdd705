package pgtest

import "testing"

// verdict notes how a test was ended.
type verdict struct{ skipped, failed bool }

func (v *verdict) Helper()               {}
func (v *verdict) Skipf(string, ...any)  { v.skipped = true; panic(v) }
func (v *verdict) Fatalf(string, ...any) { v.failed = true; panic(v) }

func TestMissing(t *testing.T) {
	for ci, want := range map[string]verdict{"true": {failed: true}, "": {skipped: true}} {
		t.Setenv("CI", ci)
		var got verdict
		func() {
			defer func() { _ = recover() }() // as a test's end, it does not come back
			Missing(&got, "a tool")
		}()
		if got != want {
			t.Errorf("CI=%q: %+v, want %+v", ci, got, want)
		}
	}
}
