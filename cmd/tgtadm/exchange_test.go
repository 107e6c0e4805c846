package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// How connections end that a daemon ends badly, for ours and, where it does not hang, for tgt's tgtadm.
func TestBrokenAnswers(t *testing.T) {
	big := strings.Repeat("Target 1: iqn.2026-01.com.example:disk\n", 100000)
	for _, c := range []struct {
		what   string
		answer []byte
		want   ran
		hangs  bool // tgt's tgtadm
	}{
		{"an end without an answer", []byte{}, ran{"", "tgtadm: tgtd closed the socket\n", 0}, false},
		{"a part of the header", []byte{0, 0, 0}, ran{"", "tgtadm: a partial response\n", 0}, false},
		{"a text that ends early", append(answerHeader(0, 100), "abc"...), ran{"abc", "tgtadm: failed to read from tgtd, unexpected EOF\n", int(syscall.EIO)}, true},
		{"a large text", success(big), ran{big, "", 0}, false},
		{"an empty text", success(""), ran{"", "", 0}, false},
		{"a number that nobody knows", answerHeader(25, 0), ran{"", "tgtadm: (unknown tgtadm_errno)\n", exitUsage}, false},
		{"a length below its own", []byte{0, 0, 0, 0, 3, 0, 0, 0}, ran{"", "", 0}, true},
		{"text after a NUL", success("ab\x00" + big), ran{"ab", "", 0}, false},
	} {
		r := record(t)
		r.answers <- c.answer
		if got := ours("--mode", "sess", "--op", "show"); got != c.want {
			t.Errorf("%s: %.200v, want %.200v", c.what, got, c.want)
		}
		if tool, ok := deps.Lookup("tgtadm"); ok && !c.hangs {
			r.answers <- c.answer
			if got := theirs(t, tool, "--mode", "sess", "--op", "show"); got != c.want {
				t.Errorf("tgt's: %s: %.200v, want %.200v", c.what, got, c.want)
			}
		}
	}
}

// A refusal may bring its reason behind the number: a line of its own, at most so long, for ours; tgt's tgtadm does not see it.
func TestReason(t *testing.T) {
	r := record(t)
	reason := "/srv/missing.img: no such file or directory"
	answer := append(answerHeader(17, len(reason)+1), reason+"\x00"...)
	r.answers <- answer
	want := ran{"", "tgtadm: invalid request\ntgtadm: reason: " + reason + "\n", exitUsage}
	if got := ours("--mode", "sess", "--op", "show"); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if tool, ok := deps.Lookup("tgtadm"); ok {
		r.answers <- answer
		if got := theirs(t, tool, "--mode", "sess", "--op", "show"); got != want.plain() {
			t.Errorf("tgt's: %+v", got)
		}
	}
	r.answers <- append(answerHeader(17, 3*tgtipc.MaxReason), strings.Repeat("x", 3*tgtipc.MaxReason)...)
	if got := ours("--mode", "sess", "--op", "show"); len(got.stderr) > tgtipc.MaxReason+100 {
		t.Errorf("a reason of %d bytes", len(got.stderr))
	}
}

// Init scripts take 107 for "not running", whatever the cause; ours says it on a second line.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead+".0")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, c := range []struct{ prefix, first, why string }{
		{filepath.Join(dir, "none"), "", "does not exist"},
		{dead, "", "nobody listens"},
		{"", "", "does not exist"}, // set but empty: .0 in this folder, as for tgt's
		{"@abstract", "", "does not exist"},
		{"/" + strings.Repeat("x", 106), "tgtadm: management path too long: /" + strings.Repeat("x", 106) + ".0\n", ""},
	} {
		t.Setenv("TGT_IPC_SOCKET", c.prefix)
		got := ours("--mode", "sess", "--op", "show")
		want := ran{"", c.first + "tgtadm: failed to send request hdr to tgt daemon, Transport endpoint is not connected\n", 107}
		if got.plain() != want || !strings.Contains(got.stderr, c.why) {
			t.Errorf("%q: %+v", c.prefix, got)
		}
		if tool, ok := deps.Lookup("tgtadm"); ok {
			if got := theirs(t, tool, "--mode", "sess", "--op", "show"); got != want {
				t.Errorf("tgt's: %q: %+v", c.prefix, got)
			}
		}
	}
}

// A peer that is not allowed is cut off unread: the reset is what is seen.
func TestReset(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s.0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("TGT_IPC_SOCKET", filepath.Join(dir, "s"))
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		// Once something is there to read, closing without reading it is a reset.
		raw, err := c.(*net.UnixConn).SyscallConn()
		if err == nil {
			_ = raw.Read(func(fd uintptr) bool {
				n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
				return n > 0 || err != nil && err != syscall.EAGAIN
			})
		}
		c.Close()
	}()
	got := ours("--mode", "sess", "--op", "show")
	if want := (ran{"", "tgtadm: can't get the response, Connection reset by peer\n", 104}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// After "system delete" tgtadm waits for the end of the daemon: until its socket refuses, or is gone.
func TestWaitsForTheEnd(t *testing.T) {
	for _, unlink := range []bool{false, true} {
		r := record(t)
		r.listener.(*net.UnixListener).SetUnlinkOnClose(unlink)
		asked := make(chan ran)
		r.answers <- success("")
		go func() { asked <- ours("--mode", "system", "--op", "delete") }()
		<-r.requests
		// It goes on while somebody listens: to see that it looks again is to be connected to.
		select {
		case got := <-asked:
			t.Fatalf("unlink %v: it ended while the daemon was there: %+v", unlink, got)
		case <-r.looked:
		}
		r.listener.Close()
		if got := <-asked; got != (ran{}) {
			t.Errorf("unlink %v: %+v", unlink, got)
		}
	}
}

// Nothing waits for ever: not for an answer, and not for the end.
func TestBoundedWaits(t *testing.T) {
	r := record(t)
	c, err := parse([]string{"tgtadm", "--mode", "system", "--op", "delete"})
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	wait := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		return c.exchange(ctx, &out, &said)
	}
	r.answers <- success("")
	var ipc *ipcError
	if err := wait(); !errors.As(err, &ipc) || ipc.status != int(syscall.ETIMEDOUT) || !strings.Contains(ipc.text, "has not ended") {
		t.Errorf("the end: %v", err)
	}
	r.silent.Store(true)
	if err := wait(); !errors.As(err, &ipc) || ipc.status != int(syscall.ETIMEDOUT) || !strings.Contains(ipc.why, "no whole answer") {
		t.Errorf("the answer: %v", err)
	}
	if out.Len()+said.Len() != 0 {
		t.Errorf("%q, %q", &out, &said)
	}
}

// A file named as Go names abstract sockets is a file.
func TestSocketIsAFile(t *testing.T) {
	t.Chdir(t.TempDir())
	l, err := net.Listen("unix", "./@s.0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := os.Stat("@s.0"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TGT_IPC_SOCKET", "@s")
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Read(make([]byte, tgtipc.HeaderSize))
			_, _ = c.Write(success("found\n"))
			c.Close()
		}
	}()
	if got := ours("--mode", "sess", "--op", "show"); got.stdout != "found\n" {
		t.Errorf("%+v", got)
	}
}
