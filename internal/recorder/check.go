package recorder

// What must be so before an environment is recorded: the safety rules of promise 6, rights and settings.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"sandglass"
	"sandglass/internal/pg"
)

// refused are the codes that a person has to see to.
var refused = map[sandglass.Code]bool{
	sandglass.CodeProductionMajor: true, sandglass.CodeProductionWALLevel: true, sandglass.CodeProductionSenders: true,
	sandglass.CodeProductionSlotCap: true, sandglass.CodeProductionSync: true, sandglass.CodeProductionGrants: true,
	sandglass.CodeProductionPassword: true, sandglass.CodeConfig: true, pg.CodeProductionSlots: true, CodeStandby: true, CodeSlotSmall: true,
}

// Check asks an environment's server whether it can be recorded, and says all it found. A
// server that can't be asked is one finding. A production is found by its declaration.
func Check(ctx context.Context, env sandglass.Environment) []sandglass.Finding {
	return New(Config{Environment: env}).Check(ctx)
}

// Check is as the function, for the server that this recorder follows.
func (r *Recorder) Check(ctx context.Context) []sandglass.Finding {
	t, err := targetOf(r.env, r.target)
	if err == nil {
		var f pg.Facts
		if f, err = pg.ReadFacts(ctx, t, r.status.Slot); err == nil {
			// the other way in, about which pg_hba.conf and REPLICATION decide
			var c *pg.Conn
			if c, err = pg.Connect(ctx, t); err == nil {
				_ = c.Close()
			}
			found := r.findings(f)
			if err != nil && sandglass.CodeOf(err) != sandglass.CodeProductionSenders {
				found = append(found, finding(err))
			}
			return found
		}
	}
	return []sandglass.Finding{finding(err)}
}

func finding(err error) sandglass.Finding {
	e := sandglass.AsError(err)
	return sandglass.Finding{Code: e.Code, Level: sandglass.Stop, Message: e.Message, Remedy: e.Remedy}
}

// findings judges a server's facts.
func (r *Recorder) findings(f pg.Facts) []sandglass.Finding {
	var out []sandglass.Finding
	add := func(level sandglass.Level, code sandglass.Code, remedy, format string, a ...any) {
		out = append(out, sandglass.Finding{Code: code, Level: level, Message: fmt.Sprintf(format, a...), Remedy: remedy})
	}
	waivable := func(code sandglass.Code, remedy, format string, a ...any) {
		if slices.Contains(r.env.Accept, code) {
			add(sandglass.Warning, code, remedy, format, a...)
			out[len(out)-1].Accepted = true
			return
		}
		add(sandglass.Stop, code, remedy+fmt.Sprintf(" Or accept it: add %s to the environment's accept list.", code), format, a...)
	}
	ours := f.Slot != nil && f.Slot.Active && f.SlotApplication == Application(r.env.Name)
	if f.InRecovery {
		add(sandglass.Stop, CodeStandby, "Record the primary that this standby follows.", "The server %s is a standby.", f.Where)
	}
	if f.WALLevel == "minimal" {
		add(sandglass.Stop, sandglass.CodeProductionWALLevel, "Set wal_level = replica on production and restart it.",
			"The server %s writes too little WAL to be recorded (wal_level = minimal).", f.Where)
	}
	if !f.MayReplicate {
		add(sandglass.Stop, sandglass.CodeProductionGrants, fmt.Sprintf("On production: ALTER ROLE %s REPLICATION; GRANT pg_monitor TO %s;", f.Role, f.Role),
			"The role %s may not replicate.", f.Role)
	}
	if !f.ReadsSettings || !f.ReadsStatistics {
		add(sandglass.Warning, sandglass.CodeProductionGrants, fmt.Sprintf("On production: GRANT pg_monitor TO %s;", f.Role),
			"The role %s may not read all settings and sizes, so reports about %s will have gaps.", f.Role, f.Where)
	}
	if need := f.UsedWALSenders + 2; need > f.MaxWALSenders {
		add(sandglass.Stop, sandglass.CodeProductionSenders, fmt.Sprintf("Set max_wal_senders to at least %d on production and restart it.", need),
			"The server %s has %d of %d WAL senders in use by others; recording needs two.", f.Where, f.UsedWALSenders, f.MaxWALSenders)
	}
	if f.Slot == nil && f.UsedSlots >= f.MaxSlots {
		add(sandglass.Stop, pg.CodeProductionSlots, "Raise max_replication_slots on production and restart it, or drop a slot that is no longer needed.",
			"All %d replication slots of %s are in use.", f.MaxSlots, f.Where)
	}
	if f.MaxSlotWALKeep < 0 {
		waivable(sandglass.CodeProductionSlotCap, "Set max_slot_wal_keep_size on production to what its disk can spare, for example 64GB, and reload it.",
			"The server %s would keep WAL for the recorder until its disk is full (max_slot_wal_keep_size = -1).", f.Where)
	}
	r.smallCap(f, add)
	if name := matchesSync(f.SyncStandbys, Application(r.env.Name)); name != "" {
		waivable(sandglass.CodeProductionSync, "Name the synchronous standbys one by one in synchronous_standby_names, without the recorder.",
			"Commits on %s could wait for the recorder: synchronous_standby_names has %q, which matches %q.", f.Where, name, Application(r.env.Name))
	}
	r.slotFindings(f, ours, add)
	if !f.FullPageWrites {
		add(sandglass.Warning, CodePageWrites, "Set full_page_writes = on on production and reload it.",
			"The server %s has full_page_writes off: images are safe, but a crash of production may leave torn pages.", f.Where)
	}
	return out
}

