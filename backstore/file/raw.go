package file

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls below pass a file offset in one register: this package is for 64-bit machines, and the
// index is out of range on others.
var _ = [1]struct{}{}[1-^uintptr(0)>>63]

// rawLimit is the largest transfer made as a raw system call, which holds up the Go scheduler and its
// collector while it copies: 64 KiB take 9 µs.
const rawLimit = 64 << 10

// rawPread reads into b without telling the scheduler: only where nothing can wait. b is not empty.
func rawPread(fd int, b []byte, off int64) (int, unix.Errno) {
	if len(b) > rawLimit {
		return sysPread(fd, b, off)
	}
	n, _, e := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(off), 0, 0)
	return int(n), e
}

// rawPwrite is the same for writing.
func rawPwrite(fd int, b []byte, off int64) (int, unix.Errno) {
	if len(b) > rawLimit {
		return sysPwrite(fd, b, off)
	}
	n, _, e := unix.RawSyscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(off), 0, 0)
	return int(n), e
}

func sysPread(fd int, b []byte, off int64) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(off), 0, 0)
	return int(n), e
}

func sysPwrite(fd int, b []byte, off int64) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(off), 0, 0)
	return int(n), e
}

// nowait is preadv2 or pwritev2 (trap) with RWF_NOWAIT.
func nowait(trap uintptr, fd int, b []byte, off int64) (int, unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
	var n uintptr
	var e unix.Errno
	if len(b) > rawLimit {
		n, _, e = unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	} else {
		n, _, e = unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	}
	return int(n), e
}

// dsyncPwrite writes durably (RWF_DSYNC); it waits for the disk.
func dsyncPwrite(fd int, b []byte, off int64) (int, unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
	n, _, e := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_DSYNC)
	return int(n), e
}
