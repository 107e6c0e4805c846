package nbd

import (
	"errors"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// lost ends a connection. proven says that the server's end of it is gone, so that nothing that was sent on it
// can still be carried out.
func (s *Store) lost(c *conn, proven bool, why error) {
	s.forget(c)
	c.close()
	c.dst, c.text = nil, nil
	s.conns[c.i] = nil
	s.live--
	if s.cur == c {
		s.cur = nil
	}
	if now := time.Now(); now.Sub(c.born) >= stableAfter {
		s.backoff = 0
	} else if c.born.After(s.grown) { // once for all that were lost together
		s.backoff, s.grown = s.cfg.longer(s.backoff), now
	}
	s.pause = s.backoff
	if s.live == 0 {
		s.since = time.Now()
		if s.cfg.offlineAfter > 0 {
			s.outage = time.AfterFunc(s.cfg.offlineAfter, s.expire)
		}
	}
	s.remark("connection %d lost (%v), %d requests in flight", c.i, why, c.inflight)
	s.blame(c)
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.c != c {
			continue
		}
		begun := sl.sent || c.headSent > 0 && c.sendq.Head() == sl.req
		if begun {
			sl.resends++
			sl.doubt = sl.doubt || !proven && changes(sl.cmd)
		}
		sl.c = nil
		s.again(uint16(i))
		switch {
		case s.failed != nil && sl.cmd == cmdFlush:
			s.end(uint16(i), s.failedError(sl.req))
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

// changes tells whether a command writes.
func changes(cmd uint16) bool { return cmd == cmdWrite || cmd == cmdTrim || cmd == cmdWriteZeroes }

// blame works out whether the loss of c may have taken acknowledged writes with it.
func (s *Store) blame(c *conn) {
	defer func() { s.era++ }()
	if s.cfg.safe || s.failed != nil {
		return
	}
	if s.acked > s.durable {
		if !s.suspect || c.era < s.askEra {
			s.askEra = c.era
		}
		s.suspect, s.lostMark = true, s.acked
	}
	if !s.suspect {
		return
	}
	for _, o := range s.conns {
		if o != nil && o.era <= s.askEra {
			return
		}
	}
	s.fail(errUnflushed)
}

var errUnflushed = errors.New("the server went away with writes that it had acknowledged and not flushed, and may have lost them (restart=safe if this server never does)")

// fail makes the store failed until it is opened anew (backstore, rule 5). What waits to be flushed
// ends; writes that are on their way end as they will.
func (s *Store) fail(err error) {
	if s.failed != nil {
		return
	}
	s.failed, s.suspect = err, false
	s.remark("no more writes until it is opened anew: %v", err)
	q := s.wait
	s.wait = backstore.Queue{}
	for r := q.Pop(); r != nil; r = q.Pop() {
		if s.slots[r.Slot].cmd == cmdFlush {
			s.end(uint16(r.Slot), s.failedError(r))
		} else {
			s.wait.Push(r)
		}
	}
}

// flushed notes that the first mark acknowledged writes are durable.
func (s *Store) flushed(mark uint64) {
	s.durable = max(s.durable, mark)
	if s.suspect && s.durable >= s.lostMark {
		s.suspect = false
	}
}

// vouch notes that c answered a request of the given sending. Its server was alive then, so a connection made
// before that leads to the same one.
func (s *Store) vouch(c *conn, seq uint64) {
	s.mixed = false
	for _, o := range s.conns {
		if o == nil {
			continue
		}
		if o.era > c.era && seq > o.birth {
			o.era = c.era
		}
		s.mixed = s.mixed || o.era != c.era
	}
}

// expire is called when the server has been away for the time limit.
func (s *Store) expire() {
	s.mu.Lock()
	defer s.unlock()
	if s.live > 0 || s.released || s.away {
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
	s.remark("away for %v: %d requests ended, %d writes wait that may still be carried out", s.cfg.offlineAfter, ended, s.wait.Len())
}

// longer is the next pause between attempts.
func (c *config) longer(d time.Duration) time.Duration { return min(max(2*d, c.minPause), c.maxPause) }

// reconnect makes new connections in the place of lost ones until none is missing.
func (s *Store) reconnect() {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		place := s.missing()
		if place < 0 || s.released {
			s.reconnecting = false
			s.mu.Unlock()
			return
		}
		pause := s.pause
		s.mu.Unlock()
		select {
		case <-s.ctx.Done():
			continue // released is set
		case <-time.After(pause):
		}
		l, err := dial(s.ctx, s.cfg, connectTime)
		if err == nil {
			s.mu.Lock()
			err = s.ex.same(l.ex)
			s.mu.Unlock()
			if err == nil {
				err = l.carry(&s.wg)
			}
			if err != nil {
				l.close()
			}
		}
		s.mu.Lock()
		switch {
		case err != nil:
			s.backoff = s.cfg.longer(s.backoff)
			s.pause = s.backoff
			if text := err.Error(); text != s.lastDown && !s.released {
				s.lastDown = text
				s.remark("reconnecting: %v", err)
			}
		case s.released:
			l.close()
		default:
			s.pause, s.lastDown = 0, ""
			s.fresh = append(s.fresh, s.newConn(place, l))
			s.wakeUp()
		}
		s.unlock()
	}
}

// missing returns a place without a connection, made or in use, or -1.
func (s *Store) missing() int {
next:
	for i, c := range s.conns {
		if c != nil {
			continue
		}
		for _, f := range s.fresh {
			if f.i == i {
				continue next
			}
		}
		return i
	}
	return -1
}

// adopt takes new connections over, where the sockets are waited for, and gives them what waits.
func (s *Store) adopt() {
	fresh := s.fresh
	s.fresh = nil
	for _, c := range fresh {
		if s.live == 0 && !s.since.IsZero() {
			if s.outage != nil {
				s.outage.Stop()
			}
			s.remark("back after %v, %d requests waiting", time.Since(s.since).Round(time.Millisecond), s.wait.Len())
		}
		c.era, c.birth = s.era, s.seq
		s.conns[c.i] = c
		s.live++
		s.away = false
		for _, o := range s.conns {
			s.mixed = s.mixed || o != nil && o.era != c.era
		}
		if err := s.watch(c); err != nil {
			s.lost(c, false, err)
		}
	}
	s.renew()
	s.follow()
	q := s.wait
	s.wait = backstore.Queue{}
	for r := q.Pop(); r != nil; r = q.Pop() {
		s.assign(uint16(r.Slot))
	}
}
