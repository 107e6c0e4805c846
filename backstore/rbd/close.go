//go:build rbd && cgo

package rbd

import (
	"context"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Close flushes, gives the lock back and leaves the cluster, when the requests in flight have ended and the store is attached to no loop. When ctx
// ends first, the store lives on until both are so.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: backstore.ErrClosed}
	}
	s.closing = true
	s.ring.Submit(s.img)
	var idle, detached chan struct{}
	if len(s.free) != len(s.slots) {
		idle = make(chan struct{})
		s.idle = idle
	}
	if s.loop != nil {
		detached = make(chan struct{})
		s.detached = detached
	}
	s.mu.Unlock()
	end := make(chan error, 1)
	go func() {
		for _, c := range []chan struct{}{idle, detached} {
			if c != nil {
				<-c
			}
		}
		end <- s.release()
	}()
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return &backstore.Error{Class: backstore.ClassBusy, Op: "close", Cause: ctx.Err()}
	}
}

// discard closes a store that nobody has used.
func (s *Store) discard() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	_ = s.release() // nothing was written
}

// release gives everything back. No request is in flight; what opening had not come to is not there.
func (s *Store) release() error {
	s.mu.Lock()
	s.released, s.stopped = true, true
	failure, fenced := s.failed, s.fenced
	s.mu.Unlock()
	close(s.poke)
	if s.ring != nil {
		s.ring.Wake() // the pump
	}
	s.control.Wait()
	var err error
	if s.img != nil {
		if s.watching {
			_ = s.img.Unwatch(s.watch) // closing ends it, too
		}
		if e := s.img.Close(); e != nil {
			err = failed("close", "image "+s.cfg.spec.String(), e)
		}
	}
	if s.ring != nil {
		s.ring.Free()
	}
	s.cl.close()
	switch {
	case fenced != nil:
		return &backstore.Error{Class: backstore.ClassFenced, Op: "close", Cause: fenced}
	case failure != nil:
		return &backstore.Error{Class: backstore.ClassMedium, Op: "close", Cause: failure}
	}
	return err
}
