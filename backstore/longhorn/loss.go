package longhorn

import (
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// lost ends the connection. proven says that the engine's end of it is gone, so that nothing that was sent on it can still be
// carried out.
func (s *Store) lost(c *conn, proven bool, why error) {
	s.forget(c)
	closeFd(c.fd)
	c.fd = -1
	c.dst, c.skip = nil, 0
	s.c = nil
	if time.Since(c.born) >= stableAfter {
		s.pause = 0
	} else {
		s.pause = s.cfg.longer(s.pause)
	}
	s.standStill()
	s.remark("connection lost (%v), %d requests in flight", why, c.inflight)
	s.unstall()
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.c != c {
			continue
		}
		begun := sl.sent || c.headSent > 0 && c.sendq.Head() == sl.req
		if begun {
			sl.resends++
			sl.doubt = sl.doubt || !proven && changes(sl.typ)
		}
		sl.c, sl.seq = nil, 0
		switch {
		case sl.req == &s.probe:
			s.end(uint16(i), nil)
		case sl.resends > maxResends && !sl.doubt:
			s.end(uint16(i), &backstore.Error{Class: backstore.ClassTransport, Op: sl.req.Op.String(), Off: sl.req.Off, Cause: why})
		default:
			s.assign(uint16(i))
		}
	}
	c.sendq = backstore.Queue{}
	if !s.reconnecting && !s.released {
		s.reconnecting = true
		s.wg.Add(1)
		go s.reconnect()
	}
}

// standStill notes that from now on nothing can be done for a request.
func (s *Store) standStill() {
	if !s.since.IsZero() {
		return
	}
	s.since = time.Now()
	if s.cfg.offline > 0 {
		s.outage = time.AfterFunc(s.cfg.offline, s.expire)
	}
}

// goOn notes that requests can be dealt with again.
func (s *Store) goOn() {
	if s.since.IsZero() {
		return
	}
	if s.outage != nil {
		s.outage.Stop()
		s.outage = nil
	}
	s.remark("back after %v, %d requests waiting", time.Since(s.since).Round(time.Millisecond), s.wait.Len())
	s.since, s.away, s.down = time.Time{}, false, ""
}

// expire is called when nothing could be done for the time limit.
func (s *Store) expire() {
	s.mu.Lock()
	defer s.unlock()
	if s.since.IsZero() || s.released || s.away {
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
	s.remark("away for %v: %d requests ended, %d writes wait that may still be carried out", s.cfg.offline, ended, s.wait.Len())
}

// stall lets the request of a slot wait, with all others, until the engine can carry out requests again: it is there, and has
// no replica.
func (s *Store) stall(i uint16, why string) {
	sl := &s.slots[i]
	r := sl.req
	sl.c, sl.seq, sl.sent = nil, 0, false
	if r == &s.probe {
		s.end(i, nil)
	} else {
		s.wait.Push(r)
	}
	if !s.stalled {
		s.remark("requests wait: %s", why)
		s.stalled = true
		s.pause = s.cfg.minPause
	} else if r == &s.probe {
		s.pause = s.cfg.longer(s.pause)
	} else {
		return
	}
	s.standStill()
	s.retry = time.AfterFunc(s.pause, s.ask)
}

// ask sends the probe.
func (s *Store) ask() {
	s.mu.Lock()
	defer s.unlock()
	if !s.stalled || s.asking || s.released || s.c == nil || !s.c.usable() {
		return
	}
	s.asking = true
	s.fill(&s.probe)
	s.assign(uint16(s.probe.Slot))
	s.sendAll()
}

// postpone lets the request of a slot wait for a little: it lies in what the volume is to gain, and the engine, which has grown its
// replicas, does not count that yet (Longhorn tells its target of a new size first and notes it afterwards).
func (s *Store) postpone(i uint16, size int64) {
	sl := &s.slots[i]
	if sl.beyond.IsZero() {
		sl.beyond = time.Now()
		s.remark("the engine has %d bytes, and the disk %d: a request waits for up to %v", size, s.info.Size, s.cfg.grow)
	}
	sl.c, sl.seq, sl.sent = nil, 0, false
	if s.later.Head() == nil {
		time.AfterFunc(s.cfg.minPause, s.tryLater)
	}
	s.later.Push(sl.req)
}

// tryLater sends again what was postponed.
func (s *Store) tryLater() {
	s.mu.Lock()
	defer s.unlock()
	q := s.later
	s.later = backstore.Queue{}
	for r := q.Pop(); r != nil; r = q.Pop() {
		if s.away && !s.slots[r.Slot].doubt {
			s.end(uint16(r.Slot), &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: errAway})
		} else {
			s.assign(uint16(r.Slot))
		}
	}
	s.sendAll()
}

// works notes that the engine has carried a request out, or at least tried.
func (s *Store) works() {
	if s.stalled {
		s.unstall()
		s.resume()
	}
}

func (s *Store) unstall() {
	s.stalled = false
	if s.retry != nil {
		s.retry.Stop()
		s.retry = nil
	}
}

// resume gives the connection what waits.
func (s *Store) resume() {
	s.goOn()
	q := s.wait
	s.wait = backstore.Queue{}
	for r := q.Pop(); r != nil; r = q.Pop() {
		s.assign(uint16(r.Slot))
	}
}

// longer is the next pause between attempts.
func (c *config) longer(d time.Duration) time.Duration { return min(max(2*d, c.minPause), c.maxPause) }

// reconnect makes a new connection in the place of the lost one.
func (s *Store) reconnect() {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		if s.c != nil || s.fresh != nil || s.released {
			s.reconnecting = false
			s.mu.Unlock()
			return
		}
		pause, known := s.pause, s.info.Size
		s.mu.Unlock()
		select {
		case <-s.ctx.Done():
			continue // released is set
		case <-time.After(pause):
		}
		fd, size, err := reconnect(s.ctx, s.cfg, known)
		s.mu.Lock()
		switch {
		case s.released:
			if err == nil {
				closeFd(fd)
			}
		case err != nil:
			s.pause = s.cfg.longer(s.pause)
			s.failed(err.Error())
		default:
			s.fresh = newConn(s, fd, size)
			s.wakeUp()
		}
		s.unlock()
	}
}

// failed tells the log, once, why reconnecting does not succeed.
func (s *Store) failed(text string) {
	if text != s.down {
		s.down = text
		s.remark("reconnecting: %s", text)
	}
}

// adopt takes a new connection over, where the socket is waited for, and gives it what waits.
func (s *Store) adopt() {
	c := s.fresh
	if c == nil {
		return
	}
	s.fresh, s.c = nil, c
	if err := s.watch(c); err != nil {
		s.lost(c, true, err) // nothing was sent on it
		return
	}
	if size := c.size &^ (sector - 1); size > s.info.Size && s.changed != nil {
		s.remark("the volume has grown from %d to %d bytes", s.info.Size, size)
		s.info.Size, s.notice = size, true
	}
	s.heard = time.Now()
	s.resume()
	s.sendAll()
}
