package nbd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Chunks may come in any order and size, with holes between, and interleaved with other replies.
func TestChunksInAnyOrder(t *testing.T) {
	const n = 64 << 10
	s := newServer(t, "unix")
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range s.data {
		if i/4096%3 != 0 { // every third page is a hole
			s.data[i] = byte(rnd.Uint32())
		}
	}
	var held []srvRequest
	s.answer = func(c *srvConn, q srvRequest) bool {
		held = append(held, q)
		if len(held) < 4 {
			return true
		}
		var chunks [][]byte
		for _, q := range held {
			for off := q.off; off < q.off+n; {
				size := min(512*(1+rnd.Uint64N(8)), 4096-off%4096)
				if off/4096%3 == 0 {
					chunks = append(chunks, holeChunk(q.cookie, 0, off, uint32(size)))
				} else {
					chunks = append(chunks, dataChunk(q.cookie, 0, off, s.data[off:off+size]))
				}
				off += size
			}
		}
		rnd.Shuffle(len(chunks), func(i, j int) { chunks[i], chunks[j] = chunks[j], chunks[i] })
		for _, q := range held {
			chunks = append(chunks, chunk(q.cookie, chunkDone, chunkNone, nil))
		}
		held = nil
		// In pieces of any size, so that headers are cut.
		for all := bytes.Join(chunks, nil); len(all) > 0; {
			k := min(1+rnd.IntN(3000), len(all))
			c.send(all[:k])
			all = all[k:]
		}
		return true
	}
	h := openURI(t, s.start().uri(""), newTestLoop(t))
	for range 20 {
		var rs []*backstore.Request
		for i := range int64(4) {
			r := read(i*100<<10, n)
			copy(r.Buf, fill(n, 0xee))
			rs = append(rs, r)
		}
		d := h.submit(rs...)
		for range rs {
			r := h.wait(d)
			if r.Err != nil || !bytes.Equal(r.Buf, s.data[r.Off:r.Off+n]) {
				t.Fatalf("read at %d: %v", r.Off, r.Err)
			}
		}
	}
	h.close()
}

// bare returns a store with one connection that has no socket, and puts requests on the wire.
func bare(t testing.TB, structured bool, rs ...*backstore.Request) (*Store, *conn) {
	return bareOf(t, &export{size: 1 << 20, flags: allFlags, structured: structured, blocks: true, min: 1, preferred: 4096, payload: 1 << 20}, rs...)
}

func bareOf(t testing.TB, ex *export, rs ...*backstore.Request) (*Store, *conn) {
	t.Helper()
	c := &config{scheme: "nbd", network: "unix", conns: 1, inFlight: 8, offlineAfter: defaultOffline}
	s, err := newStore(c, ex, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cancel()
		s.closePoller()
	})
	cn := newConn(s, 0, -1, ex)
	s.conns[0], s.live = cn, 1
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
	for c.sendq.Head() != nil {
		c.advance(c.gather())
	}
}

