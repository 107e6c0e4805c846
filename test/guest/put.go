package guest

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// Put copies a file of the host into the guest, executable.
func (g *Guest) Put(t testing.TB, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetDeadline(time.Now().Add(runTimeout)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(c, f)
			c.Close()
		}
		sent <- err
	}()
	port := l.Addr().(*net.TCPAddr).Port // of a TCP listener
	copied := g.Start(t, fmt.Sprintf("cat </dev/tcp/10.0.2.2/%d >%s && chmod 0755 %[2]s && stat -c %%s %[2]s", port, to))
	if err := <-sent; err != nil {
		t.Fatalf("copying %s into the guest: %v", from, err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if out, want := copied.Wait(t, runTimeout), fmt.Sprintf("%d\n", st.Size()); out != want {
		t.Fatalf("copying %s into the guest: %q bytes came, want %q", from, out, want)
	}
}
