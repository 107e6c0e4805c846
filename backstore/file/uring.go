package file

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of io_uring's ABI that is used here (include/uapi/linux/io_uring.h; all in Linux 5.6).
const (
	opFsync     = 3
	opFallocate = 17
	opRead      = 22
	opWrite     = 23

	fsyncDatasync = 1

	setupCQSize = 1 << 3
	setupClamp  = 1 << 4

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featRWCurPos   = 1 << 3 // came in 5.6, as opRead, opWrite and opFallocate did

	registerEventfd = 4

	mmapRings = 0
	mmapSQEs  = 0x10000000
)

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

type uringParams struct {
	sqEntries, cqEntries, flags, _, _, features, _ uint32
	_                                              [3]uint32
	sq                                             sqOffsets
	cq                                             cqOffsets
}

// An sqe is one submission.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64
	addr          uint64
	len           uint32
	opFlags       uint32 // RWF_*, fsync flags
	userData      uint64
	_             [3]uint64
}

type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// A uring is one io_uring: the two rings that are shared with the kernel. One goroutine at a time. It
// is made without SINGLE_ISSUER and DEFER_TASKRUN: both bind it to one thread, and a loop's goroutine
// moves between threads.
type uring struct {
	fd      int
	event   int // eventfd, readable when there are completions
	rings   []byte
	sqeMem  []byte
	sqes    []sqe
	cqes    []cqe
	sqHead  *atomic.Uint32 // the kernel's
	sqTail  *atomic.Uint32
	cqHead  *atomic.Uint32
	cqTail  *atomic.Uint32 // the kernel's
	sqMask  uint32
	cqMask  uint32
	entered uint32 // the tail up to which the kernel has taken submissions
}

// newUring makes a ring with room for sq submissions in a batch and cq completions.
func newUring(sq, cq uint32) (u *uring, err error) {
	p := uringParams{flags: setupCQSize | setupClamp, cqEntries: cq}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(sq), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", e)
	}
	u = &uring{fd: int(fd), event: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.close())
			u = nil
		}
	}()
	if need := uint32(featSingleMmap | featNoDrop | featRWCurPos); p.features&need != need {
		return u, fmt.Errorf("io_uring: the kernel is older than 5.6")
	}
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	if u.rings, err = unix.Mmap(u.fd, mmapRings, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return u, fmt.Errorf("io_uring: mmap of the rings: %w", err)
	}
	if u.sqeMem, err = unix.Mmap(u.fd, mmapSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return u, fmt.Errorf("io_uring: mmap of the submissions: %w", err)
	}
	at := func(off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&u.rings[off])) }
	u.sqHead, u.sqTail, u.cqHead, u.cqTail = at(p.sq.head), at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	u.sqMask, u.cqMask = p.sqEntries-1, p.cqEntries-1
	u.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&u.sqeMem[0])), p.sqEntries)
	u.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&u.rings[p.cq.cqes])), p.cqEntries)
	// The array maps places in the ring to submissions; here always one to one.
	array := unsafe.Slice((*uint32)(unsafe.Pointer(&u.rings[p.sq.array])), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	if u.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return u, fmt.Errorf("io_uring: eventfd: %w", err)
	}
	ev := int32(u.event)
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, registerEventfd, uintptr(unsafe.Pointer(&ev)), 1, 0, 0); e != 0 {
		return u, fmt.Errorf("io_uring: registering the eventfd: %w", e)
	}
	return u, nil
}

// next returns the next free submission, zeroed, or nil when the batch is full. It is the kernel's after
// push and enter.
func (u *uring) next() *sqe {
	tail := u.sqTail.Load()
	if tail-u.sqHead.Load() > u.sqMask {
		return nil
	}
	q := &u.sqes[tail&u.sqMask]
	*q = sqe{}
	return q
}

// push takes what next returned into the batch.
func (u *uring) push() { u.sqTail.Store(u.sqTail.Load() + 1) }

// enter hands the batch to the kernel. On an error some of it may be left (see takeBack).
func (u *uring) enter() unix.Errno {
	for {
		n := u.sqTail.Load() - u.entered
		if n == 0 {
			return 0
		}
		done, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(n), 0, 0, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		u.entered += uint32(done)
		if done == 0 {
			return unix.EAGAIN
		}
	}
}

// takeBack takes the last submission that the kernel has not taken out of the batch and returns its
// userData. Without SQPOLL the kernel looks at the tail only in enter, so it can be moved back.
func (u *uring) takeBack() (uint64, bool) {
	tail := u.sqTail.Load()
	if tail == u.entered {
		return 0, false
	}
	tail--
	u.sqTail.Store(tail)
	return u.sqes[tail&u.sqMask].userData, true
}

// reap takes one completion.
func (u *uring) reap() (userData uint64, res int32, ok bool) {
	head := u.cqHead.Load()
	if head == u.cqTail.Load() {
		return 0, 0, false
	}
	c := &u.cqes[head&u.cqMask]
	userData, res = c.userData, c.res
	u.cqHead.Store(head + 1)
	return userData, res, true
}

// close frees everything. Nothing may be in flight: the kernel would still write to its buffers.
func (u *uring) close() error {
	var err error
	if u.event >= 0 {
		err = unix.Close(u.event)
	}
	if u.sqeMem != nil {
		err = errors.Join(err, unix.Munmap(u.sqeMem))
	}
	if u.rings != nil {
		err = errors.Join(err, unix.Munmap(u.rings))
	}
	return errors.Join(err, unix.Close(u.fd))
}
