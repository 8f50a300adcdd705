package main

// Times as people type them, and as people read them.

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sandglass"
)

// zoned are the layouts that name their zone, wall those that do not; fractions of a second fit all with seconds.
func zoned() []string {
	return []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05Z07", "2006-01-02T15:04Z07"}
}

func wall() []string { return []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} }

// parseWhen reads a time: RFC 3339; a date and time with or without an offset or the name of a zone
// ("2026-11-22 10:43:07.5 Europe/Vienna"); "10:43" (today), "yesterday 10:43"; "5 minutes ago". Without a zone it is
// read in zone: an hour that occurs twice there is refused with both candidates, one that does not occur as well.
func parseWhen(text string, zone *time.Location, now time.Time) (time.Time, error) {
	s := strings.Join(strings.Fields(text), " ")
	if rest, ok := strings.CutSuffix(s, " ago"); ok {
		if d, ok := parseSpan(rest); ok {
			return now.Add(-d), nil
		}
		return time.Time{}, notATime(text)
	}
	s = spellDay(s, now.In(zone))
	if i := strings.LastIndexByte(s, ' '); i > 0 && i+1 < len(s) && s[i+1] >= 'A' && !strings.EqualFold(s[i+1:], "Local") {
		if named, err := time.LoadLocation(s[i+1:]); err == nil {
			zone, s = named, s[:i]
		}
	}
	s = strings.Replace(s, " ", "T", 1)
	s = strings.Replace(strings.ReplaceAll(s, " ", ""), "t", "T", 1)
	if n := len(s); n > 0 && s[n-1] == 'z' {
		s = s[:n-1] + "Z"
	}
	for _, layout := range zoned() {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	for _, layout := range wall() {
		if t, err := time.Parse(layout, s); err == nil {
			return onWall(text, t, zone)
		}
	}
	return time.Time{}, notATime(text)
}

// spellDay puts the date in front of a time of today or yesterday.
func spellDay(s string, now time.Time) string {
	lower := strings.ToLower(s)
	switch {
	case strings.HasPrefix(lower, "today "):
		return now.Format(time.DateOnly) + s[len("today"):]
	case strings.HasPrefix(lower, "yesterday "):
		return now.AddDate(0, 0, -1).Format(time.DateOnly) + s[len("yesterday"):]
	case len(s) >= 4 && (s[1] == ':' || s[2] == ':'):
		if s[1] == ':' {
			s = "0" + s
		}
		return now.Format(time.DateOnly) + " " + s
	}
	return s
}

// parseSpan reads "5 minutes", "90s", "1 hour 30 minutes", "2 days".
func parseSpan(s string) (time.Duration, bool) {
	units := map[string]time.Duration{"s": time.Second, "sec": time.Second, "second": time.Second, "m": time.Minute, "min": time.Minute,
		"minute": time.Minute, "h": time.Hour, "hour": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour}
	if d, err := time.ParseDuration(strings.ReplaceAll(s, " ", "")); err == nil && d >= 0 {
		return d, true
	}
	fields := strings.Fields(s)
	if len(fields) == 0 || len(fields)%2 != 0 {
		return 0, false
	}
	var total time.Duration
	for i := 0; i < len(fields); i += 2 {
		n, err := strconv.ParseUint(fields[i], 10, 31)
		name := strings.ToLower(fields[i+1])
		unit, ok := units[name]
		if !ok {
			unit, ok = units[strings.TrimSuffix(name, "s")]
		}
		if err != nil || !ok || n > uint64((1<<62)/unit) {
			return 0, false
		}
		total += time.Duration(n) * unit
	}
	return total, true
}

// onWall is the instant at which clocks in zone show the time of w, whose own zone is UTC and means nothing.
func onWall(text string, w time.Time, zone *time.Location) (time.Time, error) {
	var found []time.Time
	for hours := -26; hours <= 26; hours++ { // every offset in force near it is met
		_, offset := w.Add(time.Duration(hours) * time.Hour).In(zone).Zone()
		t := w.Add(-time.Duration(offset) * time.Second).In(zone)
		if sameWall(t, w) && (len(found) == 0 || !found[len(found)-1].Equal(t)) {
			found = append(found, t)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	e := &sandglass.Error{Op: "read time"}
	if len(found) == 0 {
		e.Code = sandglass.CodeMomentSyntax
		e.Message = fmt.Sprintf("%q does not exist in %s: clocks were put forward over it.", text, zone)
		e.Remedy = "Name a time before or after the change, or write it with its offset from UTC."
		return time.Time{}, e
	}
	first, second := found[0], found[len(found)-1]
	if second.Before(first) {
		first, second = second, first
	}
	e.Code = sandglass.CodeMomentAmbiguous
	e.Message = fmt.Sprintf("%q occurs twice in %s: clocks were put back over it.", text, zone)
	e.Remedy = fmt.Sprintf("Write %s or %s.", first.Format(time.RFC3339Nano), second.Format(time.RFC3339Nano))
	return time.Time{}, e
}

// sameWall says whether clocks that show t and w look the same.
func sameWall(t, w time.Time) bool {
	return t.Year() == w.Year() && t.YearDay() == w.YearDay() && t.Hour() == w.Hour() && t.Minute() == w.Minute() && t.Second() == w.Second()
}

func notATime(text string) error {
	return &sandglass.Error{Code: sandglass.CodeMomentSyntax, Op: "read time", Message: fmt.Sprintf("%q is not a time.", text),
		Remedy: "Write it as 2026-11-22 10:43:07.5, 2026-11-22T10:43:07Z, 10:43, \"yesterday 10:43\" or \"5 minutes ago\"; --latest is the newest moment."}
}

// The ways times are shown; fractions only where there are any.
const (
	clockLayout = "15:04:05.999999"
	timeLayout  = "2006-01-02 15:04:05.999999"
	// minuteLayout is of tables, whose names tell more than their times.
	minuteLayout = "2006-01-02 15:04"
)

// utc shows an instant in UTC.
func utc(t time.Time) string { return t.UTC().Format(timeLayout) + " UTC" }

// both shows an instant in UTC and in zone, which is left out when it is the same.
func both(t time.Time, zone *time.Location) string {
	if t.IsZero() {
		return "-"
	}
	if zone == nil || zone.String() == "UTC" {
		return utc(t)
	}
	local, layout := t.In(zone), clockLayout
	if local.Format(time.DateOnly) != t.UTC().Format(time.DateOnly) {
		layout = timeLayout
	}
	return fmt.Sprintf("%s (%s %s)", utc(t), local.Format(layout), zoneName(local, zone))
}

// withTimes is a text of the control plane's, with the instants in it told as all times are.
func withTimes(text string, zone *time.Location) string {
	instant := regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`) // as RFC 3339 writes UTC
	return instant.ReplaceAllStringFunc(text, func(s string) string {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return s
		}
		return both(t, zone)
	})
}

// zoneName is how people call the zone at that instant: its name, or for the machine's own its abbreviation.
func zoneName(t time.Time, zone *time.Location) string {
	if zone.String() == "Local" {
		name, _ := t.Zone()
		return name
	}
	return zone.String()
}

// span shows a length of time: "0.4 s", "12 s", "3 min 05 s", "2 h 07 min", "3 d 4 h".
func span(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 0:
		return "-" + span(-max(d, -math.MaxInt64)) // the least duration has no opposite
	case s < 9.95 && d%time.Second != 0:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	case s < 59.5:
		return fmt.Sprintf("%.0f s", s)
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	}
	d = d.Round(time.Hour)
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// seconds is span for a number of seconds.
func seconds(s float64) string { return span(time.Duration(s * float64(time.Second))) }

// about is an expected number of seconds: no more exact than it can be.
func about(s float64) string {
	if s < 0.95 {
		return "under 1 s"
	}
	return "about " + span(time.Duration(s*float64(time.Second)).Round(time.Second))
}
