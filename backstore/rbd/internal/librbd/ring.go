//go:build rbd && cgo

package librbd

// #cgo LDFLAGS: -lrbd -lrados
// #include "shim.h"
import "C"

import (
	"errors"
	"unsafe"
)

// An Op is what a command does.
type Op uint16

// The operations.
const (
	Read            Op = C.LUNAR_READ
	Write           Op = C.LUNAR_WRITE
	Flush           Op = C.LUNAR_FLUSH
	Discard         Op = C.LUNAR_DISCARD
	WriteZeroes     Op = C.LUNAR_ZEROES
	CompareAndWrite Op = C.LUNAR_CAW
)

// A Command is a request to an image. Slot is below the ring's number of slots and in use for one request at a time.
type Command struct {
	Slot         int
	Op           Op
	Off, Len     int64          // bytes
	Buf, Compare unsafe.Pointer // Len bytes each, pinned
	Thick        bool           // WriteZeroes: the range stays allocated
	DontNeed     bool           // the range is not expected to be used again soon
}

// An End is a request that has ended.
type End struct {
	Slot     int
	Ret      int64 // bytes or 0, or a negative errno
	Mismatch int64 // CompareAndWrite: the first difference, within the request, behind where the object begins in the image
}

// A Ring carries requests to one image and back. One goroutine at a time calls it, but for Wake.
type Ring struct {
	c      *C.struct_lunar_ring
	cmds   []C.struct_lunar_cmd
	ends   []C.struct_lunar_end
	queued int
}

// NewRing makes a ring of so many slots.
func NewRing(slots int) (*Ring, error) {
	c := C.lunar_ring_new(C.uint32_t(slots))
	if c == nil {
		return nil, errors.New("no memory or no descriptor for the completion ring")
	}
	return &Ring{c: c, cmds: unsafe.Slice(c.cmds, slots), ends: unsafe.Slice(c.ends, slots)}, nil
}

// FD is readable when something has ended, or the image has changed.
func (r *Ring) FD() int { return int(r.c.fd) }

// Queued is how many commands wait for Submit.
func (r *Ring) Queued() int { return r.queued }

// Queue takes a command for the next Submit.
func (r *Ring) Queue(m *Command) {
	c := &r.cmds[r.queued]
	r.queued++
	c.slot, c.op, c.off, c.len = C.uint32_t(m.Slot), C.uint16_t(m.Op), C.uint64_t(m.Off), C.uint64_t(m.Len)
	c.buf, c.cmp = C.uint64_t(uintptr(m.Buf)), C.uint64_t(uintptr(m.Compare))
	c.thick, c.flags = 0, 0
	if m.Thick {
		c.thick = 1
	}
	if m.DontNeed {
		c.flags = C.LIBRADOS_OP_FLAG_FADVISE_DONTNEED
	}
}

// Submit hands what is queued to librbd, which queues it for its own threads.
func (r *Ring) Submit(i *Image) {
	if r.queued > 0 {
		C.lunar_submit(r.c, i.c, C.uint32_t(r.queued))
		r.queued = 0
	}
}

// Reap returns how many requests have ended, each to be had with End, and whether the image's header has changed since the last time.
func (r *Ring) Reap() (n int, updated bool) {
	if n = int(C.lunar_reap(r.c)); n < 0 {
		return -1 - n, true
	}
	return n, false
}

// End is one of those that the last Reap found.
func (r *Ring) End(i int) End {
	e := &r.ends[i]
	return End{Slot: int(e.slot), Ret: int64(e.ret), Mismatch: int64(e.mismatch)}
}

// Wake makes FD readable. From any goroutine, until Free.
func (r *Ring) Wake() { C.lunar_wake(r.c) }

// Free releases the ring; its image is closed and nothing is in flight.
func (r *Ring) Free() {
	C.lunar_ring_free(r.c)
	r.c, r.cmds, r.ends = nil, nil, nil
}