// smallCap judges max_slot_wal_keep_size: a cap of a few segments is overrun by any pause of ours, and one below the WAL of an
// image by one during an image, which then is void.
func (r *Recorder) smallCap(f pg.Facts, add func(sandglass.Level, sandglass.Code, string, string, ...any)) {
	if f.MaxSlotWALKeep < 0 {
		return
	}
	remedy := "Set max_slot_wal_keep_size on production to what its disk can spare, for example 64GB, and reload it."
	if f.MaxSlotWALKeep < leastCap*f.SegmentSize {
		add(sandglass.Stop, CodeSlotSmall, remedy, "The server %s keeps %s of WAL for the recorder (max_slot_wal_keep_size); recording needs at least %d segments, %s.",
			f.Where, sandglass.Bytes(f.MaxSlotWALKeep), leastCap, sandglass.Bytes(leastCap*f.SegmentSize))
		return
	}
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	if wal := int64(last.End) - int64(last.Redo); last.ID != "" && f.MaxSlotWALKeep < 2*wal {
		add(sandglass.Warning, CodeSlotSmall, remedy, "The server %s keeps %s of WAL for the recorder (max_slot_wal_keep_size), and wrote %s while the last image was made: a pause during an image can lose it.",
			f.Where, sandglass.Bytes(f.MaxSlotWALKeep), sandglass.Bytes(wal))
	}
}

func (r *Recorder) slotFindings(f pg.Facts, ours bool, add func(sandglass.Level, sandglass.Code, string, string, ...any)) {
	slot := r.status.Slot
	switch {
	case f.Slot == nil:
	case f.Slot.Type != "physical":
		add(sandglass.Stop, sandglass.CodeSlotTaken, "Give recording.slot another name.", "Replication slot %q of %s is a logical one.", slot, f.Where)
	case f.Slot.WALStatus == "lost":
		add(sandglass.Warning, sandglass.CodeSlotLost, "Nothing to do: recording begins again with a new image. A larger max_slot_wal_keep_size keeps it from happening again.",
			"Replication slot %q of %s has lost WAL that was not recorded yet.", slot, f.Where)
	case f.Slot.Active && !ours:
		add(sandglass.Stop, sandglass.CodeSlotTaken, fmt.Sprintf("End the other connection (process %d on production), or give recording.slot another name.", f.Slot.ActivePID),
			"Replication slot %q of %s is in use by another connection.", slot, f.Where)
	}
}

// matchesSync gives the entry of a synchronous_standby_names that matches an
// application_name, "" if none does (syncrep_gram.y; names are compared without case, and * matches all).
func matchesSync(setting, application string) string {
	for _, name := range syncNames(setting) {
		if name == "*" || strings.EqualFold(name, application) {
			return name
		}
	}
	return ""
}

// syncNames lists the standby names of "a, b", "2 (a, b)", "FIRST 2 (a, b)" and "ANY 2 (a, b)".
func syncNames(setting string) []string {
	type token struct {
		text   string
		quoted bool
	}
	var tokens []token
	for i := 0; i < len(setting); {
		switch c := setting[i]; {
		case unicode.IsSpace(rune(c)):
			i++
		case strings.IndexByte("(),", c) >= 0:
			tokens = append(tokens, token{string(c), false})
			i++
		case c == '"':
			var b strings.Builder
			for i++; i < len(setting); i++ {
				if setting[i] == '"' {
					if i+1 >= len(setting) || setting[i+1] != '"' {
						break
					}
					i++
				}
				b.WriteByte(setting[i])
			}
			i++
			tokens = append(tokens, token{b.String(), true})
		default:
			end := i
			for end < len(setting) && !unicode.IsSpace(rune(setting[end])) && strings.IndexByte(`(),"`, setting[end]) < 0 {
				end++
			}
			tokens = append(tokens, token{setting[i:end], false})
			i = end
		}
	}
	open := slices.IndexFunc(tokens, func(t token) bool { return t.text == "(" && !t.quoted })
	var names []string
	for _, t := range tokens[open+1:] { // without a parenthesis: all of them
		if t.quoted || strings.IndexByte("(),", t.text[0]) < 0 {
			names = append(names, t.text)
		}
	}
	return names
}

// stopped gives the first finding that ends it, as an error.
func stopped(found []sandglass.Finding) error {
	for _, f := range found {
		if f.Level == sandglass.Stop {
			return &sandglass.Error{Code: f.Code, Op: "check production", Message: f.Message, Remedy: f.Remedy}
		}
	}
	return nil
}
