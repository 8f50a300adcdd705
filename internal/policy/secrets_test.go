package policy_test

import (
	"encoding/hex"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/policy"
)

// Values are read as their bytes lie in the files: those of arrays and JSON one by one. Of types with a form of their own
// only the text is known, and that is said.
func TestReadSecrets(t *testing.T) {
	p, err := pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte("pack: vault\nversion: 1\ndatabases: {business: {what: the shop}}\nrules:\n" +
		"  - {name: all, why: w, database: business, table: vault, where: v < 3, delete: true, secret: [plain, short, many, ids, doc, docs, old, id, raw, address, number]}\n")}}, "vault")
	if err != nil {
		t.Fatal(err)
	}
	c := cluster(t, nil)
	c.Exec(t, "postgres", `CREATE ROLE `+policy.OurRole+` SUPERUSER LOGIN`, `CREATE DATABASE shop`)
	c.Exec(t, "shop", `CREATE DOMAIN secret AS text[]; CREATE TABLE vault (v int, plain text, short varchar(30), many secret, ids uuid[], doc jsonb, docs jsonb[], old json, id uuid, raw bytea, address inet, number numeric);
		INSERT INTO vault VALUES (1, 'plain-ä"1', 'short-1', '{one,"t w,o",NULL}', '{00112233-4455-6677-8899-aabbccddeeff}', '{"key": "in\"doc", "n": 7, "list": ["deep", {"a": "deeper"}]}',
			ARRAY['"alone"'::jsonb], '{"o":1}', '10112233-4455-6677-8899-aabbccddeeff', '\x0102', '10.1.2.3', 123456789),
			(2, 'plain-ä"1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, 'not this', 'nor', '{this}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`)
	secrets, err := policy.ReadSecrets(t.Context(), staging(c), policy.Input{Packs: []pack.Pack{p},
		Source:      sandglass.Environment{Name: "prod", Databases: map[string]string{"business": "shop"}},
		Environment: sandglass.Environment{Name: "uat", Databases: map[string]string{"business": "shop"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range secrets.Values {
		value := string(s.Value)
		if len(s.Value) == 16 || len(s.Value) == 2 {
			value = hex.EncodeToString(s.Value)
		}
		got = append(got, value)
	}
	slices.Sort(got)
	want := []string{"00112233445566778899aabbccddeeff", "0102", "10.1.2.3/32", "10112233445566778899aabbccddeeff", "123456789", "alone", "deep", "deeper", `in"doc`, "one", `plain-ä"1`, "short-1", "t w,o", `{"o":1}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"public.vault.address (rule vault/all)", "public.vault.number (rule vault/all)"}, secrets.Odd); diff != "" {
		t.Error(diff)
	}
	// What is wrong with the rule's condition is quoted here already.
	p, err = pack.Read(fstest.MapFS{"pack.yaml": {Data: []byte("pack: vault\nversion: 1\ndatabases: {business: {what: the shop}}\nrules:\n  - name: all\n    why: w\n    database: business\n    table: vault\n    clear: [plain]\n    where: 1 / (v - 1) > 0\n    secret: true\n")}}, "vault")
	if err != nil {
		t.Fatal(err)
	}
	_, err = policy.ReadSecrets(t.Context(), staging(c), policy.Input{Packs: []pack.Pack{p},
		Source:      sandglass.Environment{Name: "prod", Databases: map[string]string{"business": "shop"}},
		Environment: sandglass.Environment{Name: "uat", Databases: map[string]string{"business": "shop"}}})
	if sandglass.CodeOf(err) != policy.CodeRuleFailed || sandglass.AsError(err).Message != `Rule vault/all failed in database "shop": SQLSTATE 22012 (vault/pack.yaml, line 10: where: 1 / (v - 1) > 0).` {
		t.Errorf("a condition that divides: %v", err)
	}
}
