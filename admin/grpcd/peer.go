package grpcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/lunar-iscsi/lunar/admin"
)

// creds lets a peer in: over a unix socket with the uid that the kernel tells, over TCP with TLS.
type creds struct {
	tls credentials.TransportCredentials // nil: no TCP
}

func newCreds(k *keeper) *creds {
	if k == nil {
		return &creds{}
	}
	return &creds{tls: credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		// A resumed session would stand on what its certificate was worth once, whatever CA file there is now.
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current(), nil },
	})}
}

// A local is the peer of a unix socket.
type local struct {
	credentials.CommonAuthInfo
	uid, pid int
}

// AuthType names the way in.
func (local) AuthType() string { return "unix" }

func (c *creds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	inner := conn
	if k, ok := conn.(*counted); ok {
		inner = k.Conn
	}
	if u, ok := inner.(*net.UnixConn); ok {
		info, err := peerOf(u)
		return conn, info, err
	}
	if c.tls == nil {
		return nil, nil, errors.New("no TLS")
	}
	return c.tls.ServerHandshake(conn)
}

func peerOf(u *net.UnixConn) (local, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return local{}, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return local{}, cerr
	}
	if err != nil {
		return local{}, err
	}
	return local{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, int(cred.Uid), int(cred.Pid)}, nil
}

// ClientHandshake is the other side's.
func (c *creds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

func (c *creds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix or tls"}
}

func (c *creds) Clone() credentials.TransportCredentials {
	n := &creds{}
	if c.tls != nil {
		n.tls = c.tls.Clone()
	}
	return n
}

// OverrideServerName is a client's matter; the interface wants it.
func (c *creds) OverrideServerName(string) error { return nil }

// callerOf is who makes the call of ctx.
func callerOf(ctx context.Context) admin.Caller {
	c := admin.Caller{Face: "grpc", UID: -1}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return c
	}
	switch info := p.AuthInfo.(type) {
	case local:
		c.UID, c.PID = info.uid, info.pid
	case credentials.TLSInfo:
		if certs := info.State.PeerCertificates; len(certs) > 0 {
			c.Cert = certs[0].Subject.String()
		}
	}
	return c
}

// A limited listener closes connections beyond most at once.
type limited struct {
	net.Listener
	free chan struct{} // a token for each further connection
	over func()
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case <-l.free:
			return &counted{Conn: c, free: l.free}, nil
		default:
			c.Close()
			l.over()
		}
	}
}

// counted gives its token back when it is closed.
type counted struct {
	net.Conn
	once sync.Once
	free chan struct{}
}

func (c *counted) Close() error {
	c.once.Do(func() { c.free <- struct{}{} })
	return c.Conn.Close()
}
