package evloop

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forever is a deadline that never comes.
const forever = int64(1<<63 - 1)

// timespec64 is the kernel's __kernel_timespec, which epoll_pwait2 takes on every architecture.
type timespec64 struct{ sec, nsec int64 }

// pollNow asks epoll without waiting. It is a raw system call: it cannot sleep, so the runtime need not
// know of it. EINTR counts as nothing found.
func pollNow(epfd int, evs []unix.EpollEvent) int {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])), uintptr(len(evs)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// pollWait waits in the kernel for at most d nanoseconds (forever: without end) through the runtime's
// entersyscall, so that the P can be handed on. ts is the caller's scratch, so that nothing is
// allocated. EINTR counts as nothing found.
func pollWait(epfd int, evs []unix.EpollEvent, d int64, ts *timespec64) int {
	var t unsafe.Pointer
	if d != forever {
		ts.sec, ts.nsec = d/1e9, d%1e9
		t = unsafe.Pointer(ts)
	}
	n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])), uintptr(len(evs)), uintptr(t), 0, 0)
	switch e {
	case 0:
		return int(n)
	case unix.ENOSYS, unix.EPERM:
		// Kernels before 5.11, and sandboxes that do not know the call: milliseconds, rounded up.
		return pollWaitMs(epfd, evs, d)
	}
	return 0
}

func pollWaitMs(epfd int, evs []unix.EpollEvent, d int64) int {
	ms := -1
	if d != forever {
		ms = int(min((d+int64(time.Millisecond)-1)/int64(time.Millisecond), 1<<30))
	}
	n, err := unix.EpollWait(epfd, evs, ms)
	if err != nil {
		return 0
	}
	return n
}

// signalEventfd adds one to an eventfd's counter. It never blocks: the counter would have to be full.
func signalEventfd(fd int) {
	one := uint64(1)
	for {
		_, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
		if e != unix.EINTR {
			return
		}
	}
}

// newPoller makes an epoll set with an eventfd in it. The eventfd is edge-triggered and never read: every
// write reports it once, which saves a system call a wake-up. Its epoll data is the zero ID.
func newPoller() (epfd, wakefd int, err error) {
	epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, -1, err
	}
	wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epfd)
		return -1, -1, err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}
	if err = unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wakefd, &ev); err != nil {
		unix.Close(wakefd)
		unix.Close(epfd)
		return -1, -1, err
	}
	return epfd, wakefd, nil
}

// ID names a descriptor in a loop's epoll set. It carries a generation, so that an event that was
// fetched before Remove finds nothing. The zero ID names nothing.
type ID uint64

func makeID(slot int, gen uint32) ID { return ID(gen)<<32 | ID(uint32(slot)) }

func (id ID) slot() int   { return int(uint32(id)) }
func (id ID) gen() uint32 { return uint32(id >> 32) }

func (id ID) event(bits uint32) unix.EpollEvent {
	return unix.EpollEvent{Events: bits, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
}

func eventID(ev *unix.EpollEvent) ID { return ID(uint32(ev.Pad))<<32 | ID(uint32(ev.Fd)) }
