package initiator

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// copyBelow is the length under which write data is copied behind its header rather than sent from where it is. An entry of a
// writev costs the kernel about what copying 1 KiB costs us.
const copyBelow = 1 << 10

// arenaSize is the first size of a stream's memory for headers; it grows to a batch's.
const arenaSize = 4 << 10

// A stream is what is to be sent next: headers and short data in memory of its own, long data where the caller
// has it, as the list that writev takes. Nothing is allocated once arena and list have grown to a batch's size.
type stream struct {
	arena []byte
	iov   []unix.Iovec // refers to arena, arenas before it, and callers' data
	tail  bool         // the last entry of iov ends where arena ends
	sent  int          // entries of iov that are sent whole
	left  int          // bytes not sent
	limit int          // longest data that is copied
}

// reserve returns n bytes at the end of the stream, to be filled by the caller at once. They are not zeroed.
func (s *stream) reserve(n int) []byte {
	if cap(s.arena)-len(s.arena) < n {
		// What iov refers to in the old arena stays alive through it.
		s.arena = make([]byte, 0, max(2*cap(s.arena), n, arenaSize))
		s.tail = false
	}
	at := len(s.arena)
	s.arena = s.arena[:at+n]
	b := s.arena[at : at+n : at+n]
	if s.tail {
		last := &s.iov[len(s.iov)-1]
		last.SetLen(int(last.Len) + n)
	} else if n > 0 {
		s.entry(b)
		s.tail = true
	}
	s.left += n
	return b
}

func (s *stream) entry(b []byte) {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	s.iov = append(s.iov, v)
}

// data puts b at the end: a copy if it is short, otherwise b itself, which must then not change until it is sent.
func (s *stream) data(b []byte) {
	if len(b) == 0 {
		return
	}
	if len(b) <= s.limit {
		copy(s.reserve(len(b)), b)
		return
	}
	s.entry(b)
	s.tail = false
	s.left += len(b)
}

// take marks the first n unsent bytes as sent.
func (s *stream) take(n int) {
	s.left -= n
	if s.left == 0 {
		clear(s.iov) // callers' data is not kept alive
		s.iov, s.arena, s.sent, s.tail = s.iov[:0], s.arena[:0], 0, false
		return
	}
	for n > 0 {
		v := &s.iov[s.sent]
		if n < int(v.Len) {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.SetLen(int(v.Len) - n)
			return
		}
		n -= int(v.Len)
		s.sent++
	}
}

// unsent returns the entries to be given to writev, at most as many as it takes.
func (s *stream) unsent() []unix.Iovec {
	const most = 1024 // IOV_MAX
	v := s.iov[s.sent:]
	if len(v) > most {
		v = v[:most]
	}
	return v
}

// bytesOf returns the memory that v refers to.
func bytesOf(v unix.Iovec) []byte { return unsafe.Slice(v.Base, int(v.Len)) }
