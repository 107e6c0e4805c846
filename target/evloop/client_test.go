package evloop

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clients of the benchmarks are this same test binary in processes of their own, so that nothing of
// them runs in the runtime that is measured.
const clientEnv = "LUNAR_EVLOOP_CLIENT"

func TestMain(m *testing.M) {
	if args := os.Getenv(clientEnv); args != "" {
		if err := client(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	reqLen  = 48        // as a SCSI Command PDU
	respLen = 48 + 4096 // as a Data-In PDU of a 4 KiB read
	depth   = 32
)

// client is the main function of a client's process.
func client(args []string) error {
	switch args[0] {
	case "load": // load ADDR…: keeps depth requests in flight at each until its standard input ends
		for _, addr := range args[1:] {
			fd, err := dial(addr)
			if err != nil {
				return err
			}
			go hammer(fd)
		}
		fmt.Println("loaded")
		var b [1]byte
		os.Stdin.Read(b[:])
		return nil
	case "pings": // pings ADDR N: N connections, each with one small request a second, until its standard input ends
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		for i := range n {
			c, err := net.Dial("tcp", args[1])
			if err != nil {
				return err
			}
			go func() {
				var b [reqLen]byte
				time.Sleep(time.Duration(i*617%n) * time.Second / time.Duration(n)) // neighbours far apart
				for range time.Tick(time.Second) {
					c.Write(b[:])
					if _, err := io.ReadFull(c, b[:]); err != nil {
						return
					}
				}
			}()
		}
		var b [1]byte
		os.Stdin.Read(b[:])
		return nil
	case "ping": // ping ADDR N: N requests one after the other, the latencies as JSON
		return probe(args[1], args[2], 0)
	case "probe": // probe ADDR N: one request every 10 ms, the latencies as JSON
		return probe(args[1], args[2], 10*time.Millisecond)
	}
	return fmt.Errorf("unknown client %q", args[0])
}

// probe makes n requests with a pause before each and prints how long each took, as JSON.
func probe(addr, n string, pause time.Duration) error {
	runtime.LockOSThread()
	fd, err := dial(addr)
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	lat := make([]time.Duration, count)
	buf := make([]byte, respLen)
	for i := range lat {
		if pause > 0 {
			unix.Nanosleep(&unix.Timespec{Nsec: int64(pause)}, nil)
		}
		t := time.Now()
		if err := exchange(fd, buf); err != nil {
			return err
		}
		lat[i] = time.Since(t)
	}
	return json.NewEncoder(os.Stdout).Encode(lat)
}

// dial makes a blocking socket that Go's runtime knows nothing of.
func dial(addr string) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())})
}

// exchange makes one request and reads its answer.
func exchange(fd int, buf []byte) error {
	var req [reqLen]byte
	if _, err := unix.Write(fd, req[:]); err != nil {
		return err
	}
	for got := 0; got < respLen; {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			return fmt.Errorf("read: %d, %v", n, err)
		}
		got += n
	}
	return nil
}

// hammer keeps depth requests in flight: for each whole answer a new request.
func hammer(fd int) {
	runtime.LockOSThread()
	buf, req := make([]byte, 256<<10), make([]byte, depth*reqLen)
	owed, part := depth, 0
	for {
		if owed > 0 {
			if _, err := unix.Write(fd, req[:owed*reqLen]); err != nil {
				return
			}
		}
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			return
		}
		part += n
		owed = part / respLen
		part %= respLen
	}
}
