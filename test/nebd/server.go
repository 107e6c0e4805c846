package nebd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// A Config says what a server is.
type Config struct {
	Pool   *Pool
	Socket string // listen.address
	Meta   string // meta.file.path

	ReturnErrors bool // response.returnRpcWhenIoError: failed I/O is answered with -1 rather than not at all

	HeartbeatTimeout time.Duration // heartbeat.timeout.sec; 30 s
	HeartbeatCheck   time.Duration // heartbeat.check.interval.ms; 3 s

	Segment int64 // bytes by which volumes grow; 1 GiB

	// Died is called when a request has killed the server, as a misaligned one does. It is not called with Stop and Kill.
	Died func(why string)
}

// Defaults, those of nebd-server and of a cluster.
const (
	defaultTimeout = 30 * time.Second
	defaultCheck   = 3 * time.Second
	defaultSegment = 1 << 30
	maxLength      = 20 << 40 // mds.curvefs.maxFileLength
)

// A Server is a running nebd-server.
type Server struct {
	cfg      Config
	listener *net.UnixListener
	lock     *os.File // of the socket
	rpc      brpc.Server
	serving  chan struct{} // closed when nothing is accepted any more

	// io is held by whoever touches data, and by Kill to end that.
	io   sync.RWMutex
	dead bool // guarded by io

	mu       sync.Mutex // guards what follows
	cond     sync.Cond  // on mu: busy has become less
	stopping bool
	ended    bool
	busy     int // calls that are being answered
	byName   map[string]*entity
	byFd     map[int32]*entity
	lastFd   int32
	beats    int64
	faults   Faults
	stop     chan struct{} // ends the check of heartbeats
	checked  chan struct{} // closed when it has ended
	gone     chan struct{} // closed when nothing of the server is left
}

// Start starts a server. It opens what Meta records before it listens.
func Start(cfg Config) (*Server, error) {
	if cfg.HeartbeatTimeout == 0 {
		cfg.HeartbeatTimeout = defaultTimeout
	}
	if cfg.HeartbeatCheck == 0 {
		cfg.HeartbeatCheck = defaultCheck
	}
	if cfg.Segment == 0 {
		cfg.Segment = defaultSegment
	}
	s := &Server{cfg: cfg, byName: map[string]*entity{}, byFd: map[int32]*entity{}, stop: make(chan struct{}), checked: make(chan struct{}), serving: make(chan struct{}), gone: make(chan struct{})}
	s.cond.L = &s.mu
	s.rpc.Handle = s.handle
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("nebd-server at %s: %w", cfg.Socket, err)
	}
	go func() {
		defer close(s.serving)
		_ = s.rpc.Serve(s.listener) // ends when the listener is closed
	}()
	go s.check()
	return s, nil
}

// listen takes the socket and loads the records.
func (s *Server) listen() error {
	lock, err := os.OpenFile(s.cfg.Socket+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		err = s.load()
	}
	if err == nil {
		if err = os.Remove(s.cfg.Socket); os.IsNotExist(err) {
			err = nil
		}
	}
	if err == nil {
		s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.cfg.Socket, Net: "unix"})
	}
	if err != nil {
		s.closeAll()
		return errors.Join(err, lock.Close())
	}
	s.listener.SetUnlinkOnClose(false) // clients find it and are refused, until the next server is there
	s.lock = lock
	return nil
}

// Stop ends the server as SIGTERM does: what it has got is answered first, and it does not end while that is not so.
func (s *Server) Stop() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	_ = s.listener.Close() // whatever it answers, it is closed
	s.mu.Lock()
	for s.busy > 0 && !s.ended {
		s.cond.Wait()
	}
	s.mu.Unlock()
	s.Kill()
}

// Kill ends the server at once, as SIGKILL does: connections end, and what is in flight has been carried out or will not be.
func (s *Server) Kill() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		<-s.gone
		return
	}
	s.ended = true
	close(s.stop)
	s.cond.Broadcast()
	s.mu.Unlock()
	s.io.Lock()
	s.dead = true
	s.io.Unlock()
	_ = s.listener.Close()
	<-s.serving
	s.rpc.CloseConns()
	<-s.checked
	s.mu.Lock()
	s.closeAll()
	s.mu.Unlock()
	_ = s.lock.Close() // the lock goes with it
	close(s.gone)
}

// die is the end by a request.
func (s *Server) die(why string) {
	s.cfg.Died(why)
	go s.Kill() // which waits for calls, of which this is one
}

// closeAll gives the volumes back. Called with mu held, or before anybody else knows the server.
func (s *Server) closeAll() {
	for _, e := range s.byFd {
		e.shut()
	}
}

// check closes what sends no heartbeats.
func (s *Server) check() {
	defer close(s.checked)
	tick := time.NewTicker(s.cfg.HeartbeatCheck)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		for _, e := range s.byFd {
			// The real one would hang in closing what has lost a request, and close nothing any more.
			if e.file != nil && e.busy == 0 && time.Since(e.seen) > s.cfg.HeartbeatTimeout {
				e.shut()
			}
		}
		s.mu.Unlock()
	}
}

// begin counts a call, unless the server takes none any more.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || s.ended {
		return false
	}
	s.busy++
	return true
}

func (s *Server) end() {
	s.mu.Lock()
	s.busy--
	s.cond.Broadcast()
	s.mu.Unlock()
}

// Heartbeats is how many calls of KeepAlive there were.
func (s *Server) Heartbeats() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beats
}

// An Open is a descriptor.
type Open struct {
	Name      string
	Fd        int32
	Exclusive bool // the flag that it was opened with, or that it was given none
	Closed    bool // for want of heartbeats
	Lost      int  // requests that are never answered
}

// Opens lists the descriptors.
func (s *Server) Opens() []Open {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Open
	for _, e := range s.byFd {
		out = append(out, Open{Name: e.name, Fd: e.fd, Exclusive: e.flags.exclusive(), Closed: e.file == nil, Lost: e.lost})
	}
	return out
}
