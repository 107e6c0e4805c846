package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A slot is a request that the store has. Its index and a number that no other sending has make the cookie.
type slot struct {
	req    *backstore.Request
	c      *conn  // the connection that has it; nil while it waits for one
	cookie uint64 // of the current sending
	mark   uint64 // Store.acked when a flush was submitted: what it covers
	cmd    uint16 // what is sent: a FUA read is a flush first
	sent   bool   // wholly given to the socket
	off, n int64  // the range on the wire: all of the request's, or a piece of it

	resends uint8 // times sent again
	doubt   bool  // a copy sent earlier may still run
	slow    bool  // write zeroes: the server cannot do it fast

	// The answer so far.
	errno  uint32
	text   string
	errOff int64  // within the volume, where the server told
	cover  []span // of a read: what has arrived; its memory is kept
}

// A Store is one export. See the package's comment for who runs what.
type Store struct {
	cfg  *config
	ex   *export
	info backstore.Info
	warn func(string)
	left *backstore.Leftovers // of the drivers; nil: nobody asks
	key  string

	ctx    context.Context // ends with release
	cancel context.CancelFunc
	wg     sync.WaitGroup // pump and reconnect

	mu    sync.Mutex // guards everything below
	slots []slot
	told  []told // of the slots that have an allocation query
	free  []uint16
	seq   uint64 // of the last sending
	conns []*conn
	live  int // of conns not nil
	pace  pace
	cur   *conn           // takes this batch's requests
	burst int             // how many it took
	wait  backstore.Queue // requests without a connection
	win   []byte

	// What a lost server may have lost with it (package comment). A connection of an era up to askEra can
	// be asked about the writes before lostMark.
	acked    uint64 // writes acknowledged without FUA
	durable  uint64 // how many of them a flush has covered
	era      uint32 // losses so far
	mixed    bool   // connections of several eras
	suspect  bool
	askEra   uint32
	lostMark uint64
	failed   error // sticky

	away         bool // the time limit has passed without a connection
	since        time.Time
	outage       *time.Timer
	reconnecting bool
	fresh        []*conn       // made by reconnect, not yet taken over
	pause        time.Duration // before the next attempt
	backoff      time.Duration
	grown        time.Time // when backoff last grew for a connection that lived shortly
	lastDown     string    // the last remark on why reconnecting failed

	hold    bool             // nothing is given to a connection: see AdoptSize
	changed func(size int64) // told of a size that a server that is back has, or nil
	notice  bool             // that is to be told when the lock is let go

	closing  bool
	released bool
	idle     chan struct{} // closed when closing and no request is left
	detached chan struct{} // closed when closing and the loop has let go

	poller
	done  backstore.Queue // ended, to be completed when the lock is let go
	warns []string
}

// Drivers returns the drivers of the schemes "nbd", "nbds", "nbd+unix" and "nbds+unix".
func Drivers() []backstore.Driver {
	const help = " — a volume of an NBD server; connections=4 inflight=256 offline_after=30s restart=safe|unsafe readonly shared"
	const secure = help + " tls-certificates=DIR tls-hostname=NAME tls-verify-peer=1"
	options := []string{"socket", "connections", "inflight", "offline_after", "restart", "readonly", "shared"}
	withTLS := append(slices.Clone(options), tlsOptions[:]...)
	traits := []string{"reconnects", "follows growth"}
	left := &backstore.Leftovers{}
	guarded := func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
		volume := key(u)
		if err := left.Check(volume, "open"); err != nil {
			return nil, err
		}
		st, err := open(ctx, u, o)
		if err != nil {
			return nil, err
		}
		st.left, st.key = left, volume
		return st, nil
	}
	var ds []backstore.Driver
	for _, d := range []backstore.Driver{
		{Scheme: "nbd", Help: "nbd://host:10809/export" + help, Traits: traits},
		{Scheme: "nbds", Help: "nbds://host:10809/export" + secure, Traits: append(slices.Clone(traits), "tls")},
		{Scheme: "nbd+unix", Help: "nbd+unix:///export?socket=/run/nbd.sock" + help, Traits: traits},
		{Scheme: "nbds+unix", Help: "nbds+unix:///export?socket=/run/nbd.sock" + secure, Traits: append(slices.Clone(traits), "tls")},
	} {
		// Those of TLS are known to all four, so that one in the wrong place is refused with the reason.
		d.Options, d.Open, d.Key, d.Volumes = withTLS, guarded, key, volumes()
		ds = append(ds, d)
	}
	for _, scheme := range []string{"nbd+vsock", "nbds+vsock"} {
		ds = append(ds, backstore.Driver{Scheme: scheme, Help: scheme + "://CID:PORT/export — NBD over AF_VSOCK, which lunar does not speak",
			Absent: "NBD over AF_VSOCK is not supported: let the server listen on a unix socket or on TCP"})
	}
	return ds
}

