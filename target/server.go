package target

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// A Logger takes what the server has to say: one line of text, and pairs of a name and a value. It must not block.
type Logger interface {
	Debug(msg string, kv ...any)
	Info(msg string, kv ...any)
	Warn(msg string, kv ...any)
}

// Trace receives one line for each thing that passes, when set; for debugging. The functions are called on
// the loops and must not block.
type Trace struct {
	PDU  func(conn, dir, line string) // every PDU: dir is "rx" or "tx"
	SCSI func(conn, line string)      // every command as it ends
}

// Config is what a Server is made with. The zero value is what lunar ships with.
type Config struct {
	Logger Logger
	Trace  Trace
	// Notify is told of logins and of the ends of sessions, on the loop of the target, and of failed logins. It must not block, or call the
	// server.
	Notify func(Event)

	Login login.Config   // zero: login.Defaults
	Auth  login.Auth     // of every target that has none of its own, and of discovery until SetDiscovery: CHAP accounts; zero: none
	Limit session.Limits // zero fields: package session's defaults

	LoginTimeout    time.Duration // from the first byte awaited to full-feature phase
	DiscoveryTime   time.Duration // a discovery session may last this long
	MaxLogins       int           // connections in login or discovery at once
	MaxLoginsPerIP  int           // of these, from one address
	MaxTurnAways    int           // connections beyond these that are told so, and to try again, at once; further ones are closed
	LoginFailDelay  time.Duration // the longest wait for the answer to a login that failed to authenticate; negative: none
	MaxSessions     int           // normal sessions of the whole server
	BufferBytes     int64         // memory kept for data of commands, all targets together
	SendTimeout     time.Duration // a connection may take nothing of what waits for it for so long
	MaxBacklog      int           // bytes of a connection that wait to be sent before further reads wait
	MaxQueuedPDUs   int           // PDUs of a connection that wait to be sent before it is given up
	Spin            time.Duration // busy polling before a loop sleeps; 0: none
	MaxTurn         time.Duration // a loop's turn
	StoreCloseAfter time.Duration // Close waits this long for a store's requests in flight
	MaxOrphans      int           // stores of removed LUNs that have not ended their requests; with more no LUN is added

	// StateDir is the folder that keeps persistent reservations for the next start (APTPL); it is made if it is not
	// there. Empty: they end with the server, and APTPL is refused.
	StateDir string
}

// The defaults of Config.
const (
	DefaultLoginTimeout    = 15 * time.Second
	DefaultDiscoveryTime   = 60 * time.Second
	DefaultMaxLogins       = 2048
	DefaultMaxLoginsPerIP  = 1024
	DefaultMaxTurnAways    = 64
	DefaultLoginFailDelay  = 4 * time.Second // initiators give a login 15 s and more
	DefaultMaxSessions     = 32768
	DefaultBufferBytes     = 256 << 20
	DefaultMaxBacklog      = 2 << 20
	DefaultMaxQueuedPDUs   = 4096
	DefaultSendTimeout     = 60 * time.Second
	DefaultStoreCloseAfter = 10 * time.Second
	DefaultMaxOrphans      = 64
)

type discard struct{}

func (discard) Debug(string, ...any) {}
func (discard) Info(string, ...any)  {}
func (discard) Warn(string, ...any)  {}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = discard{}
	}
	if c.Login.MaxPDUs == 0 {
		c.Login = login.Defaults()
	}
	durations := []struct {
		p   *time.Duration
		def time.Duration
	}{{&c.LoginTimeout, DefaultLoginTimeout}, {&c.DiscoveryTime, DefaultDiscoveryTime}, {&c.LoginFailDelay, DefaultLoginFailDelay},
		{&c.StoreCloseAfter, DefaultStoreCloseAfter}, {&c.SendTimeout, DefaultSendTimeout}}
	for _, d := range durations {
		if *d.p == 0 {
			*d.p = d.def
		}
	}
	ints := []struct {
		p   *int
		def int
	}{{&c.MaxLogins, DefaultMaxLogins}, {&c.MaxLoginsPerIP, DefaultMaxLoginsPerIP}, {&c.MaxTurnAways, DefaultMaxTurnAways}, {&c.MaxSessions, DefaultMaxSessions},
		{&c.MaxBacklog, DefaultMaxBacklog}, {&c.MaxOrphans, DefaultMaxOrphans}, {&c.MaxQueuedPDUs, DefaultMaxQueuedPDUs}}
	for _, i := range ints {
		if *i.p == 0 {
			*i.p = i.def
		}
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = DefaultBufferBytes
	}
	return c
}

