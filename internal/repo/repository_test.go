package repo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/repo"
)

func TestOpenRefuses(t *testing.T) {
	x := newFixture(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(x.dir, "repo.json"))
	if err != nil {
		t.Fatal(err)
	}
	mine := repo.Keys{Identities: []age.Identity{x.identity}}
	for name, c := range map[string]struct {
		files map[string]string
		keys  repo.Keys
		want  sandglass.Code
	}{
		"nothing there":           {nil, mine, sandglass.CodeRepositoryMissing},
		"something else there":    {map[string]string{"holiday.jpg": "x"}, mine, sandglass.CodeRepositoryForeign},
		"a repo.json of others":   {map[string]string{"repo.json": `{"kind":"backup"}`}, mine, sandglass.CodeRepositoryForeign},
		"a newer format":          {map[string]string{"repo.json": strings.Replace(string(root), `"format": 1`, `"format": 2`, 1)}, mine, repo.CodeRepositoryNewer},
		"no key":                  {map[string]string{"repo.json": string(root)}, repo.Keys{}, sandglass.CodeKeyMissing},
		"a wrong identity":        {map[string]string{"repo.json": string(root)}, repo.Keys{Identities: []age.Identity{other}}, sandglass.CodeKeyWrong},
		"a wrong digest key":      {map[string]string{"repo.json": string(root)}, repo.Keys{DigestKey: make([]byte, 32)}, sandglass.CodeKeyWrong},
		"a recipient smuggled in": {map[string]string{"repo.json": strings.Replace(string(root), x.identity.Recipient().String(), other.Recipient().String(), 1)}, mine, sandglass.CodeRepositoryDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "r")
			for file, content := range c.files {
				os.MkdirAll(dir, 0o700)
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			store, err := repo.NewFolder(dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = repo.Open(t.Context(), store, c.keys)
			wantCode(t, err, c.want)
			if e := sandglass.AsError(err); e.Message == "" || e.Remedy == "" {
				t.Errorf("no sentence or remedy: %+v", e)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	x := newFixture(t)
	store, err := repo.NewFolder(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	o := repo.CreateOptions{Recipients: []string{x.identity.Recipient().String()}}
	_, err = repo.Create(t.Context(), store, o)
	wantCode(t, err, repo.CodeRepositoryExists)

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.doc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if store, err = repo.NewFolder(dir); err != nil {
		t.Fatal(err)
	}
	_, err = repo.Create(t.Context(), store, o)
	wantCode(t, err, sandglass.CodeRepositoryForeign)
}

func TestCatalogue(t *testing.T) {
	x := newFixture(t)
	ctx := t.Context()
	second := x.begin(t, "20261105t080000-bbbb", epoch.Add(94*time.Hour))
	if err := x.repo.BeginIncarnation(ctx, second); err != nil {
		t.Errorf("beginning twice: %v", err)
	}
	end := epoch.Add(93 * time.Hour)
	for range 2 {
		if err := x.repo.EndIncarnation(ctx, env, x.inc.ID, end, "the server was restored"); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.repo.EndIncarnation(ctx, env, x.inc.ID, end.Add(time.Hour), "something later"); err != nil {
		t.Errorf("ending again: %v", err)
	}
	gap := repo.Gap{Timeline: 1, FromLSN: 0x1000000, ToLSN: 0x3000000, Gap: sandglass.Gap{From: epoch, To: end, Code: sandglass.CodeSlotLost, Reason: "The slot was lost."}}
	if err := x.repo.PutGap(ctx, env, x.inc.ID, gap); err != nil {
		t.Fatal(err)
	}
	op := sandglass.Operation{ID: "20261101t120000-op01", Kind: sandglass.KindRestore, Environment: "uat", State: sandglass.Succeeded, Created: epoch}
	if err := x.repo.PutOperation(ctx, op); err != nil {
		t.Fatal(err)
	}
	if err := x.repo.PutOperationLog(ctx, op.ID, strings.NewReader("a zip")); err != nil {
		t.Fatal(err)
	}

	r := x.fresh(t)
	envs, err := r.Environments(ctx)
	if err != nil || !cmp.Equal(envs, []string{env}) {
		t.Errorf("environments: %q, %v", envs, err)
	}
	first := x.inc
	first.Ended, first.EndReason = end, "the server was restored"
	incs, err := r.Incarnations(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]sandglass.Incarnation{first, second}, incs); diff != "" {
		t.Errorf("incarnations (-want +got):\n%s", diff)
	}
	gaps, err := r.Gaps(ctx, env, x.inc.ID)
	if diff := cmp.Diff([]repo.Gap{gap}, gaps); diff != "" || err != nil {
		t.Errorf("gaps: %v\n%s", err, diff)
	}
	ops, err := r.Operations(ctx)
	if diff := cmp.Diff([]sandglass.Operation{op}, ops); diff != "" || err != nil {
		t.Errorf("operations: %v\n%s", err, diff)
	}
	rc, err := r.OperationLog(ctx, op.ID)
	if got := readAll(t, rc, err); string(got) != "a zip" {
		t.Errorf("log: %q", got)
	}

	// What a recorder without an identity sees.
	blind := x.reopen(t, repo.Keys{DigestKey: x.repo.DigestKey()})
	incs, err = blind.Incarnations(ctx, env)
	if err != nil || len(incs) != 2 || incs[0].SegmentSize != 1<<20 || incs[0].SystemIdentifier != x.inc.SystemIdentifier || incs[0].Ended.IsZero() || !incs[1].Ended.IsZero() {
		t.Errorf("without an identity: %+v, %v", incs, err)
	}
	_, err = blind.Operations(ctx)
	wantCode(t, err, sandglass.CodeKeyMissing)
}
