// The conditions on versions, and on the databases an environment names.

package pack

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"sandglass"
)

const (
	equal   = "equal"
	atLeast = "at least"
)

// Check says what of the declarations of source and target does not fit the pack.
func (p Pack) Check(source, target sandglass.Environment) []sandglass.Finding {
	var all []sandglass.Finding
	for _, role := range sortedKeys(p.Databases) {
		if p.Databases[role].Must() && target.Databases[role] == "" {
			all = append(all, sandglass.Finding{Code: CodeRoleMissing, Level: sandglass.Stop,
				Message: fmt.Sprintf("%s has the pack %s, but names no database of the role %s: %s%s.", target.Name, p.Name, role, p.Databases[role].What, p.Databases[role].At.Quoted()),
				Remedy:  "Name it in `databases` of the declaration."})
		}
	}
	for _, v := range p.Versions {
		if f := v.check(p, source, target); f.Message != "" {
			all = append(all, f)
		}
	}
	return all
}

// check gives no message where all is well.
func (v VersionRule) check(p Pack, source, target sandglass.Environment) (f sandglass.Finding) {
	f = sandglass.Finding{Code: CodeVersion, Level: sandglass.Stop, Remedy: v.Why}
	what := p.Components[v.Component]
	from, to := source.Versions[v.Component], target.Versions[v.Component]
	if from == "" || to == "" {
		missing := source.Name
		if from != "" {
			missing = target.Name
		}
		f.Level, f.Message = sandglass.Warning, fmt.Sprintf("%s does not say its version of %s (%s), so it can't be compared.", missing, what, v.Component)
		f.Remedy = "Declare it in `versions`. " + v.Why
		return f
	}
	order := compare(to, from)
	switch {
	case v.Target == equal && order != 0:
		f.Message = fmt.Sprintf("The %s of %s is %s, of %s %s; they must be equal.", what, source.Name, from, target.Name, to)
	case v.Target == atLeast && order < 0:
		f.Message = fmt.Sprintf("The %s of %s is %s, of %s %s; it must be at least the source's.", what, source.Name, from, target.Name, to)
	case v.Above != "" && (compare(from, v.Above) <= 0 || compare(to, v.Above) <= 0):
		f.Message = fmt.Sprintf("The %s of %s is %s, of %s %s; both must be above %s.", what, source.Name, from, target.Name, to, v.Above)
	}
	return f
}

// compare compares dotted versions number by number; a missing part is 0, a part that is no
// number compares as text.
func compare(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		x, y := "0", "0"
		if i < len(as) {
			x = as[i]
		}
		if i < len(bs) {
			y = bs[i]
		}
		nx, errX := strconv.ParseUint(x, 10, 64)
		ny, errY := strconv.ParseUint(y, 10, 64)
		c := cmp.Compare(nx, ny)
		if errX != nil || errY != nil {
			c = cmp.Compare(x, y)
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// For fills in the names of the environments.
func (t Text) For(source, target string) Text {
	r := strings.NewReplacer("{source}", source, "{target}", target)
	return Text{What: r.Replace(t.What), Why: r.Replace(t.Why)}
}
