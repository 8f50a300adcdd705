package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"sandglass"
)

func vienna(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestParseWhen(t *testing.T) {
	zone := vienna(t)
	now := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC) // 00:30 on the 23rd in Vienna
	for _, test := range []struct {
		text string
		want string // in UTC, or the code of the refusal
		part string // of the refusal's sentence or remedy
	}{
		{"2026-11-22T10:43:07Z", "2026-11-22T10:43:07Z", ""},
		{"2026-11-22T10:43:07.123456+01:00", "2026-11-22T09:43:07.123456Z", ""},
		{"2026-11-22 10:43:07 +01:00", "2026-11-22T09:43:07Z", ""},
		{"2026-11-22 10:43:07+01", "2026-11-22T09:43:07Z", ""},
		{"2026-11-22 10:43z", "2026-11-22T10:43:00Z", ""},
		{"2026-11-22t10:43:07z", "2026-11-22T10:43:07Z", ""},
		{"2026-11-22 10:43:07.5", "2026-11-22T09:43:07.5Z", ""},
		{" 2026-11-22   10:43 ", "2026-11-22T09:43:00Z", ""},
		{"2026-07-22 10:43", "2026-07-22T08:43:00Z", ""}, // summer
		{"2026-11-22", "2026-11-21T23:00:00Z", ""},
		{"2026-11-22 10:43 UTC", "2026-11-22T10:43:00Z", ""},
		{"2026-11-22 10:43:07 America/New_York", "2026-11-22T15:43:07Z", ""},
		{"00:10", "2026-11-22T23:10:00Z", ""}, // today is the zone's
		{"9:05:01.25", "2026-11-23T08:05:01.25Z", ""},
		{"today 00:10", "2026-11-22T23:10:00Z", ""},
		{"yesterday 10:43", "2026-11-22T09:43:00Z", ""},
		{"Yesterday 10:43", "2026-11-22T09:43:00Z", ""},
		{"5 minutes ago", "2026-11-22T23:25:00Z", ""},
		{"1 minute ago", "2026-11-22T23:29:00Z", ""},
		{"90s ago", "2026-11-22T23:28:30Z", ""},
		{"1h30m ago", "2026-11-22T22:00:00Z", ""},
		{"1 hour 30 minutes ago", "2026-11-22T22:00:00Z", ""},
		{"2 days ago", "2026-11-20T23:30:00Z", ""},

		// Clocks go back at 03:00 CEST on 2026-10-25, forward at 02:00 CET on 2026-03-29.
		{"2026-10-25 01:59:59", "2026-10-24T23:59:59Z", ""},
		{"2026-10-25 02:00:00", "moment.ambiguous_hour", "2026-10-25T02:00:00+02:00 or 2026-10-25T02:00:00+01:00"},
		{"2026-10-25 02:59:59.5", "moment.ambiguous_hour", "02:59:59.5+02:00 or 2026-10-25T02:59:59.5+01:00"},
		{"2026-10-25 03:00", "2026-10-25T02:00:00Z", ""},
		{"2026-10-25 02:30+01:00", "2026-10-25T01:30:00Z", ""},
		{"2026-10-25 02:30 UTC", "2026-10-25T02:30:00Z", ""},
		{"2026-03-29 01:59:59", "2026-03-29T00:59:59Z", ""},
		{"2026-03-29 02:00", "moment.not_a_time", "put forward"},
		{"2026-03-29 02:59:59", "moment.not_a_time", "put forward"},
		{"2026-03-29 03:00", "2026-03-29T01:00:00Z", ""},
		{"2026-10-25 02:30 Europe/Berlin", "moment.ambiguous_hour", "Europe/Berlin"},
		{"2011-12-30 12:00 Pacific/Apia", "moment.not_a_time", "put forward"}, // a day that Samoa left out

		{"", "moment.not_a_time", "--latest"},
		{"now", "moment.not_a_time", "--latest"},
		{"10", "moment.not_a_time", ""},
		{"25:00", "moment.not_a_time", ""},
		{"2026-02-30 10:00", "moment.not_a_time", ""},
		{"22.11.2026 10:43", "moment.not_a_time", ""},
		{"2026-11-22 10:43 Europe/Atlantis", "moment.not_a_time", ""},
		{"2026-11-22 10:43 Local", "moment.not_a_time", ""},
		{"five minutes ago", "moment.not_a_time", ""},
		{"-5 minutes ago", "moment.not_a_time", ""},
		{"5 fortnights ago", "moment.not_a_time", ""},
		{"ago", "moment.not_a_time", ""},
		{" ago", "moment.not_a_time", ""},
		{"99999999999 weeks ago", "moment.not_a_time", ""},
	} {
		got, err := parseWhen(test.text, zone, now)
		if err != nil {
			e := sandglass.AsError(err)
			if string(e.Code) != test.want || !strings.Contains(e.Message+" "+e.Remedy, test.part) || e.Remedy == "" {
				t.Errorf("%q: got %v (%s), want %s with %q", test.text, e, e.Remedy, test.want, test.part)
			}
			continue
		}
		if s := got.UTC().Format(time.RFC3339Nano); s != test.want {
			t.Errorf("%q: got %s, want %s", test.text, s, test.want)
		}
	}
}

func TestShowTimes(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 43, 7, 500_000_000, time.UTC)
	for _, test := range []struct {
		t    time.Time
		zone *time.Location
		want string
	}{
		{at, vienna(t), "2026-11-22 10:43:07.5 UTC (11:43:07.5 Europe/Vienna)"},
		{at.Add(13 * time.Hour), vienna(t), "2026-11-22 23:43:07.5 UTC (2026-11-23 00:43:07.5 Europe/Vienna)"},
		{at, time.UTC, "2026-11-22 10:43:07.5 UTC"},
		{time.Time{}, time.UTC, "-"},
	} {
		if got := both(test.t, test.zone); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0 s", 420 * time.Millisecond: "0.4 s", 9949 * time.Millisecond: "9.9 s", 12 * time.Second: "12 s", 59400 * time.Millisecond: "59 s",
		59600 * time.Millisecond: "1 min 00 s", 185 * time.Second: "3 min 05 s", 127 * time.Minute: "2 h 07 min", 76 * time.Hour: "3 d 4 h", -2 * time.Second: "-2 s", math.MinInt64: "-106751 d 23 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestStateText(t *testing.T) {
	vienna, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"2026-11-22T19:10:25.5Z":           "2026-11-22 19:10:25.5 UTC (20:10:25.5 Europe/Vienna)",
		"2026-11-22T19:10:25Z, the latest": "2026-11-22 19:10:25 UTC (20:10:25 Europe/Vienna), the latest",
		"just before transaction 757":      "just before transaction 757",
		"its own data":                     "its own data",
		"":                                 "",
	} {
		if got := withTimes(words, vienna); got != want {
			t.Errorf("withTimes(%q) = %q, want %q", words, got, want)
		}
	}
}

// An undo tells that the sandbox shows again what it showed before.
func TestUndoneStateIsShownAgain(t *testing.T) {
	var b strings.Builder
	o := sandglass.Operation{Kind: sandglass.KindUndo, Environment: "uat", State: sandglass.Succeeded, Result: []byte(`{"moment":"its own data","volume":"v"}`)}
	if err := showEnd(&b, o, time.UTC, nil); err != nil || !strings.Contains(b.String(), "uat again shows its own data.") {
		t.Errorf("%v, %q", err, b.String())
	}
}
