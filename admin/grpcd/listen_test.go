package grpcd_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/test/certs"
	"github.com/lunar-iscsi/lunar/test/deps"
)

func TestSocketMode(t *testing.T) {
	dir := t.TempDir()
	for suffix, want := range map[string]fs.FileMode{"": 0o600, ",mode=0660": 0o660, ",mode=600": 0o600} {
		path := filepath.Join(dir, "made", "s")
		l, err := grpcd.Listen("unix:" + path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode().Perm() != want || fi.Mode().Type() != fs.ModeSocket {
			t.Errorf("%q: %v, %v", suffix, fi.Mode(), err)
		}
		if l.String() != "unix:"+path {
			t.Errorf("it is called %s", l)
		}
		l.Close()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close: %v", err)
		}
	}
	list, err := os.ReadDir(filepath.Join(dir, "made"))
	if err != nil || len(list) != 1 || list[0].Name() != "s.lock" {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// TestListenRefuses: what cannot be listened on is said, and nothing that is there is touched.
func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"":                                  "want unix:PATH",
		"/run/x":                            "want unix:PATH",
		"http:x":                            "want unix:PATH",
		"unix:relative":                     "has to begin with /",
		"unix:@abstract":                    "has to begin with /",
		"unix:/" + strings.Repeat("x", 200): "the system's limit is",
		"unix:" + dir + "/s,mode=0666":      "every user of this machine",
		"unix:" + dir + "/s,mode=9":         "mode=OCTAL",
		"unix:" + dir + "/s,group=x":        "mode=OCTAL",
		"unix:" + file:                      "is no socket",
		"unix:" + dir:                       "is no socket",
		"unix:" + file + "/s":               "not a directory",
		"tcp:localhost:1":                   "want tcp:ADDR:PORT",
		"tcp:127.0.0.1":                     "want tcp:ADDR:PORT",
		"tcp:203.0.113.9:1":                 "cannot assign",
	} {
		l, err := grpcd.Listen(address)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || address != "" && !strings.Contains(err.Error(), strings.SplitN(address, ",", 2)[0][5:]) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// TestStaleSocket: a socket without a listener is replaced; one with a listener is not, whether that is a lunard or not.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := grpcd.Listen("unix:" + path); !errors.Is(err, grpcd.ErrInUse) || strings.Contains(err.Error(), "locked") {
		t.Fatalf("a live one: %v, %v", l, err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := grpcd.Listen("unix:" + path)
	if err != nil {
		t.Fatalf("a stale one: %v", err)
	}
	defer l.Close()
	if l, err := grpcd.Listen("unix:" + path); !errors.Is(err, grpcd.ErrInUse) || !strings.Contains(err.Error(), "another daemon has locked") {
		t.Fatalf("one of another daemon: %v, %v", l, err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first daemon's socket is gone: %v", err)
	}
	c.Close()
}

// TestOtherUser: the mode of the socket keeps other users out.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		deps.Skip(t, "only root can be another user for a moment")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := grpcd.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err != nil || fi.Mode()&0o001 == 0 {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := connectAs(65534, path); !errors.Is(err, unix.EACCES) {
		t.Errorf("nobody connects: %v", err)
	}
	if err := connectAs(0, path); err != nil {
		t.Errorf("root: %v", err)
	}
	// What kept nobody out was the mode alone.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := connectAs(65534, path); err != nil {
		t.Errorf("nobody, where the mode allows it: %v", err)
	}
}

// connectAs connects as the file system's user uid, which is a matter of the thread alone.
func connectAs(uid int, path string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		result <- func() error {
			if _, err := unix.SetfsuidRetUid(uid); err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}()
	}()
	return <-result
}

// TestCallerOfSocket: the service is told whose call it is.
func TestCallerOfSocket(t *testing.T) {
	got := make(chan admin.Caller, 1)
	_, path := serve(t, &stub{edit: func(ctx context.Context) error {
		got <- admin.CallerOf(ctx)
		return nil
	}}, grpcd.Config{})
	if _, err := api.NewTargetServiceClient(dial(t, path)).RemoveTarget(testContext(t), &api.RemoveTargetRequest{Target: named("iqn.x")}); err != nil {
		t.Fatal(err)
	}
	if c := <-got; c.Face != "grpc" || c.UID != os.Getuid() || c.PID != os.Getpid() || c.Cert != "" {
		t.Errorf("the caller is %+v", c)
	}
}

// TestMaxConns: connections beyond the bound are closed, and room comes back with one that ends.
func TestMaxConns(t *testing.T) {
	_, path := serve(t, &stub{}, grpcd.Config{MaxConns: 1})
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, 9)
	read := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(testTime))
		_, err := c.Read(hello)
		return err
	}
	if err := read(first); err != nil {
		t.Fatalf("the first is not greeted: %v", err)
	}
	second, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := read(second); err == nil || os.IsTimeout(err) {
		t.Errorf("the second: %v", err)
	}
	first.Close()
	// The server hears of that in its own time: until then it turns further ones away.
	for end := time.Now().Add(testTime); ; {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		err = read(c)
		c.Close()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no room came back: %v", err)
		}
	}
}

// TestDefaultPath: root's daemon is the machine's; other users have one of their own where they have a folder for it.
func TestDefaultPath(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	want := "/run/user/1000/lunar/lunard.sock"
	if os.Geteuid() == 0 {
		want = grpcd.DefaultSocket
	}
	if got := grpcd.DefaultPath(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	t.Setenv("XDG_RUNTIME_DIR", "not/absolute")
	if got := grpcd.DefaultPath(); got != grpcd.DefaultSocket {
		t.Errorf("%s", got)
	}
}

// TestMaxConnsOfEachAddress: connections over the network that are never let in do not keep root from the socket.
func TestMaxConnsOfEachAddress(t *testing.T) {
	ca := certs.New(t, "ca")
	p := ca.Issue(t, "lunard", time.Now().Add(time.Hour))
	s, path := serve(t, newManager(t), grpcd.Config{MaxConns: 1, TLS: &grpcd.TLSFiles{Cert: p.Cert, Key: p.Key, ClientCA: ca.File}})
	address := serveOn(t, s, "tcp:127.0.0.1:0").Addr().String()
	for i := range 2 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i == 0 {
			continue // it has the one place there is, and says nothing
		}
		if err := c.SetReadDeadline(time.Now().Add(testTime)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the second connection is not closed: %v", err)
		}
	}
	if _, err := newClient(dial(t, path)).targets.ListTargets(testContext(t), &api.ListTargetsRequest{}); err != nil {
		t.Errorf("at the socket: %v", err)
	}
}
