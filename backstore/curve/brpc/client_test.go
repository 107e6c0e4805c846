package brpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const patience = 20 * time.Second

// serve runs a server on a unix socket until the test ends.
func serve(t *testing.T, handle func(*Call)) (address string) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handle: handle}
	end := make(chan error, 1)
	go func() { end <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		<-end
		s.CloseConns()
	})
	return address
}

func dial(t *testing.T, address string) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := Dial(ctx, "unix", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestCall(t *testing.T) {
	c := dial(t, serve(t, func(call *Call) {
		switch call.Method {
		case "Echo":
			call.Reply(append([]byte(call.Service+" "), call.Message...), call.Attachment)
		case "Stop":
			call.Fail(ELogOff, "Server is stopping")
		}
	}))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, attachment := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("abc"), 1<<20)} {
		m, a, err := c.Call(ctx, "a.b", "Echo", []byte("message"), attachment)
		if err != nil || string(m) != "a.b message" || !bytes.Equal(a, attachment) {
			t.Errorf("%q, %d bytes, %v", m, len(a), err)
		}
	}
	_, _, err := c.Call(ctx, "a.b", "Stop", nil, nil)
	var e *Error
	if !errors.As(err, &e) || !e.Stopping() || !strings.Contains(err.Error(), "Server is stopping") {
		t.Errorf("an error of brpc: %v", err)
	}
}

// Answers find their calls in whatever order they come, and one that does not come holds up no other.
func TestAnswersInAnyOrder(t *testing.T) {
	var mu sync.Mutex
	var held []*Call
	c := dial(t, serve(t, func(call *Call) {
		mu.Lock()
		defer mu.Unlock()
		if string(call.Message) == "never" {
			return
		}
		if held = append(held, call); len(held) == 8 {
			for i := range held {
				h := held[len(held)-1-i]
				h.Reply(h.Message, nil)
			}
		}
	}))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	never, giveUp := context.WithCancel(ctx)
	unanswered := make(chan error, 1)
	go func() {
		_, _, err := c.Call(never, "s", "M", []byte("never"), nil)
		unanswered <- err
	}()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			want := []byte{byte(i)}
			if got, _, err := c.Call(ctx, "s", "M", want, nil); err != nil || !bytes.Equal(got, want) {
				t.Errorf("call %d: %v, %v", i, got, err)
			}
		}()
	}
	wg.Wait()
	giveUp()
	if err := <-unanswered; !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) != 0 {
		t.Errorf("%d calls are kept", len(c.waiting))
	}
}

// A connection that ends ends its calls, and later ones.
func TestLostConnection(t *testing.T) {
	c := dial(t, serve(t, func(call *Call) { call.conn.Close() }))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 2 {
		if _, _, err := c.Call(ctx, "s", "M", nil, nil); !errors.Is(err, ErrLost) {
			t.Errorf("%v, want ErrLost", err)
		}
	}
	<-c.Gone()
}

// A peer that takes nothing does not hold a call for longer than its context.
func TestFullSocket(t *testing.T) {
	ours, theirs := net.Pipe() // takes nothing that nobody reads
	defer theirs.Close()
	c := NewClient(ours)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.Call(ctx, "s", "M", nil, make([]byte, 1<<20)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	<-c.Gone() // a frame of which a part may be sent leaves the connection of no use
}

// What a server must not send ends the connection, and is not kept.
func TestHostileServer(t *testing.T) {
	answer := func(attachment int) []byte { return AppendResponse(nil, 0, "", 1, []byte("m"), attachment) }
	patched := func(at int, size uint32) []byte {
		b := answer(0)
		binary.BigEndian.PutUint32(b[at:], size)
		return b
	}
	for what, b := range map[string][]byte{
		"another protocol":             []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"too large a frame":            patched(4, 1<<32-1),
		"a meta larger than the body":  patched(8, 1<<20),
		"an end within a frame":        answer(0)[:HeaderSize+3],
		"a frame that never comes":     patched(4, MaxBody)[:HeaderSize],
		"a request":                    AppendRequest(nil, "s", "M", 0, 1, nil, 0),
		"a meta that is none":          append(patched(8, 0), 0),
		"an attachment beyond the end": append(answer(5), 1)[:len(answer(5))],
	} {
		t.Run(what, func(t *testing.T) {
			ours, theirs := net.Pipe()
			c := NewClient(ours)
			defer c.Close()
			go func() {
				defer theirs.Close()
				if _, err := readFrame(theirs); err == nil {
					_, _ = theirs.Write(b)
				}
			}()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if _, _, err := c.Call(ctx, "s", "M", nil, nil); !errors.Is(err, ErrLost) {
				t.Errorf("%v, want ErrLost", err)
			}
		})
	}
}

// A call whose attachment is larger than its frame is answered as brpc does, and the connection lives.
func TestServerRefusesAttachment(t *testing.T) {
	address := serve(t, func(call *Call) { call.Reply([]byte("ok"), nil) })
	nc, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	bad := AppendRequest(nil, "s", "M", 0, 1, nil, 100)
	binary.BigEndian.PutUint32(bad[4:], uint32(len(bad)-HeaderSize))
	for i, want := range []int32{ERequest, 0} {
		if _, err := nc.Write(bad); err != nil {
			t.Fatal(err)
		}
		f, err := readFrame(nc)
		if err != nil || f.Code != want {
			t.Fatalf("answer %d: %+v, %v", i, f, err)
		}
		bad = AppendRequest(nil, "s", "M", 0, 2, nil, 0)
	}
}
