// Command sandglass records production PostgreSQL servers and brings any moment of them into a
// sandbox. `sandglass serve` is the control plane; every other command is a client of its API.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sandglass/internal/server"
	"sandglass/internal/walserve"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

// run is main with an exit code. The hidden commands come first: they run inside the seal, often, and need nothing of the rest.
func run() int {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case server.SealCommand:
			return server.SealMain(os.Args[2:])
		case walserve.ClientCommand:
			return walserve.ClientMain(os.Args[2:])
		}
	}
	base, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := &app{base: base, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: time.Now, local: time.Local}
	return a.run(os.Args[1:])
}
