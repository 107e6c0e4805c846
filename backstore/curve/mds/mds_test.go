package mds_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
	"github.com/lunar-iscsi/lunar/backstore/curve/mds"
)

// serve starts a server that answers with handle, and returns its address.
func serve(t *testing.T, handle func(*brpc.Call)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &brpc.Server{Handle: handle}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with l
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		s.CloseConns()
	})
	return l.Addr().String()
}

func client(t *testing.T, c mds.Config) *mds.Client {
	t.Helper()
	m := mds.New(c)
	t.Cleanup(m.Close)
	return m
}

// closed is an address at which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The leader is the one that answers: the others do not listen, stop, or have no such service; it is remembered.
func TestLeader(t *testing.T) {
	var stopping, leading atomic.Int64
	a := serve(t, func(c *brpc.Call) { stopping.Add(1); c.Fail(brpc.ELogOff, "Server is stopping") })
	b := serve(t, func(c *brpc.Call) { leading.Add(1); c.Reply([]byte{8, 0, 18, 2, 8, 7}, nil) })
	m := client(t, mds.Config{Addresses: []string{closed(t), a, b}})
	for range 3 {
		i, err := m.Info(context.Background(), "/v", "u")
		if err != nil || i.ID != 7 {
			t.Fatalf("%+v, %v", i, err)
		}
	}
	if stopping.Load() != 1 || leading.Load() != 3 {
		t.Errorf("the one that stops was asked %d times, the leader %d", stopping.Load(), leading.Load())
	}
}

// Another that takes over is found; what may have been carried out is not sent again.
func TestFailover(t *testing.T) {
	var calls atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // takes a call and breaks the connection
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	b := serve(t, func(c *brpc.Call) { calls.Add(1); c.Reply([]byte{8, 0, 18, 2, 8, 7}, nil) })
	m := client(t, mds.Config{Addresses: []string{l.Addr().String(), b}})
	if i, err := m.Info(context.Background(), "/v", "u"); err != nil || i.ID != 7 {
		t.Errorf("a question is not asked again: %+v, %v", i, err)
	}
	m = client(t, mds.Config{Addresses: []string{l.Addr().String(), b}})
	if err := m.Create(context.Background(), "/v", "u", 10<<30, mds.Layout{}); !errors.Is(err, mds.ErrUnknown) {
		t.Errorf("a call that was lost: %v", err)
	}
	if calls.Load() != 1 {
		t.Errorf("the second server was called %d times", calls.Load())
	}
}

// Nothing is waited for without end, and whoever calls can give up.
func TestPatience(t *testing.T) {
	m := client(t, mds.Config{Addresses: []string{closed(t), closed(t)}, Patience: time.Millisecond})
	if _, err := m.Info(context.Background(), "/v", "u"); !errors.Is(err, mds.ErrAway) {
		t.Errorf("nobody answers: %v", err)
	}
	asked := make(chan struct{}, 1)
	silent := serve(t, func(*brpc.Call) { asked <- struct{}{} })
	m = client(t, mds.Config{Addresses: []string{silent}})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := m.Info(ctx, "/v", "u"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gives up: %v", err)
	}
	if _, err := client(t, mds.Config{}).Info(context.Background(), "/v", "u"); !errors.Is(err, mds.ErrAway) {
		t.Errorf("no address: %v", err)
	}
}

// What a server must not send.
func TestHostile(t *testing.T) {
	var answer atomic.Pointer[[]byte]
	set := func(b []byte) { answer.Store(&b) }
	m := client(t, mds.Config{Addresses: []string{serve(t, func(c *brpc.Call) { c.Reply(*answer.Load(), nil) })}})
	for name, b := range map[string][]byte{
		"nothing":                  {},
		"no status":                {18, 0},
		"a status that is text":    {10, 1, 'x'},
		"an info that is a number": {8, 0, 16, 1},
		"a cut message":            {8, 0, 18, 9, 8},
		"no info":                  {8, 0},
		"two infos":                {8, 0, 18, 0, 18, 0},
		"an info that is cut":      {8, 0, 18, 2, 18, 9},
		"a name that is a number":  {8, 0, 18, 2, 16, 1},
		"a length that is text":    {8, 0, 18, 3, 66, 1, 'x'},
		"a length below 0":         append([]byte{8, 0, 18, 11}, protowire.AppendVarint([]byte{64}, 1<<63)...),
	} {
		set(b)
		if _, err := m.Info(context.Background(), "/v", "u"); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	set([]byte{8, 111})
	_, err := m.Info(context.Background(), "/v", "u")
	if mds.StatusOf(err) != mds.OwnerAuthFail || !strings.Contains(err.Error(), "/v") || !strings.Contains(err.Error(), "another owner") {
		t.Errorf("status 111: %v", err)
	}
	set(protowire.AppendVarint([]byte{8}, 1<<40))
	if _, err = m.Info(context.Background(), "/v", "u"); err == nil {
		t.Error("a status of 41 bits is taken for good")
	}
	set([]byte{8, 0, 18, 1, 8})
	if _, err = m.MountPoints(context.Background(), "/v"); err == nil {
		t.Error("a mount point that is cut is taken")
	}
}

// Root signs: base64 of HMAC-SHA256 of "date:owner", as OpenSSL makes it of the same.
func TestSign(t *testing.T) {
	if got := mds.Sign("root_password", "root", 1700000000000000); got != signed {
		t.Errorf("signature %s, want %s", got, signed)
	}
	m := client(t, mds.Config{Addresses: []string{closed(t)}})
	if _, err := m.List(context.Background(), "/", mds.Root); !errors.Is(err, mds.ErrPassword) {
		t.Errorf("root without password: %v", err)
	}
}

func TestParseAddresses(t *testing.T) {
	if a, err := mds.ParseAddresses("h:1,[::1]:2"); err != nil || len(a) != 2 {
		t.Errorf("%v, %v", a, err)
	}
	for _, s := range []string{"", "h", "h:1,", ":1", "h:", strings.Repeat("h:1,", 16) + "h:1"} {
		if _, err := mds.ParseAddresses(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// signed was made by: printf '1700000000000000:root' | openssl dgst -sha256 -hmac root_password -binary | base64
const signed = "z0q4b3HvTryxDMy7VPkcDw9aU9Qpj1YwlT8fc9Ptbcw="
