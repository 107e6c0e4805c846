package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/gauge"
)

// An endpoint is one LUN that a client can reach.
type endpoint struct {
	portal string // host:port
	iqn    string
	lun    int
}

func (e endpoint) url() string { return fmt.Sprintf("iscsi://%s/%s/%d", e.portal, e.iqn, e.lun) }

// A setup is what a server is started with.
type setup struct {
	dir      string   // for its sockets, configuration and logs
	files    []string // one a target
	defaults bool
	direct   bool
	digests  bool
	stall    bool
	args     []string // more for lunard
	pin      string   // processors, as taskset takes them; "" for all
}

// iqn names the target of the i-th file.
func (s *setup) iqn(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:bench%d", i) }

// A server is one subject's server under way: one process, or for the floor one a target.
type server struct {
	about   string // program and version
	note    string // what is not as asked for
	procs   []*gauge.Process
	ends    []endpoint
	stalled *endpoint // the LUN whose store stalls, if there is one
	second  []*initiator.Session
}

func (s *server) stop() {
	for _, n := range s.second {
		_ = n.Close() // the session's end is the server's affair now
	}
	for _, p := range s.procs {
		p.Stop()
	}
}

// ready waits until the server takes connections at portal.
func (s *server) ready(ctx context.Context, portal string) error {
	return s.procs[len(s.procs)-1].Listens(ctx, portal)
}

// cpu is the processor time of all processes.
func (s *server) cpu() (sum time.Duration, err error) {
	for _, p := range s.procs {
		t, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// hold logs a second initiator in to every target: it stays, idle, while the load runs, as the other nexus of a cluster does.
func (s *server) hold(ctx context.Context) error {
	for i := range s.ends {
		n, err := initiator.Login(ctx, initiator.Options{
			Portal: s.ends[i].portal, TargetName: s.ends[i].iqn, InitiatorName: "iqn.2026-11.io.lunar:second", Lenient: true, Depth: 1,
		})
		if err != nil {
			return fmt.Errorf("second session: %w", err)
		}
		s.second = append(s.second, n)
	}
	return nil
}

// A starter starts a kind of server. On an error it leaves what it started in the server, for stop.
type starter func(b *bench, ctx context.Context, s *server, u *setup) error

// starters are the kinds of server.
var starters = map[string]starter{lunar: startLunar, tgtd: startTgtd, istgt: startIstgt, gotgt: startGotgt, floor: startFloor}

// start starts a subject's server and holds the second sessions.
func (b *bench) start(ctx context.Context, kind string, u *setup) (*server, error) {
	f, ok := starters[kind]
	if !ok {
		f = startOther(kind, b.others[kind])
	}
	s := &server{}
	err := f(b, ctx, s, u)
	if err == nil {
		err = s.hold(ctx)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// spawn starts one process of the server.
func (s *server) spawn(u *setup, name string, env []string, args ...string) error {
	p, err := gauge.StartProcess(u.dir, name, u.pin, env, args...)
	if err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	return nil
}

// loopback takes a free port for the server.
func loopback() (int, string, error) {
	port, err := gauge.FreePort()
	return port, fmt.Sprintf("127.0.0.1:%d", port), err
}

var errNotFound = errors.New("not found: scripts/test-deps test bench fetches it")
