package longhorn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A slot is a request that the store has.
type slot struct {
	req   *backstore.Request
	c     *conn  // the connection that has it; nil while it waits
	seq   uint32 // of the current sending; 0: none
	typ   uint32 // what is sent
	sent  bool   // wholly given to the socket
	doubt bool   // a copy sent earlier may still be carried out

	resends uint8     // times sent again after it was sent in vain
	beyond  time.Time // when the engine first said that it lies beyond the end

	answer uint32 // the type of the answer
	text   []byte // of an error, as far as it is kept
}

// A Store is one volume. See the package's comment for who runs what.
type Store struct {
	cfg  *config
	info backstore.Info
	warn func(string)
	left *backstore.Leftovers // of the driver; nil: nobody asks
	key  string

	ctx    context.Context // ends with release
	cancel context.CancelFunc
	wg     sync.WaitGroup // pump and reconnect

	mu     sync.Mutex // guards everything below
	slots  []slot     // the last is the probe's
	free   []uint16
	count  uint32          // of sendings
	c      *conn           // nil while there is none
	wait   backstore.Queue // requests that no connection has
	later  backstore.Queue // requests that are to be sent again in a moment
	win    []byte
	probe  backstore.Request // asks an engine without replicas whether it has some again
	asking bool              // it is under way

	stalled bool // the engine is there and cannot do anything
	away    bool // the time limit has passed
	since   time.Time
	outage  *time.Timer
	pause   time.Duration // before the next attempt at what is missing
	retry   *time.Timer   // of a stall
	down    string        // what the log was last told of why reconnecting fails

	reconnecting bool
	fresh        *conn // made by reconnect, not yet taken over

	heard  time.Time   // when the engine last answered
	quiet  *time.Timer // runs while there are requests in flight
	timing bool        // it does
	silent bool        // the log was told of it

	changed func(size int64) // told of a size that an engine that is back has, or nil
	notice  bool             // that is to be told when the lock is let go

	closing  bool
	released bool
	idle     chan struct{} // closed when closing and no request is left
	detached chan struct{} // closed when closing and the loop has let go

	poller
	done  backstore.Queue // ended, to be completed when the lock is let go
	warns []string
}

// Driver returns the driver of the scheme "longhorn".
func Driver() backstore.Driver {
	left := &backstore.Leftovers{}
	return backstore.Driver{
		Scheme:  "longhorn",
		Help:    "longhorn:VOLUME?engine=HOST:PORT — a volume of a Longhorn engine on this machine; socket=PATH size=SIZE inflight=256 offline_after=0 readonly shared",
		Options: optionNames, Key: key, Volumes: volumes(left),
		Open: func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
			volume := key(u)
			if err := left.Check(volume, "open"); err != nil {
				return nil, err
			}
			s, err := open(ctx, u, o)
			if err != nil {
				return nil, err
			}
			s.left, s.key = left, volume
			return s, nil
		},
		Traits: []string{"discard", "snapshots", "follows growth"},
	}
}

func open(ctx context.Context, u *backstore.URI, o backstore.Options) (*Store, error) {
	c, err := parse(u, o)
	if err != nil {
		return nil, err
	}
	if o.TakeOver {
		return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: errors.New("a Longhorn engine cannot shut out others that are connected to it")}
	}
	fd, size, err := dial(ctx, c)
	if err != nil {
		return nil, err
	}
	if c.size > size {
		closeFd(fd)
		return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open", Cause: fmt.Errorf("the engine of %s has %d bytes, fewer than size=%d", c.shown(), size, c.size)}
	}
	s, err := newStore(c, size, o.Warn)
	if err != nil {
		closeFd(fd)
		return nil, err
	}
	s.c = newConn(s, fd, size)
	return s, nil
}

