package curve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A slot is a request that the store has. Its index and a number that no other sending has make the correlation id.
type slot struct {
	req    *backstore.Request
	c      *conn  // the connection that has it; nil while it waits for one
	cookie uint64 // of the current sending; 0: none
	sent   bool   // wholly given to the socket
	doubt  bool   // a copy sent on a connection that is lost may have been carried out, or may be yet
}

// A Store is one open volume. See the package's comment for who runs what.
type Store struct {
	v    *volume
	cfg  *config
	warn func(string)

	ctx    context.Context // ends with release
	cancel context.CancelFunc
	wg     sync.WaitGroup // pump and reconnect

	mu    sync.Mutex // guards everything below
	info  backstore.Info
	slots []slot
	free  []uint16
	seq   uint64          // of the last sending
	c     *conn           // nil while the server is away
	wait  backstore.Queue // requests that no connection has
	win   []byte          // where replies are read

	// After an error that says "later" nothing is sent until again has fired.
	held  bool
	again *time.Timer

	away         bool // longer than offline_after
	since        time.Time
	outage       *time.Timer
	reconnecting bool
	fresh        *conn // made by reconnect, not yet taken over
	lastDown     string

	closing  bool
	released bool
	idle     chan struct{} // closed when closing and no request is left
	detached chan struct{} // closed when closing and the loop has let go

	poller
	done  backstore.Queue // ended, to be completed when the lock is let go
	warns []string
}

// Driver returns the driver of the scheme "cbd". The stores that it opens share descriptors, heartbeats and locks; so a process has one.
func Driver() backstore.Driver {
	p := &process{}
	return backstore.Driver{
		Scheme:  "cbd",
		Help:    "cbd:POOL//VOLUME_USER_ — a CurveBS volume through nebd-server; socket=" + defaultSocket + " lockdir=" + defaultLockDir + " mds=HOST:PORT,… snapshot=HOST:PORT,… passwordfile=PATH inflight=256 offline_after=0 discard readonly shared",
		Options: options,
		Traits:  []string{"fua", "512e on blocks of 4096"},
		Key:     key,
		Volumes: volumes(),
		Open: func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
			if o.TakeOver {
				return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: errors.New("another opener of a Curve volume cannot be shut out")}
			}
			c, err := parse(u, o)
			if err != nil {
				return nil, err
			}
			s, err := p.open(ctx, c, o.Warn)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
	}
}

func (p *process) open(ctx context.Context, c *config, warn func(string)) (*Store, error) {
	if warn == nil {
		warn = func(string) {}
	}
	v, err := p.acquire(ctx, c)
	if err != nil {
		return nil, err
	}
	s, err := v.open(ctx, c, warn)
	if err != nil {
		v.release()
		return nil, err
	}
	return s, nil
}

// open makes a store of an open volume.
func (v *volume) open(ctx context.Context, c *config, warn func(string)) (*Store, error) {
	i, err := v.getInfo(ctx, c.patience, v.fd.Load())
	if err != nil {
		return nil, err
	}
	// What was left open by a process that died tells of an old size.
	if now, err := v.present(ctx); err == nil {
		i.size = max(i.size, now.size)
	} else {
		warn(fmt.Sprintf("%s: its size is taken to be %d bytes, as of when nebd-server opened it: %v", v.nebd, i.size, err))
	}
	fd, err := dial(ctx, v.h.socket)
	if err != nil {
		return nil, &backstore.Error{Class: backstore.ClassOffline, Op: "open", Cause: err}
	}
	s := &Store{v: v, cfg: c, info: c.describe(i), warn: warn, slots: make([]slot, c.inFlight), free: make([]uint16, c.inFlight), win: make([]byte, windowSize)}
	for i := range s.free {
		s.free[i] = uint16(len(s.free) - 1 - i)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.openPoller(); err != nil {
		s.cancel()
		closeFd(fd)
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	s.c = newConn(s, fd)
	v.enter(s)
	return s, nil
}

// describe is what a store of this volume is.
func (c *config) describe(i info) backstore.Info {
	d := backstore.Info{Driver: "cbd", Volume: c.nebd, Size: i.size, MaxTransfer: maxTransfer, MaxInFlight: c.inFlight, MemAlign: 1,
		BlockSize: i.block, PhysicalBlock: max(i.block, 4096),
		// A write is answered when a majority of its chunk's servers has it on disk; nothing of nebd-server and libcurve caches.
		Caps: backstore.CapFUA, Coherent: true, ReadOnly: c.readOnly, Shared: c.shared, AtomicUnit: int64(i.block)}
	if c.discard {
		// Space is given back by the segment, and what is discarded reads as before until then.
		d.Caps |= backstore.CapDiscard
		d.DiscardGranularity = segment
	}
	return d
}

// segment is the unit in which Curve gives out space, in bytes.
const segment = 1 << 30

// dial connects a socket, non-blocking, which the caller owns.
func dial(ctx context.Context, socket string) (fd int, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return -1, err
	}
	defer func() { _ = nc.Close() }() // what is used is a duplicate
	sc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	// A duplicate: closing the net.Conn then takes the socket out of the runtime's poller and leaves the description, with its O_NONBLOCK, alone.
	cerr := sc.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return -1, err
	}
	return fd, nil
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
	// Every write is durable when it is answered. What has no length nebd-server never answers.
	if r.Op == backstore.Flush || r.Len == 0 {
		return backstore.Done
	}
	if len(s.free) == 0 {
		r.Err = &backstore.Error{Class: backstore.ClassBusy, Op: r.Op.String(), Off: r.Off, Cause: errInFlight}
		return backstore.Done
	}
	s.start()
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.slots[i] = slot{req: r}
	r.Slot = uint64(i)
	s.assign(i)
	// A caller that never ends its batch must not stand still.
	if c := s.c; c != nil && (c.sendq.Len() >= maxBatch || c.sendBytes >= maxSend) && !c.blocked {
		c.send()
	}
	return backstore.Pending
}

var (
	errInFlight = errors.New("more requests in flight than the store takes")
	errAway     = errors.New("nebd-server is away")
	errFailed   = errors.New("nebd-server says that it failed, and no more; its log has the reason")
)

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

// assign queues a slot's request on the connection, or lets it wait.
func (s *Store) assign(i uint16) {
	sl := &s.slots[i]
	sl.sent, sl.cookie, sl.c = false, 0, nil
	if s.c == nil || s.c.noSend || s.held {
		s.wait.Push(sl.req)
		return
	}
	s.seq++
	sl.cookie, sl.c = uint64(i)|s.seq<<16, s.c
	s.c.take(sl.req)
}

// Kick sends what Submit queued.
func (s *Store) Kick() {
	s.mu.Lock()
	s.sendAll()
	s.mu.Unlock()
}

func (s *Store) sendAll() {
	if c := s.c; c != nil && c.sendq.Head() != nil && !c.blocked {
		c.send()
	}
}

// end frees a slot and completes its request when the lock is let go.
func (s *Store) end(i uint16, err error) {
	sl := &s.slots[i]
	r := sl.req
	*sl = slot{}
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
	s.mu.Unlock()
	for r := done.Pop(); r != nil; r = done.Pop() {
		r.C.Complete(r)
	}
	for _, w := range warns {
		s.warn(w)
	}
}

func (s *Store) remark(format string, a ...any) {
	s.warns = append(s.warns, s.v.nebd+": "+fmt.Sprintf(format, a...))
}
