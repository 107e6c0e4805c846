package metrics_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/metrics"
)

// Connections beyond the bound are closed at once, and one that ends makes room.
func TestLimit(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := metrics.NewServer(http.NotFoundHandler())
	// What closes a connection on the server's side is told: its place is free from then on.
	closed := make(chan struct{}, 8)
	s.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateClosed {
			closed <- struct{}{}
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(metrics.Limit(inner, 2)) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-ended
	})
	ask := func() (net.Conn, error) {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return c, err
		}
		_, err = io.ReadFull(c, make([]byte, len("HTTP/1.1 404")))
		return c, err
	}
	first, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("the third of two: %v", err)
	}
	first.Close()
	<-closed
	if _, err := ask(); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}
