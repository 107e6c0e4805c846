package file

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	// pieceSize is what is copied at a time, and so what a write may have to wait for; a disk does it in some milliseconds.
	pieceSize = 1 << 20
	// drainLimit is how long a snapshot waits, and has new writes wait, for the writes that were in flight when it began. A disk
	// that needs longer is not one to take a snapshot of.
	drainLimit = 10 * time.Second
	// drainPoll is how soon it looks again, the first time; it doubles up to drainPollMax.
	drainPoll, drainPollMax = 20 * time.Microsecond, 2 * time.Millisecond
)

// changes reports whether a request of o changes the volume.
func changes(o backstore.Op) bool {
	return o == backstore.Write || o == backstore.Discard || o == backstore.WriteZeroes
}

// A gate stands before every change of the volume and is open but while a snapshot is taken. Then changes go through the snapshot (hold).
//
// To have one moment at which nothing is under way, it counts what has come in and what has ended. The submitting goroutine counts in
// and then looks for a snapshot; a snapshot shows itself and then looks at the counts: one of them sees the other. What a write pays is
// an uncontended store and a load; what is done inline is counted out by Counters.WritesInline, which is counted anyway.
type gate struct {
	entered atomic.Uint64 // of the submitting goroutine: changes that went past the gate
	left    atomic.Uint64 // of them, those that have ended, but for Counters.WritesInline
	shot    atomic.Pointer[shot]

	taking sync.Mutex // held by whoever takes a snapshot; guards past
	past   []*shot    // snapshots before, of which held changes may still be under way
}

// busy reports whether changes that earlier snapshots held are under way.
func (g *gate) busy() bool {
	g.past = slices.DeleteFunc(g.past, func(sh *shot) bool { return sh.held.Load() == 0 })
	return len(g.past) > 0
}

// enter lets a change pass, or returns the snapshot that holds it. On the submitting goroutine.
func (g *gate) enter() *shot {
	n := g.entered.Load() + 1
	g.entered.Store(n)
	sh := g.shot.Load()
	if sh != nil {
		sh.held.Add(1) // before it is not counted any more
		g.entered.Store(n - 1)
	}
	return sh
}

// hold gives a change to the snapshot that is being taken: it is carried out by a worker once what it would overwrite is copied.
func (s *Store) hold(sh *shot, r *backstore.Request) backstore.Outcome {
	if r.Op == backstore.Write && r.Flags&backstore.NoWait != 0 {
		sh.held.Add(-1)
		return backstore.WouldBlock
	}
	if r.Op == backstore.Write {
		bump(&s.counters.writesHanded)
	}
	s.inFlight.Add(1)
	sh.pool.put(r)
	return backstore.Pending
}

// drain waits until no change is under way that passed the gate before the snapshot stood there, nor one that a snapshot before it held.
func (s *Store) drain(ctx context.Context) error {
	g := &s.gate
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	for wait := drainPoll; ; wait = min(2*wait, drainPollMax) {
		// What has ended is read first: what comes in between then only makes them differ.
		out := s.counters.writesInline.Load() + g.left.Load()
		if in := g.entered.Load(); in == out && !g.busy() {
			return nil
		}
		poll := time.NewTimer(wait)
		select {
		case <-poll.C:
		case <-ctx.Done():
			poll.Stop()
			return context.Cause(ctx)
		case <-limit.C:
			poll.Stop()
			return classErr(backstore.ClassTimeout, "writes that were in flight have not ended for %v", drainLimit)
		}
	}
}

// A shot is a snapshot that is being taken of an open store: which pieces are copied, and who waits for one.
type shot struct {
	pool *pool        // carries out the changes that are held
	held atomic.Int64 // changes that it has

	mu      sync.Mutex
	moved   sync.Cond // on mu: something of the below has changed
	open    bool      // the moment has come, or there will be none: changes go on, copying first what they overwrite
	over    bool      // nothing is to be copied any more
	err     error     // why it has failed
	size    int64     // of the volume at the moment
	copied  []uint64  // a bit a piece
	copying map[int64]struct{}
	copyTo  *copier // set with open, unless over
}

func (s *Store) newShot() *shot {
	sh := &shot{copying: map[int64]struct{}{}}
	sh.moved.L = &sh.mu
	sh.pool = newPool(maxWorkers, func(r *backstore.Request) {
		sh.before(r.Off, r.Len)
		err := s.exec(r)
		sh.held.Add(-1) // first: r is its owner's after the next line
		s.complete(r, err)
	})
	return sh
}

// begin is the moment: from now on what changes is copied first.
func (sh *shot) begin(c *copier, size int64) {
	sh.mu.Lock()
	sh.open, sh.copyTo, sh.size = true, c, size
	sh.copied = make([]uint64, (size+pieceSize*64-1)/(pieceSize*64))
	sh.moved.Broadcast()
	sh.mu.Unlock()
}

// end lets everything pass from now on; err, if not nil, says why there is no snapshot. The first one counts. It returns once nobody copies.
func (sh *shot) end(err error) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.endLocked(err)
	for len(sh.copying) > 0 {
		sh.moved.Wait()
	}
	return sh.err
}

func (sh *shot) endLocked(err error) {
	if !sh.over {
		sh.open, sh.over, sh.err = true, true, err
		sh.moved.Broadcast()
	}
}

func (sh *shot) has(piece int64) bool { return sh.copied[piece/64]&(1<<(piece%64)) != 0 }

// before returns when [off, off+n) may be changed: when it is copied, or need not be.
func (sh *shot) before(off, n int64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for !sh.open {
		sh.moved.Wait()
	}
	for p := off / pieceSize; p*pieceSize < off+n && !sh.over; p++ {
		sh.takeLocked(p)
	}
}

// takeLocked has piece p copied, by the caller or by whoever is at it. Its error is the snapshot's, never the write's.
func (sh *shot) takeLocked(p int64) {
	for !sh.over && p*pieceSize < sh.size && !sh.has(p) {
		if _, busy := sh.copying[p]; busy {
			sh.moved.Wait()
			continue
		}
		sh.copying[p] = struct{}{}
		sh.mu.Unlock()
		err := sh.copyTo.span(p*pieceSize, min((p+1)*pieceSize, sh.size))
		sh.mu.Lock()
		delete(sh.copying, p)
		if err != nil {
			sh.endLocked(err)
		} else {
			sh.copied[p/64] |= 1 << (p % 64)
		}
		sh.moved.Broadcast()
	}
}

// all copies every piece that no write has had copied, until ctx ends.
func (sh *shot) all(ctx context.Context, p backstore.Progress) {
	for off := int64(0); off < sh.size; {
		if ctx.Err() != nil {
			_ = sh.end(context.Cause(ctx))
			return
		}
		// What is a hole now was one at the moment: before a piece changes it is copied. So holes need no copying whoever comes meanwhile.
		data := min(sh.copyTo.data(off)/pieceSize*pieceSize, sh.size)
		sh.mu.Lock()
		for ; off < data && !sh.over; off += pieceSize {
			piece := off / pieceSize
			for _, busy := sh.copying[piece]; busy; _, busy = sh.copying[piece] {
				sh.moved.Wait()
			}
			sh.copied[piece/64] |= 1 << (piece % 64)
		}
		if off < sh.size && !sh.over {
			sh.takeLocked(off / pieceSize)
			off += pieceSize
		}
		over := sh.over
		sh.mu.Unlock()
		if over {
			return
		}
		p.Report(min(off, sh.size), sh.size)
	}
}