// What breaks the protocol ends the connection.
func TestBrokenProtocol(t *testing.T) {
	page := fill(4096, 1)
	tests := []struct {
		name string
		op   *backstore.Request
		says func(cookie uint64) []byte
		want string
	}{
		{"no magic", read(0, 4096), func(c uint64) []byte { return make([]byte, 16) }, "magic 0x0"},
		{"unknown slot", read(0, 4096), func(c uint64) []byte { return simpleReply(0xffff, 5) }, "nobody sent"},
		{"free slot", read(0, 4096), func(c uint64) []byte { return simpleReply(0, 5) }, "not waiting"},
		{"old cookie", read(0, 4096), func(c uint64) []byte { return simpleReply(c+1<<16, 5) }, "not waiting"},
		{"answered twice", flush(), func(c uint64) []byte {
			return cat(chunk(c, chunkDone, chunkNone, nil), chunk(c, chunkDone, chunkNone, nil))
		}, "not waiting"},
		{"simple reply to a read", read(0, 4096), func(c uint64) []byte { return simpleReply(c, 0) }, "structured replies were agreed on"},
		{"before the volume's part", read(4096, 4096), func(c uint64) []byte { return dataChunk(c, 1, 4095, page) }, "in reply to a read"},
		{"behind it", read(4096, 4096), func(c uint64) []byte { return dataChunk(c, 1, 4097, page) }, "in reply to a read"},
		{"offset that wraps", read(4096, 4096), func(c uint64) []byte { return dataChunk(c, 1, 1<<64-4096, page) }, "in reply to a read"},
		{"too long", read(0, 4096), func(c uint64) []byte { return dataChunk(c, 1, 0, append(page, 1)) }, "in reply to a read"},
		{"no data in a data chunk", read(0, 4096), func(c uint64) []byte { return chunk(c, 0, chunkData, be64(0)) }, "type 1 with 8 bytes"},
		{"overlap", read(0, 8192), func(c uint64) []byte { return cat(dataChunk(c, 0, 0, page), dataChunk(c, 0, 4095, page)) }, "came twice"},
		{"the same again", read(0, 8192), func(c uint64) []byte { return cat(dataChunk(c, 0, 0, page), holeChunk(c, 0, 0, 4096)) }, "came twice"},
		{"hole of nothing", read(0, 4096), func(c uint64) []byte { return holeChunk(c, 0, 0, 0) }, "chunk of 0 bytes"},
		{"long hole", read(0, 4096), func(c uint64) []byte { return holeChunk(c, 0, 0, 1<<32-1) }, "in reply to a read"},
		{"hole of a wrong size", read(0, 4096), func(c uint64) []byte { return chunk(c, 0, chunkHole, make([]byte, 13)) }, "type 2 with 13 bytes"},
		{"none with bytes", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, chunkNone, page) }, "type 0 with 4096"},
		{"none that is not the last", read(0, 4096), func(c uint64) []byte { return chunk(c, 0, chunkNone, nil) }, "type 0 with 0"},
		{"data in reply to a write", write(0, page), func(c uint64) []byte { return dataChunk(c, 1, 0, page) }, "in reply to command 1"},
		{"unknown type", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, 99, nil) }, "type 99"},
		{"block status", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, 5, make([]byte, 12)) }, "type 5"},
		{"short error chunk", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, chunkError, make([]byte, 5)) }, "with 5 bytes"},
		{"long error chunk", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, chunkError, make([]byte, maxErrorChunk+1)) }, "with 8193 bytes"},
		{"error 0", read(0, 4096), func(c uint64) []byte { return errorChunk(c, 1, 0, "fine") }, "number 0"},
		{"text longer than its chunk", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, chunkError, cat(be32(5), be16(9), make([]byte, 8))) }, "9 bytes of text"},
		{"text over the offset", read(0, 4096), func(c uint64) []byte { return chunk(c, 1, chunkErrorAtOff, cat(be32(5), be16(1), make([]byte, 8))) }, "1 bytes of text"},
		{"error elsewhere", read(4096, 4096), func(c uint64) []byte { return errorAtChunk(c, 1, 5, "", 0) }, "an error at byte 0"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s, c := bare(t, true, tc.op)
			err := c.feed(tc.says(s.slots[tc.op.Slot].cookie))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
		})
	}
	s, c := bare(t, false, read(0, 1))
	if err := c.feed(chunk(s.slots[0].cookie, 1, chunkNone, nil)); err == nil {
		t.Fatal("a structured reply that was not agreed on was taken")
	}
	// A reply to what is not wholly sent cannot be one.
	s, c = bare(t, true)
	r := write(0, page)
	s.begin(r)
	c.advance(requestSize + 4095)
	if err := c.feed(chunk(s.slots[r.Slot].cookie, 1, chunkNone, nil)); err == nil {
		t.Fatal("a reply to half a write was taken")
	}
}

func TestPieces(t *testing.T) {
	// More separate pieces than are kept: every second byte.
	r := read(0, 2*maxSpans+2)
	s, c := bare(t, true, r)
	var err error
	n := 0
	for ; err == nil; n++ {
		err = c.feed(dataChunk(s.slots[0].cookie, 0, uint64(2*n), []byte{1}))
	}
	if n != maxSpans+1 {
		t.Fatalf("piece %d was refused: %v", n, err)
	}
	// A model of arrived: a byte a mark.
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		sl := slot{}
		model := make([]bool, 40)
		for range 60 {
			from := rnd.IntN(len(model))
			size := 1 + rnd.IntN(min(6, len(model)-from))
			twice := false
			for _, m := range model[from : from+size] {
				twice = twice || m
			}
			if err := sl.arrived(int64(from), int64(size)); (err != nil) != twice {
				t.Fatalf("bytes %d to %d in %v: %v", from, from+size, sl.cover, err)
			}
			if twice {
				continue
			}
			for i := range size {
				model[from+i] = true
			}
			count := 0
			for i, m := range model {
				if m && (i == 0 || !model[i-1]) {
					count++
				}
			}
			if len(sl.cover) != count {
				t.Fatalf("%v has not the %d pieces of %v", sl.cover, count, model)
			}
		}
	}
}

