//go:build rbd && cgo

package rbd

import (
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

// allocChunk is how much of an image one question covers, in bytes: without a map of its objects each costs a request an object, and closing the store
// waits for the question that is asked.
const allocChunk = 1 << 30

// ask queues an allocation query. librbd answers these by blocking, so one goroutine of the store asks them, one after the other.
func (s *Store) ask(r *backstore.Request) {
	s.asks.Push(r)
	if !s.asking {
		s.asking = true
		s.control.Add(1)
		go s.answer()
	}
}

func (s *Store) answer() {
	defer s.control.Done()
	for {
		s.mu.Lock()
		r := s.asks.Pop()
		if r == nil {
			s.asking = false
			s.unlock()
			return
		}
		s.unlock()
		err := s.allocation(r)
		s.mu.Lock()
		s.end(int(r.Slot), err)
		s.unlock()
	}
}

// allocation fills in r.Extents.
func (s *Store) allocation(r *backstore.Request) error {
	next, end := r.Off, r.Off+r.Len
	add := func(off, n int64, state backstore.AllocState) bool {
		if k := len(r.Extents); k > 0 && r.Extents[k-1].State == state && r.Extents[k-1].Off+r.Extents[k-1].Len == off {
			r.Extents[k-1].Len += n
			return true
		}
		if len(r.Extents) == cap(r.Extents) {
			return false
		}
		r.Extents = append(r.Extents, backstore.Extent{Off: off, Len: n, State: state})
		return true
	}
	for next < end {
		n := min(allocChunk, end-next)
		there, full, err := s.img.Diff(next, n, make([]librbd.Extent, 0, max(1, cap(r.Extents)-len(r.Extents))))
		if err != nil {
			return failed(r.Op.String(), "asking which objects there are", err)
		}
		stop := next + n
		for _, e := range there {
			from, to := max(e.Off, next), min(e.Off+e.Len, stop)
			if to <= from {
				continue
			}
			if from > next && !add(next, from-next, backstore.Deallocated) || !add(from, to-from, backstore.Mapped) {
				return nil
			}
			next = to
		}
		if full {
			continue // what lies behind is asked for, if there is room
		}
		if next < stop && !add(next, stop-next, backstore.Deallocated) {
			return nil
		}
		next = stop
	}
	return nil
}
