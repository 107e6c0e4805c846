package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// A file that was cut off behind our back gives errors, never short or made-up data.
func TestTruncatedBehind(t *testing.T) {
	for place, dir := range places(t) {
		for _, opts := range []string{"", "direct=on"} {
			if opts != "" && (place == "shm" || !hasDirect(t, dir)) {
				continue
			}
			for _, attach := range []bool{false, true} {
				path := filepath.Join(dir, fmt.Sprintf("%s%v", opts, attach))
				h := backstoretest.NewHarness(t, openURI(t, "file://"+path+"?size=1M&"+opts), attach)
				h.Write(0, bytes.Repeat([]byte{1}, 1<<20), 0)
				if err := os.Truncate(path, 64<<10+1000); err != nil {
					t.Fatal(err)
				}
				h.Want(0, bytes.Repeat([]byte{1}, 32<<10), "what is still there")
				for _, off := range []int64{60 << 10, 64 << 10, 512 << 10} {
					err := h.Do(&backstore.Request{Op: backstore.Read, Off: off, Len: 8 << 10, Buf: h.Buf(8 << 10)})
					h.WantClass(err, backstore.ClassMedium, fmt.Sprintf("%s %s attached=%v: a read at %d of a file of 66536 bytes", place, opts, attach, off))
				}
				h.Close()
			}
		}
	}
}

