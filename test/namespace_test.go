package test

// This file looks at the network of a sealed server from outside, through /proc/PID/net.

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// socketsOf are the lines of a table of sockets ("tcp", "udp6") in the network namespace of a process.
func socketsOf(t *testing.T, pid int, table string) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/" + table)
	if os.IsNotExist(err) { // the family is off
		return nil
	}
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[1:]
}
