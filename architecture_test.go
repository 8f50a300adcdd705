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

type direction struct {
	pkg    string
	may    string // folders of the module; "*" is all
	stdlib bool   // nothing from outside the standard library either
	why    string
}

var directions = []direction{
	{"", "", true, "is the language: no I/O, and it drags nothing along"},
	{"client", "", false, "is what users of the API import, and must stay small"},
	{"internal/pg", "", false, "is pure facts and the replication protocol"},
	{"internal/wal", "", true, "is a pure reader, trusted with foreign bytes"},
	{"internal/repo", "internal/pg internal/wal", false, "keeps things; never runs or asks a server"},
	{"internal/window", "internal/wal internal/repo", false, "resolves moments from what is kept"},
	{"internal/recorder", "internal/pg internal/wal internal/repo", false, "reads production, writes the repository; never runs a server"},
	{"internal/server", "internal/pg", false, "runs any postmaster, whatever its data came from"},
	{"internal/walserve", "", false, "runs inside the seal, where nothing else exists"},
	{"internal/volume", "", false, "is a sibling of server, policy and repo"},
	{"internal/pack", "", false, "is data about applications: it reads files, never a database"},
	{"internal/policy", "internal/pack", false, "is a sibling of server, volume and repo; speaks SQL only"},
	{"internal/db", "", false, "knows rows about operations, nothing of how they are done"},
	{"internal/engine", "internal/db", false, "runs durable steps, whatever they do"},
	{"internal/web", "", false, "declares its own interfaces, which control satisfies"},
	{"internal/pgtest", "", false, "serves tests of Sandglass, which must not rest on Sandglass"},
	{"internal/erp", "", false, "is an application's tables and rows, whoever fills them in"},
	{"internal/demo", "client internal/pgtest internal/erp", false, "is a user of the public API, as any other"},
	{"internal/search", "", false, "reads files, whatever they are"},
	{"internal/preflight", "*", false, "asks every part"},
	{"internal/operation", "*", false, "is the one place that knows all the adapters"},
	{"internal/control", "*", false, "is what serve is"},
	{"cmd/sandglass", "*", false, "wires"},
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
		i := slices.IndexFunc(directions, func(d direction) bool { return within(name, d.pkg) })
		if i < 0 {
			continue // bench and test may import what they like
		}
		may := append(strings.Fields(directions[i].may), directions[i].pkg)
		for _, dep := range p.Imports {
			rest, ours := strings.CutPrefix(dep, "sandglass/")
			switch {
			case directions[i].may == "*", dep == "sandglass":
			case ours && !slices.ContainsFunc(may, func(m string) bool { return within(rest, m) }):
				t.Errorf("%s imports %s, but may not: it %s", name, rest, directions[i].why)
			case !ours && directions[i].stdlib && strings.Contains(strings.Split(dep, "/")[0], "."):
				t.Errorf("%s imports %s, but may use the standard library only: it %s", name, dep, directions[i].why)
			}
		}
	}
}

// within says whether a folder is dir or lies in it; the root is only itself.
func within(name, dir string) bool {
	return name == dir || dir != "" && strings.HasPrefix(name, dir+"/")
}
