package curve

import (
	"context"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// lost ends a connection. What it had waits to be sent again.
func (s *Store) lost(c *conn, why error) {
	s.forget(c)
	closeFd(c.fd)
	c.fd, c.dst, c.sendq = -1, nil, backstore.Queue{}
	s.c = nil
	waiting := s.wait.Len()
	for i := range s.slots {
		if sl := &s.slots[i]; sl.c == c {
			// One that the socket has not wholly taken, the server has not read: a frame is dealt with when it is complete.
			sl.doubt = sl.doubt || sl.sent && sl.req.Op != backstore.Read
			s.assign(uint16(i)) // which lets it wait
		}
	}
	s.remark("the connection to nebd-server is lost (%v), %d requests in flight", why, s.wait.Len()-waiting)
	s.since = time.Now()
	if s.cfg.offline > 0 {
		s.outage = time.AfterFunc(s.cfg.offline, s.expire)
	}
	if !s.reconnecting && !s.released {
		s.reconnecting = true
		s.wg.Add(1)
		go s.reconnect()
	}
}

// expire is called when the server has been away for offline_after. What cannot have been carried out ends; a write that may have been,
// and may be yet, stays pending until the server answers it.
func (s *Store) expire() {
	s.mu.Lock()
	defer s.unlock()
	if s.c != nil || s.released || s.away {
		return
	}
	s.away = true
	q := s.wait
	s.wait = backstore.Queue{}
	ended := 0
	for r := q.Pop(); r != nil; r = q.Pop() {
		if s.slots[r.Slot].doubt {
			s.wait.Push(r)
			continue
		}
		ended++
		s.end(uint16(r.Slot), &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: errAway})
	}
	s.remark("away for %v: %d requests ended, %d writes wait that may be carried out yet", s.cfg.offline, ended, s.wait.Len())
}

// reconnect makes a new connection, for as long as it takes.
func (s *Store) reconnect() {
	defer s.wg.Done()
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		c, err := s.connect()
		s.mu.Lock()
		if err == nil {
			s.fresh, s.lastDown = c, ""
			s.reconnecting = false
			if s.released {
				closeFd(c.fd)
			} else {
				s.wakeUp()
			}
		} else if text := err.Error(); text != s.lastDown && !s.released {
			s.lastDown = text
			s.remark("reconnecting: %v", err)
		}
		s.unlock()
		if err == nil || pause(s.ctx, wait) != nil {
			return
		}
	}
}

// connect makes a connection and asks for the descriptor. In this order, so that both are of one server: were the second of a later one, the
// connection would be dead.
func (s *Store) connect() (*conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, callTime)
	defer cancel()
	fd, err := dial(ctx, s.v.h.socket)
	if err != nil {
		return nil, err
	}
	if err := s.v.reopen(ctx); err != nil {
		closeFd(fd)
		return nil, err
	}
	return newConn(s, fd), nil
}

// renew ends a connection whose descriptor is not the volume's any more; the next uses the new one.
func (s *Store) renew(file int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil && s.c.file != file {
		s.c.hangUp()
	}
}

// adopt takes a new connection over, where the socket is waited for, and gives it what waits.
func (s *Store) adopt() {
	if c := s.fresh; c != nil {
		s.fresh = nil
		s.remark("back after %v, %d requests waiting", time.Since(s.since).Round(time.Millisecond), s.wait.Len())
		if s.outage != nil {
			s.outage.Stop()
		}
		if s.again != nil {
			s.again.Stop()
		}
		s.c, s.away, s.held = c, false, false
		if err := s.watch(c); err != nil {
			s.lost(c, err)
		} else if c.file != s.v.fd.Load() {
			c.hangUp()
		}
	}
	q := s.wait
	s.wait = backstore.Queue{}
	for r := q.Pop(); r != nil; r = q.Pop() {
		s.assign(uint16(r.Slot))
	}
}

// doubtful is how many writes a closed store has in flight.
func (s *Store) doubtful() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		return 0
	}
	for i := range s.slots {
		if r := s.slots[i].req; r != nil && r.Op != backstore.Read {
			n++
		}
	}
	return n
}
