package nbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// The size of an export is told once, when a connection is made, and holds for that connection. So a server whose export has grown is
// asked by a connection of its own; and to use what it has gained every connection that was made before is replaced, when nothing is in
// flight and what was written is flushed, so that none of it hangs on a connection that ends. NBD has no word with which a client could
// change the size: the driver is no Resizer.

// errRenewed: a connection ends because it does not know of the export's new size.
var errRenewed = errors.New("it was made when the export was smaller")

// quietPoll is how often AdoptSize looks whether the connections are quiet.
const quietPoll = 2 * time.Millisecond

// PresentSize asks the server, on a connection of its own, how large the export is by now.
func (s *Store) PresentSize(ctx context.Context) (int64, error) {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing {
		return 0, &backstore.Error{Class: backstore.ClassOffline, Op: "resize", Cause: backstore.ErrClosed}
	}
	l, err := dial(ctx, s.cfg, extraTime)
	if err != nil {
		return 0, &backstore.Error{Class: backstore.ClassOf(err), Op: "resize", Cause: fmt.Errorf("the server did not tell its size: %w", err)}
	}
	l.leave()
	return l.ex.info(s.cfg).Size, nil
}

// AdoptSize makes size that of the store. Where connections do not know of it yet, requests wait until they have been replaced.
func (s *Store) AdoptSize(ctx context.Context, size int64) error {
	bad := func(c backstore.Class, format string, args ...any) error {
		return &backstore.Error{Class: c, Op: "resize", Cause: fmt.Errorf(format, args...)}
	}
	s.mu.Lock()
	block := int64(s.info.BlockSize)
	switch {
	case s.closing:
		s.mu.Unlock()
		return bad(backstore.ClassOffline, "%w", backstore.ErrClosed)
	case size <= 0 || size%block != 0:
		s.mu.Unlock()
		return bad(backstore.ClassRange, "%d bytes is no positive multiple of %d", size, block)
	case s.hold:
		s.mu.Unlock()
		return bad(backstore.ClassBusy, "its size is being changed")
	case s.knows(size):
		s.setSize(size)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if now, err := s.PresentSize(ctx); err != nil {
		return err
	} else if size > now {
		return bad(backstore.ClassRange, "the export has %d bytes, fewer than %d", now, size)
	}
	s.mu.Lock()
	s.hold = true
	s.mu.Unlock()
	err := s.quiet(ctx)
	s.mu.Lock()
	if err == nil {
		s.setSize(size)
	}
	if s.hold = false; !s.released {
		s.wakeUp() // connections that are too small end, and what waits goes on
	}
	s.unlock()
	if err != nil {
		return bad(backstore.ClassBusy, "what is in flight has not ended: %w", err)
	}
	return nil
}

// knows reports whether every connection was told of size bytes or more. Called with mu held.
func (s *Store) knows(size int64) bool {
	for _, c := range s.conns {
		if c != nil && c.size < uint64(size) {
			return false
		}
	}
	for _, c := range s.fresh {
		if c.size < uint64(size) {
			return false
		}
	}
	return size <= s.info.Size || s.live > 0
}

func (s *Store) setSize(size int64) { s.info.Size, s.ex.size = size, uint64(size) }

// quiet waits, while hold is set, until no connection has a request and what the server has acknowledged is durable.
func (s *Store) quiet(ctx context.Context) error {
	tick := time.NewTicker(quietPoll)
	defer tick.Stop()
	for {
		s.mu.Lock()
		busy := 0
		for _, c := range s.conns {
			if c != nil {
				busy += c.inflight
			}
		}
		flush := busy == 0 && s.failed == nil && s.acked > s.durable && s.info.Caps&backstore.CapFlush != 0 && s.live > 0 && len(s.free) > 0
		if busy == 0 && !flush {
			s.mu.Unlock()
			return nil
		}
		if flush {
			r := &backstore.Request{Op: backstore.Flush, C: make(signal, 1)}
			s.start()
			s.hold = false
			s.begin(r)
			s.hold = true
			s.sendAll()
		}
		s.unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// renew ends the connections that do not know of the store's size and have nothing in flight. Called where the sockets are
// waited for, with mu held.
func (s *Store) renew() {
	if s.hold {
		return
	}
	for _, c := range s.conns {
		if c != nil && c.size < uint64(s.info.Size) && c.inflight == 0 {
			c.disconnect()
			s.lost(c, true, errRenewed)
		}
	}
}

// follow takes over that every connection tells of a larger export than the store has, which a server does that is back after a
// loss. Called with mu held.
func (s *Store) follow() {
	if s.hold || s.live < len(s.conns) || s.changed == nil {
		return
	}
	least := ^uint64(0)
	for _, c := range s.conns {
		least = min(least, c.size)
	}
	if size := int64(least) &^ int64(s.info.BlockSize-1); size > s.info.Size {
		s.remark("the export has grown from %d to %d bytes", s.info.Size, size)
		s.setSize(size)
		s.notice = true
	}
}

// WatchSize has changed called when a server that is back has a larger export than before.
func (s *Store) WatchSize(changed func(size int64)) {
	s.mu.Lock()
	s.changed = changed
	s.mu.Unlock()
}

var (
	_ backstore.Sizer       = (*Store)(nil)
	_ backstore.SizeWatcher = (*Store)(nil)
)
