package operation_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/operation"
)

// nameServer answers questions for addresses (RFC 1035, 4.1) from a table; a name that begins with "=" is another name's. Of what it
// does not have it says so.
func nameServer(t *testing.T, table map[string][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for b := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(answer(b[:n], table), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func answer(question []byte, table map[string][]string) []byte {
	var labels []string
	at := 12
	for question[at] != 0 {
		labels = append(labels, string(question[at+1:at+1+int(question[at])]))
		at += 1 + int(question[at])
	}
	kind := binary.BigEndian.Uint16(question[at+1:])
	out := append([]byte{}, question[:at+5]...)
	records, known := table[strings.ToLower(strings.Join(labels, "."))]
	copy(out[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
	if !known {
		out[3] |= 3 // no such name
	}
	record := func(name []byte, kind uint16, data []byte) {
		out = append(out, name...)
		out = binary.BigEndian.AppendUint16(out, kind)
		out = append(out, 0, 1, 0, 0, 0, 60)
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(data))), data...)
		out[7]++
	}
	name := []byte{0xc0, 12}
	for _, r := range records {
		if other, alias := strings.CutPrefix(r, "="); alias {
			var encoded []byte
			for label := range strings.SplitSeq(other, ".") {
				encoded = append(append(encoded, byte(len(label))), label...)
			}
			encoded = append(encoded, 0)
			record(name, 5, encoded)
			name = encoded
		} else if ip := netip.MustParseAddr(r); ip.Is4() == (kind == 1) {
			record(name, kind, ip.AsSlice())
		}
	}
	return out
}

// Production is known by what is declared, by what DNS makes of it and by what its server says; not by what is the sandbox's own.
func TestHosts(t *testing.T) {
	t.Parallel()
	dns := nameServer(t, map[string][]string{
		"erp-prod-db1.prod.example": {"10.20.30.41", "fd00:20:30::41"},
		"erp.prod.example":          {"=erp-prod-vip.prod.example", "10.20.30.50"},
		"database.prod.example":     {"127.0.0.1"},
	})
	source := sandglass.Environment{Name: "prod", Kind: sandglass.Production, Databases: map[string]string{"business": "erp-prod-business"},
		Hosts:     []string{"ERP.Prod.example.", "FD00:0020:30:0::7", "accounting", "gone.prod.example", "10.1.1.1", "erp-prod-business", "uat.prod.example", "localhost"},
		Recording: &sandglass.Recording{Connection: "host=erp-prod-db1.prod.example,database.prod.example,/run/postgresql,postgres user=x"}}
	target := sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Server: &sandglass.Server{Listen: "uat.prod.example", HBA: []string{"host all all 10.20.30.99/32 scram-sha-256", "host all all 10.20.30.410/32 md5"}}}
	got := operation.FindHosts(t.Context(), dns, source, target, []string{"10.20.30.40", "", "*", " 10.20.30.99", "127.0.0.1", "::1", "fe80::1"})
	want := operation.KnownHosts{
		Hosts: []string{"10.20.30.40", "10.20.30.41", "10.20.30.50", "accounting", "database.prod.example", "erp-prod-db1", "erp-prod-db1.prod.example",
			"erp-prod-vip", "erp-prod-vip.prod.example", "erp.prod.example", "fd00:20:30::41", "fd00:20:30::7", "gone.prod.example"},
		NotSearched: []string{"10.1.1.1", "10.20.30.99", "database", "erp-prod-business", "postgres", "uat.prod.example"},
		Unresolved:  []string{"accounting: no such host", "erp-prod-business: no such host", "gone.prod.example: no such host", "postgres: no such host", "uat.prod.example: no such host"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Names of which nothing is heard end nothing.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	got = operation.FindHosts(ended, dns, source, target, nil)
	if len(got.Unresolved) != 8 || len(got.Hosts) != 7 {
		t.Errorf("without DNS: %+v", got)
	}
}
