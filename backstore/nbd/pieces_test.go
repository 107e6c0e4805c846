package nbd

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

func query(off, n int64, room int) *backstore.Request {
	return &backstore.Request{Op: backstore.Allocation, Off: off, Len: n, Extents: make([]backstore.Extent, 0, room)}
}

const (
	mapped = backstore.Mapped
	hole   = backstore.Deallocated
)

// ext is a list of extents in a row from off: lengths and states.
func ext(off int64, list ...any) (es []backstore.Extent) {
	for i := 0; i < len(list); i += 2 {
		n, state := int64(list[i].(int)), list[i+1].(backstore.AllocState)
		es = append(es, backstore.Extent{Off: off, Len: n, State: state})
		off += n
	}
	return es
}

// An answer is what the server says of the range, whatever pieces it says it in.
func TestAllocation(t *testing.T) {
	const page = 4096
	for _, mode := range []string{"structured", "extended"} {
		for _, tc := range []struct {
			name string
			says [][]extent // one list a request
			ask  *backstore.Request
			want []backstore.Extent
			asks []string // off+n on the wire
		}{
			{"one", [][]extent{{{4 * page, 0}}}, query(0, 4*page, 8), ext(0, 4*page, mapped), []string{"0+16384"}},
			{"hole and zero", [][]extent{{{page, 3}, {page, 0}, {2 * page, 3}}}, query(0, 4*page, 8), ext(0, page, hole, page, mapped, 2*page, hole), []string{"0+16384"}},
			{"a hole of unknown contents", [][]extent{{{page, 1}}}, query(page, page, 8), ext(page, page, hole), []string{"4096+4096"}},
			{"zeroes that are no hole are not anchored", [][]extent{{{page, 2}}}, query(0, page, 8), ext(0, page, mapped), []string{"0+4096"}},
			{"flags of later days", [][]extent{{{page, 1 << 5}}}, query(0, page, 8), ext(0, page, mapped), []string{"0+4096"}},
			{"neighbours of one state", [][]extent{{{page, 0}, {page, 2}, {page, 3}, {page, 1}}}, query(0, 4*page, 2), ext(0, 2*page, mapped, 2*page, hole), []string{"0+16384"}},
			{"longer than asked", [][]extent{{{page, 0}, {1 << 30, 3}}}, query(0, 2*page, 8), ext(0, page, mapped, page, hole), []string{"0+8192"}},
			{"on beyond what was asked", [][]extent{{{2 * page, 0}, {page, 3}}}, query(0, 2*page, 8), ext(0, 2*page, mapped), []string{"0+8192"}},
			{"in three answers", [][]extent{{{page, 3}}, {{page, 3}, {page, 0}}, {{page, 3}}}, query(page, 4*page, 8), ext(page, 2*page, hole, page, mapped, page, hole),
				[]string{"4096+16384", "8192+12288", "16384+4096"}},
			{"room for one", [][]extent{{{page, 3}}}, query(0, 4*page, 1), ext(0, page, hole), []string{"0+16384/one"}},
			{"room for less than it says", [][]extent{{{page, 3}, {page, 0}, {page, 3}, {page, 3}}}, query(0, 4*page, 2), ext(0, page, hole, page, mapped), []string{"0+16384"}},
			{"in pieces of no block", [][]extent{{{100, 3}}, {{200, 3}, {312, 0}, {page - 512, 3}}}, query(0, page, 8), ext(0, 200, hole, 312, mapped, page-512, hole), []string{"0+4096", "0+4096"}},
			{"no room", nil, query(0, page, 0), nil, nil},
		} {
			t.Run(mode+"/"+tc.name, func(t *testing.T) {
				s := newServer(t, "unix")
				s.speak(t, mode)
				s.min = 512
				var asks []string
				s.answer = func(c *srvConn, q srvRequest) bool {
					if q.cmd != cmdBlockStatus {
						return false
					}
					one := ""
					if q.flags&cfReqOne != 0 {
						one = "/one"
					}
					asks = append(asks, fmt.Sprintf("%d+%d%s", q.off, q.n, one))
					c.status(q, tc.says[len(asks)-1]...)
					return true
				}
				h := openURI(t, s.start().uri(""), newTestLoop(t))
				r := *tc.ask
				r.Extents = make([]backstore.Extent, 0, cap(r.Extents))
				h.must(&r)
				h.close()
				s.stop()
				if !slices.Equal(r.Extents, tc.want) || !slices.Equal(asks, tc.asks) {
					t.Errorf("%v by %v, want %v by %v", r.Extents, asks, tc.want, tc.asks)
				}
			})
		}
	}
}

