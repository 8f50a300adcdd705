package pg_test

// The stream as it is read ahead: the same bytes as production has, with TLS and without, in fewer messages than it sent.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/pg"
	"sandglass/internal/pgtest"
)

func TestStreamIsWhatProductionHas(t *testing.T) {
	cluster, target := production(t, pgtest.Options{Settings: map[string]string{"wal_keep_size": "1GB"}})
	certify(t, cluster)
	for _, mode := range []string{"disable", "require"} {
		t.Run(mode, func(t *testing.T) {
			target := target
			target.Conninfo += " sslmode=" + mode
			c := connect(t, target)
			sys := must[pg.System](t)(c.IdentifySystem(t.Context()))
			from := sys.Flushed &^ 0xFFFFFF
			s := must[*pg.Stream](t)(c.StartReplication(t.Context(), "", sys.Timeline, from))
			const commits = 2000
			cluster.Exec(t, "postgres", "create table if not exists t(i int)", fmt.Sprintf("do $$ begin for i in 1..%d loop insert into t values (i); commit; end loop; end $$", commits),
				"insert into t select generate_series(1, 200000)")
			end := must[sandglass.LSN](t)(sandglass.ParseLSN(cluster.Query(t, "postgres", "select pg_current_wal_flush_lsn()")))
			var got []byte
			messages := 0
			for at := from; at < end; at = from + sandglass.LSN(len(got)) {
				m := must[pg.Message](t)(s.Receive())
				if len(m.Data) == 0 {
					continue
				}
				if messages++; m.Start != at {
					t.Fatalf("got %s, want %s", m.Start, at)
				}
				got = append(got, m.Data...)
			}
			for at := from; at < end; at += 16 << 20 {
				want := must[[]byte](t)(os.ReadFile(filepath.Join(cluster.Data(), "pg_wal", sandglass.SegmentName(1, at.Segment(16<<20), 16<<20))))
				n := min(len(want), int(end-at))
				if !bytes.Equal(got[at-from:][:n], want[:n]) {
					t.Errorf("the WAL from %s on differs", at)
				}
			}
			if encrypted := cluster.Query(t, "postgres", "select ssl from pg_stat_ssl join pg_stat_replication using (pid)"); (encrypted == "t") != (mode == "require") {
				t.Errorf("TLS: %s", encrypted)
			}
			if messages > commits/4 {
				t.Errorf("%d messages for %d commits", messages, commits)
			}
		})
	}
}

// certify gives a server a certificate of its own.
func certify(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	for name, block := range map[string]*pem.Block{"server.crt": {Type: "CERTIFICATE", Bytes: der},
		"server.key": {Type: "PRIVATE KEY", Bytes: must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))}} {
		path := filepath.Join(c.Data(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("chown", "--reference="+c.Data(), path).CombinedOutput(); err != nil {
			t.Fatalf("chown: %v %s", err, out)
		}
	}
	c.Exec(t, "postgres", "alter system set ssl = on")
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
