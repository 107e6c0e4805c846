package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target/evloop"
	"golang.org/x/sys/unix"
)

// Sizes of what belongs to a loop.
const (
	// slabSize is the receive buffer that all connections of a loop share: one read takes this much. Small enough to stay
	// in the second-level cache, large enough for a full window of 4 KiB writes.
	slabSize = 256 << 10
	// placeMin is the data segment from which an incomplete PDU is received straight into its place rather than
	// kept and completed in the slab.
	placeMin = 16 << 10
	// bulkPeek is how much is read of what follows a PDU with a large data segment: enough for the next header. More would only
	// have to be copied to its place.
	bulkPeek = 4 << 10
	// restSize holds the start of any PDU that is not received into its place: header, all AHS, and less than placeMin of data.
	restSize = placeMin + 2<<10
	// leftMax is what connections may have left over of turns that were used up before all was handled. With more, less is read at a
	// time: a thousand floods would leave a slab each.
	leftMax = 4 << 20
	// keepRests is how many of these a loop keeps for reuse.
	keepRests = 32
	// inPlaceMax is the largest READ that is read into the output stream itself. Above it a pooled buffer goes out by
	// writev, which costs one more vector and saves reserving room that a slow connection would keep.
	inPlaceMax = 64 << 10
	// flushBytes is how much output gathers before it is sent although more requests wait. Less means that the initiator is woken
	// more often, which costs the sender: 256 KiB sequential reads, depth 8, took 130 µs of CPU with 256 KiB, 109 with 1 MiB, 108 with 2
	// MiB; 16 KiB reads, depth 128, took 8.9, 7.3 and 7.2.
	flushBytes = 2 << 20
)

// A loop is one event loop with everything that its targets share. All of it but cq is touched on the loop's
// goroutine or with ev's lock held.
type loop struct {
	s       *Server
	name    string
	made    int64 // when, of the group's clock
	ev      *evloop.Loop
	pool    *evloop.Pool
	tasks   session.Pool
	targets []*Target
	closed  bool

	slab       []byte
	rests      [][]byte // free memory for conn.rest
	scratch    []byte   // where data goes that no buffer could be had for
	arena      *arena   // output under construction
	spares     []*arena
	left       int              // bytes that connections have left over of turns: whole PDUs
	arenas     int              // made and not let go of, outside the budget
	acts       []session.Action // see takeActs
	vec        [maxVec + 2]unix.Iovec
	header     pdu.Header           // of the large PDU that is being handed over
	gift       *evloop.Buf          // holds the immediate data of the command being begun; whoever takes it clears it
	overBudget bool                 // that data was dropped for want of memory
	dirty      []*conn              // have output to send
	timed      []*lunCounters       // have commands that began and ended in this turn
	kicks      []*unit              // have submitted something
	taken      []*backstore.Request // off cq, being dealt with; nil where that is done
	done       []*record            // commands that ended in the background, in order; nil where that is dealt with
	queues     [][]outPDU           // see getQueue
	orphans    []*unit              // closed while a request was out; detached when it ends
	inLU       *scsi.LU             // set while its code runs: a panic then takes it offline
	inRec      *record              // whose command that is
	draining   bool                 // nobody is let in any more
	leaving    bool                 // its last target was removed: it takes no other
	late       evloop.Timer         // set while commands are pending: see lookLate
	closings   int                  // calls of closeUnit under way or to come
	quiet      chan struct{}        // closed when there are neither any more, if somebody waits for that
	past       session.Counters     // of targets that are no more
	shared     map[any]io.Closer

	cq struct {
		sync.Mutex
		ready []*backstore.Request
	}
}

func (s *Server) newLoop(name string) (*loop, error) {
	l := &loop{s: s, name: name, made: s.group.Clock(), slab: make([]byte, slabSize), shared: map[any]io.Closer{}}
	ev, err := s.group.NewLoop(evloop.Config{Name: name, Spin: s.cfg.Spin, MaxTurn: s.cfg.MaxTurn, Panic: l.panicked}, l)
	if err != nil {
		return nil, err
	}
	ev.Lock()
	l.ev = ev
	l.late.F = l.lookLate
	l.pool = evloop.NewPool(ev, s.budget, 0)
	l.tasks.NewRef = func(t *session.Task) any { return &record{task: t} }
	l.tasks.ClearRef = func(ref any) { ref.(*record).clear() }
	ev.Unlock()
	s.loops = append(s.loops, l)
	return l, nil
}

// Complete is backstore.Completer's: it may be called from any goroutine.
func (l *loop) Complete(r *backstore.Request) {
	l.cq.Lock()
	l.cq.ready = append(l.cq.ready, r)
	first := len(l.cq.ready) == 1
	l.cq.Unlock()
	if first {
		l.ev.Wake()
	}
}

