// What a server's log says: why it ended, how far recovery is, where it stopped.

package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"sandglass"
)

// readTail is the end of the log, at most size bytes and nothing from before offset from.
func (c Config) readTail(from, size int64) (string, error) {
	f, err := c.open(c.Log)
	if err != nil {
		return "", fmt.Errorf("read server log: %w", err)
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", fmt.Errorf("read server log: %w", err)
	}
	begin := max(from, end-size, 0)
	b := make([]byte, max(end-begin, 0))
	n, err := f.ReadAt(b, begin)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read server log: %w", err)
	}
	return string(b[:n]), nil
}

// logLine splits a line of logPrefix: "2026-11-22 10:00:00.000 UTC [123] FATAL:  message".
var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] ([A-Z]+):  (.*)$`)

func parseLogLine(line string) []string {
	for strings.HasPrefix(line, prompt) {
		line = line[len(prompt):]
	}
	return logLine.FindStringSubmatch(line)
}

// prompt is what single-user mode writes before it reads a statement.
const prompt = "backend> "

// telling are log messages below the level of an error that explain one.
var telling = regexp.MustCompile(`^could not |^invalid value for parameter|^unrecognized configuration parameter|^parameter .* cannot be changed|^invalid (line|entry|connection type|authentication)|terminated by signal`)

// problems are the last few errors in a log, without prefix, each with its detail; a line of a program
// that is no log line of PostgreSQL (a loader's, a shell's) counts where nothing better is found.
func problems(log string) []string {
	var found, other []string
	for line := range strings.SplitSeq(log, "\n") {
		m := parseLogLine(line)
		switch {
		case m == nil && strings.HasPrefix(line, "postgres: "):
			found = append(found, strings.TrimPrefix(line, "postgres: ")) // before the log is set up
		case m == nil && strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "\t"):
			other = append(other, line)
		case m == nil:
		case m[1] == "FATAL", m[1] == "PANIC", m[1] == "ERROR":
			found = append(found, m[2])
		case m[1] == "DETAIL" && len(found) > 0:
			found[len(found)-1] += " (" + m[2] + ")"
		case m[1] == "LOG" && telling.MatchString(m[2]):
			other = append(other, m[2])
		}
	}
	// A lone error may only say that there was one: "configuration file contains errors".
	if len(found) <= 1 {
		found = append(other[max(len(other)-2, 0):], found...)
	}
	return found[max(len(found)-3, 0):]
}

// explain is the error of a server that could not be started or ended by itself, with what its log says.
func (p *Postmaster) explain(cause error) error {
	if cause != nil && sandglass.CodeOf(cause) != sandglass.CodeInternal {
		return cause
	}
	e := &sandglass.Error{Code: sandglass.CodeServerFailed, Op: "run server", Err: cause,
		Message: "The PostgreSQL server ended by itself.", Remedy: "Its whole log is " + p.config.Log + "."}
	if p.recovering {
		e.Code, e.Message = sandglass.CodeRecoveryFailed, "The server ended before recovery was done."
	}
	log, err := p.config.readTail(max(p.logFrom, 0), 256<<10)
	if err != nil {
		e.Err = errors.Join(cause, err)
		return e
	}
	if lines := problems(log); len(lines) > 0 {
		e.Message = strings.TrimSuffix(e.Message, ".") + ": " + strings.Join(lines, "; ") + "."
	}
	if strings.Contains(log, "No space left on device") {
		e.Code, e.Remedy = sandglass.CodeDiskFull, "Free some space on the disk of the state folder and try again. "+e.Remedy
	}
	return e
}

var (
	recoveringTitle = regexp.MustCompile(`startup recovering ([0-9A-F]{24})`)
	recoveringLine  = regexp.MustCompile(`redo in progress, elapsed time: .*, current LSN: ([0-9A-F]+/[0-9A-F]+)`)
	redoDone        = regexp.MustCompile(`LOG:  redo done at ([0-9A-F]+/[0-9A-F]+)`)
	newTimeline     = regexp.MustCompile(`LOG:  selected new timeline ID: (\d+)`)
)

// Replayed is about how far recovery is: the start of the segment that is being replayed, or, on 15
// and later, the position the server logs twice a second. It is false before replay begins and after it ends.
func (p *Postmaster) Replayed(segmentSize int64) (sandglass.LSN, bool) {
	var at sandglass.LSN
	var ok bool
	for _, pid := range children(p.PID()) {
		if m := recoveringTitle.FindStringSubmatch(cmdline(pid)); m != nil {
			if _, seg, err := sandglass.ParseSegmentName(m[1], segmentSize); err == nil {
				at, ok = seg.Start(segmentSize), true
			}
		}
	}
	if !ok {
		return 0, false
	}
	if log, err := p.config.readTail(max(p.logFrom, 0), 16<<10); err == nil {
		if all := recoveringLine.FindAllStringSubmatch(log, -1); len(all) > 0 {
			if lsn, err := sandglass.ParseLSN(all[len(all)-1][1]); err == nil {
				at = max(at, lsn)
			}
		}
	}
	return at, true
}

// RecoveryEnd is where a recovery stopped.
type RecoveryEnd struct {
	Last     sandglass.LSN        // start of the last record replayed; zero if there was none to replay
	Timeline sandglass.TimelineID // the new timeline
}

// Recovered reads where the last recovery on the data folder stopped, from the server's log. The
// position belongs to the range asked for if Range.Contains says so.
func Recovered(c Config) (RecoveryEnd, error) {
	f, err := c.open(c.Log)
	if err != nil {
		return RecoveryEnd{}, fmt.Errorf("read server log: %w", err)
	}
	defer f.Close()
	var now, done RecoveryEnd
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 16<<20) // statements can be long
	for sc.Scan() {
		line := sc.Text()
		if m := redoDone.FindStringSubmatch(line); m != nil {
			if now.Last, err = sandglass.ParseLSN(m[1]); err != nil {
				return RecoveryEnd{}, fmt.Errorf("read server log: %w", err)
			}
		}
		if m := newTimeline.FindStringSubmatch(line); m != nil {
			tli, err := strconv.ParseUint(m[1], 10, 32)
			if err != nil {
				return RecoveryEnd{}, fmt.Errorf("read server log: %w", err)
			}
			now.Timeline = sandglass.TimelineID(tli)
		}
		switch {
		case strings.Contains(line, "LOG:  starting point-in-time recovery"), strings.Contains(line, "LOG:  starting archive recovery"), strings.Contains(line, "LOG:  starting backup recovery"):
			now, done = RecoveryEnd{}, RecoveryEnd{}
		case strings.Contains(line, "LOG:  archive recovery complete"):
			done = now
		}
	}
	if err := sc.Err(); err != nil {
		return RecoveryEnd{}, fmt.Errorf("read server log: %w", err)
	}
	if done.Timeline == 0 {
		return RecoveryEnd{}, &sandglass.Error{Code: sandglass.CodeRecoveryFailed, Op: "read server log",
			Message: "The server's log doesn't say where recovery stopped.", Remedy: "The log is " + c.Log + "."}
	}
	return done, nil
}
