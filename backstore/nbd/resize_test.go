package nbd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

func (h *harness) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	h.t.Cleanup(cancel)
	return ctx
}

// grows asks for the size of a volume, wants it to be size, and adopts it.
func (h *harness) grows(size int64) {
	h.t.Helper()
	if now, err := h.st.PresentSize(h.ctx()); err != nil || now != size {
		h.t.Fatalf("the present size is %d (%v), want %d", now, err, size)
	}
	if err := h.st.AdoptSize(h.ctx(), size); err != nil || h.st.Info().Size != size {
		h.t.Fatalf("%v, and the volume has %d bytes", err, h.st.Info().Size)
	}
}

// TestGrow: an export that has grown is used to its new end, on connections that were made for it; requests go on
// meanwhile, none fails, and the store does not take the end of its connections for a loss. The server itself checks that nothing is asked of a
// connection beyond what it was told.
func TestGrow(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, multi := range []bool{false, true} {
			for _, loop := range []*testLoop{nil, newTestLoop(t)} {
				t.Run(fmt.Sprint(network, multi, loop != nil), func(t *testing.T) {
					s := newServer(t, network)
					if multi {
						s.flags |= tfMultiConn
					}
					h := openURI(t, s.start().uri(""), loop)
					const old = 1 << 20
					h.must(write(old-4096, fill(4096, 'a')))
					stop, n := make(chan struct{}), 0
					var writer sync.WaitGroup
					finish := sync.OnceFunc(func() {
						close(stop)
						writer.Wait()
					})
					defer finish()
					writer.Add(1)
					go func() {
						defer writer.Done()
						for ; ; n++ {
							select {
							case <-stop:
								return
							default:
							}
							if err := h.do(write(int64(n%64)*4096, fill(4096, byte(n)))); err != nil {
								t.Error("a write while the volume grows:", err)
								return
							}
						}
					}()
					for i := range 3 {
						size := 2*old + i*4096
						s.resize(size)
						h.grows(int64(size))
						h.must(write(int64(size)-4096, fill(4096, 'z')))
						r := read(int64(size)-4096, 4096)
						if h.must(r); !bytes.Equal(r.Buf, fill(4096, 'z')) {
							t.Fatal("what was written at the new end is not there")
						}
					}
					finish()
					r := read(old-4096, 4096)
					if h.must(r); !bytes.Equal(r.Buf, fill(4096, 'a')) {
						t.Error("what was written before is not there")
					}
					h.must(flush())
					if n == 0 {
						t.Error("nothing was written meanwhile")
					}
					classIs(t, h.st.AdoptSize(h.ctx(), 1<<40), backstore.ClassRange)
					classIs(t, h.st.AdoptSize(h.ctx(), -4096), backstore.ClassRange)
					if err := h.st.AdoptSize(h.ctx(), old); err != nil {
						t.Error("less than there is:", err)
					}
					classIs(t, h.do(read(old, 4096)), backstore.ClassRange)
					h.must(read(old-4096, 4096))
					h.close()
				})
			}
		}
	}
}

// TestGrowGivesUp: what is in flight has to end before connections are replaced; when it does not, nothing has changed.
func TestGrowGivesUp(t *testing.T) {
	s := newServer(t, "unix")
	held := make(chan srvRequest, 1)
	var on *srvConn
	s.answer = func(c *srvConn, q srvRequest) bool {
		if q.cmd != cmdWrite || q.off != 0 {
			return false
		}
		on = c
		held <- q
		return true
	}
	h := openURI(t, s.start().uri(""), newTestLoop(t))
	d := h.submit(write(0, fill(4096, 'a')))
	q := <-held
	s.resize(2 << 20)
	short, cancel := context.WithTimeout(h.ctx(), 30*time.Millisecond)
	defer cancel()
	classIs(t, h.st.AdoptSize(short, 2<<20), backstore.ClassBusy)
	if got := h.st.Info().Size; got != 1<<20 {
		t.Errorf("the volume has %d bytes", got)
	}
	h.must(write(8192, fill(4096, 'b')))
	on.apply(q)
	on.ok(q)
	if r := h.wait(d); r.Err != nil {
		t.Fatal(r.Err)
	}
	h.grows(2 << 20)
	h.must(write(1<<20, fill(4096, 'c')))
	h.close()
	classIs(t, h.st.AdoptSize(h.ctx(), 2<<20), backstore.ClassOffline)
	_, err := h.st.PresentSize(h.ctx())
	classIs(t, err, backstore.ClassOffline)
}

// TestGrownMeanwhile: a server that is back with a larger export is used, and whoever watches the size is told when every
// connection knows of it.
func TestGrownMeanwhile(t *testing.T) {
	s := newServer(t, "unix")
	h := openURI(t, s.start().uri("&restart=safe"), newTestLoop(t))
	told := make(chan int64, 4)
	h.st.WatchSize(func(size int64) { told <- size })
	h.must(write(0, fill(4096, 'a')))
	s.stop()
	s.resize(3 << 20)
	s.start()
	select {
	case size := <-told:
		if size != 3<<20 || h.st.Info().Size != size {
			t.Errorf("told %d, Info says %d", size, h.st.Info().Size)
		}
	case <-time.After(limit):
		t.Fatal("nobody is told")
	}
	h.must(write(3<<20-4096, fill(4096, 'z')))
	h.wantRemark("the export has grown from 1048576 to 3145728 bytes")
	h.close()
}

// TestNBDKitGrows: nbdkit tells the size of a file that has grown to whoever connects anew.
func TestNBDKitGrows(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "d")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	nbdkit(t, dir, "plugin=file", image)
	h := openURI(t, socketURI(dir, ""), newTestLoop(t))
	h.must(write(0, fill(4096, 'a')))
	if err := os.Truncate(image, 4<<20); err != nil {
		t.Fatal(err)
	}
	h.grows(4 << 20)
	h.must(write(4<<20-4096, fill(4096, 'z')))
	h.must(flush())
	got, err := os.ReadFile(image)
	if err != nil || !bytes.Equal(got[:4096], fill(4096, 'a')) || !bytes.Equal(got[4<<20-4096:], fill(4096, 'z')) {
		t.Error("the file holds something else:", err)
	}
	h.close()
}
