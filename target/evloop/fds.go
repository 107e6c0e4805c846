package evloop

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Events says what a descriptor is ready for, or what its Pollable wants to hear of.
type Events uint32

const (
	Readable Events = 1 << iota
	Writable
	// HangUp is an error or a hang-up of both directions. It is reported whether it was asked for or
	// not, and again each turn until the descriptor is removed.
	HangUp
)

// ErrNotAdded is the error of Modify and Remove for an ID that is not, or no longer, in the loop.
var ErrNotAdded = errors.New("evloop: no such descriptor in this loop")

// Pollable is one descriptor's owner.
type Pollable interface {
	// Ready runs on the loop with the lock held. Events are level-triggered: what is left undone is
	// reported again. It must not block, and it bounds itself by Loop.Spend.
	//
	// more says that it stopped for fairness and not on EAGAIN: it is called again in the next turn,
	// with Readable, without asking epoll. A Pollable that called Spend and was Readable is called
	// once more likewise, on the guess that more has come meanwhile.
	Ready(ev Events) (more bool)
}

// slot is one place in the loop's table of descriptors.
type slot struct {
	p      Pollable // nil: the place is free
	fd     int
	gen    uint32
	pend   Events // what to tell p when its place in the queue comes
	queued bool
	guess  bool  // nobody said that there is something: see worthGuessing
	misses uint8 // guesses in a row that found nothing
	next   int   // of a free place: the next free one, -1 at the end
}

func (ev Events) epoll() (bits uint32) {
	if ev&Readable != 0 {
		bits |= unix.EPOLLIN
	}
	if ev&Writable != 0 {
		bits |= unix.EPOLLOUT
	}
	return bits
}

func eventsOf(bits uint32) (ev Events) {
	if bits&unix.EPOLLIN != 0 {
		ev |= Readable
	}
	if bits&unix.EPOLLOUT != 0 {
		ev |= Writable
	}
	if bits&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		ev |= HangUp
	}
	return ev
}

func (l *Loop) lookup(id ID) *slot {
	i := id.slot()
	if i >= len(l.slots) {
		return nil
	}
	s := &l.slots[i]
	if s.p == nil || s.gen != id.gen() {
		return nil
	}
	return s
}

// Add puts fd into the loop's epoll set. fd stays the caller's: it must be non-blocking, and Remove comes
// before its close. On the loop or with the lock held.
func (l *Loop) Add(fd int, p Pollable, ev Events) (ID, error) {
	if l.closed {
		return 0, ErrClosed
	}
	i := l.free
	if i < 0 {
		i = len(l.slots)
		l.slots = append(l.slots, slot{next: -1})
	} else {
		l.free = l.slots[i].next
	}
	s := &l.slots[i]
	s.gen++
	if s.gen == 0 {
		s.gen = 1
	}
	id := makeID(i, s.gen)
	e := id.event(ev.epoll())
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		s.next, l.free = l.free, i
		return 0, fmt.Errorf("evloop: adding descriptor %d: %w", fd, err)
	}
	s.p, s.fd, s.pend, s.queued = p, fd, 0, false
	l.descriptors++
	return id, nil
}

// Modify changes what the descriptor's Pollable wants to hear of. On the loop or with the lock held.
func (l *Loop) Modify(id ID, ev Events) error {
	s := l.lookup(id)
	if s == nil {
		return ErrNotAdded
	}
	e := id.event(ev.epoll())
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_MOD, s.fd, &e); err != nil {
		return fmt.Errorf("evloop: changing descriptor %d: %w", s.fd, err)
	}
	return nil
}

// Remove takes the descriptor out of the loop: its Pollable is not called again, whatever was already
// reported. The descriptor is the caller's to close. On the loop (also from within Ready) or with the
// lock held.
func (l *Loop) Remove(id ID) error {
	s := l.lookup(id)
	if s == nil {
		return ErrNotAdded
	}
	fd := s.fd
	s.p, s.fd = nil, -1
	l.descriptors--
	s.next, l.free = l.free, id.slot()
	if l.closed {
		return nil
	}
	var e unix.EpollEvent
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, &e); err != nil {
		return fmt.Errorf("evloop: removing descriptor %d: %w", fd, err)
	}
	return nil
}

// Poke has the Pollable called with Readable in the next turn although epoll said nothing: for bytes
// that were read before the descriptor came to the loop. On the loop or with the lock held; it wakes a
// sleeping loop. A stale ID is ignored.
func (l *Loop) Poke(id ID) {
	if l.lookup(id) == nil {
		return
	}
	l.enqueue(id, Readable)
	l.notifyIfAsleep()
}

// enqueue gives the descriptor a place in the queue, or adds to what it will hear in the place it has.
func (l *Loop) enqueue(id ID, ev Events) {
	s := l.lookup(id)
	if s == nil {
		return
	}
	s.pend |= ev
	if !s.queued {
		s.queued = true
		l.queue.push(id)
	}
}

// enqueueEvents queues what epoll reported and says whether anything of it was for a descriptor.
func (l *Loop) enqueueEvents(n int) (any bool) {
	for i := range l.events[:n] {
		ev := &l.events[i]
		id := eventID(ev)
		if id == 0 {
			continue // the wake-up descriptor: what it stands for is in l.pending
		}
		any = true
		l.enqueue(id, eventsOf(ev.Events))
	}
	return any
}

// idQueue is a ring that grows and is reused.
type idQueue struct {
	ring []ID // its length is a power of two
	head int
	n    int
}

func (q *idQueue) push(id ID) {
	if q.n == len(q.ring) {
		ring := make([]ID, max(2*len(q.ring), 16))
		for i := range q.n {
			ring[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
		}
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = id
	q.n++
}

func (q *idQueue) pop() ID {
	id := q.ring[q.head]
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	return id
}
