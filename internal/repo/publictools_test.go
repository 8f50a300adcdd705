package repo_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/repo"
)

// tools are the public age and zstd, which know nothing of Sandglass.
type tools struct {
	age, key string
}

func publicTools(t *testing.T, x *fixture) tools {
	t.Helper()
	if _, err := exec.LookPath("zstd"); err != nil {
		pgtest.Missing(t, "zstd")
	}
	dir := t.TempDir()
	u := tools{age: filepath.Join(dir, "age"), key: filepath.Join(dir, "key.txt")}
	if out, err := exec.Command("go", "build", "-o", u.age, "filippo.io/age/cmd/age").CombinedOutput(); err != nil {
		t.Fatalf("build age: %v\n%s", err, out)
	}
	if err := os.WriteFile(u.key, []byte(x.identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return u
}

func run(t *testing.T, in []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(in)
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, problem.String())
	}
	return out
}

// plain is `age -d -i key.txt FILE`, unzstd is `... | zstd -d`.
func (u tools) plain(t *testing.T, file string) []byte {
	t.Helper()
	return run(t, nil, u.age, "-d", "-i", u.key, file)
}

func unzstd(t *testing.T, b []byte) []byte {
	t.Helper()
	return run(t, b, "zstd", "-d", "-c")
}

// TestPublicToolsOpenEverything opens each kind of object by hand, as docs/FORMAT.md says.
func TestPublicToolsOpenEverything(t *testing.T) {
	x := newFixture(t)
	u := publicTools(t, x)
	ctx := t.Context()
	wal := data(8, segSize)
	x.wal(t, x.inc.ID, 3, 4)
	x.part(t, x.repo, wal, 0, 5000, beat(1, 1000), beat(2, 5000))
	x.part(t, x.repo, wal, 5000, 5000, beat(9, 5000))
	if err := x.repo.PutHistory(ctx, env, x.inc.ID, 2, []byte("1\t0/300000\tpromoted\n")); err != nil {
		t.Fatal(err)
	}
	if err := x.repo.EndIncarnation(ctx, env, x.inc.ID, epoch, "over"); err != nil {
		t.Fatal(err)
	}
	if err := x.repo.PutOperation(ctx, sandglass.Operation{ID: "op", State: sandglass.Failed}); err != nil {
		t.Fatal(err)
	}
	if err := x.repo.PutOperationLog(ctx, "op", strings.NewReader("PK zip")); err != nil {
		t.Fatal(err)
	}
	x.stories(t)
	files := []file{{"base/1/100", data(1, 2*chunk+77)}, {"base/1/zeros", make([]byte, chunk)}, {"PG_VERSION", []byte("15\n")}}
	x.image(t, x.repo, x.inc.ID, "img", epoch, 0, nil, files)

	prefix := filepath.Join(x.dir, "env/prod", string(x.inc.ID))
	for file, want := range map[string]string{
		"wal/00000001/00000000/000000010000000000000003":                                       string(data(3, segSize)),
		"index/00000001/00000000/000000010000000000000003":                                     "index",
		"part/000000010000000000000003.0000000000300000-0000000000301388-" + beatHex(2) + "-*": string(wal[:5000]),
		"part/000000010000000000000003.0000000000301388-0000000000301388-" + beatHex(9) + "-*": "",
		"history/00000002.history":                                                             "1\t0/300000\tpromoted\n",
		"end":                                                                                  `{"at":"2026-11-01T10:00:00Z","reason":"over"}`,
		"gap/00000001-0000000000400000-0000000000500000":                                       `{"timeline":1,"from_lsn":"0/400000","to_lsn":"0/500000","from":"2026-11-01T10:00:00Z","to":"2026-11-01T11:00:00Z","code":"slot.lost","reason":"away"}`,
		"away/20261101t100000.000000-left":                                                     `{"from":"2026-11-01T10:00:00Z","lsn":"0/300000","reason":"a restore"}`,
		"away/20261101t110000.000000-back":                                                     `{"at":"2026-11-01T11:00:00Z","reason":""}`,
		"../../../plan/*.json":                                                                 "{*",
		"../../../plan/*.done":                                                                 "{*",
		"../../../operation/op/record":                                                         `{"id":"op"*`,
		"../../../operation/op/log.zip":                                                        "PK zip",
		"bundle/img/000001":                                                                    string(files[0].data) + "15\n",
	} {
		if names, err := filepath.Glob(filepath.Join(prefix, file)); err != nil || len(names) != 1 {
			t.Errorf("%s: %q, %v", file, names, err)
		} else if got := unzstd(t, u.plain(t, names[0])); !is(string(got), want) {
			t.Errorf("%s: %d bytes, want %d: %.200q", file, len(got), len(want), got)
		}
	}
	var inc sandglass.Incarnation
	if err := json.Unmarshal(unzstd(t, u.plain(t, filepath.Join(prefix, "begin-15-1048576-7300000000000000001"))), &inc); err != nil || inc.ID != x.inc.ID {
		t.Errorf("beginning: %+v, %v", inc, err)
	}
	x.byHand(t, u, prefix, files)
}

