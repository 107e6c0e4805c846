package grpcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/target"
)

// TLSFiles are PEM files. All three are needed: TCP is served with mutual TLS or not at all.
type TLSFiles struct {
	Cert, Key string // the daemon's own certificate, with its chain, and its key
	ClientCA  string // certificates of whose issuers callers are let in
}

// Check says what is missing.
func (f *TLSFiles) Check() error {
	if f == nil || f.Cert == "" || f.Key == "" || f.ClientCA == "" {
		return errors.New("administration over TCP needs mutual TLS: a certificate, its key, and the CA of the clients' certificates")
	}
	return nil
}

// A keeper holds the TLS configuration, and reads the files again when one of them has changed, so that certificates can be
// renewed while the daemon runs.
type keeper struct {
	files TLSFiles
	log   target.Logger

	mu     sync.Mutex
	config *tls.Config
	times  [3]time.Time
}

// newKeeper reads the files.
func newKeeper(files *TLSFiles, log target.Logger) (*keeper, error) {
	if err := files.Check(); err != nil {
		return nil, err
	}
	k := &keeper{files: *files, log: log}
	if err := k.load(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *keeper) names() [3]string { return [3]string{k.files.Cert, k.files.Key, k.files.ClientCA} }

// load reads the files. It is called with mu, or before anybody else knows k.
func (k *keeper) load() error {
	var times [3]time.Time
	for i, name := range k.names() {
		fi, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("administration over TCP: %w", err)
		}
		times[i] = fi.ModTime()
		if name == k.files.Key && fi.Mode().Perm()&0o007 != 0 {
			return fmt.Errorf("administration over TCP: key %s may be used by every user of this machine (mode %#o): chmod o= %[1]s", name, fi.Mode().Perm())
		}
	}
	cert, err := tls.LoadX509KeyPair(k.files.Cert, k.files.Key)
	if err != nil {
		return fmt.Errorf("administration over TCP: certificate %s with key %s: %w", k.files.Cert, k.files.Key, err)
	}
	pem, err := os.ReadFile(k.files.ClientCA)
	if err != nil {
		return fmt.Errorf("administration over TCP: %w", err)
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(pem) {
		return fmt.Errorf("administration over TCP: no certificate in %s", k.files.ClientCA)
	}
	k.times = times
	k.config = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
	}
	return nil
}

// current is the configuration of one handshake.
func (k *keeper) current() *tls.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, name := range k.names() {
		fi, err := os.Stat(name)
		if err == nil && fi.ModTime().Equal(k.times[i]) {
			continue
		}
		// Files that are being replaced do not fit each other for a moment: what was good before goes on.
		if err := k.load(); err != nil {
			k.log.Warn("the renewed certificates cannot be used; the ones before are kept", "error", err)
		} else {
			k.log.Info("certificates of the administration were read again")
		}
		break
	}
	return k.config
}
