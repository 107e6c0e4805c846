package curve

import (
	"context"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Close releases the volume when the requests in flight have ended and the store is attached to no loop. When ctx ends first, the store lives on
// until both are so: nebd-server drops requests that fail, unless it is configured otherwise, and closing a descriptor under one of these would hang whatever else uses
// it. So the descriptor stays open, with its heartbeats and its lock.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: backstore.ErrClosed}
	}
	s.closing = true
	var idle, detached chan struct{}
	if len(s.free) < len(s.slots) {
		idle = make(chan struct{})
	}
	if s.loop != nil {
		detached = make(chan struct{})
	}
	s.idle, s.detached = idle, detached
	s.mu.Unlock()
	end := make(chan struct{})
	go func() {
		defer close(end)
		for _, c := range []chan struct{}{idle, detached} {
			if c != nil {
				<-c
			}
		}
		s.release()
	}()
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		n := len(s.slots) - len(s.free)
		s.mu.Unlock()
		return &backstore.Error{Class: backstore.ClassBusy, Op: "close", Cause: fmt.Errorf("nebd-server has not answered %d requests; its descriptor stays open until it has: %w", n, ctx.Err())}
	}
}

// release gives back descriptors and goroutines. No request is in flight.
func (s *Store) release() {
	s.mu.Lock()
	s.released, s.stopped = true, true
	if s.outage != nil {
		s.outage.Stop()
	}
	if s.again != nil {
		s.again.Stop()
	}
	if c := s.c; c != nil {
		s.forget(c)
		closeFd(c.fd)
		c.fd = -1
	}
	if s.fresh != nil {
		closeFd(s.fresh.fd)
	}
	s.wakeUp() // the pump
	s.unlock()
	s.cancel()
	s.wg.Wait()
	s.closePoller()
	s.v.leave(s)
	s.v.release()
}
