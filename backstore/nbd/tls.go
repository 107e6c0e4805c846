package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/lunar-iscsi/lunar/backstore"
)

// The files of the folder that tls-certificates names, as nbdkit, libnbd and QEMU call them.
const (
	fileCA   = "ca-cert.pem"
	fileCRL  = "ca-crl.pem"
	fileCert = "client-cert.pem"
	fileKey  = "client-key.pem"
)

// startTLS upgrades a connection that has been greeted (NBD, "TLS support"). Nothing that was said before counts: no option was sent, and
// option reads not a byte more than the server's answer.
func startTLS(nc net.Conn, c *config) (*tls.Conn, error) {
	cfg, err := c.tlsConfig()
	if err != nil {
		return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: err}
	}
	rep, text, err := option(nc, optStartTLS, nil, nil)
	if err != nil {
		return nil, err
	}
	if rep != repAck {
		if text != "" {
			text = " (it says: " + text + ")"
		}
		return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open",
			Cause: fmt.Errorf("the server at %s refuses TLS with reply %#x%s", c.addr, rep, text)}
	}
	tc := tls.Client(nc, cfg)
	if err := tc.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return tc, nil
}

// A talker is a TLS connection during the handshake. A server that does not like our certificate says so with an alert after it seemed to have
// taken it (TLS 1.3), and hangs up: what a write then fails with is not the reason.
type talker struct{ *tls.Conn }

func (t talker) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	if err != nil {
		if _, said := t.Conn.Read(make([]byte, 1)); said != nil && said != io.EOF {
			err = fmt.Errorf("TLS: %w", said)
		}
	}
	return n, err
}

// tlsConfig reads the certificates, anew for each connection, so that renewed ones count.
func (c *config) tlsConfig() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.tlsHost,
		// Records of full size from the first: bytes of a disk, not of a page that somebody waits for.
		DynamicRecordSizingDisabled: true}
	if c.tlsDir != "" {
		if err := c.certificates(t); err != nil {
			return nil, err
		}
	}
	switch {
	case c.tlsBlind:
		t.InsecureSkipVerify = true
	case c.tlsHost == "":
		// A unix socket has no name that a certificate could be for; who issued it counts all the same.
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(s tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: t.RootCAs, Intermediates: x509.NewCertPool()}
			for _, x := range s.PeerCertificates[1:] { // there is one: a server without is refused before
				o.Intermediates.AddCert(x)
			}
			_, err := s.PeerCertificates[0].Verify(o)
			return err
		}
	}
	return t, nil
}

// certificates reads the folder: the authorities (else the system's) and, where the server asks for it, who we are.
func (c *config) certificates(t *tls.Config) error {
	in := func(name string) string { return filepath.Join(c.tlsDir, name) }
	if st, err := os.Stat(c.tlsDir); err != nil || !st.IsDir() {
		return fmt.Errorf("option tls-certificates=%s: there is no such folder", c.tlsDir)
	}
	if _, err := os.Stat(in(fileCRL)); err == nil {
		return fmt.Errorf("%s: revocation lists are not supported; take the file away if nothing in it matters", in(fileCRL))
	}
	pem, err := os.ReadFile(in(fileCA))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate in it", in(fileCA))
		}
	}
	_, err = os.Stat(in(fileCert))
	if _, kerr := os.Stat(in(fileKey)); errors.Is(err, os.ErrNotExist) && errors.Is(kerr, os.ErrNotExist) {
		if t.RootCAs == nil {
			return fmt.Errorf("option tls-certificates=%s: neither %s nor %s and %s are there", c.tlsDir, fileCA, fileCert, fileKey)
		}
		return nil
	}
	pair, err := tls.LoadX509KeyPair(in(fileCert), in(fileKey))
	if err != nil {
		return fmt.Errorf("%s and %s: %w", in(fileCert), in(fileKey), err)
	}
	t.Certificates = []tls.Certificate{pair}
	return nil
}
