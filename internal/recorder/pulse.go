package recorder

// Keepalives as evidence. A keepalive says how far the server has sent its WAL, not how
// far it has written it, so one alone proves nothing while the server is behind in
// sending. Two do: between the answers to two requests, the second sent after the first
// answer had come, the walsender has looked for new WAL at least once
// (WalSndLoop in replication/walsender.c). If nothing of what it found then is left to
// send, all WAL on its disk at the time of the first answer is here.

import (
	"sandglass"
	"sandglass/internal/pg"
)

// pulse turns the messages of one stream into beats.
type pulse struct {
	received sandglass.LSN  // end of the WAL received
	behind   bool           // the last WAL message told of more WAL than it brought
	first    sandglass.Beat // the answer before; zero time: none yet
}

// hear takes a message. An answered keepalive may give a beat: all WAL on the server's
// disk at the beat's time lies before its LSN.
func (p *pulse) hear(m pg.Message) (sandglass.Beat, bool) {
	if len(m.Data) > 0 {
		p.received = m.Start + sandglass.LSN(len(m.Data))
		p.behind = m.ServerEnd > p.received
		return sandglass.Beat{}, false
	}
	if !m.Keepalive || m.Reply {
		return sandglass.Beat{}, false
	}
	if p.behind || m.ServerEnd > p.received {
		p.first = sandglass.Beat{} // begin anew once it has caught up
		return sandglass.Beat{}, false
	}
	first := p.first
	p.first = sandglass.Beat{Time: m.ServerTime, LSN: m.ServerEnd}
	if first.Time.IsZero() || m.ServerTime.Before(first.Time) {
		return sandglass.Beat{}, false
	}
	return sandglass.Beat{Time: first.Time, LSN: m.ServerEnd}, true
}