// A read that is not in the page cache is refused with NoWait and pending without.
func TestMiss(t *testing.T) {
	st := openURI(t, "file://"+filepath.Join(diskDir(t), "d.img")+"?size=1M")
	h := backstoretest.NewHarness(t, st, true)
	defer h.Close()
	if st.read != wayNoWait {
		return // there is no disk here, or its file system cannot be asked
	}
	want := bytes.Repeat([]byte{9}, 1<<20)
	h.Write(0, want, 0)
	if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(st.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	before := st.Counters()
	r := &backstore.Request{Op: backstore.Read, Flags: backstore.NoWait, Off: 512 << 10, Len: 4096, Buf: h.Buf(4096)}
	if out := h.Start(r); out != backstore.WouldBlock {
		t.Fatalf("a read that is not cached, with NoWait: outcome %d", out)
	}
	// The kernel may have begun to read there for the asking, so the next one is far from it.
	h.Want(0, want[:4096], "a read that is not cached")
	r = &backstore.Request{Op: backstore.Read, Flags: backstore.NoWait, Len: 4096, Buf: h.Buf(4096)}
	if out := h.Start(r); out != backstore.Done || r.Err != nil {
		t.Fatalf("the same read, cached now: outcome %d, %v", out, r.Err)
	}
	c := st.Counters()
	if c.ReadsMissed != before.ReadsMissed+1 || c.ReadsInline != before.ReadsInline+1 {
		t.Errorf("counters %+v, before %+v", c, before)
	}
}

// breakFD puts a descriptor in place of the store's that cannot be flushed or written.
func breakFD(t *testing.T, st *Store) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(p[0], st.fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(p[0])
	unix.Close(p[1])
}

// A flush or durable write that failed makes the store fail everything that changes the volume.
func TestSticky(t *testing.T) {
	for _, attach := range []bool{false, true} {
		for _, first := range []*backstore.Request{
			{Op: backstore.Flush},
			{Op: backstore.Write, Flags: backstore.FUA, Len: 512},
			{Op: backstore.Read, Flags: backstore.FUA, Len: 512},
			{Op: backstore.WriteZeroes, Flags: backstore.FUA, Len: 512},
		} {
			st := openURI(t, "file://"+filepath.Join(diskDir(t), "d.img")+"?size=1M")
			if st.mem {
				closeNow(t, st)
				return // there is no disk here: nothing can fail
			}
			h := backstoretest.NewHarness(t, st, attach)
			h.Write(0, make([]byte, 512), 0)
			good, err := unix.FcntlInt(uintptr(st.fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			breakFD(t, st)
			if first.Op != backstore.Flush {
				first.Buf = h.Buf(512)
			}
			if first.Op == backstore.WriteZeroes {
				first.Buf = nil
			}
			if err := h.Do(first); err == nil {
				t.Fatalf("%v on a broken descriptor went well", first.Op)
			}
			if err := unix.Dup3(good, st.fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			unix.Close(good)
			for _, op := range []backstore.Op{backstore.Write, backstore.Flush, backstore.WriteZeroes, backstore.Discard} {
				r := &backstore.Request{Op: op, Len: 512}
				switch op {
				case backstore.Write:
					r.Buf = h.Buf(512)
				case backstore.Flush:
					r.Len = 0
				}
				h.WantClass(h.Do(r), backstore.ClassMedium, fmt.Sprintf("%v after a failed %v", op, first.Op))
			}
			h.Want(0, make([]byte, 512), "a read after that")
			h.CloseFails(backstore.ClassMedium)
		}
	}
}

// A flush that was under way when another failed has failed too: Linux tells a failure once.
func TestFlushBesideFailed(t *testing.T) {
	for _, attach := range []bool{false, true} {
		st := openURI(t, "file://"+filepath.Join(diskDir(t), "d.img")+"?size=1M")
		if st.mem {
			closeNow(t, st)
			return
		}
		h := backstoretest.NewHarness(t, st, attach)
		h.Write(0, make([]byte, 512), 0)
		r := &backstore.Request{Op: backstore.Flush}
		if attach {
			if out := h.Start(r); out != backstore.Pending {
				t.Fatalf("outcome %d", out)
			}
			if st.engine == nil { // no ring here: a worker may have ended it
				h.Wait()
				h.Close()
				continue
			}
			st.failed.Store(true) // that it has ended is found out on this goroutine, later
			h.Kick()
			if h.Wait() != r {
				t.Fatal("another request ended")
			}
		} else {
			st.failed.Store(true)
			r.Err = st.exec(r)
		}
		h.WantClass(r.Err, backstore.ClassMedium, "a flush beside one that failed")
		h.CloseFails(backstore.ClassMedium)
	}
}

// A flush with nothing to do ends at once; one behind a write does not.
func TestFlushWhenClean(t *testing.T) {
	st := openURI(t, "file://"+filepath.Join(t.TempDir(), "d.img")+"?size=1M")
	h := backstoretest.NewHarness(t, st, true)
	defer h.Close()
	if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
		t.Fatal(err)
	}
	if out := h.Start(&backstore.Request{Op: backstore.Flush}); out != backstore.Done {
		t.Errorf("a second flush: outcome %d, want Done", out)
	}
	h.Write(0, make([]byte, 512), 0)
	r := &backstore.Request{Op: backstore.Flush}
	if out := h.Start(r); out != backstore.Pending && !st.mem {
		t.Errorf("a flush behind a write: outcome %d, want Pending", out)
	}
	h.Kick()
	if h.Wait(); r.Err != nil {
		t.Error(r.Err)
	}
	h.Write(0, make([]byte, 512), backstore.FUA)
	if out := h.Start(&backstore.Request{Op: backstore.Flush}); out != backstore.Done {
		t.Errorf("a flush behind a durable write: outcome %d, want Done", out)
	}
}

func TestErrnoClasses(t *testing.T) {
	for e, want := range map[unix.Errno]backstore.Class{
		unix.ENOSPC: backstore.ClassNoSpace, unix.EDQUOT: backstore.ClassNoSpace, unix.EIO: backstore.ClassMedium,
		unix.EROFS: backstore.ClassReadOnly, unix.EILSEQ: backstore.ClassIntegrity, unix.ENXIO: backstore.ClassOffline,
		unix.ESTALE: backstore.ClassOffline, unix.ETIMEDOUT: backstore.ClassTimeout, unix.EBUSY: backstore.ClassBusy,
		unix.ENOENT: backstore.ClassNotFound, unix.EOPNOTSUPP: backstore.ClassUnsupported, unix.EBADF: backstore.ClassInternal,
	} {
		if err := fail(&backstore.Request{Op: backstore.Write, Off: 7}, e); backstore.ClassOf(err) != want || err.(*backstore.Error).Off != 7 {
			t.Errorf("%v: %v, want %v", e, err, want)
		}
	}
}

// noRing stands between a store and a loop whose kernel has no io_uring.
type noRing struct {
	*backstoretest.Loop
	e *engine
}

func (n noRing) Shared(any, func(backstore.Loop) (io.Closer, error)) (io.Closer, error) {
	return n.e, nil
}

// Without io_uring the stores of a loop work all the same, and one line says so.
func TestNoRing(t *testing.T) {
	var said []string
	want := 1
	l := noRing{backstoretest.NewLoop(t), &engine{err: unix.EPERM}}
	for i := range 2 {
		st := openURI(t, fmt.Sprintf("file://%s/d%d.img?size=1M", diskDir(t), i))
		st.warn = func(s string) { said = append(said, s) }
		h := backstoretest.NewHarness(t, st, false)
		if err := st.Attach(l); err != nil {
			t.Fatal(err)
		}
		if st.mem {
			want = 0 // there is no disk here, and memory has no use for a ring
		}
		h.Write(0, bytes.Repeat([]byte{3}, 4096), backstore.FUA)
		h.Want(0, bytes.Repeat([]byte{3}, 4096), "without a ring")
		st.Detach()
		h.Close()
	}
	if len(said) != want || want > 0 && !strings.Contains(said[0], "operation not permitted") {
		t.Errorf("said %q, want %d lines", said, want)
	}
	if err := l.e.Close(); err != nil {
		t.Error(err)
	}
}

// Workers leave when they are idle, come back for work, and take everything exactly once.
func TestPool(t *testing.T) {
	backstoretest.CheckLeaks(t)
	var mu sync.Mutex
	ran := map[*backstore.Request]int{}
	done := make(chan struct{}, 100)
	for _, max := range []int{1, 4} {
		p := newPool(max, func(r *backstore.Request) {
			mu.Lock()
			ran[r]++
			mu.Unlock()
			done <- struct{}{}
		})
		p.stay = time.Millisecond
		for range 3 {
			for range 100 {
				p.put(&backstore.Request{})
			}
			for range 100 {
				<-done
			}
			for left := -1; left != 0; { // all leave
				p.mu.Lock()
				left = p.workers
				p.mu.Unlock()
			}
		}
		p.stop()
	}
	if len(ran) != 600 {
		t.Errorf("%d requests were run, want 600", len(ran))
	}
	for _, n := range ran {
		if n != 1 {
			t.Fatalf("a request was run %d times", n)
		}
	}
}

// An orphan goes on by itself: its file is free when the last request has ended.
func TestOrphan(t *testing.T) {
	backstoretest.CheckLeaks(t)
	path := filepath.Join(diskDir(t), "d.img")
	st := openURI(t, "file://"+path+"?size=1M")
	gate, left := make(chan struct{}), make(chan struct{})
	run := st.workers.run
	st.workers.run = func(r *backstore.Request) { <-gate; run(r); close(left) }
	h := backstoretest.NewHarness(t, st, false)
	r := &backstore.Request{Op: backstore.Allocation, Len: 1 << 20, Extents: make([]backstore.Extent, 0, 1)}
	if h.Start(r) != backstore.Pending {
		t.Fatal("the request is not pending")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.WantClass(st.Close(ctx), backstore.ClassBusy, "Close with a request that does not end")
	if _, err := tryURI("file://" + path); backstore.ClassOf(err) != backstore.ClassBusy {
		t.Errorf("an orphan's file: %v, want busy", err)
	}
	close(gate)
	<-left
	if got := h.Wait(); got != r || r.Err != nil {
		t.Errorf("the orphan's request: %v", r.Err)
	}
	for { // the lock goes with the descriptor, a moment later
		st, err := tryURI("file://" + path)
		if err == nil {
			closeNow(t, st)
			break
		}
	}
}
