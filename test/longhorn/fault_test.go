//go:build e2e

package longhorn_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/history"
	"github.com/lunar-iscsi/lunar/test/longhorn"
)

const (
	blockSize = 4096
	blocks    = 1024 // that a load works on
	depth     = 16
)

// A load writes and reads blocks of an open store at random, some at a time and none twice at once, and checks what it reads.
type load struct {
	t       *testing.T
	h       *backstoretest.Harness
	hist    *history.History
	rnd     *rand.Rand
	busy    [blocks]bool
	running map[*backstore.Request]*op
	ios     int
	longest time.Duration
}

// An op is one request in flight, as history knows it.
type op struct {
	*history.Op
	began time.Time
}

func newLoad(t *testing.T, h *backstoretest.Harness) *load {
	return &load{t: t, h: h, hist: history.New(history.Config{Seed: 1, Blocks: blocks, BlockSize: blockSize}), rnd: rand.New(rand.NewPCG(1, 2)),
		running: map[*backstore.Request]*op{}}
}

// fill has as many requests in flight as there may be.
func (l *load) fill() {
	l.t.Helper()
	for len(l.running) < depth {
		first, n := l.rnd.IntN(blocks-8), 1+l.rnd.IntN(8)
		free := true
		for i := first; i < first+n; i++ {
			free = free && !l.busy[i]
		}
		if !free {
			continue
		}
		for i := first; i < first+n; i++ {
			l.busy[i] = true
		}
		q := &backstore.Request{Op: backstore.Read, Off: int64(first) * blockSize, Len: int64(n) * blockSize, Buf: make([]byte, n*blockSize)}
		o := &op{began: time.Now()}
		if l.rnd.IntN(3) > 0 {
			q.Op = backstore.Write
			o.Op = l.hist.Write(0, uint64(first), uint64(n), false, "write")
			o.Fill(q.Buf)
		} else {
			o.Op = l.hist.Read(0, uint64(first), uint64(n), "read")
		}
		l.running[q] = o
		if out := l.h.Start(q); out != backstore.Pending {
			l.t.Fatalf("outcome %d, %v", out, q.Err)
		}
	}
	l.h.Kick()
}

// end waits for one request. It must have ended well.
func (l *load) end() {
	l.t.Helper()
	q := l.h.Wait()
	if q.Err != nil {
		l.t.Fatalf("%v at %d: %v", q.Op, q.Off, q.Err)
	}
	o := l.running[q]
	delete(l.running, q)
	for i := q.Off / blockSize; i < (q.Off+q.Len)/blockSize; i++ {
		l.busy[i] = false
	}
	data := q.Buf
	if q.Op == backstore.Write {
		data = nil
	}
	if err := o.Done(data); err != nil {
		l.t.Fatal(err)
	}
	l.ios++
	l.longest = max(l.longest, time.Since(o.began))
}

// run goes on until done is closed and then for n more requests.
func (l *load) run(done <-chan struct{}, n int) {
	l.t.Helper()
	for left := n; left > 0; {
		l.fill()
		l.end()
		select {
		case <-done:
			left--
		default:
		}
	}
}

// during runs f beside the load; the load is the test's goroutine's. An f that fails ends, and the load then does.
func (l *load) during(what string, f func()) {
	l.t.Helper()
	l.longest = 0
	before := l.ios
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		defer close(done)
		f()
	}()
	defer wg.Wait()
	l.run(done, 500)
	l.t.Logf("%s: %d requests, the longest took %v", what, l.ios-before, l.longest.Round(time.Millisecond))
}

// all ends what is in flight and reads every block.
func (l *load) all() {
	l.t.Helper()
	for len(l.running) > 0 {
		l.end()
	}
	for i := 0; i < blocks; i += 64 {
		r := l.hist.Read(0, uint64(i), 64, "read")
		if err := r.Done(l.h.Read(int64(i)*blockSize, 64*blockSize)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// What happens to an engine and its replicas is not noticed but for time: nothing fails, nothing is lost.
func TestFaults(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: 16 << 20})
	h := harness(t, e.URI(""))
	l := newLoad(t, h)
	l.during("nothing", func() {})
	l.during("a replica killed", func() { e.KillReplica(0) })
	e.WaitMode(0, "ERR")
	var i int
	l.during("a replica rebuilt", func() { i = e.Rebuild(0) })
	if m := e.Mode(i); m != "RW" {
		t.Errorf("it is %s", m)
	}
	// The other one goes, so that what is read comes from what was rebuilt.
	l.during("the other replica killed", func() { e.KillReplica(1) })
	l.all()
	l.during("the controller killed and started", func() {
		e.KillController()
		e.Restart()
	})
	l.during("the controller frozen for 2 s", func() {
		e.Signal(syscall.SIGSTOP)
		<-time.After(2 * time.Second)
		e.Signal(syscall.SIGCONT)
	})
	l.during("the last replica killed, everything started anew", func() {
		e.KillReplica(i)
		e.WaitMode(i, "ERR")
		e.KillController()
		e.StartReplica(i)
		e.Restart()
	})
	l.all()
	h.Close()
}

// A replica that is frozen is given up by the engine after its time limit, 8 s; requests wait for that.
func TestReplicaFrozen(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: 16 << 20})
	h := harness(t, e.URI(""))
	l := newLoad(t, h)
	l.during("a replica frozen", func() {
		e.SignalReplica(0, syscall.SIGSTOP)
		e.WaitMode(0, "ERR")
	})
	e.SignalReplica(0, syscall.SIGCONT)
	l.all()
	h.Close()
}

// An engine that is started anew on replicas that have grown: the disk follows, under load.
func TestGrowthFollowed(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: 16 << 20})
	st := open(t, e.URI(""))
	grown := make(chan int64, 1)
	st.(backstore.SizeWatcher).WatchSize(func(n int64) { grown <- n })
	h := backstoretest.NewHarness(t, st, true)
	l := newLoad(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	class(t, st.(backstore.Resizer).Resize(ctx, 32<<20), backstore.ClassUnsupported, "have Longhorn expand the volume")
	l.during("the volume expanded, and its engine started anew", func() {
		e.Must("expand", "--size", strconv.Itoa(32<<20))
		e.WaitExpanded(32 << 20)
		e.KillController()
		e.Size = 32 << 20
		e.Restart()
		select {
		case n := <-grown:
			if n != 32<<20 {
				t.Errorf("it has grown to %d bytes", n)
			}
		case <-ctx.Done():
			t.Error("nothing was noticed")
		}
	})
	l.all()
	h.Write(32<<20-blockSize, fill(blockSize, 1), 0)
	h.Want(16<<20, make([]byte, blockSize), "what was gained")
	if n, err := st.(backstore.Sizer).PresentSize(ctx); err != nil || n != 32<<20 {
		t.Errorf("%d, %v", n, err)
	}
	h.Close()
}
