// The client: what restore_command runs.

package walserve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"
)

// ClientCommand is the hidden command whose body is ClientMain.
const ClientCommand = "wal-get"

// RestoreCommand is the restore_command that asks the server at socket by way of the sandglass binary.
func RestoreCommand(binary, socket string) string {
	return quote(binary) + " " + ClientCommand + " " + quote(socket) + ` "%f" "%p"`
}

// quote writes a word for the shell that runs restore_command, with % doubled for PostgreSQL.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "%", "%%").Replace(s) + "'"
}

// The exit statuses. PostgreSQL takes 1 for the archive's end and promotes, so it is given only
// for a definite absence; above 128 it gives up recovery (RestoreArchivedFile in access/transam/xlogarchive.c).
const (
	exitFound  = 0
	exitAbsent = 1
	exitFailed = 255
)

// patience is how long the client tries to reach a worker that is away, such as one being restarted.
const patience = 60 * time.Second

// ClientMain is the body of the hidden command wal-get: the socket, the name of a file and the path it is wanted at.
func ClientMain(args []string) int {
	found, err := fetchFrom(args, time.Now().Add(patience))
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "sandglass wal-get: %v\n", err)
		return exitFailed
	case !found:
		return exitAbsent
	}
	return exitFound
}

// errAgain marks what a later try may mend.
var errAgain = errors.New("try again")

func fetchFrom(args []string, until time.Time) (bool, error) {
	if len(args) != 3 {
		return false, errors.New("usage: wal-get SOCKET NAME PATH; it is run by PostgreSQL")
	}
	// The worker tells of nothing when it comes back, so the client looks again.
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		found, err := askOnce(args[0], args[1], args[2])
		if !errors.Is(err, errAgain) || time.Now().Add(wait).After(until) {
			return found, err
		}
		time.Sleep(wait)
	}
}

// askOnce asks for a file and puts it in its place.
func askOnce(socket, name, path string) (bool, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false, fmt.Errorf("reach the worker: %w: %w", errAgain, err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, name+"\n"); err != nil {
		return false, fmt.Errorf("ask for %s: %w: %w", name, errAgain, err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return false, fmt.Errorf("ask for %s: %w: %w", name, errAgain, err)
	}
	word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	switch word {
	case "found":
		return true, place(rest, path)
	case "absent":
		return false, nil
	}
	return false, fmt.Errorf("ask for %s: %s", name, rest)
}

// place moves the fetched file to where it is wanted, or copies it where it can't be moved.
func place(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take %s: %w: %w", from, errAgain, err) // the worker was restarted meanwhile
	}
	if err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return errors.Join(out.Close(), os.Remove(from))
}