// stories puts what tells of an incarnation's history: a gap, an absence, a prune plan and that it was executed.
func (x *fixture) stories(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	hour := epoch.Add(time.Hour)
	gap := repo.Gap{Timeline: 1, FromLSN: 0x400000, ToLSN: 0x500000, Gap: sandglass.Gap{From: epoch, To: hour, Code: sandglass.CodeSlotLost, Reason: "away"}}
	plan, err := x.repo.PlanPrune(ctx, func(string) time.Duration { return -1 }, epoch)
	if err == nil {
		_, err = x.repo.ExecutePrune(ctx, plan.ID, nil)
	}
	if err = errors.Join(err, x.repo.PutGap(ctx, env, x.inc.ID, gap), x.repo.ReturnIncarnation(ctx, env, x.inc.ID, hour),
		x.repo.LeaveIncarnation(ctx, env, x.inc.ID, sandglass.Absence{From: epoch, LSN: 0x300000, Reason: "a restore"})); err != nil {
		t.Fatal(err)
	}
}

// is compares contents; what follows a final * may be anything.
func is(got, want string) bool {
	begin, open := strings.CutSuffix(want, "*")
	return got == want || open && strings.HasPrefix(got, begin)
}

func beatHex(seconds int) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(beat(seconds, 0).Time.UnixMicro()))
	return strings.ToUpper(hex.EncodeToString(b))
}

// byHand takes a file out of an image by the bytes that docs/FORMAT.md describes, with nothing of package repo.
func (x *fixture) byHand(t *testing.T, u tools, prefix string, files []file) {
	t.Helper()
	var root struct {
		DigestKey string `json:"digest_key"`
	}
	b, err := os.ReadFile(filepath.Join(x.dir, "repo.json"))
	if err == nil {
		err = json.Unmarshal(b, &root)
	}
	if err != nil {
		t.Fatal(err)
	}
	key := run(t, []byte(root.DigestKey), u.age, "-d", "-i", u.key)

	m := u.plain(t, filepath.Join(prefix, "image/img"))
	mac := hmac.New(sha256.New, key)
	mac.Write(m[:len(m)-32])
	if !hmac.Equal(mac.Sum(nil), m[len(m)-32:]) {
		t.Error("the manifest does not have its MAC")
	}
	word := func(n int) int { return int(binary.LittleEndian.Uint64(m[16+8*n:])) }
	entries, at, refsAt := word(0), word(1), word(4)
	found := 0
	for range entries {
		n := int(binary.LittleEndian.Uint16(m[at:]))
		path, e := string(m[at+2:at+2+n]), m[at+2+n:]
		at += 2 + n + 29
		if e[0] != 0 || path != files[0].path {
			continue
		}
		found++
		size, ref := int(binary.LittleEndian.Uint64(e[13:])), int(binary.LittleEndian.Uint64(e[21:]))
		bundle := u.plain(t, filepath.Join(prefix, "bundle/img/000001"))
		var got []byte
		for c := 0; c*chunk < size; c++ {
			r := m[refsAt+(ref+c)*28:]
			off, length := int(binary.LittleEndian.Uint32(r[20:])), int(binary.LittleEndian.Uint32(r[24:]))
			content := unzstd(t, bundle[off:off+length])
			mac := hmac.New(sha256.New, key)
			mac.Write(content)
			if !hmac.Equal(mac.Sum(nil)[:16], r[:16]) || !bytes.Equal(r[:16], bundle[off-24:off-8]) {
				t.Errorf("chunk %d does not have its digest", c)
			}
			got = append(got, content...)
		}
		if !bytes.Equal(got, files[0].data) {
			t.Errorf("%s by hand: other contents", path)
		}
	}
	if found != 1 {
		t.Errorf("%s was found %d times in the manifest", files[0].path, found)
	}
}