// Woken is evloop.Handler's: stores have completed requests, or the admin plane left work.
func (l *loop) Woken() {
	l.finish() // what a panic left
	l.cq.Lock()
	l.taken, l.cq.ready = l.cq.ready, l.taken
	l.cq.Unlock()
	l.finish()
	l.settle()
	if len(l.orphans) != 0 {
		l.reap()
	}
}

// finish hands completed requests to the LUs that they belong to.
func (l *loop) finish() {
	for i, r := range l.taken {
		if r == nil {
			continue
		}
		l.taken[i] = nil
		l.inLU, l.inRec = scsi.UnitOf(r), nil
		if c, ok := r.Owner.(*scsi.Command); ok {
			l.inRec, _ = c.Owner.(*record)
		}
		scsi.Completed(r)
		l.inLU = nil
	}
	l.taken = l.taken[:0]
}

// Done is scsi.Host's: a command that was pending has ended. It is dealt with by settle, outside the LU's code.
func (l *loop) Done(c *scsi.Command) {
	switch o := c.Owner.(type) {
	case *record:
		l.done = append(l.done, o)
	case *errand:
		close(o.ended)
	}
}

// settle answers what has ended in the background. Answering may let further commands go on, which end at once and
// queue up here too.
func (l *loop) settle() {
	for i := 0; i < len(l.done); i++ {
		if r := l.done[i]; r != nil {
			l.done[i] = nil
			l.ended(r)
		}
	}
	l.done = l.done[:0]
}

// EndTurn is evloop.Handler's: stores get their batch, connections their output.
func (l *loop) EndTurn() {
	// Each may bring about the others: a batch that ends at once is answered, and what is sent lets reads go on.
	for len(l.done)+len(l.kicks)+len(l.dirty) != 0 {
		l.settle()
		l.kick()
		l.send()
	}
	if len(l.timed) != 0 {
		l.endTimes()
	}
}

// send sends what there is for each connection. One whose socket takes no more is called when it does.
func (l *loop) send() {
	for i := 0; i < len(l.dirty); i++ {
		c := l.dirty[i]
		if c == nil {
			continue
		}
		l.dirty[i] = nil
		c.isDirty = false
		if c.blocked {
			c.keepSmall()
		} else {
			c.flush()
		}
	}
	l.dirty = l.dirty[:0]
}

func (l *loop) kick() {
	for i, u := range l.kicks {
		if u == nil {
			continue
		}
		l.kicks[i] = nil
		u.kicks = false
		l.inLU, l.inRec = u.lu, nil
		u.lu.Kick()
		l.inLU = nil
	}
	l.kicks = l.kicks[:0]
}

// panicked is evloop's: the connection that it came from is lost, and an LU whose code was running goes offline rather
// than on with half-changed state.
func (l *loop) panicked(v any, stack []byte) {
	lu, r := l.inLU, l.inRec
	l.inLU, l.inRec = nil, nil
	c, _ := l.ev.Current().(*conn)
	if lu != nil && r != nil {
		r.lost = true
		if c == nil {
			c = r.conn
		}
	}
	l.fault(lu, c, v, stack)
	l.acts = nil
	if l.gift != nil {
		l.pool.Put(l.gift)
	}
	l.gift, l.overBudget = nil, false
	if c != nil {
		l.cut(c)
	}
	l.ev.Wake() // for what the panic cut short
}

// fault counts and logs a panic; lu, if it came from one, goes offline.
func (l *loop) fault(lu *scsi.LU, c *conn, v any, stack []byte) {
	name := ""
	if c != nil {
		name = c.name
	}
	l.s.notes.warn(noteFault, "a fault in lunar itself", "conn", name, "lu_offline", lu != nil, "panic", fmt.Sprint(v), "stack", string(stack))
	l.s.count.panics.Add(1)
	if lu != nil {
		lu.SetOffline("a fault in its code")
	}
}

// cut drops a connection after a panic, which may have left it anyhow.
func (l *loop) cut(c *conn) {
	defer func() {
		if v := recover(); v != nil {
			l.fault(nil, c, v, debug.Stack())
		}
	}()
	if !c.dead {
		c.drop(dropFault, "a fault in lunar itself")
	}
}

// guard calls code of lu off the fast path, where a panic must not keep the caller from going on.
func (l *loop) guard(lu *scsi.LU, f func()) (sound bool) {
	outer := l.inLU
	l.inLU = nil
	defer func() {
		l.inLU = outer
		if !sound {
			l.fault(lu, nil, recover(), debug.Stack())
		}
	}()
	f()
	return true
}

// Watch is backstore.Loop's.
func (l *loop) Watch(fd int, ready func()) (func(), error) {
	w := &watch{ready: ready}
	id, err := l.ev.Add(fd, w, evloop.Readable)
	if err != nil {
		return nil, err
	}
	return func() { l.ev.Remove(id) }, nil
}

type watch struct{ ready func() }

// Ready is evloop.Pollable's.
func (w *watch) Ready(evloop.Events) bool {
	w.ready()
	return false
}

