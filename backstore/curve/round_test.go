package curve

import (
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// echo answers reads and writes without allocating, all that came with one read with one write: a server that costs next to nothing.
func echo(nc net.Conn) {
	in, out, zeroes := make([]byte, 4<<20), make([]byte, 0, 8<<20), make([]byte, maxTransfer)
	have := 0
	var m brpc.Meta
	for {
		n, err := nc.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		at := 0
		out = out[:0]
		for have-at >= brpc.HeaderSize {
			f := in[at:have]
			body, meta, err := brpc.ParseHeader(f)
			if err != nil || len(f) < brpc.HeaderSize+body {
				break
			}
			if brpc.ParseMeta(f[brpc.HeaderSize:brpc.HeaderSize+meta], &m) != nil {
				return
			}
			at += brpc.HeaderSize + body
			size := 0
			if string(m.Method) == "Read" {
				v, _ := protowire.ConsumeVarint(f[brpc.HeaderSize+body-sizeOfSize(f[:brpc.HeaderSize+body]):])
				size = int(v)
			}
			out = brpc.AppendResponse(out, 0, "", m.CorrelationID, okMessage[:], size)
			out = append(out, zeroes[:size]...)
		}
		have = copy(in, in[at:have])
		if len(out) == 0 {
			continue
		}
		if _, err := nc.Write(out); err != nil {
			return
		}
	}
}

var okMessage = [2]byte{8, 0}

// sizeOfSize is the length of the varint that f ends with, the size of a Read.
func sizeOfSize(f []byte) int {
	n := 1
	for f[len(f)-1-n]&0x80 != 0 {
		n++
	}
	return n
}

// echoStore is a store on echo.
func echoStore(t testing.TB) *Store {
	t.Helper()
	b := newBench(t, nil)
	c := b.volume(64 << 20)
	c.heartbeat = heartbeatTime // one allocates
	s := b.open(c)
	l, err := net.Listen("unix", filepath.Join(b.dir, "echo"))
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
		echo(nc)
		_ = nc.Close()
	}()
	fd, err := dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	closeFd(s.c.fd)
	s.c.fd = fd
	t.Cleanup(func() {
		_ = l.Close()
		<-end
	})
	return s
}

// A round submits a batch and waits for its end, without allocating itself.
type round struct {
	h  *backstoretest.Harness
	rs []*backstore.Request
}

func newRound(h *backstoretest.Harness, n int, op backstore.Op, size int64) *round {
	w := &round{h: h}
	for i := range n {
		w.rs = append(w.rs, &backstore.Request{Op: op, Off: int64(i) * size, Len: size, Buf: make([]byte, size)})
	}
	return w
}

func (w *round) run() {
	for _, r := range w.rs {
		w.h.Start(r)
	}
	w.h.Kick()
	for w.h.Wait() != nil {
	}
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
			h := backstoretest.NewHarness(b, echoStore(b), true)
			w := newRound(h, tc.n, tc.op, tc.size)
			w.run()
			b.SetBytes(tc.size)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += tc.n {
				w.run()
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "io/s")
			h.Close()
		})
	}
}
