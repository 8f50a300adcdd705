package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/server"
)

// A server has TLS with a key that its own user could not read, let alone own; a certificate that was renewed is
// taken up by a reload; a file that is gone does not matter until it was never there, and nothing but a certificate is taken for one.
func TestTLSFiles(t *testing.T) {
	c, p := newCluster(t, tempDir(t), nil)
	must(t, p.Stop(testContext(t), server.Fast))
	private := filepath.Join(t.TempDir(), "private") // ours alone
	must(t, os.Mkdir(private, 0o700))
	key, certificate := filepath.Join(private, "key.pem"), filepath.Join(private, "cert.pem")
	selfSigned(t, 1, key, certificate)
	c.Port, c.HBA = freePort(t), []string{"hostssl all all 127.0.0.1/32 trust"}
	for name, value := range map[string]string{"listen_addresses": "127.0.0.1", "ssl": "on", "ssl_key_file": key, "ssl_cert_file": certificate} {
		c.Settings[name] = value
	}
	p = start(t, c)
	run(t, connect(t, c, "postgres"), "CREATE ROLE app LOGIN")
	if got := serialOf(t, c.Port, certificate); got != 1 {
		t.Errorf("the certificate's number is %d, want 1", got)
	}
	selfSigned(t, 2, key, certificate)
	must(t, p.Reload(testContext(t), c))
	if got := serialOf(t, c.Port, certificate); got != 2 {
		t.Errorf("after a reload the certificate's number is %d, want 2", got)
	}
	must(t, p.Stop(testContext(t), server.Fast))
	must(t, os.Remove(key))
	p = start(t, c) // with the key that was taken before
	must(t, p.Stop(testContext(t), server.Fast))
	c.Run += "2"
	if _, err := server.Start(testContext(t), c); sandglass.CodeOf(err) != sandglass.CodeConfig {
		t.Errorf("without the key: %v", err)
	}
	must(t, os.WriteFile(key, []byte("AGE-SECRET-KEY-1\n"), 0o600))
	c.Settings["ssl"], c.Settings["ssl_ca_file"] = "off", key
	if _, err := server.Start(testContext(t), c); sandglass.CodeOf(err) != sandglass.CodeConfig {
		t.Errorf("with another secret as a certificate: %v", err)
	}
}

func selfSigned(t *testing.T, serial int64, keyFile, certificateFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	must(t, os.WriteFile(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600))
}

// serialOf is the number of the certificate that a server shows to a client who trusts that file.
func serialOf(t *testing.T, port int, certificate string) int64 {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), "host=127.0.0.1 user=app dbname=postgres sslmode=verify-full sslrootcert="+certificate+" port="+strconv.Itoa(port))
	must(t, err)
	defer conn.Close(testContext(t))
	secured, ok := conn.PgConn().Conn().(*tls.Conn)
	if !ok {
		t.Fatal("the connection has no TLS")
	}
	return secured.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}
