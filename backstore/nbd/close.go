package nbd

import (
	"context"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Close flushes, says good-bye to the server and releases everything, when the requests in flight have ended and
// the store is attached to no loop. When ctx ends first, the store lives on until both are so.
func (s *Store) Close(ctx context.Context) error {
	leave := s.left.Enter(s.key, s.changing)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		leave()
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: backstore.ErrClosed}
	}
	s.closing = true
	idle := s.whenIdle()
	if s.loop != nil {
		s.detached = make(chan struct{})
	}
	detached := s.detached
	s.mu.Unlock()
	end := make(chan error, 1)
	go func() { end <- s.wind(idle, detached, leave) }()
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return &backstore.Error{Class: backstore.ClassBusy, Op: "close", Cause: ctx.Err()}
	}
}

// changing is how many requests are in flight that change the volume.
func (s *Store) changing() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.slots {
		if sl := &s.slots[i]; sl.req != nil && changes(sl.cmd) {
			n++
		}
	}
	return n
}

// whenIdle returns a channel that is closed with the end of the last request, or nil when there is none.
func (s *Store) whenIdle() chan struct{} {
	if len(s.free) == len(s.slots) {
		return nil
	}
	s.idle = make(chan struct{})
	return s.idle
}

// wind waits for the last request and for the loop to let go, flushes and releases. Either channel may be nil, with
// nothing to wait for.
func (s *Store) wind(idle, detached chan struct{}, leave func()) error {
	if idle != nil {
		<-idle
	}
	leave()
	if detached != nil {
		<-detached
	}
	err := s.lastFlush()
	s.release()
	return err
}

// lastFlush makes durable what is not, and says what failed.
func (s *Store) lastFlush() error {
	s.mu.Lock()
	if s.failed != nil || s.acked == s.durable || s.info.Caps&backstore.CapFlush == 0 {
		err := s.failed
		s.unlock()
		if err != nil {
			return &backstore.Error{Class: backstore.ClassMedium, Op: "close", Cause: err}
		}
		return nil
	}
	if s.away {
		s.unlock()
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: errAway}
	}
	r := &backstore.Request{Op: backstore.Flush, C: make(signal, 1)}
	s.start()
	s.begin(r)
	s.sendAll()
	s.unlock()
	<-r.C.(signal)
	return r.Err
}

// A signal tells a goroutine that a request has ended.
type signal chan struct{}

func (c signal) Complete(*backstore.Request) { c <- struct{}{} }

// release gives back descriptors and goroutines. No request is in flight.
func (s *Store) release() {
	s.mu.Lock()
	s.released, s.stopped = true, true
	if s.outage != nil {
		s.outage.Stop()
	}
	for _, c := range s.conns {
		if c != nil {
			c.disconnect()
			s.forget(c)
			c.close()
		}
	}
	for _, c := range s.fresh {
		c.close()
	}
	s.wakeUp() // the pump
	s.unlock()
	s.cancel()
	s.wg.Wait()
	s.closePoller()
}
