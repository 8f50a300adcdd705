package test

// This file is about the unit for systemd: the lines of it that the promises lean on.

import (
	"os"
	"strings"
	"testing"

	"sandglass/internal/systest"
)

func TestSystemdUnit(t *testing.T) {
	b, err := os.ReadFile("../packaging/systemd/sandglass.service")
	must(t, err)
	unit := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			unit[key] = value
		}
	}
	for key, want := range map[string]string{
		"KillMode":           "process", // sandboxes outlive `serve`
		"KillSignal":         "SIGTERM", // ends it as a person does
		"OOMPolicy":          "continue",
		"Restart":            "on-failure",
		"StateDirectory":     "sandglass",
		"StateDirectoryMode": "0711",
		"WantedBy":           "multi-user.target",
	} {
		if unit[key] != want {
			t.Errorf("%s is %q, want %q", key, unit[key], want)
		}
	}
	// The seal needs namespaces and mounts of its own.
	for key := range unit {
		if strings.HasPrefix(key, "Private") || strings.HasPrefix(key, "Protect") || key == "RestrictNamespaces" {
			t.Errorf("the unit has %s", key)
		}
	}
	binary, err := build()
	must(t, err)
	command := strings.Fields(unit["ExecStart"])
	if len(command) < 2 {
		t.Fatalf("ExecStart is %q", unit["ExecStart"])
	}
	// The flags are those of the binary.
	s := systest.New(t, binary)
	help := ran(t, s, command[1], "--help").Stdout
	for _, arg := range command[2:] {
		if strings.HasPrefix(arg, "--") && !strings.Contains(help, arg+" ") {
			t.Errorf("sandglass %s has no %s:\n%s", command[1], arg, help)
		}
	}
	if !strings.HasSuffix(unit["ExecStart"], "--state /var/lib/"+unit["StateDirectory"]) {
		t.Errorf("ExecStart %q does not use the state directory", unit["ExecStart"])
	}
}