// newStore makes a store without a connection.
func newStore(c *config, size int64, warn func(string)) (*Store, error) {
	if warn == nil {
		warn = func(string) {}
	}
	s := &Store{cfg: c, info: c.info(size), warn: warn, slots: make([]slot, c.inFlight+1), free: make([]uint16, c.inFlight), win: make([]byte, windowSize), pause: c.minPause}
	if s.info.Size <= 0 {
		return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open", Cause: fmt.Errorf("the engine of %s has %d bytes, less than one sector of %d", c.shown(), size, sector)}
	}
	for i := range s.free {
		s.free[i] = uint16(len(s.free) - 1 - i)
	}
	s.probe = backstore.Request{Op: backstore.Read, Len: sector, Buf: make([]byte, sector), Slot: uint64(c.inFlight)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.openPoller(); err != nil {
		s.cancel()
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	if size != s.info.Size {
		s.warn(fmt.Sprintf("%s: %d of its %d bytes are served, whole sectors of %d", c.shown(), s.info.Size, size, sector))
	}
	return s, nil
}

// Info returns the snapshot.
func (s *Store) Info() backstore.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Submit queues r; Kick sends it.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	s.mu.Lock()
	out := s.submit(r)
	s.mu.Unlock()
	return out
}

var (
	errInFlight = errors.New("more requests in flight than the store takes")
	errAway     = errors.New("the engine is away")
)

func (s *Store) submit(r *backstore.Request) backstore.Outcome {
	if r.Err = s.refuse(r); r.Err != nil {
		return backstore.Done
	}
	if r.Flags&backstore.NoWait != 0 && (r.Op == backstore.Read || r.Op == backstore.Write) {
		return backstore.WouldBlock
	}
	if r.Op == backstore.Flush || r.Len == 0 {
		return backstore.Done // nothing to do: the protocol has no word for a flush
	}
	if len(s.free) == 0 {
		r.Err = &backstore.Error{Class: backstore.ClassBusy, Op: r.Op.String(), Off: r.Off, Cause: errInFlight}
		return backstore.Done
	}
	s.start()
	s.begin(r)
	return backstore.Pending
}

func (s *Store) refuse(r *backstore.Request) error {
	if s.closing {
		return &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
	}
	if err := s.info.Check(r); err != nil {
		return err
	}
	if s.away {
		return &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: errAway}
	}
	return nil
}

// begin gives r a slot and the connection, if there is one.
func (s *Store) begin(r *backstore.Request) {
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	r.Slot = uint64(i)
	s.fill(r)
	if !s.timing {
		s.listen()
	}
	s.assign(i)
	// A caller that never ends its batch must not stand still.
	if c := s.slots[i].c; c != nil && (c.sendq.Len() >= maxBatch || c.sendBytes >= maxSend) && !c.blocked {
		c.send()
	}
}

// fill makes r's slot its own.
func (s *Store) fill(r *backstore.Request) {
	sl := &s.slots[r.Slot]
	*sl = slot{req: r, text: sl.text[:0]}
	switch r.Op {
	case backstore.Read:
		sl.typ = typeRead
	case backstore.Write:
		sl.typ = typeWrite
	case backstore.Discard:
		sl.typ = typeUnmap
	}
}

// assign queues a slot's request on the connection, or lets it wait.
func (s *Store) assign(i uint16) {
	sl := &s.slots[i]
	if s.c == nil || !s.c.usable() || s.stalled && sl.req != &s.probe {
		sl.c, sl.seq, sl.sent = nil, 0, false
		s.wait.Push(sl.req)
		return
	}
	s.count++
	if s.count >= 1<<(32-slotBits) {
		s.count = 1
	}
	sl.c, sl.sent, sl.answer, sl.text = s.c, false, 0, sl.text[:0]
	sl.seq = s.count<<slotBits | uint32(i)
	s.c.take(sl)
}

// Kick sends what Submit queued.
func (s *Store) Kick() {
	s.mu.Lock()
	s.sendAll()
	s.mu.Unlock()
}

func (s *Store) sendAll() {
	if c := s.c; c != nil && c.hasWork() && !c.blocked {
		c.send()
	}
}

// end frees a slot and completes its request when the lock is let go.
func (s *Store) end(i uint16, err error) {
	sl := &s.slots[i]
	r := sl.req
	sl.req, sl.c, sl.seq = nil, nil, 0
	if r == &s.probe {
		s.asking = false
		return
	}
	s.free = append(s.free, i)
	r.Err = err
	s.done.Push(r)
	if s.idle != nil && s.inFlight() == 0 {
		close(s.idle)
		s.idle = nil
	}
}

// inFlight is how many requests of callers the store has.
func (s *Store) inFlight() int { return s.cfg.inFlight - len(s.free) }

// unlock lets go of the lock and delivers what came of holding it.
func (s *Store) unlock() {
	done, warns := s.done, s.warns
	s.done, s.warns = backstore.Queue{}, nil
	changed, size := s.changed, s.info.Size
	if !s.notice {
		changed = nil
	}
	s.notice = false
	s.mu.Unlock()
	if changed != nil {
		changed(size)
	}
	for r := done.Pop(); r != nil; r = done.Pop() {
		r.C.Complete(r)
	}
	for _, w := range warns {
		s.warn(w)
	}
}

func (s *Store) remark(format string, a ...any) {
	s.warns = append(s.warns, s.info.Volume+": "+fmt.Sprintf(format, a...))
}

var (
	_ backstore.Store    = (*Store)(nil)
	_ backstore.Kicker   = (*Store)(nil)
	_ backstore.Attacher = (*Store)(nil)
)