func TestErrorAnswers(t *testing.T) {
	tests := []struct {
		errno uint32
		class backstore.Class
	}{
		{nbdEPERM, backstore.ClassReadOnly}, {nbdEIO, backstore.ClassMedium}, {nbdENOMEM, backstore.ClassBusy},
		{nbdEINVAL, backstore.ClassRange}, {nbdENOSPC, backstore.ClassNoSpace}, {nbdEOVERFLOW, backstore.ClassRange},
		{nbdENOTSUP, backstore.ClassUnsupported}, {777, backstore.ClassMedium},
	}
	for _, tc := range tests {
		r, w := read(4096, 4096), write(0, fill(8, 1))
		s, c := bare(t, true, r, w)
		err := c.feed(cat(dataChunk(s.slots[r.Slot].cookie, 0, 4096, fill(4095, 1)),
			errorAtChunk(s.slots[r.Slot].cookie, 0, tc.errno, "bad\nsector", 8191),
			errorChunk(s.slots[r.Slot].cookie, chunkDone, nbdEIO, "a second error"),
			simpleReply(s.slots[w.Slot].cookie, tc.errno)))
		if err != nil {
			t.Fatal(err)
		}
		classIs(t, r.Err, tc.class)
		classIs(t, w.Err, tc.class)
		var se *ServerError
		if !errors.As(r.Err, &se) || se.Errno != tc.errno || se.Text != "bad?sector" || r.Err.(*backstore.Error).Off != 8191 {
			t.Fatalf("%v", r.Err)
		}
		if !strings.Contains(r.Err.Error(), "bad?sector") {
			t.Fatalf("%v", r.Err)
		}
		if s.failed != nil {
			t.Fatal("an ordinary error made the store failed")
		}
	}
	// An error chunk of an unknown kind is an error, and the stream goes on behind it.
	r, r2 := read(0, 1), read(1, 1)
	s, c := bare(t, true, r, r2)
	if err := c.feed(cat(chunk(s.slots[r.Slot].cookie, chunkDone, chunkErrorBit|99, cat(be32(nbdEIO), be16(2), []byte("xyz"))),
		dataChunk(s.slots[r2.Slot].cookie, chunkDone, 1, []byte{9}))); err != nil {
		t.Fatal(err)
	}
	classIs(t, r.Err, backstore.ClassMedium)
	if r2.Err != nil || r2.Buf[0] != 9 {
		t.Fatal(r2.Err)
	}
}

// A reply that ends without all of the data fails the read, whatever was there.
func TestShortReply(t *testing.T) {
	for _, says := range []func(uint64) []byte{
		func(c uint64) []byte { return chunk(c, chunkDone, chunkNone, nil) },
		func(c uint64) []byte { return dataChunk(c, chunkDone, 0, fill(4095, 1)) },
		func(c uint64) []byte {
			return cat(dataChunk(c, 0, 0, fill(2000, 1)), dataChunk(c, chunkDone, 2001, fill(2095, 1)))
		},
	} {
		r := read(0, 4096)
		s, c := bare(t, true, r)
		if err := c.feed(says(s.slots[0].cookie)); err != nil {
			t.Fatal(err)
		}
		if s.done.Len() != 1 {
			t.Fatal("the read did not end")
		}
		classIs(t, r.Err, backstore.ClassTransport)
	}
}

// A failed flush or FUA write makes the store failed; a refused one does not.
func TestSticky(t *testing.T) {
	fua := func() *backstore.Request {
		r := write(0, fill(8, 1))
		r.Flags = backstore.FUA
		return r
	}
	for _, tc := range []struct {
		r     *backstore.Request
		errno uint32
		stick bool
	}{{flush(), nbdEIO, true}, {fua(), nbdEIO, true}, {fua(), nbdENOSPC, true}, {fua(), nbdEINVAL, false}, {write(0, fill(8, 1)), nbdEIO, false}} {
		s, c := bare(t, true, tc.r)
		if err := c.feed(simpleReply(s.slots[0].cookie, tc.errno)); err != nil {
			t.Fatal(err)
		}
		s.unlockBare()
		for _, r := range []*backstore.Request{write(0, fill(8, 1)), flush(), {Op: backstore.Discard, Len: 1}, {Op: backstore.WriteZeroes, Len: 1}} {
			if out := s.submit(r); (out == backstore.Done) != tc.stick {
				t.Fatalf("%v with error %d, then %v: outcome %d", tc.r.Op, tc.errno, r.Op, out)
			} else if tc.stick {
				classIs(t, r.Err, backstore.ClassMedium)
			}
		}
		if out := s.submit(read(0, 1)); out != backstore.Pending {
			t.Fatalf("a read of a failed store: outcome %d", out)
		}
	}
}