// A server that tells a block at a time is not asked for ever: what is left may hold data.
func TestAllocationHasAnEnd(t *testing.T) {
	s := newServer(t, "unix")
	asks := 0
	s.answer = func(c *srvConn, q srvRequest) bool {
		if q.cmd == cmdBlockStatus {
			asks++
			c.status(q, extent{1, 3})
			return true
		}
		return false
	}
	h := openURI(t, s.start().uri(""), nil)
	r := query(0, 4096, 8)
	h.must(r)
	h.close()
	s.stop()
	if want := ext(0, maxAsks, hole, 4096-maxAsks, mapped); !slices.Equal(r.Extents, want) || asks != maxAsks {
		t.Fatalf("%v after %d requests, want %v", r.Extents, asks, want)
	}
}

// What a lost connection has told is forgotten.
func TestAllocationAfterLoss(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server, loop *testLoop) {
		if s.simple {
			s.noAlloc = true
			h := openURI(t, s.start().uri(""), loop)
			classIs(t, h.do(query(0, 4096, 1)), backstore.ClassUnsupported)
			h.close()
			return
		}
		var asks atomic.Int32
		s.answer = func(c *srvConn, q srvRequest) bool {
			if q.cmd != cmdBlockStatus {
				return false
			}
			switch asks.Add(1) {
			case 1:
				c.status(q, extent{8192, 0})
			case 2: // half an answer, and the end
				body := cat(narrowStatus(theContext, extent{4096, 0}), make([]byte, 4))
				if c.ext {
					c.send(extChunk(q.cookie, q.off, 0, chunkStatus, body)[:extChunkSize+statusHead+extentSize])
				} else {
					c.send(chunk(q.cookie, 0, chunkStatus, body)[:chunkSize+statusHead+extentSize])
				}
				c.hangUp()
			case 3:
				c.status(q, extent{4096, 3}, extent{1 << 20, 0})
			}
			return true
		}
		h := openURI(t, s.start().uri("&connections=1&restart=safe"), loop)
		r := query(0, 16384, 8)
		h.must(r)
		if want := ext(0, 4096, hole, 12288, mapped); !slices.Equal(r.Extents, want) {
			t.Fatalf("%v, want %v", r.Extents, want)
		}
		h.close()
	})
}

func TestAllocationErrors(t *testing.T) {
	s := newServer(t, "unix")
	s.answer = func(c *srvConn, q srvRequest) bool {
		switch {
		case q.cmd != cmdBlockStatus:
			return false
		case q.off == 0:
			c.fail(q, nbdEIO, "no idea")
		default:
			c.ok(q)
		}
		return true
	}
	h := openURI(t, s.start().uri(""), nil)
	classIs(t, h.do(query(0, 4096, 4)), backstore.ClassMedium)
	classIs(t, h.do(query(4096, 4096, 4)), backstore.ClassTransport)
	h.close()
}

// Zeroes are asked for fast and whole; where that cannot be, in pieces. Lengths beyond the wire's are cut too.
func TestPiecesOnTheWire(t *testing.T) {
	const zeroes, trim = backstore.WriteZeroes, backstore.Discard
	whole := func(n int64) []string { return []string{fmt.Sprintf("0+%d", n)} }
	for _, tc := range []struct {
		name  string
		mode  string
		flags uint16
		slow  bool // the server's zeroes
		r     backstore.Request
		want  []string
	}{
		{"fast", "structured", tfFastZero, false, backstore.Request{Op: zeroes, Len: 8 << 20}, []string{"0+8388608/fast"}},
		{"short, so no matter", "structured", tfFastZero, true, backstore.Request{Op: zeroes, Len: slowZero}, whole(slowZero)},
		{"not offered", "structured", 0, true, backstore.Request{Op: zeroes, Len: 8 << 20}, whole(8 << 20)},
		{"slow", "structured", tfFastZero, true, backstore.Request{Op: zeroes, Off: 512 << 10, Len: 2 << 20, Flags: backstore.FUA | backstore.KeepAllocated},
			[]string{"524288+2097152/fua/keep/fast", "524288+524288/fua/keep", "1048576+1048576/fua/keep", "2097152+524288/fua/keep"}},
		{"slow, by simple replies", "simple", tfFastZero, true, backstore.Request{Op: zeroes, Len: 2 << 20}, []string{"0+2097152/fast", "0+1048576", "1048576+1048576"}},
		{"a discard is never slow", "structured", tfFastZero, true, backstore.Request{Op: trim, Len: 8 << 20}, whole(8 << 20)},
		{"64 bits", "extended", 0, false, backstore.Request{Op: trim, Len: 5 << 30}, whole(5 << 30)},
		{"64 bits of zeroes", "extended", tfFastZero, false, backstore.Request{Op: zeroes, Len: 5 << 30}, []string{"0+5368709120/fast"}},
		{"64 bits of allocation", "extended", 0, false, backstore.Request{Op: backstore.Allocation, Len: 5 << 30}, whole(5 << 30)},
		{"32 bits of allocation", "structured", 0, false, backstore.Request{Op: backstore.Allocation, Len: 5 << 30},
			[]string{"0+1073741824", "1073741824+1073741824", "2147483648+1073741824", "3221225472+1073741824", "4294967296+1073741824"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newServer(t, "unix")
			s.speak(t, tc.mode)
			s.flags |= tc.flags
			s.told = 6 << 30
			var got []string
			s.answer = func(c *srvConn, q srvRequest) bool {
				if q.cmd == cmdFlush {
					return false
				}
				text := fmt.Sprintf("%d+%d", q.off, q.n)
				for _, f := range []struct {
					bit  uint16
					name string
				}{{cfFUA, "/fua"}, {cfNoHole, "/keep"}, {cfFastZero, "/fast"}} {
					if q.flags&f.bit != 0 {
						text += f.name
					}
				}
				got = append(got, text)
				switch {
				case q.flags&cfFastZero != 0 && tc.slow:
					c.fail(q, nbdENOTSUP, "slow")
				case q.cmd == cmdBlockStatus:
					c.status(q, extent{q.n, 0})
				default:
					c.ok(q)
				}
				return true
			}
			h := openURI(t, s.start().uri(""), newTestLoop(t))
			r := tc.r
			if r.Op == backstore.Allocation {
				r.Extents = make([]backstore.Extent, 0, 2)
			}
			h.must(&r)
			h.close()
			s.stop()
			if !slices.Equal(got, tc.want) {
				t.Errorf("on the wire: %v, want %v", got, tc.want)
			}
			if i := h.st.Info(); r.Op == backstore.Allocation && !slices.Equal(r.Extents, ext(0, 5<<30, mapped)) || (i.MaxDiscard == 0) != (tc.mode == "extended") {
				t.Errorf("%v; %+v", r.Extents, i)
			}
		})
	}
}

