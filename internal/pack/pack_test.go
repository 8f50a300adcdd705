// The packs in the binary, and bad packs: each is refused with the line that says so.
package pack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pack"
)

func TestShipped(t *testing.T) {
	all, err := pack.Load("", []string{"dynamics365-finops", "postgresql"})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Name != pack.Always || !all[1].Shipped {
		t.Fatalf("%+v", all)
	}
	p := all[1]
	merges := 0 // proven by proof.kept_rows, and by the assertions on the same columns, which leave out what was merged
	for _, r := range p.Rules {
		if r.Merge != "" {
			merges++
		}
	}
	if len(p.Rules) < 50 || len(p.Assertions) != len(p.Rules)-merges || len(p.Quiesce) != 2 || len(p.NotCopied) < 10 || len(p.Checklist) < 10 || len(p.Digest) != 12 {
		t.Errorf("%s: %d rules, %d assertions", p.Policy(), len(p.Rules), len(p.Assertions))
	}
	if got := p.NotCopied[0].For("prod", "uat").Why; got != "Nothing is sent from uat to real people." {
		t.Error(got)
	}
}

func TestVersions(t *testing.T) {
	all, err := pack.Load("", []string{"dynamics365-finops"})
	if err != nil {
		t.Fatal(err)
	}
	declare := func(name, application, platform, reporting string) sandglass.Environment {
		return sandglass.Environment{Name: name, Databases: map[string]string{"business": "axdb"}, Versions: map[string]string{"application": application, "platform": platform, "reporting": reporting}}
	}
	for _, c := range []struct {
		source, target [3]string
		want           string // the level of each finding
	}{
		{[3]string{"10.0.38", "62", "10.0.38"}, [3]string{"10.0.38", "62", "10.0.38"}, ""},
		{[3]string{"10.0.38", "62", "10.0.38"}, [3]string{"10.0.38", "60", "10.0.39"}, ""},
		{[3]string{"10.0.38", "62", "10.0.38"}, [3]string{"10.0.9", "62", "10.0.38"}, "stop"},
		{[3]string{"10.0.38", "20", "10.0.38"}, [3]string{"10.0.38", "21", "10.0.38"}, "stop"},
		{[3]string{"10.0.38", "62", "10.0.38"}, [3]string{"10.0.38", "62", "10.0.9"}, "stop"},
		{[3]string{"10.0.38", "62", "10.0.38"}, [3]string{"10.0.38", "", "10.0.38"}, "warning"},
	} {
		var levels []string
		for _, f := range all[1].Check(declare("prod", c.source[0], c.source[1], c.source[2]), declare("uat", c.target[0], c.target[1], c.target[2])) {
			levels = append(levels, string(f.Level))
			if f.Code != pack.CodeVersion || f.Remedy == "" {
				t.Errorf("%+v", f)
			}
		}
		if got := strings.Join(levels, " "); got != c.want {
			t.Errorf("%v to %v: %q", c.source, c.target, got)
		}
	}
	target := declare("uat", "10.0.38", "62", "10.0.38")
	target.Databases = map[string]string{"other": "x"}
	if f := all[1].Check(declare("prod", "10.0.38", "62", "10.0.38"), target); len(f) != 1 || f[0].Code != pack.CodeRoleMissing || f[0].Level != sandglass.Stop || !strings.Contains(f[0].Message, "(dynamics365-finops/pack.yaml, line 9: business:)") {
		t.Errorf("%+v", f)
	}
}

const head = "pack: own\nversion: 1\ndatabases:\n  business:\n    what: the shop\ncomponents:\n  application: the application\n"

const rule = "rules:\n  - name: mails\n    why: no mail\n    database: business\n    table: mail\n"

