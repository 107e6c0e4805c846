package file

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

const (
	benchSize  = 256 << 20
	benchBlock = 4096
)

func benchStore(b *testing.B, dir, opts string) (*Store, *backstoretest.Harness) {
	st := openURI(b, fmt.Sprintf("file://%s?size=%d&%s", filepath.Join(dir, "bench.img"), benchSize, opts))
	h := backstoretest.NewHarness(b, st, true)
	// Filled in small pieces: ext4 keeps what is written in large ones in large folios (Linux 6.16 and
	// newer), and walks all of a folio's buffers for each small write into it: 20 to 40 µs of the kernel's.
	buf := h.Buf(benchBlock)
	for i := range buf {
		buf[i] = byte(i)
	}
	for off := int64(0); off < benchSize; off += benchBlock {
		if err := h.Do(&backstore.Request{Op: backstore.Write, Off: off, Len: benchBlock, Buf: buf}); err != nil {
			b.Fatal(err)
		}
	}
	if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
		b.Fatal(err)
	}
	return st, h
}

// one submits single requests of size bytes at scattered places.
func one(b *testing.B, h *backstoretest.Harness, op backstore.Op, size int64, flags backstore.Flags) {
	r := &backstore.Request{Op: op, Flags: flags, Len: size, Buf: h.Buf(size), C: h.Loop}
	blocked := 0
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		r.Off = (r.Off + 7919*size) % benchSize
		switch h.Store.Submit(r) {
		case backstore.WouldBlock:
			blocked++
		case backstore.Pending:
			h.Kick()
			for len(h.Loop.Turn(time.Second)) == 0 {
			}
		}
		if r.Err != nil {
			b.Fatal(r.Err)
		}
	}
	if blocked > 0 {
		b.ReportMetric(float64(blocked)/float64(b.N), "blocked/op")
	}
}

func BenchmarkInline(b *testing.B) {
	for place, dir := range places(b) {
		_, h := benchStore(b, dir, "")
		for _, size := range []int64{benchBlock, 64 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("%s/read%dK", place, size>>10), func(b *testing.B) { one(b, h, backstore.Read, size, backstore.NoWait) })
			b.Run(fmt.Sprintf("%s/write%dK", place, size>>10), func(b *testing.B) { one(b, h, backstore.Write, size, 0) })
		}
		h.Close()
	}
}

// cpu returns the processor time that the process has used.
func cpu(b *testing.B) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkBatch submits depth requests a batch, as a loop does, and prints the processor time of a request
// and the 99.9th percentile of a Submit: what a neighbour LUN has to wait.
func BenchmarkBatch(b *testing.B) {
	for _, c := range []struct {
		place, opts string
		op          backstore.Op
		depth       int
	}{{"shm", "", backstore.Write, 32}, {"disk", "writer=off", backstore.Write, 32}, {"disk", "writer=on", backstore.Write, 32},
		{"disk", "writer=off", backstore.Write, 1}, {"disk", "writer=on", backstore.Write, 1},
		{"disk", "cache=writethrough", backstore.Write, 32},
		{"disk", "direct=on", backstore.Read, 32}, {"disk", "direct=on", backstore.Write, 32}} {
		b.Run(fmt.Sprintf("%s/%s/%v/depth%d", c.place, c.opts, c.op, c.depth), func(b *testing.B) {
			depth := c.depth
			dir, ok := places(b)[c.place]
			if !ok {
				b.Fatalf("no %s here", c.place)
			}
			st, h := benchStore(b, dir, c.opts)
			reqs := make([]*backstore.Request, depth)
			for i := range reqs {
				reqs[i] = &backstore.Request{Op: c.op, Len: benchBlock, Buf: h.Buf(benchBlock)}
			}
			took := make([]time.Duration, 0, 1<<20)
			n, off, used := 0, int64(0), cpu(b)
			b.ReportAllocs()
			for b.Loop() {
				if n++; n%depth != 0 {
					continue
				}
				for _, r := range reqs {
					off = (off + 7919*benchBlock) % benchSize
					r.Off, r.Err = off, nil
					begin := time.Now()
					h.Start(r)
					if len(took) < cap(took) {
						took = append(took, time.Since(begin))
					}
				}
				h.Kick()
				for h.Wait() != nil {
				}
			}
			b.ReportMetric(float64((cpu(b)-used).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
			slices.Sort(took)
			if len(took) > 0 {
				b.ReportMetric(float64(took[len(took)*999/1000].Nanoseconds())/1e3, "p99.9-µs")
				b.ReportMetric(float64(took[len(took)-1].Nanoseconds())/1e3, "max-µs")
			}
			b.ReportMetric(float64(st.Counters().SlowWrites), "slow")
			h.Close()
		})
	}
}
