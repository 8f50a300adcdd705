// Reading packs: those in the binary and the team's own. Whatever is not right is refused with
// the line that says so.

package pack

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"sandglass"
)

//go:embed packs
var shipped embed.FS

var packName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// maxFile bounds one YAML file, bytes.
const maxFile = 1 << 20

// Load reads the pack every environment has and those named, in that order. dir holds the
// team's own packs, a folder each; it may be "" or missing.
func Load(dir string, names []string) ([]Pack, error) {
	var all []Pack
	for _, name := range append([]string{Always}, names...) {
		if slices.ContainsFunc(all, func(p Pack) bool { return p.Name == name }) {
			continue
		}
		p, err := Open(dir, name)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Open reads the pack of that name.
func Open(dir, name string) (Pack, error) {
	if packName.MatchString(name) {
		if _, err := fs.Stat(shipped, path.Join("packs", name)); err == nil {
			sub, err := fs.Sub(shipped, path.Join("packs", name))
			if err != nil {
				return Pack{}, fmt.Errorf("open pack %s: %w", name, err)
			}
			p, err := Read(sub, name)
			p.Shipped = true
			return p, err
		}
		if dir != "" {
			if info, err := os.Stat(path.Join(dir, name)); err == nil && info.IsDir() {
				return Read(os.DirFS(path.Join(dir, name)), name)
			}
		}
	}
	remedy := "See `sandglass pack ls` for the packs there are."
	if dir != "" {
		remedy += " A pack of your own is a folder in " + dir + "."
	}
	return Pack{}, &sandglass.Error{Code: CodeNotFound, Op: "open pack", Message: fmt.Sprintf("There is no pack %q.", name), Remedy: remedy}
}

// Names lists the packs there are: shipped ones first, then the team's own.
func Names(dir string) ([]string, error) {
	var names []string
	entries, err := fs.ReadDir(shipped, "packs")
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	if dir != "" {
		own, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list packs: %w", err)
		}
		entries = append(entries, own...)
	}
	for _, e := range entries {
		if e.IsDir() && packName.MatchString(e.Name()) && !slices.Contains(names, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Read reads a pack's folder: pack.yaml, which names it, and any other *.yaml with more of its
// lists. name is what the pack must be called.
func Read(folder fs.FS, name string) (Pack, error) {
	files, err := fs.Glob(folder, "*.yaml")
	if err != nil {
		return Pack{}, fmt.Errorf("read pack %s: %w", name, err)
	}
	slices.SortFunc(files, func(a, b string) int { // pack.yaml first: the others rest on what it declares
		return cmp.Or(cmp.Compare(btoi(a != "pack.yaml"), btoi(b != "pack.yaml")), cmp.Compare(a, b))
	})
	if len(files) == 0 || files[0] != "pack.yaml" {
		return Pack{}, &sandglass.Error{Code: CodeInvalid, Op: "read pack", Message: fmt.Sprintf("The pack %s has no pack.yaml.", name),
			Remedy: "A pack is a folder with a file pack.yaml that gives its name and version."}
	}
	var all Pack
	digest := sha256.New()
	for _, file := range files {
		text, err := readFile(folder, file)
		if err != nil {
			return Pack{}, fmt.Errorf("read pack %s: %w", name, err)
		}
		fmt.Fprintf(digest, "%s %d\n%s", file, len(text), text)
		s := source{name: name + "/" + file, text: text}
		part, err := s.decode()
		if err != nil {
			return Pack{}, err
		}
		if file == "pack.yaml" {
			if part.Name != name {
				return Pack{}, s.bad("$.pack", "the folder is called %s, but its pack.yaml says pack: %s", name, part.Name)
			}
			if part.Version < 1 {
				return Pack{}, s.bad("$.version", "version is a number from 1 on, counted up with every change")
			}
			all = part // its lists are noted with their places below, which they share
		} else if part.Name != "" || part.Version != 0 || part.What != "" || part.Databases != nil || part.Components != nil {
			return Pack{}, s.bad("$", "pack, version, what, databases and components belong into pack.yaml")
		}
		if err := s.check(part, all, file == "pack.yaml"); err != nil {
			return Pack{}, err
		}
		s.places(&part)
		if file != "pack.yaml" {
			all.Versions = append(all.Versions, part.Versions...)
			all.Rules = append(all.Rules, part.Rules...)
			all.Assertions = append(all.Assertions, part.Assertions...)
			all.Quiesce = append(all.Quiesce, part.Quiesce...)
			all.NotCopied = append(all.NotCopied, part.NotCopied...)
			all.Checklist = append(all.Checklist, part.Checklist...)
		}
	}
	all.Digest = fmt.Sprintf("%x", digest.Sum(nil))[:12]
	return all, nil
}

func readFile(folder fs.FS, name string) ([]byte, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

// source is one file, for refusals that quote it.
type source struct {
	name string
	text []byte
}

// decode reads the file strictly: an unknown or doubled key is refused.
func (s source) decode() (Pack, error) {
	var p Pack
	d := yaml.NewDecoder(bytes.NewReader(s.text), yaml.Strict())
	if err := d.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return p, s.refuse(CodeInvalid, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) && more != nil {
		return p, s.refuse(CodeInvalid, "it holds more than one document (a line ---)")
	}
	return p, nil
}

// bad refuses what is at the YAML path, with its line.
func (s source) bad(at, format string, args ...any) error {
	return s.refuse(CodeInvalid, s.quote(at, fmt.Sprintf(format, args...)))
}

func (s source) quote(at, text string) string {
	if p, err := yaml.PathString(at); err == nil {
		if quoted, err := p.AnnotateSource(s.text, false); err == nil {
			return text + "\n" + strings.TrimRight(string(quoted), "\n")
		}
	}
	return text
}

func (s source) refuse(code sandglass.Code, text string) error {
	return &sandglass.Error{Code: code, Op: "read pack", Message: s.name + " is not right: " + strings.ReplaceAll(text, "\n", "\n  "), Remedy: "Correct that line; `sandglass pack check` reads it again."}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func itoa(n int) string { return strconv.Itoa(n) }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
