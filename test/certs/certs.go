package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A CA issues certificates for one test.
type CA struct {
	File string // its own certificate, PEM

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// A Pair is a certificate and its key, PEM files.
type Pair struct{ Cert, Key string }

// New makes a CA whose files are in a folder of the test.
func New(t testing.TB, name string) *CA {
	t.Helper()
	c := &CA{dir: t.TempDir()}
	c.cert = template(t, name)
	c.cert.IsCA, c.cert.KeyUsage = true, x509.KeyUsageCertSign
	c.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, c.cert, c.cert, c.key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	c.File = filepath.Join(c.dir, "ca.pem")
	write(t, c.File, "CERTIFICATE", der)
	return c
}

// Issue makes a certificate for a server at 127.0.0.1, ::1 and localhost, or for a client, until an end.
func (c *CA) Issue(t testing.TB, name string, until time.Time) Pair {
	t.Helper()
	x := template(t, name)
	x.NotAfter = until
	x.KeyUsage = x509.KeyUsageDigitalSignature
	x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	x.IPAddresses, x.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, []string{"localhost"}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, x, c.cert, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := Pair{filepath.Join(c.dir, name+".pem"), filepath.Join(c.dir, name+".key")}
	write(t, p.Cert, "CERTIFICATE", der)
	write(t, p.Key, "EC PRIVATE KEY", kder)
	return p
}

// Folder makes a folder as nbdkit, QEMU and libnbd want it: ca-cert.pem, and the certificate and key of a server and of a client.
func (c *CA) Folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, from string) {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("ca-cert.pem", c.File)
	for _, name := range []string{"server", "client"} {
		p := c.Issue(t, "folder-"+name, time.Now().Add(time.Hour))
		put(name+"-cert.pem", p.Cert)
		put(name+"-key.pem", p.Key)
	}
	return dir
}

func template(t testing.TB, name string) *x509.Certificate {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func write(t testing.TB, name, kind string, der []byte) {
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