func open(ctx context.Context, u *backstore.URI, o backstore.Options) (*Store, error) {
	c, err := parse(u, o)
	if err != nil {
		return nil, err
	}
	if o.TakeOver {
		return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: errors.New("the NBD protocol has no word to shut another client out")}
	}
	l, err := dial(ctx, c, connectTime)
	if err != nil {
		return nil, err
	}
	s, err := newStore(c, l.ex, o.Warn)
	if err != nil {
		l.close()
		return nil, err
	}
	if err := s.addLink(l); err != nil {
		s.release()
		return nil, err
	}
	for i := 1; i < len(s.conns); i++ {
		l, err := dial(ctx, c, extraTime)
		if err == nil {
			if err = s.ex.same(l.ex); err == nil {
				err = s.addLink(l)
			} else {
				l.close()
			}
		}
		if err != nil {
			s.warn(fmt.Sprintf("%s: going on with %d of %d connections: %v", s.info.Volume, i, len(s.conns), err))
			s.conns = s.conns[:i]
			break
		}
	}
	return s, nil
}

// newStore makes a store without a connection.
func newStore(c *config, ex *export, warn func(string)) (*Store, error) {
	if warn == nil {
		warn = func(string) {}
	}
	n := c.conns
	if ex.flags&tfMultiConn == 0 {
		n = 1
	}
	s := &Store{cfg: c, ex: ex, info: ex.info(c), warn: warn, conns: make([]*conn, n),
		slots: make([]slot, c.inFlight), told: make([]told, c.inFlight), free: make([]uint16, c.inFlight), win: make([]byte, windowSize)}
	for i := range s.free {
		s.free[i] = uint16(len(s.free) - 1 - i)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.openPoller(); err != nil {
		s.cancel()
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	return s, nil
}

// addLink puts a connection in its free place, before anything runs. On an error the link is given up.
func (s *Store) addLink(l *link) error {
	if err := l.carry(&s.wg); err != nil {
		l.close()
		return err
	}
	c := s.newConn(s.live, l)
	s.conns[c.i] = c
	s.live++
	return nil
}

func (s *Store) newConn(place int, l *link) *conn {
	c := newConn(s, place, l.fd, l.ex)
	c.tun = l.tun
	return c
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

func (s *Store) submit(r *backstore.Request) backstore.Outcome {
	if r.Err = s.refuse(r); r.Err != nil {
		return backstore.Done
	}
	if r.Flags&backstore.NoWait != 0 && (r.Op == backstore.Read || r.Op == backstore.Write) {
		return backstore.WouldBlock
	}
	if r.Op == backstore.Flush && s.info.Caps&backstore.CapFlush == 0 || r.Op != backstore.Flush && r.Len == 0 {
		return backstore.Done // nothing to do; NBD leaves requests of no length undefined
	}
	if r.Op == backstore.Allocation && len(r.Extents) == cap(r.Extents) {
		return backstore.Done // no room for an answer
	}
	if len(s.free) == 0 {
		r.Err = &backstore.Error{Class: backstore.ClassBusy, Op: r.Op.String(), Off: r.Off, Cause: errInFlight}
		return backstore.Done
	}
	s.start()
	s.begin(r)
	return backstore.Pending
}

var (
	errInFlight = errors.New("more requests in flight than the store takes")
	errAway     = errors.New("the server is away")
)

func (s *Store) refuse(r *backstore.Request) error {
	if s.closing {
		return &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
	}
	if err := s.info.Check(r); err != nil {
		return err
	}
	if s.failed != nil && r.Op != backstore.Read {
		return s.failedError(r)
	}
	if s.away {
		return &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: errAway}
	}
	return nil
}

func (s *Store) failedError(r *backstore.Request) error {
	return &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off, Cause: s.failed}
}

// begin gives r a slot and a connection, if there is one.
func (s *Store) begin(r *backstore.Request) {
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	sl := &s.slots[i]
	*sl = slot{req: r, cover: sl.cover[:0], mark: s.acked, off: r.Off, n: r.Len}
	r.Slot = uint64(i)
	switch r.Op {
	case backstore.Read:
		sl.cmd = cmdRead
		if r.Flags&backstore.FUA != 0 {
			sl.cmd, sl.off, sl.n = cmdFlush, 0, 0
		}
	case backstore.Write:
		sl.cmd = cmdWrite
	case backstore.Flush:
		sl.cmd = cmdFlush
	case backstore.Discard:
		sl.cmd = cmdTrim
	case backstore.WriteZeroes:
		sl.cmd = cmdWriteZeroes
	case backstore.Allocation:
		sl.cmd = cmdBlockStatus
		s.told[i] = told{from: len(r.Extents), end: r.Off}
	}
	s.assign(i)
	if sl.c != nil {
		s.pace.begin(i, sl.c.inflight, time.Now)
	}
	// A caller that never ends its batch must not stand still.
	if c := sl.c; c != nil && (c.sendq.Len() >= maxBatch || c.sendBytes >= maxSend) && !c.blocked {
		c.send()
	}
}

// assign queues a slot's request on a connection, or lets it wait.
func (s *Store) assign(i uint16) {
	sl := &s.slots[i]
	c := s.pick(sl.cmd == cmdFlush)
	sl.c, sl.sent, sl.errno, sl.text, sl.errOff, sl.cover = c, false, 0, "", 0, sl.cover[:0]
	if c == nil {
		s.wait.Push(sl.req)
		return
	}
	if sl.cmd > cmdFlush {
		sl.n = c.piece(sl) // trim, write zeroes, block status
	}
	s.seq++
	sl.cookie = uint64(i) | s.seq<<16
	c.take(sl)
}

// pick chooses the connection: of a fast server the first whose socket takes more; of a slow one (pace) the same for perConn requests in
// a row, so that a batch is few packets, then the one with the least in flight. A flush goes where it can be believed.
func (s *Store) pick(flush bool) *conn {
	if s.hold {
		return nil
	}
	lastEra := ^uint32(0) // the last era that will do
	if flush && s.suspect {
		lastEra = s.askEra
	}
	spread := s.pace.slow()
	if c := s.cur; spread && c != nil && s.burst < perConn && c.usable() && !c.blocked && c.era <= lastEra {
		s.burst++
		return c
	}
	var best *conn
	for _, c := range s.conns {
		if c == nil || !c.usable() || c.era > lastEra {
			continue
		}
		if !spread && !c.blocked {
			return c
		}
		if best == nil || c.inflight < best.inflight {
			best = c
		}
	}
	s.cur, s.burst = best, 1
	return best
}

// Kick sends what Submit queued.
func (s *Store) Kick() {
	s.mu.Lock()
	s.cur = nil
	s.sendAll()
	s.mu.Unlock()
}

func (s *Store) sendAll() {
	for _, c := range s.conns {
		if c != nil && c.sendq.Head() != nil && !c.blocked {
			c.send()
		}
	}
}

// end frees a slot and completes its request when the lock is let go.
func (s *Store) end(i uint16, err error) {
	sl := &s.slots[i]
	s.pace.end(i, sl.resends > 0, time.Now)
	r := sl.req
	sl.req, sl.c, sl.cookie, sl.text = nil, nil, 0, ""
	s.free = append(s.free, i)
	r.Err = err
	s.done.Push(r)
	if s.idle != nil && len(s.free) == len(s.slots) {
		close(s.idle)
		s.idle = nil
	}
}

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
