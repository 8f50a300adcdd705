package sandglass_test

// The import directions, each with its reason. A package may import what its row lists, itself,
// and the root; what lies outside the module is judged only where a row says "standard library only".

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var directions = []struct {
	pkg    string
	may    string // packages of internal/, by name; "*" is all
	stdlib bool   // nothing from outside the standard library either
	why    string
}{
	{"", "", true, "the language does no I/O and drags nothing along"},
	{"client", "", false, "what users of the API import must stay small"},
	{"internal/pg", "", false, "pure facts and the replication protocol"},
	{"internal/wal", "", true, "a pure reader, fuzzed and trusted with foreign bytes"},
	{"internal/repo", "pg wal", false, "keeps things; never runs or asks a server"},
	{"internal/window", "wal repo", false, "resolves moments from what is kept"},
	{"internal/recorder", "pg wal repo", false, "reads production, writes the repository; never runs a server"},
	{"internal/server", "pg", false, "runs any postmaster, whatever its data came from"},
	{"internal/walserve", "", false, "runs inside the seal, where nothing else exists"},
	{"internal/volume", "", false, "a sibling of server, policy and repo"},
	{"internal/policy", "", false, "a sibling of server, volume and repo; speaks SQL only"},
	{"internal/db", "", false, "rows about operations, nothing about how they are done"},
	{"internal/engine", "db", false, "durable steps, whatever the steps do"},
	{"internal/web", "", false, "its interfaces are its own; control satisfies them"},
	{"internal/pgtest", "", false, "a test of Sandglass must not rest on Sandglass"},
	{"internal/demo", "pgtest", false, "a user of the public API, as any other"},
	{"internal/preflight", "*", false, "asks every part"},
	{"internal/operation", "*", false, "the one place that knows all the adapters"},
	{"internal/control", "*", false, "what serve is"},
	{"cmd/sandglass", "*", false, "wiring"},
}

func TestImportDirections(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, "sandglass"), "/")
		i := slices.IndexFunc(directions, func(r struct {
			pkg, may string
			stdlib   bool
			why      string
		}) bool {
			return r.pkg == name || r.pkg != "" && strings.HasPrefix(name, r.pkg+"/")
		})
		if i < 0 {
			continue // bench and test may import what they like
		}
		r := directions[i]
		for _, dep := range p.Imports {
			rest, ours := strings.CutPrefix(dep, "sandglass/")
			inner := strings.TrimPrefix(rest, "internal/")
			switch {
			case dep == "sandglass", ours && strings.HasPrefix(rest, r.pkg), r.may == "*":
			case ours && slices.Contains(strings.Fields(r.may), inner):
			case ours && name == "internal/demo" && rest == "client": // the demo is a client
			case ours:
				t.Errorf("%s imports %s: not allowed, as it is %q", name, rest, r.why)
			case r.stdlib && strings.Contains(strings.Split(dep, "/")[0], "."):
				t.Errorf("%s imports %s: standard library only, as it is %q", name, dep, r.why)
			}
		}
	}
}
