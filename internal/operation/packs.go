// What operations do with the packs of an environment.

package operation

import (
	"slices"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/preflight"
)

// packsOf reads the environment's packs, the one every environment has first.
func (h *Host) packsOf(e sandglass.Environment) ([]pack.Pack, error) {
	return pack.Load(h.Packs, e.Packs)
}

// packFindings says what of source and target does not fit the target's packs.
func packFindings(packs []pack.Pack, f preflight.Facts) []sandglass.Finding {
	var all []sandglass.Finding
	for _, p := range packs {
		for _, found := range p.Check(f.Source, f.Target) {
			found.Accepted = found.Level == sandglass.Warning && (slices.Contains(f.Accepted, found.Code) || slices.Contains(f.Target.Accept, found.Code))
			all = append(all, found)
		}
	}
	return all
}

// notCopied is what of the pack's application a copy does not bring along, in people's words.
func notCopied(p pack.Pack, f preflight.Facts) []sandglass.PlanLine {
	var out []sandglass.PlanLine
	for _, t := range p.NotCopied {
		t = t.For(f.Source.Name, f.Target.Name)
		out = append(out, sandglass.PlanLine{Step: p.Name, What: t.What, Why: t.Why})
	}
	return out
}

// checklist is what is left for people to do after a restore.
func checklist(packs []pack.Pack, source, target string) []string {
	var out []string
	for _, p := range packs {
		for _, t := range p.Checklist {
			out = append(out, t.For(source, target).What)
		}
	}
	return out
}