func TestBadPacks(t *testing.T) {
	for _, bad := range []struct{ name, text, quotes, says string }{
		{"unknown key", head + rule + "    clear: [a]\n    requird: true\n", "requird: true", "unknown field"},
		{"key twice", head + rule + "    clear: [a]\n    clear: [b]\n", "clear: [b]", "already"},
		{"not YAML", head + "rules: [\n", "rules: [", ""},
		{"wrong type", head + rule + "    delete: maybe\n", "delete: maybe", ""},
		{"two actions", head + rule + "    clear: [a]\n    delete: true\n", "delete: true", "has clear and delete"},
		{"no action", head + rule, "name: mails", "needs one of"},
		{"unknown role", head + "rules:\n  - name: mails\n    why: x\n    database: ledger\n    table: t\n    empty: true\n", "database: ledger", `no role "ledger"`},
		{"no role", head + "rules:\n  - name: mails\n    why: x\n    table: t\n    empty: true\n", "name: mails", "database is missing"},
		{"no why", head + "rules:\n  - name: mails\n    database: business\n    table: t\n    empty: true\n", "name: mails", "why is missing"},
		{"no table", head + "rules:\n  - name: mails\n    why: x\n    database: business\n    empty: true\n", "name: mails", "table is missing"},
		{"bad name", head + "rules:\n  - name: Mails!\n    why: x\n    database: business\n    table: t\n    empty: true\n", "Mails!", "a name is needed"},
		{"name twice", head + rule + "    empty: true\n  - name: mails\n    why: y\n    database: business\n    table: u\n    empty: true\n", "name: mails", "twice"},
		{"system table", head + strings.Replace(rule, "table: mail", "table: pg_catalog.pg_authid", 1) + "    empty: true\n", "pg_catalog.pg_authid", "own schemas"},
		{"empty false", head + rule + "    empty: false\n", "empty: false", "empty is true"},
		{"empty where", head + rule + "    where: x = 1\n    empty: true\n", "where: x = 1", "use delete"},
		{"blank where", head + rule + "    where: ''\n    delete: true\n", "where: ''", "where is empty"},
		{"no expression", head + rule + "    set:\n      a: ''\n", "a: ''", `write NULL, or an empty text as "''"`},
		{"null expression", head + rule + "    set:\n      a:\n", "a:", "no SQL expression"},
		{"no columns", head + rule + "    clear: []\n", "clear: []", "list of columns"},
		{"no rows", head + rule + "    insert: []\n", "insert: []", "list of rows"},
		{"keep production", head + rule + "    keep: source\n", "keep: source", "keep is target"},
		{"keep nothing", head + rule + "    keep:\n", "keep:", "keep is target"},
		{"merge a map", head + rule + "    merge: {from: target}\n", "merge: {from", ""},
		{"keep and empty", head + rule + "    keep: target\n    empty: true\n", "keep: target", "has empty and keep"},
		{"keep by key", head + rule + "    keep: target\n    key: [id]\n", "key: [id]", "belongs to merge"},
		{"a column twice", head + rule + "    clear: [a, b, a]\n", "clear: [a, b, a]", "each once"},
		{"key elsewhere", head + rule + "    clear: [a]\n    key: [id]\n", "key: [id]", "belongs to keep or merge"},
		{"no key", head + rule + "    merge: target\n    key: []\n", "key: []", "list of columns"},
		{"column twice", head + rule + "    merge: target\n    columns: [a, a]\n", "columns: [a, a]", "each once"},
		{"key is carried", head + rule + "    merge: target\n    key: [id]\n    columns: [a, id]\n", "columns: [a, id]", "id is in key"},
		{"unknown conflict", head + rule + "    keep: target\n    on_conflict: win\n", "on_conflict: win", "skip or stop"},
		{"no query", head + "assertions:\n  - name: a\n    why: x\n    database: business\n    expect: 0\n", "name: a", "query is missing"},
		{"no answer", head + "assertions:\n  - name: a\n    why: x\n    database: business\n    query: SELECT 1\n", "name: a", "expect is missing"},
		{"optional what", head + "quiesce:\n  - name: a\n    why: x\n    database: business\n    required: false\n    query: SELECT 1\n    expect: 1\n", "required: false", "needs the table"},
		{"unknown component", head + "versions:\n  - component: kernel\n    above: 1\n    why: x\n", "kernel", "components name no"},
		{"two conditions", head + "versions:\n  - component: application\n    above: 1\n    target: equal\n    why: x\n", "application", "either"},
		{"unknown condition", head + "versions:\n  - component: application\n    target: newer\n    why: x\n", "target: newer", `"equal" or "at least"`},
		{"another name", strings.Replace(head, "own", "other", 1), "pack: other", "folder is called own"},
		{"no version", "pack: own\n", "", "version is a number"},
		{"two documents", head + "---\npack: own\n", "", "more than one document"},
		{"blank text", head + "not_copied:\n  - why: x\n", "why: x", "what is missing"},
	} {
		_, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte(bad.text)}}, "own")
		if sandglass.CodeOf(err) != pack.CodeInvalid {
			t.Errorf("%s: %v", bad.name, err)
			continue
		}
		said := sandglass.AsError(err).Message
		marked := false // a line "> 7 | ..." quotes the culprit
		for line := range strings.Lines(said) {
			marked = marked || strings.HasPrefix(strings.TrimSpace(line), ">") && strings.Contains(line, bad.quotes)
		}
		if bad.quotes != "" && !marked || !strings.Contains(said, bad.says) || !strings.HasPrefix(said, "own/pack.yaml is not right: ") {
			t.Errorf("%s: %s", bad.name, said)
		}
	}
	for _, later := range []string{"mask: [a]"} {
		_, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte(head + rule + "    " + later + "\n")}}, "own")
		if sandglass.CodeOf(err) != pack.CodeNotYet || !strings.Contains(err.Error(), later) {
			t.Errorf("%s: %v", later, err)
		}
	}
}

