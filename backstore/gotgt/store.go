package gotgt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gostor/gotgt/pkg/api"

	"github.com/lunar-iscsi/lunar/backstore"
)

// What gotgt decides.
const (
	blockShift = 9               // gotgt's blocks: what a back end is asked for is whole ones
	maxUnmap   = 1<<32 - 1<<20   // bytes in one descriptor: its length has 32 bits
	blockSize  = 1 << blockShift // bytes
	physical   = 8 << blockShift // bytes: what gotgt tells initiators of every back end
)

// Defaults and limits of Config.
const (
	DefaultWorkers  = 8 // calls at once, where gotgt has one a connection
	DefaultInFlight = 256
	maxWorkers      = 256
	maxInFlight     = 4096
	maxTransfer     = 4 << 20 // bytes of one call: a back end allocates as much for a read
)

// Config is what a back end does not say itself. A zero field is its default.
type Config struct {
	Volume   string // for people; empty: "gotgt"
	Workers  int    // calls at once, at most 256
	InFlight int    // requests pending at once, at most 4096
	ReadOnly bool
	Discard  bool // the back end's Unmap gives space back
}

// A Store is one back end. Its methods are backstore.Store's.
type Store struct {
	b    backend
	info backstore.Info
	left *backstore.Leftovers // of the driver; nil: nobody asks
	key  string

	mu      sync.Mutex // guards everything below
	work    sync.Cond  // there is a request, or none will come any more
	queue   backstore.Queue
	pending int // requests that have not ended
	changes int // of them, those that change the volume
	failed  error
	closing bool
	drained chan struct{} // closed when closing and no request is left
	workers sync.WaitGroup

	syncing sync.RWMutex // held for reading by whoever syncs, until it is noted how that ended
}

// New makes a store of an api.BackingStore that Open has opened for dev (which Close passes to its Close). size is in bytes.
func New(bs api.BackingStore, dev *api.SCSILu, size int64, c Config) (*Store, error) {
	return newStore(local{bs, dev}, size, c)
}

// NewRemote makes a store of an api.RemoteBackingStore of size bytes. Closing the store leaves it open.
func NewRemote(rs api.RemoteBackingStore, size int64, c Config) (*Store, error) {
	return newStore(remote{rs}, size, c)
}

func newStore(b backend, size int64, c Config) (*Store, error) {
	if c.Workers == 0 {
		c.Workers = DefaultWorkers
	}
	if c.InFlight == 0 {
		c.InFlight = DefaultInFlight
	}
	if c.Volume == "" {
		c.Volume = "gotgt"
	}
	size &^= blockSize - 1
	switch {
	case size <= 0:
		return nil, refused("the back end says that it has less than one block of %d bytes", blockSize)
	case c.Workers < 1 || c.Workers > maxWorkers:
		return nil, refused("%d workers: want 1 to %d", c.Workers, maxWorkers)
	case c.InFlight < 1 || c.InFlight > maxInFlight:
		return nil, refused("%d requests in flight: want 1 to %d", c.InFlight, maxInFlight)
	}
	s := &Store{b: b, drained: make(chan struct{}), info: backstore.Info{
		Driver: scheme, Volume: c.Volume, Size: size, BlockSize: blockSize, PhysicalBlock: physical,
		MaxTransfer: maxTransfer, MaxInFlight: c.InFlight, MemAlign: 1,
		Caps: backstore.CapFlush | backstore.CapFUA, ReadOnly: c.ReadOnly,
	}}
	if c.Discard {
		s.info.Caps |= backstore.CapDiscard
	}
	s.work.L = &s.mu
	for range c.Workers {
		s.workers.Add(1)
		go s.serve()
	}
	return s, nil
}

func refused(format string, a ...any) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf(format, a...)}
}

// Info returns the snapshot.
func (s *Store) Info() backstore.Info { return s.info }

var errInFlight = errors.New("more requests in flight than the store takes")

// Submit hands r to the workers.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	if r.Err = s.info.Check(r); r.Err != nil {
		return backstore.Done
	}
	if r.Flags&backstore.NoWait != 0 && (r.Op == backstore.Read || r.Op == backstore.Write) {
		return backstore.WouldBlock
	}
	if r.Op != backstore.Flush && r.Len == 0 {
		return backstore.Done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		r.Err = &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
	case s.failed != nil && r.Op != backstore.Read:
		r.Err = s.failedError(r)
	case s.pending >= s.info.MaxInFlight:
		r.Err = &backstore.Error{Class: backstore.ClassBusy, Op: r.Op.String(), Off: r.Off, Cause: errInFlight}
	default:
		s.pending++
		if changes(r.Op) {
			s.changes++
		}
		s.queue.Push(r)
		s.work.Signal()
		return backstore.Pending
	}
	return backstore.Done
}