// Shared is backstore.Loop's.
func (l *loop) Shared(key any, make func(backstore.Loop) (io.Closer, error)) (io.Closer, error) {
	if v, ok := l.shared[key]; ok {
		return v, nil
	}
	v, err := make(l)
	if err == nil {
		l.shared[key] = v
	}
	return v, err
}

func (l *loop) askLogoutLocked() {
	l.draining = true
	for _, t := range l.targets {
		for _, s := range t.sessions {
			l.perform(s.s.AskLogout(l.s.group.Clock(), l.takeActs()))
			s.arm()
		}
	}
}

func (l *loop) dropAllLocked(end ending, why string) {
	for _, t := range l.targets {
		for _, s := range t.sessions {
			l.dropSession(s, end, why)
		}
	}
}

// abortLUNLocked aborts every command that t's sessions have sent to that LUN. Each is told TASK ABORTED: without an answer its initiator
// would wait for its time-out, and then reset what is there no more.
func (t *Target) abortLUNLocked(lun uint16) {
	for _, s := range t.sessions {
		s.abortBy(func(ln *lunNexus) bool { return ln.unit != nil && s.target(ln) == lun })
	}
}

// closePoll is how often closeUnit looks whether the last request of a store has ended.
const closePoll = 5 * time.Millisecond

// closeUnit detaches and closes the store of a unit that stands behind no LUN any more (dropLocked), once nothing of it is
// in flight. It is called without the lock.
func (l *loop) closeUnit(ctx context.Context, u *unit) error {
	defer func() {
		l.ev.Lock()
		l.closings--
		l.quietLocked()
		l.ev.Unlock()
	}()
	swapErr := l.dropSwap(ctx, u)
	if err := u.change.take(ctx); err == nil { // a resize may still have the store
		defer u.change.give()
	}
	if u.store == nil {
		u.state.release()
		return swapErr
	}
	tick := time.NewTicker(closePoll)
	defer tick.Stop()
	idle := func() bool {
		l.ev.Lock()
		defer l.ev.Unlock()
		l.kick()
		if u.lu.InFlight() != 0 {
			return false
		}
		if a, ok := u.store.(backstore.Attacher); ok {
			a.Detach()
		}
		return true
	}
	for !idle() {
		select {
		case <-ctx.Done():
			// Close answers busy: the store is orphaned, and ends with its last request.
			l.ev.Lock()
			l.orphans = append(l.orphans, u)
			l.s.orphans.Add(1)
			l.ev.Unlock()
			l.ev.Wake()
			return errors.Join(swapErr, u.store.Close(ctx))
		case <-tick.C:
		}
	}
	err := u.store.Close(ctx)
	u.state.release()
	return errors.Join(swapErr, err)
}

// dropSwap ends what was to give a disk that goes another volume.
func (l *loop) dropSwap(ctx context.Context, u *unit) error {
	l.ev.Lock()
	p := u.swap
	ends := p != nil && p.endLocked()
	l.ev.Unlock()
	if !ends {
		return nil
	}
	u.change.give()
	return closeStore(ctx, p.st)
}

// reap lets go of the orphans whose last request has ended.
func (l *loop) reap() {
	l.orphans = slices.DeleteFunc(l.orphans, func(u *unit) bool {
		if u.lu.InFlight() != 0 {
			return false
		}
		if a, ok := u.store.(backstore.Attacher); ok {
			a.Detach()
		}
		u.state.release()
		l.s.orphans.Add(-1)
		return true
	})
	l.quietLocked()
}

// quietLocked reports whether no store of the loop's is being closed and none is orphaned, and tells who waits for that.
func (l *loop) quietLocked() bool {
	if l.closings+len(l.orphans) != 0 {
		return false
	}
	if l.quiet != nil {
		close(l.quiet)
		l.quiet = nil
	}
	return true
}

// awaitClosings waits within ctx until nobody is closing a store any more: what such a store has under way ends on the loop.
func (l *loop) awaitClosings(ctx context.Context) {
	tick := time.NewTicker(closePoll)
	defer tick.Stop()
	for {
		l.ev.Lock()
		n := l.closings
		l.ev.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// close ends the loop and closes the stores of its targets.
func (l *loop) close(ctx context.Context) error {
	l.ev.Lock()
	if l.closed {
		l.ev.Unlock()
		return nil
	}
	l.closed = true
	l.dropAllLocked(endDrained, "the server is closing")
	var units []*unit
	for _, t := range l.targets {
		units = append(units, t.takeUnitsLocked()...)
	}
	l.ev.Unlock()
	l.ev.Wake()
	var errs []error
	for _, u := range units {
		errs = append(errs, l.closeUnit(ctx, u))
	}
	l.awaitClosings(ctx)
	l.ev.Lock()
	for _, c := range l.shared {
		errs = append(errs, c.Close())
	}
	l.shared = map[any]io.Closer{}
	l.shutMemory()
	l.ev.Unlock()
	errs = append(errs, l.ev.Close())
	return errors.Join(errs...)
}
