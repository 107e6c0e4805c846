package curve

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// captured returns the requests of libnebd that were captured, by method, the first of each, without the log id, which is optional and which we do not send.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("brpc/testdata/nebd.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "> ") {
			continue
		}
		digits, _, _ := strings.Cut(line[2:], ".")
		f, err := hex.DecodeString(digits[:len(digits)&^1])
		if err != nil {
			t.Fatal(err)
		}
		body, meta, err := brpc.ParseHeader(f)
		if err != nil {
			t.Fatal(err)
		}
		var m brpc.Meta
		if err := brpc.ParseMeta(f[brpc.HeaderSize:brpc.HeaderSize+meta], &m); err != nil {
			t.Fatal(err)
		}
		if method := string(m.Method); out[method] == nil {
			message := f[brpc.HeaderSize+meta : brpc.HeaderSize+body-int(m.Attachment)]
			out[method] = brpc.AppendRequest(nil, string(m.Service), method, 0, 7, message, int(m.Attachment))
		}
	}
	return out
}

// What we send is what libnebd sends.
func TestRequestsAreLibnebds(t *testing.T) {
	want := captured(t)
	call := func(service, method string, message []byte) []byte {
		return brpc.AppendRequest(nil, service, method, 0, 7, message, 0)
	}
	s, c := bare(t)
	c.file = 2
	io := func(r *backstore.Request) []byte {
		s.slots[0].req, s.slots[0].cookie = r, 7
		return c.appendHead(nil, r)
	}
	beat := heartbeatMessage(0x2383, []heartbeat{{2, "cbd:pool//vol1_user_"}})
	beat = bytes.Replace(beat, []byte("\x12\x05lunar"), []byte("\x12\x0b2.7.0-local"), 1)
	for method, got := range map[string][]byte{
		"OpenFile":   call(fileService, "OpenFile", openMessage("cbd:pool//vol1_user_")),
		"GetInfo":    call(fileService, "GetInfo", fdMessage(2)),
		"CloseFile":  call(fileService, "CloseFile", fdMessage(2)),
		"ResizeFile": call(fileService, "ResizeFile", resizeMessage(2, 12<<30)),
		"KeepAlive":  call(heartbeatService, "KeepAlive", beat),
		"Read":       io(read(409600, 4096)),
		"Write":      io(write(4096, make([]byte, 8192))),
		"Discard":    io(&backstore.Request{Op: backstore.Discard, Off: 4096, Len: 4096}),
	} {
		if !bytes.Equal(got, want[method]) {
			t.Errorf("%s:\n%x, want\n%x", method, got, want[method])
		}
		if len(got) > maxHead && method != "KeepAlive" {
			t.Errorf("%s has %d bytes, more than there is room for", method, len(got))
		}
	}
	// The longest there can be has room.
	s.slots[0].cookie, c.file = 1<<63-1, 1<<31-1
	r := write(1<<62, nil)
	r.Len, r.Buf, r.Op = 1<<62, make([]byte, maxTransfer), backstore.Discard
	if n := len(io(r)); n > maxHead {
		t.Errorf("%d bytes", n)
	}
	r.Op = backstore.Write
	s.slots[0].cookie = 1<<63 - 1
	if n := len(io(r)); n > maxHead {
		t.Errorf("%d bytes", n)
	}
}

// bare returns a store whose connection has no socket, with requests that were sent.
func bare(t testing.TB, rs ...*backstore.Request) (*Store, *conn) {
	t.Helper()
	c := &config{name: name{nebd: "cbd:pool//vol_user_"}, inFlight: 8}
	s := &Store{v: &volume{name: c.name}, cfg: c, info: c.describe(info{size: 1 << 30, block: 4096}), slots: make([]slot, 8), win: make([]byte, windowSize)}
	s.warn = func(string) {}
	s.poller.pumping, s.poller.wake = true, -1 // nobody waits for it
	s.ctx, s.cancel = context.WithCancel(context.Background())
	t.Cleanup(s.cancel)
	for i := 7; i >= 0; i-- {
		s.free = append(s.free, uint16(i))
	}
	s.c = &conn{s: s, fd: -1, file: 1}
	s.c.need = brpc.HeaderSize
	for _, r := range rs {
		r.C = ended{}
		if out := s.submit(r); out != backstore.Pending {
			t.Fatalf("%v: %v", r.Op, r.Err)
		}
		s.slots[r.Slot].sent = true
	}
	s.c.sendq = backstore.Queue{}
	return s, s.c
}

type ended struct{}

func (ended) Complete(*backstore.Request) {}

// answerTo makes an answer of the real server's kind.
func answerTo(s *Store, slot int, message, data []byte) []byte {
	return append(brpc.AppendResponse(nil, 0, "", int64(s.slots[slot].cookie), message, len(data)), data...)
}

var ok = []byte{8, 0}

