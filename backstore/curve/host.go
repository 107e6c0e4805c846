package curve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// A process is what all stores of one driver share: a host for each nebd-server.
type process struct {
	mu    sync.Mutex
	hosts map[string]*host // by socket; guarded by mu
}

// A host is a nebd-server and what this process has open there: one connection for everything but I/O, one heartbeat for all descriptors.
type host struct {
	p      *process
	socket string
	refs   int // of volumes and of calls; guarded by p.mu

	cancel context.CancelFunc // ends the heartbeat
	ended  chan struct{}      // closed when it has

	dialing sync.Mutex // held while client is looked at or replaced
	client  *brpc.Client

	mu      sync.Mutex
	volumes map[string]*volume // by name; guarded by mu
}

// use returns the host of a socket, to be given back with drop.
func (p *process) use(c *config) *host {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[c.socket]
	if h == nil {
		h = &host{p: p, socket: c.socket, volumes: map[string]*volume{}, ended: make(chan struct{})}
		var ctx context.Context
		ctx, h.cancel = context.WithCancel(context.Background())
		if p.hosts == nil {
			p.hosts = map[string]*host{}
		}
		p.hosts[c.socket] = h
		go h.beat(ctx, c.heartbeat)
	}
	h.refs++
	return h
}

// drop gives a host back.
func (h *host) drop() {
	h.p.mu.Lock()
	h.refs--
	last := h.refs == 0
	if last {
		delete(h.p.hosts, h.socket)
	}
	h.p.mu.Unlock()
	if !last {
		return
	}
	h.cancel()
	<-h.ended
	h.dialing.Lock()
	defer h.dialing.Unlock()
	if h.client != nil {
		h.client.Close()
	}
}

// connection returns the connection, made anew if it is lost.
func (h *host) connection(ctx context.Context) (*brpc.Client, error) {
	h.dialing.Lock()
	defer h.dialing.Unlock()
	if h.client != nil {
		select {
		case <-h.client.Gone():
		default:
			return h.client, nil
		}
	}
	c, err := brpc.Dial(ctx, "unix", h.socket)
	if err != nil {
		return nil, err
	}
	h.client = c
	return c, nil
}

// ask makes one call, once.
func (h *host) ask(ctx context.Context, service, method string, message []byte) ([]byte, error) {
	c, err := h.connection(ctx)
	if err != nil {
		return nil, err
	}
	answer, _, err := c.Call(ctx, service, method, message, nil)
	return answer, err
}

// call makes one call of the file service, and again while the server is away, for as long as patience. All of them may be made twice.
func (h *host) call(ctx context.Context, patience time.Duration, method string, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, max(callTime, patience))
	defer cancel()
	for since := time.Now(); ; {
		answer, err := h.ask(ctx, fileService, method, message)
		if err == nil {
			return answer, nil
		}
		var re *brpc.Error
		class := backstore.ClassOffline
		switch again := time.Since(since) < patience; {
		case errors.As(err, &re) && !retried(re.Code):
			class = backstore.ClassTransport
		case again && ctx.Err() == nil && pause(ctx, min(retryPause, patience/4)) == nil:
			continue
		case ctx.Err() != nil:
			class = backstore.ClassTimeout
		}
		return nil, &backstore.Error{Class: class, Op: method, Cause: fmt.Errorf("nebd-server at %s: %w", h.socket, err)}
	}
}

// retried tells which errors of brpc may be gone the next time: all but those that say that the call is none.
func retried(code int32) bool {
	switch code {
	case brpc.ENoService, brpc.ENoMethod, brpc.ERequest:
		return false
	}
	return true
}

// beat sends heartbeats until ctx ends. Without one for 30 s the server closes the volume for a while; I/O does not count.
func (h *host) beat(ctx context.Context, every time.Duration) {
	defer close(h.ended)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.heartbeat(ctx)
		}
	}
}

// heartbeat sends one of all open descriptors. If the server says that it does not know one of them it is asked to open each again: another client has
// closed it, or the server has lost its records.
func (h *host) heartbeat(ctx context.Context) {
	var open []heartbeat
	var volumes []*volume
	h.mu.Lock()
	for _, v := range h.volumes {
		if fd := v.fd.Load(); fd != 0 {
			open, volumes = append(open, heartbeat{fd, v.nebd}), append(volumes, v)
		}
	}
	h.mu.Unlock()
	if len(open) == 0 {
		return
	}
	once, cancel := context.WithTimeout(ctx, heartbeatAnswer)
	answer, err := h.ask(once, heartbeatService, "KeepAlive", heartbeatMessage(os.Getpid(), open))
	cancel()
	if err != nil {
		return // the next may do better; what is lost is heard of by who does I/O
	}
	if code, err := parseCode(answer); err != nil || code == 0 {
		return
	}
	for _, v := range volumes {
		once, cancel := context.WithTimeout(ctx, closeTime)
		_ = v.reopen(once) // what cannot be opened fails where it is used
		cancel()
	}
}
