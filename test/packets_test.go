package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pgtest"
	"sandglass/internal/systest"
)

// During a restore of a production that points to listeners on this host, the copy's network has a loopback that is down,
// nothing else, and not one packet is counted on it.
func TestNotOnePacketLeaves(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	listener := newTrap(t, "tcp", "127.0.0.1:0")
	port := listener.Addr().(*net.TCPAddr).Port
	prod := production(t, map[string]string{"wal_level": "logical"})
	prod.Exec(t, "postgres", "CREATE TABLE live (id int)", "CREATE EXTENSION postgres_fdw",
		fmt.Sprintf("CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '%d')", port),
		"CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'x', password 'y')", "CREATE FOREIGN TABLE far (id int) SERVER elsewhere",
		fmt.Sprintf("CREATE SUBSCRIPTION knocks CONNECTION 'host=127.0.0.1 port=%d dbname=postgres' PUBLICATION pub WITH (connect = false, enabled = false)", port))
	s := newSystem(t)
	must(t, s.Record(ctx, "prod", prod, nil))
	// Live only in WAL after the image, so that production itself knocks as little as can be.
	prod.Exec(t, "postgres", "ALTER SUBSCRIPTION knocks ENABLE")
	_, err := s.Sandbox(ctx, "uat", "prod", nil)
	must(t, err)
	streaming(t, s, "prod")
	must(t, prod.Stop())
	listener.knocks.Store(0)

	seen := watchSeals(ctx, s, func() {
		_, err = s.Restore(ctx, "uat", sandglass.Moment{Kind: sandglass.AtLatest})
	})
	must(t, err)
	if len(seen) == 0 {
		t.Fatal("no sealed server was seen")
	}
	for pid, readings := range seen {
		for _, what := range readings {
			if what != "lo 0 0 down" {
				t.Errorf("the network of the sealed process %d: %s (device, packets received, packets sent, up or down)", pid, what)
			}
		}
	}
	t.Logf("%d sealed processes seen", len(seen))
	if n := listener.knocks.Load(); n > 0 {
		t.Errorf("the copy reached out %d times", n)
	}
}

// watchSeals reads the devices of every sealed process of the system while something is done: each reading that differs, by process.
func watchSeals(ctx context.Context, s *systest.System, do func()) map[int]map[string]string {
	seen := map[int]map[string]string{}
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		ours, _ := os.Readlink("/proc/self/ns/net")
		for ctx.Err() == nil {
			for _, p := range pgtest.ProcessesOf(s.State() + "/volumes") {
				proc := "/proc/" + strconv.Itoa(p.PID)
				if ns, err := os.Readlink(proc + "/ns/net"); err != nil || ns == ours {
					continue
				}
				b, err := os.ReadFile(proc + "/net/dev")
				if err != nil {
					continue
				}
				routes, err := os.ReadFile(proc + "/net/fib_trie")
				if err != nil {
					continue
				}
				loopback := "down" // then the namespace has no address at all
				if len(routes) > 0 {
					loopback = "up"
				}
				for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n")[2:] { // two lines of headings
					name, counters, _ := strings.Cut(line, ":")
					if f := strings.Fields(counters); len(f) >= 10 {
						if seen[p.PID] == nil {
							seen[p.PID] = map[string]string{}
						}
						reading := strings.Join([]string{strings.TrimSpace(name), f[1], f[9], loopback}, " ")
						seen[p.PID][reading] = reading
					}
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	do()
	stop()
	watching.Wait()
	return seen
}