// Answers in any order and in pieces of any size reach their requests.
func TestAnswersInPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var rs []*backstore.Request
		for i := range int64(6) {
			if i%2 == 0 {
				rs = append(rs, read(i*8192, 8192))
			} else {
				rs = append(rs, write(i*8192, make([]byte, 8192)))
			}
		}
		s, c := bare(t, rs...)
		var stream []byte
		for _, i := range rnd.Perm(len(rs)) {
			var d []byte
			if rs[i].Op == backstore.Read {
				d = data(8192, byte(i))
			}
			stream = append(stream, answerTo(s, i, ok, d)...)
		}
		for len(stream) > 0 {
			n := min(1+rnd.IntN(3000), len(stream))
			if n0 := min(n, len(c.dst)); n0 > 0 && rnd.IntN(2) == 0 { // what readv puts in its place
				copy(c.dst, stream[:n0])
				if err := c.placed(n0); err != nil {
					t.Fatal(err)
				}
				stream = stream[n0:]
				continue
			}
			if err := c.feed(stream[:n]); err != nil {
				t.Fatal(err)
			}
			stream = stream[n:]
		}
		if s.done.Len() != len(rs) {
			t.Fatalf("%d of %d have ended", s.done.Len(), len(rs))
		}
		for i, r := range rs {
			if r.Err != nil || r.Op == backstore.Read && !bytes.Equal(r.Buf, data(8192, byte(i))) {
				t.Fatalf("request %d: %v", i, r.Err)
			}
		}
	}
}

// What a server must not send ends the connection; what is merely wrong ends the request.
func TestHostileAnswers(t *testing.T) {
	minus := []byte{8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}
	const waits = backstore.Class(255)
	frame := func(f func(s *Store) []byte) func(*Store) []byte { return f }
	for what, tc := range map[string]struct {
		answer func(s *Store) []byte
		breaks bool            // the connection ends
		class  backstore.Class // else the request does, with this
	}{
		"another protocol":  {answer: frame(func(*Store) []byte { return []byte("HTTP/1.1 200 OK\r\n") }), breaks: true, class: waits},
		"a huge frame":      {answer: frame(func(*Store) []byte { return []byte("PRPC\xff\xff\xff\xff\x00\x00\x00\x0c") }), breaks: true, class: waits},
		"a huge meta":       {answer: frame(func(*Store) []byte { return []byte("PRPC\x00\x10\x00\x00\x00\x0f\x00\x00") }), breaks: true, class: waits},
		"no meta":           {answer: frame(func(*Store) []byte { return []byte("PRPC\x00\x00\x00\x00\x00\x00\x00\x00") }), breaks: true, class: waits},
		"a request":         {answer: frame(func(*Store) []byte { return brpc.AppendRequest(nil, "s", "m", 0, 1, nil, 0) }), breaks: true, class: waits},
		"nobody's call":     {answer: frame(func(*Store) []byte { return brpc.AppendResponse(nil, 0, "", 99<<16, ok, 0) }), breaks: true, class: waits},
		"call 0":            {answer: frame(func(*Store) []byte { return brpc.AppendResponse(nil, 0, "", 0, ok, 0) }), breaks: true, class: waits},
		"a call beyond":     {answer: frame(func(*Store) []byte { return brpc.AppendResponse(nil, 0, "", 1<<16|9999, ok, 0) }), breaks: true, class: waits},
		"an old call":       {answer: frame(func(s *Store) []byte { return brpc.AppendResponse(nil, 0, "", int64(s.slots[0].cookie)-1<<16, ok, 0) }), breaks: true, class: waits},
		"no retCode":        {answer: frame(func(s *Store) []byte { return answerTo(s, 0, nil, make([]byte, 4096)) }), breaks: true, class: waits},
		"a message of junk": {answer: frame(func(s *Store) []byte { return answerTo(s, 0, []byte{0xff}, nil) }), breaks: true, class: waits},
		"a huge message":    {answer: frame(func(s *Store) []byte { return answerTo(s, 0, append(ok, make([]byte, maxMessage)...), nil) }), breaks: true, class: waits},
		"data beyond its frame": {answer: frame(func(s *Store) []byte {
			f := brpc.AppendResponse(nil, 0, "", int64(s.slots[0].cookie), ok, 100)
			binary.BigEndian.PutUint32(f[4:], uint32(len(f)-brpc.HeaderSize))
			return f
		}), breaks: true, class: waits},
		"too little data":     {answer: frame(func(s *Store) []byte { return answerTo(s, 0, ok, make([]byte, 4095)) }), class: backstore.ClassMedium},
		"too much data":       {answer: frame(func(s *Store) []byte { return answerTo(s, 0, ok, make([]byte, 4097)) }), class: backstore.ClassMedium},
		"no data":             {answer: frame(func(s *Store) []byte { return answerTo(s, 0, ok, nil) }), class: backstore.ClassMedium},
		"a failure":           {answer: frame(func(s *Store) []byte { return answerTo(s, 0, minus, nil) }), class: backstore.ClassMedium},
		"a failure with data": {answer: frame(func(s *Store) []byte { return answerTo(s, 0, minus, make([]byte, 4096)) }), class: backstore.ClassMedium},
		"no such method": {answer: frame(func(s *Store) []byte {
			return brpc.AppendResponse(nil, brpc.ENoMethod, "no", int64(s.slots[0].cookie), nil, 0)
		}), class: backstore.ClassInternal},
	} {
		t.Run(what, func(t *testing.T) {
			r := read(0, 4096)
			s, c := bare(t, r)
			err := c.feed(tc.answer(s))
			if (err != nil) != tc.breaks {
				t.Fatalf("%v", err)
			}
			if tc.class == waits {
				if s.done.Len() != 0 {
					t.Errorf("the request has ended: %v", r.Err)
				}
				return
			}
			if s.done.Len() != 1 || backstore.ClassOf(r.Err) != tc.class {
				t.Errorf("%d requests have ended, %v", s.done.Len(), r.Err)
			}
			// The stream goes on behind it.
			next := read(0, 4096)
			next.C = ended{}
			s.submit(next)
			s.slots[next.Slot].sent = true
			if err := c.feed(answerTo(s, int(next.Slot), ok, data(4096, 9))); err != nil || next.Err != nil || !bytes.Equal(next.Buf, data(4096, 9)) {
				t.Errorf("the next answer: %v, %v", err, next.Err)
			}
		})
	}
	// A request of which the socket has not got all cannot be answered.
	r := read(0, 4096)
	s, c := bare(t, r)
	s.slots[0].sent = false
	if c.feed(answerTo(s, 0, ok, make([]byte, 4096))) == nil {
		t.Error("an answer before the request was sent")
	}
}

