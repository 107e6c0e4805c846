package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:3290", "`address` and port to listen on (IPv4)")
	file := flag.String("file", "", "`file` to serve")
	flag.Parse()
	if err := quiet(); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
	debug.SetGCPercent(-1) // a session's buffers are all that is ever allocated
	runtime.LockOSThread()
	if err := run(*listen, *file); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

// quiet starts the program anew, as the same process, with the runtime's preemption by signal off: a raw system
// call that waits longer than 10 ms would be taken for a goroutine that hogs its thread and be interrupted.
func quiet() error {
	const setting = "asyncpreemptoff=1"
	if os.Getenv("GODEBUG") == setting {
		return nil
	}
	if err := os.Setenv("GODEBUG", setting); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

func run(listen, file string) error {
	addr, err := netip.ParseAddrPort(listen)
	if err != nil || !addr.Addr().Is4() {
		return fmt.Errorf("--listen %q: want an IPv4 address and a port", listen)
	}
	if file == "" {
		return errors.New("--file is missing")
	}
	disk, err := openDisk(file)
	if err != nil {
		return err
	}
	l, err := listenOn(addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	bound, err := syscall.Getsockname(l)
	if err != nil {
		return err
	}
	if b, ok := bound.(*syscall.SockaddrInet4); ok { // port 0 asks for any
		addr = netip.AddrPortFrom(addr.Addr(), uint16(b.Port))
	}
	fmt.Println("floor: serving", file, "on", addr)
	return serve(l, disk)
}

// A disk is the file served.
type disk struct {
	fd     int
	blocks uint64 // of 512 bytes
}

func openDisk(file string) (disk, error) {
	fd, err := syscall.Open(file, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return disk{}, fmt.Errorf("open %s: %w", file, err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return disk{}, fmt.Errorf("stat %s: %w", file, err)
	}
	return disk{fd: fd, blocks: uint64(st.Size) / blockSize}, nil
}

func listenOn(addr netip.AddrPort) (int, error) {
	l, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := syscall.SetsockoptInt(l, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(l, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return 0, err
	}
	return l, syscall.Listen(l, backlog)
}

const (
	backlog   = 128
	blockSize = 512
	maxEvents = 64
)

// serve handles connections for ever. Epoll data is the descriptor.
func serve(l int, d disk) error {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, l, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(l)}); err != nil {
		return err
	}
	conns := map[int32]*conn{}
	var events [maxEvents]syscall.EpollEvent
	for {
		n := wait(ep, events[:])
		for i := range events[:n] {
			e := &events[i]
			if e.Fd == int32(l) {
				if c, err := accept(ep, l, d); err == nil {
					conns[int32(c.fd)] = c
				}
				continue
			}
			if c := conns[e.Fd]; !c.ready(e.Events) {
				delete(conns, e.Fd)
				c.close()
			}
		}
	}
}

func accept(ep, l int, d disk) (*conn, error) {
	fd, _, err := syscall.Accept4(l, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return nil, err
	}
	c := newConn(ep, fd, d)
	return c, syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: c.interest, Fd: int32(fd)})
}