func TestFolders(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("own/pack.yaml", head+rule+"    empty: true\n")
	write("own/more.yaml", strings.Replace(rule, "mails", "more", 1)+"    where: x > 1\n    set:\n      status: 0\n")
	write("own/README.md", "not a part")
	names, err := pack.Names(dir)
	if diff := cmp.Diff([]string{"dynamics365-finops", "postgresql", "own"}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
	p, err := pack.Open(dir, "own")
	if err != nil || len(p.Rules) != 2 || p.Rules[1].Set["status"] != "0" || p.Shipped {
		t.Errorf("%+v %v", p, err)
	}
	write("own/more.yaml", rule+"    empty: true\n")
	if _, err := pack.Open(dir, "own"); sandglass.CodeOf(err) != pack.CodeInvalid || !strings.Contains(err.Error(), "own/more.yaml") || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
	write("own/more.yaml", "version: 2\n")
	if _, err := pack.Open(dir, "own"); sandglass.CodeOf(err) != pack.CodeInvalid || !strings.Contains(err.Error(), "belong into pack.yaml") {
		t.Error(err)
	}
	write("empty/x.yaml", "rules: []\n")
	if _, err := pack.Open(dir, "empty"); sandglass.CodeOf(err) != pack.CodeInvalid {
		t.Error(err)
	}
	for _, name := range []string{"nothing", "../own", "", "Own"} {
		if _, err := pack.Load(dir, []string{name}); sandglass.CodeOf(err) != pack.CodeNotFound {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// The example in the documentation is a pack.
func TestDocumentedExample(t *testing.T) {
	text, err := os.ReadFile("../../docs/PACKS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "    pack: shop")
	example, _, _ := strings.Cut("    pack: shop"+rest, "\n## ")
	p, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte(strings.ReplaceAll(strings.TrimPrefix(example, "    "), "\n    ", "\n"))}}, "shop")
	if err != nil || len(p.Rules) != 1 || len(p.Assertions) != 1 || len(p.Checklist) != 1 || p.Versions[0].Target != "equal" {
		t.Errorf("%+v %v", p, err)
	}
}

// secret is true, for the columns that a rule changes, or a list; nothing else.
func TestSecret(t *testing.T) {
	const head = "pack: p\nversion: 1\ndatabases:\n  business:\n    what: it\nrules:\n  - name: r\n    why: w\n    database: business\n    table: t\n    "
	for _, tt := range []struct {
		rule string
		want []string
		line string // of the refusal
	}{
		{"clear: [b, a]", nil, ""},
		{"clear: [b, a]\n    secret: true", []string{"b", "a"}, ""},
		{"clear: [b, a]\n    secret: false", nil, "secret: false"},
		{"set: {b: \"''\"}\n    secret: [b, c]", []string{"b", "c"}, ""},
		{"empty: true\n    secret: [a]", []string{"a"}, ""},
		{"empty: true\n    secret: true", nil, "secret: true"},
		{"keep: target\n    secret: true", nil, "secret: true"},
		{"insert: [{a: \"1\"}]\n    secret: [a]", nil, "secret: [a]"},
		{"clear: [a]\n    secret: yes please", nil, "secret: yes please"},
	} {
		p, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte(head + tt.rule + "\n")}}, "p")
		if tt.line != "" {
			if sandglass.CodeOf(err) != pack.CodeInvalid || !strings.Contains(err.Error(), tt.line) {
				t.Errorf("%s: %v", tt.rule, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
		} else if diff := cmp.Diff(tt.want, p.Rules[0].SecretColumns()); diff != "" {
			t.Errorf("%s: %s", tt.rule, diff)
		}
	}
}

// The table in the documentation that says which rules do what the vendor's restore does names every rule and check there is, and no other.
func TestDocumentedRows(t *testing.T) {
	text, err := os.ReadFile("../../docs/PACKS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## dynamics365-finops, row by row\n")
	if !found {
		t.Fatal("there is no such section")
	}
	p, err := pack.Open("", "dynamics365-finops")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || strings.Contains(cells[2], " the ") || strings.Contains(cells[2], "nothing:") {
			continue
		}
		for name := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(cells[2]), "quiesce: "), ", ") {
			documented[name] = true
		}
	}
	delete(documented, "rules")
	delete(documented, "---")
	asserted := map[string]bool{}
	for _, q := range p.Assertions {
		asserted[q.Name] = true
	}
	known := map[string]bool{}
	for _, r := range p.Rules {
		known[r.Name] = true
		if !asserted[r.Name] && !r.Carries() {
			t.Errorf("the rule %s has no assertion", r.Name)
		}
	}
	for _, q := range p.Quiesce {
		known[q.Name] = true
	}
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Error(diff)
	}
}
