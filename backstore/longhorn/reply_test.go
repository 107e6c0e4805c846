package longhorn

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

// bare returns a store with one connection that has no socket, and puts requests on the wire.
func bare(t testing.TB, rs ...*backstore.Request) (*Store, *conn) {
	t.Helper()
	c := &config{volume: "vol", inFlight: 8, minPause: limit, maxPause: limit, grow: limit, silent: limit}
	s, err := newStore(c, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.mu.Lock()
		s.unstall()
		if s.quiet != nil {
			s.quiet.Stop()
		}
		s.mu.Unlock()
		s.cancel()
		s.closePoller()
	})
	cn := newConn(s, -1, s.info.Size)
	s.c = cn
	for _, r := range rs {
		if r.Err = s.refuse(r); r.Err != nil {
			t.Fatal(r.Err)
		}
		s.begin(r)
	}
	sendBare(cn)
	return s, cn
}

// sendBare gives everything queued to a socket that is not there.
func sendBare(c *conn) {
	for c.sendq.Head() != nil || c.ctl.left > 0 {
		c.advance(c.gather())
	}
}

// The numbers of the first requests of a new store: count<<12 | slot.
const firstSeq, secondSeq, thirdSeq = 1 << slotBits, 2<<slotBits | 1, 3<<slotBits | 2

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// The header has no padding, and its numbers the order of bytes of the engine.
func TestHeaderBytes(t *testing.T) {
	var b [headerSize]byte
	h := header{magic: magic, seq: 0x01020304, typ: typeWrite, off: 0x1122334455667788, size: 4096, length: 4096}
	h.put(&b)
	if got, want := hex.EncodeToString(b[:]), "011b"+"04030201"+"01000000"+"8877665544332211"+"00100000"+"00100000"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var back header
	if err := back.get(&b); err != nil || back != h {
		t.Errorf("%+v, %v", back, err)
	}
}

// What breaks the protocol ends the connection.
func TestBrokenProtocol(t *testing.T) {
	for _, tc := range []struct {
		name string
		op   *backstore.Request
		says []byte
		want string
	}{
		{"no magic", read(0, sector), make([]byte, headerSize), "magic 0x0"},
		{"another magic", read(0, sector), cat([]byte{2, 0x1b}, make([]byte, headerSize)), "magic 0x1b02"},
		{"another type", read(0, sector), message(header{seq: firstSeq, typ: 9}, nil), "type 9"},
		{"an end with data", read(0, sector), cat(make([]byte, 6), []byte{typeClose, 0, 0, 0}, make([]byte, 12), []byte{1, 0, 0, 0}), "magic 0x0"},
		{"a request", read(0, sector), message(header{seq: firstSeq, typ: typeRead, size: sector}, nil), "which only we send"},
		{"a slot that is none", read(0, sector), message(header{seq: 1<<slotBits | 100, typ: typeError}, nil), "nobody sent"},
		{"a free slot", read(0, sector), message(header{seq: 1<<slotBits | 3, typ: typeError}, nil), "not waiting"},
		{"number 0", read(0, sector), message(header{typ: typeError}, nil), "not waiting"},
		{"an old number", read(0, sector), message(header{seq: 2 << slotBits, typ: typeError}, nil), "not waiting"},
		{"answered twice", write(0, fill(sector, 1)), cat(message(header{seq: firstSeq, typ: typeResponse, size: sector}, nil),
			message(header{seq: firstSeq, typ: typeResponse, size: sector}, nil)), "not waiting"},
		{"too little data", read(0, sector), message(header{seq: firstSeq, typ: typeResponse, size: sector}, fill(sector-1, 1)), "4095 bytes in answer to a read of 4096"},
		{"too much data", read(0, sector), message(header{seq: firstSeq, typ: typeResponse, size: sector}, fill(sector+1, 1)), "4097 bytes in answer to a read of 4096"},
		{"data for a write", write(0, fill(sector, 1)), message(header{seq: firstSeq, typ: typeResponse, size: sector}, fill(1, 1)), "1 bytes in answer to a message of type 1"},
		{"more than the end", read(0, sector), message(header{seq: firstSeq, typ: typeEOF}, fill(maxMessage+1, 1))[:headerSize], "an answer of type 4 with 65537 bytes"},
		{"an endless error", read(0, sector), message(header{seq: firstSeq, typ: typeError}, fill(maxMessage+1, 1))[:headerSize], "an answer of type 3 with 65537 bytes"},
		{"a ping with data", read(0, sector), message(header{seq: 7, typ: typePing}, fill(1, 1)), "a ping with 1 bytes"},
		{"an endless pong", read(0, sector), message(header{seq: pingSlot, typ: typeError}, fill(maxMessage+1, 1))[:headerSize], "answer to a ping with 65537 bytes"},
	} {
		for _, piece := range []int{1, 7, 1 << 20} { // as the socket gives it
			tc.op.Err = nil
			s, c := bare(t, tc.op)
			err := error(nil)
			for says := tc.says; len(says) > 0 && err == nil; {
				k := min(piece, len(says))
				err = c.feed(says[:k])
				says = says[k:]
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
			}
			if n := s.done.Len(); n > 0 && tc.name != "answered twice" {
				t.Errorf("%s: %d requests ended", tc.name, n)
			}
		}
	}
}

