// By which names and addresses production is known: as its declaration says, what DNS makes of that, and what the server
// said of itself when its images were taken.

package operation

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/search"
)

// lookupTime is how long DNS may take, for all names together.
const lookupTime = 3 * time.Second

// KnownHosts are production's names and addresses.
type KnownHosts struct {
	Hosts []string `json:"hosts"` // looked for
	// NotSearched are too short, words that also stand for other things, or also the sandbox's own.
	NotSearched []string `json:"hosts_not_searched,omitempty"`
	Unresolved  []string `json:"hosts_unresolved,omitempty"` // names that DNS did not tell the addresses of, and why
}

// productionHosts are the names and addresses by which the source is known.
func (h *Host) productionHosts(ctx context.Context, m memory, source, target sandglass.Environment) (KnownHosts, error) {
	var said []string
	if source.Kind == sandglass.Production {
		images, err := h.Repository.Images(ctx, m.Range.Environment, m.Range.Incarnation)
		if err != nil && sandglass.CodeOf(err) != sandglass.CodeRepositoryDamaged { // damage to one keeps the others
			return KnownHosts{}, err
		}
		for _, img := range images {
			said = append(said, img.Address)
			said = append(said, strings.Split(img.Settings["listen_addresses"], ",")...)
		}
	}
	return FindHosts(ctx, net.DefaultResolver, source, target, said), nil
}

// FindHosts derives the source's names and addresses from its declaration and from what its server said. What DNS does
// not answer in time is noted.
func FindHosts(ctx context.Context, dns *net.Resolver, source, target sandglass.Environment, said []string) KnownHosts {
	all := hostSet{}
	for _, host := range source.Hosts {
		all.add(host, true)
	}
	for _, host := range recordingHosts(source) {
		all.add(host, false)
	}
	names := all.names()
	for _, address := range said {
		all.add(address, false)
	}
	known := KnownHosts{Unresolved: all.resolve(ctx, dns, names)}
	for _, name := range all.names() {
		if short, _, qualified := strings.Cut(name, "."); qualified && len(short) >= search.MinLength {
			all.add(short, false)
		}
	}
	var needles []search.Needle
	hosts := all.sorted()
	for i, host := range hosts {
		needles = append(needles, search.Needle{Value: []byte(host), Of: i, Word: true})
	}
	own := search.NewIndex(needles).Mentioned([]byte(ownTexts(source, target)))
	for i, host := range hosts {
		if own[i] || !search.Searchable([]byte(host)) || !all[host] && plain(host) {
			known.NotSearched = append(known.NotSearched, host)
			continue
		}
		known.Hosts = append(known.Hosts, host)
	}
	return known
}

// hostSet are hosts, and whether somebody declared them to be looked for.
type hostSet map[string]bool

// add takes a host as it is written somewhere; what means this host, any or none is left out.
func (s hostSet) add(host string, declared bool) {
	host = strings.TrimSuffix(strings.Trim(strings.TrimSpace(host), "[]"), ".")
	lower := strings.ToLower(host)
	if host == "" || host == "*" || strings.ContainsAny(host[:1], "/@") || lower == "localhost" || strings.HasPrefix(lower, "localhost.") {
		return
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap().WithZone("")
		if ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() {
			return
		}
		lower = ip.String()
	}
	s[lower] = s[lower] || declared
}

func (s hostSet) sorted() []string {
	var all []string
	for host := range s {
		all = append(all, host)
	}
	slices.Sort(all)
	return all
}

// names are those that are no addresses.
func (s hostSet) names() []string {
	return slices.DeleteFunc(s.sorted(), func(host string) bool { _, err := netip.ParseAddr(host); return err == nil })
}

// resolve adds the addresses of names, and what they are called in full, and says which names have none now.
func (s hostSet) resolve(ctx context.Context, dns *net.Resolver, names []string) (failed []string) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, name := range names {
		all.Go(func() {
			addresses, err := dns.LookupNetIP(ctx, "ip", name)
			canonical := ""
			if err == nil && !slices.ContainsFunc(addresses, func(ip netip.Addr) bool { return ip.Unmap().IsLoopback() }) {
				canonical, _ = dns.LookupCNAME(ctx, name) // many names have no other
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, name+": "+lookupFailure(err))
			}
			for _, ip := range addresses {
				s.add(ip.String(), false)
			}
			s.add(canonical, false)
		})
	}
	all.Wait()
	slices.Sort(failed)
	return failed
}

func lookupFailure(err error) string {
	if e, ok := errors.AsType[*net.DNSError](err); ok && !e.IsTimeout {
		return e.Err
	}
	return "no answer in time"
}

// recordingHosts are those of the recording's connection.
func recordingHosts(source sandglass.Environment) (hosts []string) {
	if source.Recording == nil || source.Recording.Connection == "" {
		return nil
	}
	c, err := pgx.ParseConfig(source.Recording.Connection)
	if err != nil {
		return nil // apply has refused it
	}
	hosts = []string{c.Host}
	for _, f := range c.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	return hosts
}

// ownTexts are what the copy rightly says: what the sandbox's own declaration names, and how the environments and their databases are called.
func ownTexts(source, target sandglass.Environment) string {
	own := slices.Concat([]string{source.Name, target.Name}, target.Hosts)
	for _, e := range []sandglass.Environment{source, target} {
		for _, database := range e.Databases {
			own = append(own, database)
		}
	}
	if s := target.Server; s != nil {
		own = append(append(own, s.HBA...), s.Listen)
		for _, v := range s.Settings {
			own = append(own, v)
		}
	}
	return strings.Join(own, "\n")
}

// plain says whether a name is a word, as "database" or "production", and so stands for other things besides a machine.
func plain(host string) bool {
	return !strings.ContainsFunc(host, func(c rune) bool { return c < 'a' || c > 'z' })
}