// A server that is back and can no longer do what the store has said of itself is not used.
func TestAllocationIsGone(t *testing.T) {
	ex := &export{size: 1 << 20, flags: allFlags, alloc: true, extended: true}
	now := *ex
	now.extended = false // pieces make up for that
	if err := ex.same(&now); err != nil {
		t.Fatal(err)
	}
	now.alloc = false
	if err := ex.same(&now); err == nil || !strings.Contains(err.Error(), "allocated") {
		t.Fatal(err)
	}
}

// FuzzPieces is FuzzServer for what is sent in pieces, and for extended headers: nothing may panic, each request ends at most once, an allocation
// answer is in order, without gaps and within its range and its room, and what a request is sent for stays within it.
func FuzzPieces(f *testing.F) {
	const qa, qb, wz, rd = 0 | 1<<16, 1 | 2<<16, 2 | 3<<16, 3 | 4<<16
	f.Add(false, cat(chunk(qa, 1, chunkStatus, narrowStatus(0, extent{4096, 3}, extent{1 << 31, 0})), chunk(qb, 1, chunkStatus, narrowStatus(0, extent{512, 1})),
		chunk(1|5<<16, 1, chunkStatus, narrowStatus(0, extent{1 << 20, 2})), errorChunk(wz, 1, nbdENOTSUP, "slow"), chunk(2|6<<16, 1, chunkNone, nil)))
	f.Add(true, cat(extChunk(qa, 0, 0, chunkStatusExt, wideStatus(0, extent{4096, 3}, extent{1 << 63, 0})), extChunk(qa, 0, 1, chunkNone, nil),
		extChunk(qb, 512<<10, 1, chunkStatusExt, wideStatus(0, extent{512, 1})), extChunk(wz, 0, 1, chunkError, cat(be32(nbdENOTSUP), be16(0)))))
	f.Add(true, cat(extChunk(rd, 16, 0, chunkData, cat(be64(16), fill(8, 1))), extChunk(rd, 16, 1, chunkHole, cat(be64(24), be32(8))), extChunk(qa, 0, 1, chunkStatus, narrowStatus(0, extent{1 << 20, 0}))))
	f.Fuzz(func(t *testing.T, extended bool, says []byte) {
		qa, qb, wz, rd := query(0, 1<<20, 2), query(512<<10, 8<<10, 4), &backstore.Request{Op: backstore.WriteZeroes, Len: 4 << 20}, read(16, 16)
		rs := []*backstore.Request{qa, qb, wz, rd}
		s, c := bareOf(t, &export{size: 8 << 20, flags: allFlags | tfFastZero, structured: true, extended: extended, alloc: true,
			blocks: true, min: 512, preferred: 4096, payload: 1 << 20}, rs[:0]...)
		for _, r := range rs[:3] {
			if r.Err = s.refuse(r); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		for _, r := range rs { // the read is of no whole block, which is no matter here
			s.begin(r)
		}
		sendBare(c)
		ended := map[*backstore.Request]int{}
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
			for i := range s.slots {
				if sl := &s.slots[i]; sl.req != nil && (sl.off < sl.req.Off || sl.n <= 0 || sl.off > sl.req.Off+sl.req.Len-sl.n) {
					t.Fatalf("%v of %d+%d is sent for %d+%d", sl.req.Op, sl.req.Off, sl.req.Len, sl.off, sl.n)
				}
			}
		}
		for _, q := range rs {
			if ended[q] > 1 {
				t.Fatalf("%v ended %d times", q.Op, ended[q])
			}
		}
		for _, q := range []*backstore.Request{qa, qb} {
			at := q.Off
			for _, e := range q.Extents {
				if e.Off != at || e.Len <= 0 || e.Len > q.Off+q.Len-at {
					t.Fatalf("extents %v of %d+%d", q.Extents, q.Off, q.Len)
				}
				at += e.Len
			}
			if ended[q] == 1 && q.Err == nil && at != q.Off+q.Len && len(q.Extents) < cap(q.Extents) {
				t.Fatalf("extents %v of %d+%d end early with room for more", q.Extents, q.Off, q.Len)
			}
		}
		if ended[rd] == 1 && rd.Err == nil && !covered(&s.slots[rd.Slot], rd.Len) {
			t.Fatalf("a read ended well with %v of %d bytes", s.slots[rd.Slot].cover, rd.Len)
		}
	})
}

