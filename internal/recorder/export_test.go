package recorder

import (
	"sandglass"
	"sandglass/internal/pg"
)

// Pulse lets tests hear keepalives as a stream does.
type Pulse struct{ p pulse }

// Hear is pulse.hear.
func (p *Pulse) Hear(m pg.Message) (sandglass.Beat, bool) { return p.p.hear(m) }

// AddBeat and Wanted are what they are named after.
var (
	AddBeat = addBeat
	Wanted  = wanted
)
