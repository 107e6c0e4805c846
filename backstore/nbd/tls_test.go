package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/certs"
)

// secure makes the server demand TLS and a client's certificate, and its URIs have what a client needs.
func (s *server) secure(t testing.TB) {
	ca := certs.New(t, "nbd-ca")
	dir := ca.Folder(t)
	pair := ca.Issue(t, "server", time.Now().Add(time.Hour))
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	s.tls = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.certs = dir
}

func TestTLSRefusals(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		s := newServer(t, network)
		s.secure(t)
		s.start()
		plain := newServer(t, network).start()
		other := certs.New(t, "other-ca").Folder(t)
		empty, revoked := t.TempDir(), certs.New(t, "third-ca").Folder(t)
		if err := os.WriteFile(filepath.Join(revoked, fileCRL), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		half := certs.New(t, "fourth-ca").Folder(t)
		if err := os.Remove(filepath.Join(half, fileKey)); err != nil {
			t.Fatal(err)
		}
		bad := certs.New(t, "fifth-ca").Folder(t)
		if err := os.WriteFile(filepath.Join(bad, fileCA), []byte("none"), 0o600); err != nil {
			t.Fatal(err)
		}
		noClient := certs.New(t, "unused").Folder(t)
		for _, name := range []string{fileCert, fileKey} {
			if err := os.Remove(filepath.Join(noClient, name)); err != nil {
				t.Fatal(err)
			}
		}
		ca, err := os.ReadFile(filepath.Join(s.certs, fileCA))
		if err == nil {
			err = os.WriteFile(filepath.Join(noClient, fileCA), ca, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		with := func(s *server, opts string) string { return withTLS(s, opts) }
		for _, tc := range []struct{ uri, want string }{
			{strings.Replace(s.bareURI(""), "nbds", "nbd", 1), "name the volume with nbds:"},
			{with(plain, "&tls-certificates="+s.certs), "refuses TLS"},
			{with(s, "&tls-certificates="+other), "signed by unknown authority"},
			{with(s, "&tls-certificates="+empty), "neither ca-cert.pem nor client-cert.pem"},
			{with(s, "&tls-certificates="+empty+"/not"), "no such folder"},
			{with(s, "&tls-certificates="+revoked), "revocation lists are not supported"},
			{with(s, "&tls-certificates="+half), "client-key.pem"},
			{with(s, "&tls-certificates="+bad), "no certificate in it"},
			{with(s, "&tls-certificates="+noClient), "certificate required"},
			{with(s, "&tls-certificates="+s.certs+"&tls-hostname=elsewhere"), "elsewhere"},
			{with(s, "&tls-certificates="+s.certs+"&tls-psk-file=/x"), "pre-shared keys"},
			{with(s, "&tls-type=psk"), "pre-shared keys"},
			{with(s, "&tls-type=anon"), "want x509"},
			{strings.Replace(with(s, "&tls-hostname=x"), "nbds", "nbd", 1), "there is no TLS with nbd"},
		} {
			if _, err := tryOpen(t, tc.uri, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", tc.uri, err, tc.want)
			}
		}
		for _, opts := range []string{"", "&tls-hostname=localhost", "&tls-hostname=elsewhere&tls-verify-peer=0", "&tls-type=x509"} {
			h := openURI(t, with(s, "&tls-certificates="+s.certs+opts), nil)
			h.must(write(0, fill(4096, 5)))
			h.close()
		}
	}
}

// withTLS is a URI of s with TLS, whether s speaks it or not.
func withTLS(s *server, opts string) string {
	uri := s.bareURI(opts)
	if s.tls == nil {
		uri = strings.Replace(uri, "nbd", "nbds", 1)
	}
	return uri
}

// With TLS it is crypto/tls that allocates, on both sides here, less than one small thing for each record; the driver's own part allocates nothing.
func TestTLSAllocations(t *testing.T) {
	const batch = 16
	s := newServer(t, "unix")
	s.secure(t)
	h := openURI(t, echoOver(t, s.tls, "nbds")+"&tls-certificates="+s.certs, newTestLoop(t))
	for _, tc := range []struct {
		op   backstore.Op
		size int64
	}{{backstore.Read, 4096}, {backstore.Write, 4096}, {backstore.Read, 64 << 10}} {
		w := newRound(h, batch, tc.op, tc.size, 0)
		w.run()
		n := testing.AllocsPerRun(50, w.run)
		t.Logf("%v of %d bytes: %v allocations in %d requests", tc.op, tc.size, n, batch)
		if records := float64(batch*tc.size/(16<<10) + batch); n > records {
			t.Errorf("%v of %d bytes: %v allocations in %d requests", tc.op, tc.size, n, batch)
		}
	}
	h.close()
}

// A server that takes nothing in any more does not keep a connection that was given up: the store lets go of it all soon.
func TestTLSLetsGo(t *testing.T) {
	s := newServer(t, "unix")
	s.secure(t)
	s.data = make([]byte, 16<<20)
	hold := make(chan struct{})
	var held atomic.Bool
	s.answer = func(c *srvConn, q srvRequest) bool {
		switch {
		case !held.CompareAndSwap(false, true):
			return false
		case q.cmd == cmdWrite:
			c.send(fill(64, 0xaa)) // nonsense, so the store gives the connection up
			<-hold                 // and no more is read of it
		}
		return true
	}
	h := openURI(t, s.start().uri("&connections=1&restart=safe"), newTestLoop(t))
	var rs []*backstore.Request
	for i := range 48 {
		rs = append(rs, write(int64(i)*(256<<10), fill(256<<10, byte(i+1))))
	}
	d := h.submit(rs...)
	for range rs {
		if r := h.wait(d); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	h.close() // which waits for the goroutines of both connections
	close(hold)
	s.stop()
	for i := range rs {
		if s.data[i*(256<<10)] != byte(i+1) {
			t.Fatalf("write %d is not there", i)
		}
	}
}