// What breaks the protocol of block status or of extended headers ends the connection.
func TestBrokenPieces(t *testing.T) {
	for _, tc := range []struct {
		name     string
		extended bool
		op       *backstore.Request
		says     func(cookie uint64) []byte
		want     string
	}{
		{"another context", false, query(0, 4096, 4), func(c uint64) []byte { return chunk(c, 1, chunkStatus, narrowStatus(3, extent{4096, 0})) }, "context 3"},
		{"twice", false, query(0, 4096, 4), func(c uint64) []byte {
			return cat(chunk(c, 0, chunkStatus, narrowStatus(0, extent{4096, 0})), chunk(c, 1, chunkStatus, narrowStatus(0, extent{4096, 0})))
		}, "has come already"},
		{"no bytes", false, query(0, 4096, 4), func(c uint64) []byte { return chunk(c, 1, chunkStatus, narrowStatus(0, extent{0, 0})) }, "no bytes"},
		{"no descriptor", false, query(0, 4096, 4), func(c uint64) []byte { return chunk(c, 1, chunkStatus, narrowStatus(0)) }, "type 5 with 4 bytes"},
		{"half a descriptor", false, query(0, 4096, 4), func(c uint64) []byte { return chunk(c, 1, chunkStatus, make([]byte, 14)) }, "type 5 with 14 bytes"},
		{"too many", false, query(0, 4096, 4), func(c uint64) []byte { return chunk(c, 1, chunkStatus, make([]byte, maxStatus+4)) }, "type 5 with 16777220"},
		{"wide without extended headers", false, query(0, 4096, 4), func(c uint64) []byte { return chunk(c, 1, chunkStatusExt, wideStatus(0, extent{4096, 0})) }, "type 6"},
		{"status of a read", false, read(0, 512), func(c uint64) []byte { return chunk(c, 1, chunkStatus, narrowStatus(0, extent{512, 0})) }, "type 5"},
		{"data of a status", false, query(0, 4096, 4), func(c uint64) []byte { return dataChunk(c, 1, 0, fill(16, 1)) }, "type 1"},
		{"compact reply", true, read(0, 512), func(c uint64) []byte { return cat(simpleReply(c, 0), make([]byte, 16)) }, "extended headers were agreed on"},
		{"another offset", true, read(512, 512), func(c uint64) []byte { return extChunk(c, 0, 1, chunkData, cat(be64(512), fill(512, 1))) }, "for byte 0 to a request for byte 512"},
		{"64 bits of data", true, read(0, 512), func(c uint64) []byte {
			return cat(be32(magicExtReply), be16(1), be16(chunkData), be64(c), be64(0), be64(1<<32+512+8), be64(0))
		}, "chunk of 4294967808 bytes"},
		{"64 bits of text", true, flush(), func(c uint64) []byte {
			return cat(be32(magicExtReply), be16(1), be16(chunkError), be64(c), be64(0), be64(1<<32+6))
		}, "with 4294967302 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, c := bareOf(t, &export{size: 1 << 20, flags: allFlags, structured: true, extended: tc.extended, alloc: true,
				blocks: true, min: 512, preferred: 4096, payload: 1 << 20}, tc.op)
			err := c.feed(tc.says(s.slots[tc.op.Slot].cookie))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
		})
	}
}
