package longhorn

import (
	"context"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Close releases everything, when the requests in flight have ended and the store is attached to no loop. When ctx ends first, the
// store lives on until both are so. There is nothing to flush.
func (s *Store) Close(ctx context.Context) error {
	leave := s.left.Enter(s.key, s.changing)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		leave()
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: backstore.ErrClosed}
	}
	s.closing = true
	var idle chan struct{}
	if s.inFlight() > 0 {
		idle = make(chan struct{})
		s.idle = idle
	}
	if s.loop != nil {
		s.detached = make(chan struct{})
	}
	detached := s.detached
	s.mu.Unlock()
	end := make(chan struct{})
	go func() {
		defer close(end)
		if idle != nil {
			<-idle
		}
		leave()
		if detached != nil {
			<-detached
		}
		s.release()
	}()
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return &backstore.Error{Class: backstore.ClassBusy, Op: "close", Cause: ctx.Err()}
	}
}

// changing is how many requests are in flight that change the volume.
func (s *Store) changing() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.slots {
		if sl := &s.slots[i]; sl.req != nil && changes(sl.typ) {
			n++
		}
	}
	return n
}

// release gives back descriptors, clocks and goroutines. No request is in flight.
func (s *Store) release() {
	s.mu.Lock()
	s.released = true
	if s.outage != nil {
		s.outage.Stop()
	}
	if s.quiet != nil {
		s.quiet.Stop()
	}
	s.unstall()
	if c := s.c; c != nil {
		s.forget(c)
		closeFd(c.fd)
		c.fd = -1
		s.c = nil
	}
	if s.fresh != nil {
		closeFd(s.fresh.fd)
		s.fresh = nil
	}
	s.wakeUp() // the pump
	s.unlock()
	s.cancel()
	s.wg.Wait()
	s.closePoller()
}