// unlockBare forgets completions: the requests of these tests have no Completer.
func (s *Store) unlockBare() { s.done, s.pumping = backstore.Queue{}, true }

// A FUA read is a flush and then the read.
func TestFUARead(t *testing.T) {
	r := read(0, 4)
	r.Flags = backstore.FUA
	s, c := bare(t, true, r)
	first := s.slots[0].cookie
	if s.slots[0].cmd != cmdFlush {
		t.Fatal("no flush")
	}
	if err := c.feed(chunk(first, 1, chunkNone, nil)); err != nil {
		t.Fatal(err)
	}
	sendBare(c)
	if second := s.slots[0].cookie; second == first || s.slots[0].cmd != cmdRead || s.done.Len() != 0 {
		t.Fatal("no read after the flush")
	}
	if err := c.feed(dataChunk(s.slots[0].cookie, 1, 0, []byte("data"))); err != nil {
		t.Fatal(err)
	}
	if r.Err != nil || string(r.Buf) != "data" || s.done.Len() != 1 {
		t.Fatalf("%v %q", r.Err, r.Buf)
	}
}

// FuzzServer takes what a hostile server may send to requests in flight. Nothing may panic, each request ends at
// most once, and a read ends well only with every byte of its buffer written.
func FuzzServer(f *testing.F) {
	// The cookies of four requests on a new store: slot | sending<<16.
	const rd, wr, fl, fr = 0 | 1<<16, 1 | 2<<16, 2 | 3<<16, 3 | 4<<16
	f.Add(true, cat(dataChunk(rd, 0, 0, fill(8, 1)), holeChunk(rd, 1, 8, 8), chunk(wr, 1, chunkNone, nil), chunk(fl, 1, chunkNone, nil)))
	f.Add(true, cat(dataChunk(rd, 0, 8, fill(8, 1)), errorAtChunk(rd, 1, nbdEIO, "bad", 3), errorChunk(wr, 1, nbdENOSPC, "full")))
	f.Add(true, cat(chunk(fr, 1, chunkNone, nil), dataChunk(3|5<<16, 1, 16, fill(16, 2)), simpleReply(fl, nbdESHUTDOWN)))
	f.Add(true, cat(dataChunk(rd, 0, 0, fill(3, 1)), dataChunk(rd, 0, 9, fill(7, 1)), dataChunk(rd, 1, 3, fill(6, 1))))
	f.Add(false, cat(simpleReply(rd, 0), fill(16, 3), simpleReply(wr, 0), simpleReply(fl, nbdEIO), simpleReply(fr, 0)))
	f.Fuzz(func(t *testing.T, structured bool, says []byte) {
		r, w, fl, fr := read(0, 16), write(64, fill(16, 1)), flush(), read(16, 16)
		fr.Flags = backstore.FUA
		rs := []*backstore.Request{r, w, fl, fr}
		s, c := bare(t, structured, rs...)
		ended := map[*backstore.Request]int{}
		// The stream comes in pieces, as the socket gives it.
		for err := error(nil); len(says) > 0 && err == nil; {
			k := min(len(says), 1+int(says[0])%40)
			err = c.feed(says[:k])
			says = says[k:]
			if !c.retire {
				sendBare(c)
			}
			for q := s.done.Pop(); q != nil; q = s.done.Pop() {
				ended[q]++
			}
		}
		for _, q := range rs {
			if ended[q] > 1 {
				t.Fatalf("%v ended %d times", q.Op, ended[q])
			}
		}
		if len(s.free)+len(rs)-len(ended) != len(s.slots) {
			t.Fatalf("%d slots are free with %d of %d requests ended", len(s.free), len(ended), len(rs))
		}
		for _, q := range []*backstore.Request{r, fr} {
			if ended[q] == 1 && q.Err == nil && !covered(&s.slots[q.Slot], q.Len) {
				t.Fatalf("a read ended well with %v of %d bytes", s.slots[q.Slot].cover, q.Len)
			}
		}
	})
}

func covered(sl *slot, n int64) bool {
	var sum int64
	for _, p := range sl.cover {
		sum += p.to - p.from
	}
	return sum == n
}