// A Server serves targets on portals. Its methods may be called from any goroutine.
type Server struct {
	cfg    Config
	log    Logger
	group  *evloop.Group
	budget *evloop.Budget
	state  *stateDir // nil: nothing is kept
	table  atomic.Pointer[table]

	discovery atomic.Pointer[login.Auth] // of discovery sessions
	refusing  atomic.Bool                // see SetAccepting
	orphans   atomic.Int64               // of all loops

	gate  loginGate
	lobby loginGate // of those whom the gate has no room for
	tsih  tsihs

	penalty penalty
	closing chan struct{} // closed by Close

	sessions atomic.Int64 // normal sessions
	count    counts
	notes    notes // what peers bring about is logged through it

	mu      sync.Mutex // guards what follows, and publishing a new table
	portals []*portal
	loops   []*loop
	going   map[string]bool  // names of targets whose removal is prepared: nobody else has them yet
	past    session.Counters // of loops that are no more
	serving bool
	closed  bool
	logins  sync.WaitGroup
	// lingering are the waits for stores of targets that are no more: see linger.
	lingering sync.WaitGroup
}

// ErrClosed is returned by calls on a Server that has been closed.
var ErrClosed = errors.New("target: the server is closed")

// NewServer returns a server without targets and portals.
func NewServer(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Login.Check(); err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	var state *stateDir
	if cfg.StateDir != "" {
		var err error
		if state, err = newStateDir(cfg.StateDir, cfg.Logger); err != nil {
			return nil, fmt.Errorf("target: %w", err)
		}
	}
	g, err := evloop.NewGroup()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, group: g, state: state, budget: evloop.NewBudget(cfg.BufferBytes), closing: make(chan struct{}), going: map[string]bool{}}
	s.notes.log, s.notes.now = cfg.Logger, g.Clock
	s.gate.init(cfg.MaxLogins, cfg.MaxLoginsPerIP)
	s.lobby.init(cfg.MaxTurnAways, max(cfg.MaxTurnAways/turnAwayShare, 1))
	s.penalty.init(cfg.LoginFailDelay)
	s.table.Store(&table{})
	s.SetDiscovery(cfg.Auth)
	return s, nil
}

// Drain ends service in an orderly way: no new connections, every initiator is asked to log out, and what is still there
// when ctx ends is cut off. It does not close stores: call Close afterwards.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	portals := s.portals
	s.portals = nil
	loops := append([]*loop(nil), s.loops...)
	s.mu.Unlock()
	for _, p := range portals {
		p.close()
	}
	for _, l := range loops {
		l.ev.Lock()
		l.askLogoutLocked()
		l.ev.Unlock()
		l.ev.Wake()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.sessions.Load() > 0 {
		select {
		case <-ctx.Done():
			n := s.sessions.Load()
			for _, l := range loops {
				l.ev.Lock()
				l.dropAllLocked(endDrained, "the server is shutting down")
				l.ev.Unlock()
			}
			return fmt.Errorf("target: %d sessions did not log out in time", n)
		case <-tick.C:
		}
	}
	return nil
}

// Close ends everything at once: portals, connections, loops, stores. Every store is flushed; the errors of those that
// could not be are joined.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	portals, loops := s.portals, s.loops
	s.portals, s.loops = nil, nil
	s.table.Store(&table{})
	s.mu.Unlock()
	for _, p := range portals {
		p.close()
	}
	close(s.closing)
	s.gate.closeAll()
	s.lobby.closeAll()
	s.logins.Wait()
	s.lingering.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.StoreCloseAfter)
	defer cancel()
	var errs []error
	for _, l := range loops {
		if err := l.close(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.group.Close())
	return errors.Join(errs...)
}

// Panics returns how many faults of lunar itself have cost a connection or taken a logical unit offline.
func (s *Server) Panics() uint64 { return s.count.panics.Load() }

// Sessions returns how many normal sessions there are.
func (s *Server) Sessions() int { return int(s.sessions.Load()) }
