package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// A recorder is a daemon that notes what it is sent and answers as it is told.
type recorder struct {
	t        testing.TB
	prefix   string // what TGT_IPC_SOCKET is to be
	listener net.Listener
	requests chan []byte   // every request, whole
	answers  chan []byte   // the answer to each
	looked   chan struct{} // somebody connected and sent nothing
	silent   atomic.Bool   // requests are taken and not answered
}

// record starts a recorder on control port 0 and points this process at it.
func record(t testing.TB) *recorder {
	t.Helper()
	dir, err := os.MkdirTemp("", "tgtadm") // a short path, whatever the test is called
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{t: t, prefix: filepath.Join(dir, "s"), requests: make(chan []byte, 64), answers: make(chan []byte, 64), looked: make(chan struct{}, 64)}
	if r.listener, err = net.Listen("unix", r.prefix+".0"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TGT_IPC_SOCKET", r.prefix)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := r.listener.Accept()
			if err != nil {
				return
			}
			r.serve(c)
		}
	}()
	t.Cleanup(func() {
		r.listener.Close()
		<-served
		os.RemoveAll(dir)
	})
	return r
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	request := make([]byte, tgtipc.HeaderSize)
	if _, err := io.ReadFull(c, request); err != nil {
		select {
		case r.looked <- struct{}{}:
		default:
		}
		return
	}
	if n := binary.NativeEndian.Uint32(request[72:]); n > tgtipc.HeaderSize {
		rest := make([]byte, n-tgtipc.HeaderSize)
		if _, err := io.ReadFull(c, rest); err != nil {
			return
		}
		request = append(request, rest...)
	}
	r.requests <- request
	if r.silent.Load() {
		_, _ = io.Copy(io.Discard, c) // until the client has enough
		return
	}
	answer := success("")
	select {
	case answer = <-r.answers:
	default:
	}
	_, _ = c.Write(answer)
}

// sent are the requests that came since the last call, hex and text, without our question for a reason, which must be there
// when want says so.
func (r *recorder) sent(want uint32) (requests []string) {
	for {
		select {
		case b := <-r.requests:
			if got := binary.NativeEndian.Uint32(b[112:]); got != want {
				r.t.Errorf("a request asks for its reason by %#x, want %#x", got, want)
			}
			clear(b[112:116])
			requests = append(requests, hex.EncodeToString(b[:tgtipc.HeaderSize])+" "+string(b[tgtipc.HeaderSize:]))
		default:
			return requests
		}
	}
}

// success is an answer with a text, which may be empty.
func success(text string) []byte {
	if text != "" {
		text += "\x00"
	}
	return append(answerHeader(0, len(text)), text...)
}

func answerHeader(number uint32, text int) []byte {
	b := make([]byte, tgtipc.ResponseSize)
	binary.NativeEndian.PutUint32(b, number)
	binary.NativeEndian.PutUint32(b[4:], uint32(tgtipc.ResponseSize+text))
	return b
}

// A ran is how a command ended.
type ran struct {
	stdout, stderr string
	status         int
}

// ours runs this package's tgtadm.
func ours(args ...string) ran {
	var out, said bytes.Buffer
	status := run(append([]string{"tgtadm"}, args...), &out, &said)
	return ran{out.String(), said.String(), status}
}

// plain is the result without the second lines that tgt's tgtadm does not have.
func (r ran) plain() ran {
	var b strings.Builder
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, "tgtadm: reason: ") {
			b.WriteString(line)
		}
	}
	r.stderr = b.String()
	return r
}

// theirs runs tgt's own tgtadm.
func theirs(t testing.TB, tool *deps.Tool, args ...string) ran {
	t.Helper()
	c := tool.Command(t.Context(), args...)
	c.Args[0] = "tgtadm"
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status := c.ProcessState.ExitCode()
	if ws, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		t.Fatalf("tgt's tgtadm %q ended by %v", args, ws.Signal())
	}
	return ran{out.String(), said.String(), status}
}
