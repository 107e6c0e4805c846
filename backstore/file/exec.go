package file

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// zeroChunk is what is written at a time where zeroes have to be written by hand.
const zeroChunk = 1 << 20

// zeroes is memory that reads as zeroes and costs none, aligned for O_DIRECT.
var zeroes = sync.OnceValues(func() ([]byte, error) {
	return unix.Mmap(-1, 0, zeroChunk, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
})

// run carries out r by waiting system calls. It is what the workers do.
func (s *Store) run(r *backstore.Request) {
	s.finish(r, s.exec(r))
}

func (s *Store) exec(r *backstore.Request) error {
	switch r.Op {
	case backstore.Read:
		return s.readAll(r)
	case backstore.Write:
		if r.Flags&backstore.FUA == 0 {
			return s.writeAll(r, 0, sysPwrite)
		}
		return s.writeAll(r, 0, dsyncPwrite)
	case backstore.Flush:
		return s.sync(r)
	case backstore.Allocation:
		return s.allocation(r)
	}
	var e unix.Errno
	if r.Op == backstore.Discard {
		e = s.discard(r)
	} else {
		e = s.zeroRange(r)
	}
	if e != 0 {
		return s.failure(r, e)
	}
	s.wrote(r)
	if r.Flags&backstore.FUA != 0 || s.cfg.writethrough {
		return s.sync(r)
	}
	return nil
}

func (s *Store) readAll(r *backstore.Request) error {
	if r.Flags&backstore.FUA != 0 && !s.clean() {
		if err := s.sync(r); err != nil {
			return err
		}
	}
	for done := 0; done < len(r.Buf); {
		n, e := sysPread(s.fd, r.Buf[done:], r.Off+int64(done))
		switch {
		case e == unix.EINTR:
		case e == unix.EINVAL && done > 0, e == 0 && n == 0: // EINVAL: O_DIRECT, and the end is not in whole blocks
			return failShort(r, done)
		case e != 0:
			return fail(r, e)
		default:
			done += n
		}
	}
	return nil
}

// writeAll writes what is left of r by call.
func (s *Store) writeAll(r *backstore.Request, done int, call func(int, []byte, int64) (int, unix.Errno)) error {
	for done < len(r.Buf) {
		n, e := call(s.fd, r.Buf[done:], r.Off+int64(done))
		switch {
		case e == unix.EINTR:
		case e != 0:
			return s.failure(r, e)
		case n == 0:
			return s.failure(r, unix.EIO)
		default:
			done += n
		}
	}
	s.wrote(r)
	return nil
}

// sync makes what has been written durable. A failure is sticky: Linux tells it once.
func (s *Store) sync(r *backstore.Request) error {
	gen := s.written.Load()
	if e := fdatasync(s.fd); e != 0 {
		s.failed.Store(true)
		return fail(r, e)
	}
	if s.failed.Load() { // one that ran beside this was told of the failure
		return failSticky(r)
	}
	s.flushed(gen)
	return nil
}

func fdatasync(fd int) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FDATASYNC, uintptr(fd), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// fallocMode is how fallocate carries out r. Zeroes that may be a hole become one in a thin file.
func (s *Store) fallocMode(r *backstore.Request) uint32 {
	if r.Op == backstore.Discard || s.cfg.thin && r.Flags&backstore.KeepAllocated == 0 {
		return unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	return unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
}

func fallocate(fd int, mode uint32, off, n int64) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_FALLOCATE, uintptr(fd), uintptr(mode), uintptr(off), uintptr(n), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func (s *Store) discard(r *backstore.Request) unix.Errno {
	if s.dev {
		return deviceRange(s.fd, unix.BLKDISCARD, r.Off, r.Len)
	}
	return fallocate(s.fd, s.fallocMode(r), r.Off, r.Len)
}

// zeroRange tries the ways to zero a range, the cheapest first.
func (s *Store) zeroRange(r *backstore.Request) unix.Errno {
	var e unix.Errno
	if s.dev {
		e = deviceRange(s.fd, unix.BLKZEROOUT, r.Off, r.Len)
	} else {
		e = fallocate(s.fd, s.fallocMode(r), r.Off, r.Len)
	}
	if e != unix.EOPNOTSUPP && e != unix.EINVAL {
		return e
	}
	zero, err := zeroes()
	if err != nil {
		return unix.ENOMEM
	}
	for done := int64(0); done < r.Len; {
		n, e := sysPwrite(s.fd, zero[:min(zeroChunk, r.Len-done)], r.Off+done)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		done += int64(n)
	}
	return 0
}

func deviceRange(fd int, op uintptr, off, n int64) unix.Errno {
	arg := [2]uint64{uint64(off), uint64(n)}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(unsafe.Pointer(&arg)))
	return e
}

// allocation asks the file system where data is. Only data is Mapped; what is allocated but was never
// written may count as a hole.
func (s *Store) allocation(r *backstore.Request) error {
	for off, end := r.Off, r.Off+r.Len; off < end && len(r.Extents) < cap(r.Extents); {
		state := backstore.Mapped
		next, err := unix.Seek(s.fd, off, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO: // no data behind off
			state, next = backstore.Deallocated, end
		case err == nil && next > off:
			state = backstore.Deallocated
		case err == nil:
			next, err = unix.Seek(s.fd, off, unix.SEEK_HOLE)
		}
		if err != nil && err != unix.ENXIO {
			return fail(r, err.(unix.Errno))
		}
		if err != nil || next <= off {
			next = end
		}
		next = min(next, end)
		r.Extents = append(r.Extents, backstore.Extent{Off: off, Len: next - off, State: state})
		off = next
	}
	return nil
}
