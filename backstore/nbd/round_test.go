package nbd

import (
	"crypto/tls"
	"encoding/binary"
	"net"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

// echo serves an export of zeroes without allocating: it answers all requests of one read with one write.
func echo(nc net.Conn, secure *tls.Config) {
	c := &srvConn{Conn: nc, raw: nc, s: &server{tls: secure, flags: allFlags, blocks: true, min: 1, noAlloc: true, data: make([]byte, 64<<20)}}
	if _, err := c.handshake(); err != nil {
		return
	}
	nc = c.Conn
	in, out := make([]byte, 4<<20), make([]byte, 8<<20)
	have := 0
	for {
		n, err := nc.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		at, w := 0, 0
		for have-at >= requestSize {
			h := in[at:]
			cmd, cookie, off, size := binary.BigEndian.Uint16(h[6:]), h[8:16], h[16:24], binary.BigEndian.Uint32(h[24:])
			if cmd == cmdDisc {
				return
			}
			if cmd == cmdWrite && have-at < requestSize+int(size) {
				break
			}
			binary.BigEndian.PutUint32(out[w:], magicStructured)
			binary.BigEndian.PutUint16(out[w+4:], chunkDone)
			copy(out[w+8:], cookie)
			if at += requestSize; cmd == cmdRead {
				binary.BigEndian.PutUint16(out[w+6:], chunkData)
				binary.BigEndian.PutUint32(out[w+16:], 8+size)
				copy(out[w+chunkSize:], off)
				w += chunkSize + dataHead + int(size)
				continue
			}
			if cmd == cmdWrite {
				at += int(size)
			}
			binary.BigEndian.PutUint16(out[w+6:], chunkNone)
			binary.BigEndian.PutUint32(out[w+16:], 0)
			w += chunkSize
		}
		have = copy(in, in[at:have])
		if _, err := nc.Write(out[:w]); err != nil {
			return
		}
	}
}

// echoServer listens on a unix socket and serves one connection with echo.
func echoServer(t testing.TB) (uri string) { return echoOver(t, nil, "nbd") }

// echoOver is echoServer with TLS or without.
func echoOver(t testing.TB, secure *tls.Config, scheme string) (uri string) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	go func() {
		defer close(end)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		echo(nc, secure)
		_ = nc.Close()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-end
	})
	return scheme + "+unix:///disk?socket=" + l.Addr().String()
}

// A round submits a batch and waits for its end, without allocating itself.
type round struct {
	h    *harness
	rs   []*backstore.Request
	left int
	end  chan struct{}
}

func newRound(h *harness, n int, op backstore.Op, size int64, flags backstore.Flags) *round {
	w := &round{h: h, end: make(chan struct{}, 1)}
	for i := range n {
		r := &backstore.Request{Op: op, Off: int64(i) * size, Len: size, C: w, Flags: flags}
		switch op {
		case backstore.Flush:
			r.Off, r.Len = 0, 0
		case backstore.Read, backstore.Write:
			r.Buf = make([]byte, size)
		}
		w.rs = append(w.rs, r)
	}
	return w
}

// Complete is called by one goroutine, that of the loop or of the store.
func (w *round) Complete(r *backstore.Request) {
	if r.Err != nil {
		w.h.t.Error(r.Err)
	}
	if w.left--; w.left == 0 {
		w.end <- struct{}{}
	}
}

func (w *round) run() {
	w.left = len(w.rs)
	if w.h.loop != nil {
		w.h.loop.mu.Lock()
	}
	for _, r := range w.rs {
		if out := w.h.st.Submit(r); out != backstore.Pending {
			w.h.t.Errorf("outcome %d: %v", out, r.Err)
		}
	}
	w.h.st.Kick()
	if w.h.loop != nil {
		w.h.loop.mu.Unlock()
	}
	<-w.end
}

// BenchmarkRound has the driver and a server that does next to nothing on two goroutines; an operation is a request.
func BenchmarkRound(b *testing.B) {
	for _, tc := range []struct {
		name string
		op   backstore.Op
		size int64
		n    int
	}{{"read4k/depth32", backstore.Read, 4096, 32}, {"read4k/depth1", backstore.Read, 4096, 1}, {"write4k/depth32", backstore.Write, 4096, 32},
		{"read256k/depth8", backstore.Read, 256 << 10, 8}, {"write256k/depth8", backstore.Write, 256 << 10, 8}} {
		b.Run(tc.name, func(b *testing.B) {
			h := openURI(b, echoServer(b), newTestLoop(b))
			w := newRound(h, tc.n, tc.op, tc.size, 0)
			w.run()
			b.SetBytes(tc.size)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += tc.n {
				w.run()
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "io/s")
			h.close()
		})
	}
}