func (s *Store) failedError(r *backstore.Request) error {
	return &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off,
		Cause: fmt.Errorf("the volume takes no more writes until it is opened anew: %w", s.failed)}
}

// serve is a worker.
func (s *Store) serve() {
	defer s.workers.Done()
	s.mu.Lock()
	for {
		for s.queue.Head() == nil {
			if s.closing {
				s.mu.Unlock()
				return
			}
			s.work.Wait()
		}
		r := s.queue.Pop()
		s.mu.Unlock()
		if err := s.do(r); err != nil {
			r.Err = &backstore.Error{Class: class(err), Op: r.Op.String(), Off: r.Off, Cause: err}
		}
		s.mu.Lock()
		s.pending--
		if changes(r.Op) {
			s.changes--
		}
		if s.closing && s.pending == 0 {
			close(s.drained)
		}
		s.mu.Unlock()
		r.C.Complete(r)
		s.mu.Lock()
	}
}

// do carries r out.
func (s *Store) do(r *backstore.Request) (err error) {
	defer recovered(&err)
	if r.Op == backstore.Flush || r.Op == backstore.Read && r.Flags&backstore.FUA != 0 {
		off, n := r.Off, r.Len
		if r.Op == backstore.Flush {
			n = s.info.Size
		}
		if !s.info.ReadOnly { // else there is nothing of ours that would have to be durable
			err = s.sync(off, n)
		}
		if err != nil || r.Op == backstore.Flush {
			return err
		}
	}
	switch r.Op {
	case backstore.Read:
		return s.b.read(r.Buf, r.Off)
	case backstore.Write:
		err = s.b.write(r.Buf, r.Off)
	case backstore.Discard:
		err = s.b.unmap(r.Off, r.Len)
	}
	if err == nil && r.Flags&backstore.FUA != 0 {
		err = s.sync(r.Off, r.Len)
	}
	return err
}

// sync makes a range durable. One that fails makes the store failed. Whatever is below a back end may tell a failure to one of several that sync at
// once and to the others that all is well (Linux does), so that none has gone well before all that ran beside it are known to have.
func (s *Store) sync(off, n int64) error {
	if err := s.syncAndNote(off, n); err != nil {
		return err
	}
	s.syncing.Lock()   // waits for those beside it
	s.syncing.Unlock() //nolint:staticcheck // nothing is done while it is held
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return fmt.Errorf("another sync has failed: %v", s.failed) //nolint:errorlint // its class is not this one's
	}
	return nil
}

func (s *Store) syncAndNote(off, n int64) (err error) {
	s.syncing.RLock()
	defer s.syncing.RUnlock()
	defer func() {
		if err != nil {
			s.mu.Lock()
			if s.failed == nil {
				s.failed = err
			}
			s.mu.Unlock()
		}
	}()
	defer recovered(&err)
	return s.b.sync(off, n)
}

// recovered makes a panic of the back end's an error. Deferred.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = panicked{p}
	}
}

// A panicked is what a back end panicked with.
type panicked struct{ with any }

func (p panicked) Error() string { return fmt.Sprintf("the back end panicked: %v", p.with) }

func class(err error) backstore.Class {
	var p panicked
	var e *backstore.Error
	switch {
	case errors.As(err, &p):
		return backstore.ClassInternal
	case errors.As(err, &e): // a back end of lunar's own making may say more than gotgt has words for
		return e.Class
	}
	return backstore.ClassMedium
}

// Close waits for what is in flight, syncs and closes the back end. See backstore.Store.
func (s *Store) Close(ctx context.Context) error {
	leave := s.left.Enter(s.key, s.changing)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		leave()
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: backstore.ErrClosed}
	}
	s.closing = true
	if s.pending == 0 {
		close(s.drained)
	}
	s.work.Broadcast()
	s.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- s.finish(leave) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &backstore.Error{Class: backstore.ClassBusy, Op: "close", Cause: fmt.Errorf("%d calls to the back end have not returned: %w", s.pending, context.Cause(ctx))}
}

func changes(o backstore.Op) bool { return o == backstore.Write || o == backstore.Discard }

func (s *Store) changing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// finish ends the back end's use, once nothing is in flight.
func (s *Store) finish(leave func()) (err error) {
	<-s.drained
	leave()
	s.workers.Wait()
	if !s.info.ReadOnly {
		err = s.sync(0, s.info.Size)
	}
	closeErr := func() (err error) {
		defer recovered(&err)
		return s.b.close()
	}()
	if err == nil {
		err = closeErr
	}
	if err != nil {
		return &backstore.Error{Class: class(err), Op: "close", Cause: err}
	}
	return nil
}
