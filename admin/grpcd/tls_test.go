package grpcd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/test/certs"
)

// remove makes one call over TCP with a client's configuration; nil: no TLS.
func remove(t *testing.T, address string, c *tls.Config) error {
	t.Helper()
	cred := insecure.NewCredentials()
	if c != nil {
		cred = credentials.NewTLS(c)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(cred), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = api.NewTargetServiceClient(conn).RemoveTarget(testContext(t), &api.RemoveTargetRequest{Target: named("iqn.x")})
	return err
}

func roots(t *testing.T, ca *certs.CA) *x509.CertPool {
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(pem)
	return p
}

func pair(t *testing.T, p certs.Pair) []tls.Certificate {
	c, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{c}
}

// TestMutualTLS: who has a certificate of the client CA gets in, with TLS 1.3, and nobody else; the call carries its subject.
func TestMutualTLS(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	servers, clients, others := certs.New(t, "servers"), certs.New(t, "clients"), certs.New(t, "others")
	server := servers.Issue(t, "lunard", hour)
	alice, mallory, late := clients.Issue(t, "alice", hour), others.Issue(t, "alice", hour), clients.Issue(t, "late", time.Now().Add(-time.Hour))
	got := make(chan admin.Caller, 1)
	s, _ := serve(t, &stub{edit: func(ctx context.Context) error {
		got <- admin.CallerOf(ctx)
		return nil
	}}, grpcd.Config{TLS: &grpcd.TLSFiles{Cert: server.Cert, Key: server.Key, ClientCA: clients.File}, Handshake: time.Second})
	address := serveOn(t, s, "tcp:127.0.0.1:0").Addr().String()

	if err := remove(t, address, &tls.Config{RootCAs: roots(t, servers), Certificates: pair(t, alice)}); err != nil {
		t.Fatal(err)
	}
	if c := <-got; c.Face != "grpc" || c.Cert != "CN=alice" || c.UID != -1 || !strings.Contains(c.String(), "alice") {
		t.Errorf("the caller is %+v", c)
	}
	for name, c := range map[string]*tls.Config{
		"without a certificate":    {RootCAs: roots(t, servers)},
		"of another CA":            {RootCAs: roots(t, servers), Certificates: pair(t, mallory)},
		"of the server's CA":       {RootCAs: roots(t, servers), Certificates: pair(t, server)},
		"whose time is over":       {RootCAs: roots(t, servers), Certificates: pair(t, late)},
		"with TLS 1.2":             {RootCAs: roots(t, servers), Certificates: pair(t, alice), MaxVersion: tls.VersionTLS12},
		"who does not know the CA": {RootCAs: roots(t, others), Certificates: pair(t, alice)},
		"without TLS":              nil,
	} {
		if err := remove(t, address, c); status.Code(err) != codes.Unavailable {
			t.Errorf("a client %s: %v", name, err)
		}
		select {
		case c := <-got:
			t.Errorf("a client %s has been let in as %+v", name, c)
		default:
		}
	}
}

// TestRenewedCertificates: files that are replaced count from then on; files that do not fit do not.
func TestRenewedCertificates(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	old, renewed := certs.New(t, "old"), certs.New(t, "renewed")
	server, next := old.Issue(t, "lunard", hour), renewed.Issue(t, "lunard", hour)
	client, nextClient := old.Issue(t, "alice", hour), renewed.Issue(t, "alice", hour)
	s, _ := serve(t, &stub{edit: func(context.Context) error { return nil }}, grpcd.Config{TLS: &grpcd.TLSFiles{Cert: server.Cert, Key: server.Key, ClientCA: old.File}})
	address := serveOn(t, s, "tcp:127.0.0.1:0").Addr().String()
	before := &tls.Config{RootCAs: roots(t, old), Certificates: pair(t, client)}
	after := &tls.Config{RootCAs: roots(t, renewed), Certificates: pair(t, nextClient)}
	if err := remove(t, address, before); err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err == nil {
			// Distinguishable from the first one's, whatever the file system's clock.
			err = os.Chtimes(to, time.Now(), time.Now().Add(time.Minute))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	replace(next.Cert, server.Cert)
	if err := remove(t, address, before); err != nil {
		t.Errorf("while the key does not fit the certificate: %v", err)
	}
	replace(next.Key, server.Key)
	replace(renewed.File, old.File)
	if err := remove(t, address, after); err != nil {
		t.Errorf("the renewed ones: %v", err)
	}
	if err := remove(t, address, before); err == nil {
		t.Error("a client of the old CA is let in")
	}
}

// TestTCPWantsTLS: without certificates there is no TCP, and what is wrong with them is said.
func TestTCPWantsTLS(t *testing.T) {
	s, _ := serve(t, &stub{}, grpcd.Config{})
	l, err := grpcd.Listen("tcp:127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err == nil || !strings.Contains(err.Error(), "mutual TLS") {
		t.Errorf("TCP without certificates: %v", err)
	}
	ca := certs.New(t, "ca")
	p, q := ca.Issue(t, "p", time.Now().Add(time.Hour)), ca.Issue(t, "q", time.Now().Add(time.Hour))
	open := ca.Issue(t, "open", time.Now().Add(time.Hour))
	if err := os.Chmod(open.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]grpcd.TLSFiles{
		"needs mutual TLS":           {Cert: p.Cert, Key: p.Key},
		"private key does not match": {Cert: p.Cert, Key: q.Key, ClientCA: ca.File},
		"no such file":               {Cert: p.Cert, Key: p.Key, ClientCA: ca.File + "x"},
		"no certificate in":          {Cert: p.Cert, Key: p.Key, ClientCA: p.Key},
		"every user of this machine": {Cert: open.Cert, Key: open.Key, ClientCA: ca.File},
	} {
		if _, err := grpcd.New(&stub{}, grpcd.Config{TLS: &f}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", f, err, want)
		}
	}
}

// TestWithdrawnCA: who was let in by a CA that is in the file no more is not let in again, not even where its TLS would resume the session
// of before, which stands on what the certificate was worth then.
func TestWithdrawnCA(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	servers, clients, others := certs.New(t, "servers"), certs.New(t, "clients"), certs.New(t, "others")
	server, alice := servers.Issue(t, "lunard", hour), clients.Issue(t, "alice", hour)
	s, _ := serve(t, &stub{edit: func(context.Context) error { return nil }}, grpcd.Config{TLS: &grpcd.TLSFiles{Cert: server.Cert, Key: server.Key, ClientCA: clients.File}})
	address := serveOn(t, s, "tcp:127.0.0.1:0").Addr().String()
	c := &tls.Config{RootCAs: roots(t, servers), Certificates: pair(t, alice), ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for range 2 {
		if err := remove(t, address, c); err != nil {
			t.Fatal(err)
		}
	}
	pem, err := os.ReadFile(others.File)
	if err == nil {
		err = os.WriteFile(clients.File, pem, 0o600)
	}
	if err == nil {
		err = os.Chtimes(clients.File, time.Now(), time.Now().Add(time.Minute))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(t, address, c); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of a CA that was withdrawn: %v", err)
	}
}