// A request of which the socket has only a part cannot have been answered.
func TestAnsweredBeforeSent(t *testing.T) {
	w := write(0, fill(sector, 1))
	_, c := bare(t)
	s := c.s
	s.begin(w)
	c.gather()
	c.advance(headerSize + 100)
	if err := c.feed(message(header{seq: firstSeq, typ: typeResponse, size: sector}, nil)); err == nil || !strings.Contains(err.Error(), "not waiting") {
		t.Errorf("%v", err)
	}
}

// A ping is answered, between two requests and not in the midst of one; a pong is none's answer.
func TestPing(t *testing.T) {
	_, c := bare(t)
	c.s.begin(write(0, fill(sector, 1)))
	c.gather()
	c.advance(100)
	if err := c.feed(message(header{seq: 77, typ: typePing}, nil)); err != nil {
		t.Fatal(err)
	}
	if n := c.gather(); n != headerSize+sector-100 {
		t.Errorf("%d bytes are next, want the rest of the write", n)
	}
	c.advance(headerSize + sector - 100)
	if n := c.gather(); n != headerSize {
		t.Errorf("%d bytes are next, want the answer to the ping", n)
	}
	var h header
	if err := h.get(&c.ctl.b); err != nil || h.seq != 77 || h.typ != typeResponse {
		t.Errorf("%+v, %v", h, err)
	}
	c.advance(headerSize)
	if c.hasWork() {
		t.Error("more to send")
	}
	if err := c.feed(cat(message(header{seq: pingSlot, typ: typeResponse}, nil), message(header{seq: pingSlot, typ: typeError}, []byte("no")),
		message(header{seq: firstSeq, typ: typeResponse, size: sector}, nil))); err != nil || c.s.done.Len() != 1 {
		t.Errorf("%v, %d ended", err, c.s.done.Len())
	}
}

// No two sendings that an engine could confuse have one number, and none is 0 or a ping's.
func TestNumbers(t *testing.T) {
	s, c := bare(t)
	s.count = 1<<(32-slotBits) - 2
	for range 4 {
		r := read(0, sector)
		s.begin(r)
		sendBare(c)
		seq := s.slots[r.Slot].seq
		if seq == 0 || seq&slotMask != uint32(r.Slot) || seq>>slotBits == 0 || seq == pingSlot {
			t.Fatalf("number %#x for slot %d", seq, r.Slot)
		}
	}
	if maxInFlight+1 > pingSlot {
		t.Error("a slot has the ping's index")
	}
}

// FuzzEngine takes what a hostile engine may send to requests in flight. Nothing may panic, each request ends at most once, and a
// read ends well only with every byte of its buffer written.
func FuzzEngine(f *testing.F) {
	f.Add(cat(message(header{seq: firstSeq, typ: typeResponse, size: sector}, fill(sector, 1)), message(header{seq: secondSeq, typ: typeResponse, size: sector}, nil),
		message(header{seq: thirdSeq, typ: typeResponse}, nil)))
	f.Add(cat(message(header{seq: thirdSeq, typ: typeError}, []byte("tcp://1: EOF")), message(header{seq: secondSeq, typ: typeNoSpace}, []byte("no space left on device"))))
	f.Add(cat(message(header{seq: firstSeq, typ: typeEOF}, fill(100, 1)), message(header{seq: 5, typ: typePing}, nil), message(header{seq: pingSlot, typ: typeResponse}, nil)))
	f.Add(cat(message(header{seq: secondSeq, typ: typeError}, []byte("r/w timeout")), message(header{seq: firstSeq, typ: typeError}, []byte("no backend available"))))
	f.Add(cat(message(header{seq: secondSeq, typ: typeError}, []byte("EOF: Write of 1 bytes at offset 2 is beyond volume size 3")), make([]byte, 6), []byte{typeClose}, make([]byte, 19)))
	f.Fuzz(func(t *testing.T, says []byte) {
		r, w, d := read(0, sector), write(8192, fill(sector, 1)), discard(16384, sector)
		rs := []*backstore.Request{r, w, d}
		for i := range r.Buf {
			r.Buf[i] = 0xdb
		}
		s, c := bare(t, rs...)
		ends := map[*backstore.Request]int{}
		for err := error(nil); len(says) > 0 && err == nil; {
			k := min(len(says), 1+int(says[0])%400)
			err = c.feed(says[:k])
			says = says[k:]
			sendBare(c)
			for q := s.done.Pop(); q != nil; q = s.done.Pop() {
				ends[q]++
			}
		}
		for _, q := range rs {
			if ends[q] > 1 {
				t.Fatalf("%v ended %d times", q.Op, ends[q])
			}
		}
		if len(s.free)+len(rs)-len(ends) != s.cfg.inFlight {
			t.Fatalf("%d slots are free with %d of %d requests ended", len(s.free), len(ends), len(rs))
		}
		if waiting := s.wait.Len() + s.later.Len(); waiting > len(rs)-len(ends) {
			t.Fatalf("%d requests wait of %d", waiting, len(rs)-len(ends))
		}
		if c.inflight < 0 || c.reads < 0 || c.readBytes < 0 {
			t.Fatalf("%d in flight, %d reads of %d bytes", c.inflight, c.reads, c.readBytes)
		}
	})
}