// A server that has no time now is asked again, with another id, and everything that comes meanwhile waits with it.
func TestLater(t *testing.T) {
	for _, code := range []int32{brpc.ELogOff, brpc.EOvercrowded, brpc.ELimit, brpc.EInternal} {
		r, w := read(0, 4096), write(4096, make([]byte, 4096))
		s, c := bare(t, r)
		old := s.slots[0].cookie
		if err := c.feed(brpc.AppendResponse(nil, code, "later", int64(old), nil, 0)); err != nil || s.done.Len() != 0 {
			t.Fatalf("code %d: %v, and %d have ended: %v", code, err, s.done.Len(), r.Err)
		}
		s.again.Stop()
		w.C = ended{}
		s.submit(w)
		if s.wait.Len() != 2 {
			t.Fatalf("%d wait", s.wait.Len())
		}
		s.held = false // what the timer does
		s.adopt()
		if s.wait.Len() != 0 || s.c.sendq.Len() != 2 || s.slots[0].cookie == old {
			t.Fatalf("%d wait, %d are to be sent", s.wait.Len(), s.c.sendq.Len())
		}
		s.slots[0].sent, s.c.sendq = true, backstore.Queue{}
		if err := c.feed(answerTo(s, 0, ok, data(4096, 3))); err != nil || r.Err != nil || !bytes.Equal(r.Buf, data(4096, 3)) {
			t.Errorf("the second answer: %v, %v", err, r.Err)
		}
	}
}

// FuzzAnswers: whatever comes, no request ends twice, none with data that did not come, and buffers of others are left alone.
func FuzzAnswers(f *testing.F) {
	s, _ := bare(f, read(0, 4096), write(4096, make([]byte, 4096)))
	f.Add(answerTo(s, 0, ok, data(4096, 1)))
	f.Add(append(answerTo(s, 1, ok, nil), answerTo(s, 0, ok, data(4096, 1))...))
	f.Add(answerTo(s, 1, []byte{8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, nil))
	f.Add(brpc.AppendResponse(nil, brpc.ELogOff, "Server is stopping", int64(s.slots[0].cookie), nil, 0))
	f.Add(brpc.AppendResponse(nil, brpc.ENoMethod, "no", int64(s.slots[1].cookie), nil, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, w := read(0, 4096), write(4096, make([]byte, 4096))
		guard := make([]byte, 3*4096)
		r.Buf = guard[4096 : 2*4096 : 2*4096]
		s, c := bare(t, r, w)
		defer func() {
			if s.again != nil {
				s.again.Stop()
			}
		}()
		_ = c.feed(b) // an error is an answer
		ends := map[*backstore.Request]int{}
		for q := s.done.Pop(); q != nil; q = s.done.Pop() {
			if ends[q]++; ends[q] > 1 {
				t.Fatalf("%v has ended twice", q.Op)
			}
		}
		if len(s.free)+2-len(ends) != len(s.slots) {
			t.Fatalf("%d slots are free, %d requests have ended", len(s.free), len(ends))
		}
		if ends[r] == 1 && r.Err == nil && !bytes.Contains(b, r.Buf) {
			t.Fatal("a read has ended with data that did not come")
		}
		if !bytes.Equal(guard[:4096], make([]byte, 4096)) || !bytes.Equal(guard[2*4096:], make([]byte, 4096)) {
			t.Fatal("bytes beside the buffer were written to")
		}
	})
}
