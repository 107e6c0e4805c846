package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Bounds of a session's life.
const (
	stepTimeout = 30 * time.Second // one step of a login
	retryAfter  = time.Second      // after which an initiator that was refused or dropped comes back
	silence     = time.Hour        // a session waits so long for the next PDU
)

// A fleet is many idle sessions.
type fleet struct {
	portal   string
	sessions int
	targets  int
	retry    time.Duration // pause before a session tries again

	up      atomic.Int64 // sessions in full feature phase
	retries atomic.Int64
	pings   atomic.Int64 // NOP-Ins answered
	lost    atomic.Int64 // sessions that ended by themselves

	mu     sync.Mutex
	conns  []*initiator.Conn // guarded by mu
	reason error             // guarded by mu: of the first failure
	alive  sync.WaitGroup
}

// login brings all sessions up at once and returns how long that took. A session that is refused or dropped tries again
// until ctx ends.
func (f *fleet) login(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	var wg sync.WaitGroup
	for i := range f.sessions {
		wg.Go(func() { f.one(ctx, i) })
	}
	wg.Wait()
	took := time.Since(start)
	if up := f.up.Load(); up != int64(f.sessions) {
		return took, fmt.Errorf("%d of %d sessions are up after %v; the first failure: %w", up, f.sessions, took.Round(time.Millisecond), f.first())
	}
	return took, nil
}

// one brings the i-th session up.
func (f *fleet) one(ctx context.Context, i int) {
	for {
		c, err := f.open(ctx, i)
		if err == nil {
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			f.up.Add(1)
			f.alive.Go(func() { f.serve(c) })
			return
		}
		f.fail(err)
		f.retries.Add(1)
		select {
		case <-ctx.Done():
			return
		case <-time.After(f.retry):
		}
	}
}

// open logs one session in. Sessions of one target are of different initiators.
func (f *fleet) open(ctx context.Context, i int) (*initiator.Conn, error) {
	dial, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	c, err := initiator.Dial(dial, f.portal)
	if err != nil {
		return nil, err
	}
	c.Timeout = stepTimeout
	c.ISID = [6]byte{0x80, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
	keys := initiator.Keys{}.With("HeaderDigest", "None").With("DataDigest", "None").With("MaxRecvDataSegmentLength", "8192")
	if _, err := c.Login(initiator.SecurityKeys(fmt.Sprintf("iqn.2026-11.io.lunar:host%d", i), iqn(i%f.targets)), keys); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.Timeout = silence
	return c, nil
}

// serve answers pings until the connection ends.
func (f *fleet) serve(c *initiator.Conn) {
	defer f.up.Add(-1)
	for {
		p, err := c.Recv()
		if err != nil {
			f.lost.Add(1)
			f.fail(err)
			return
		}
		if p.Opcode() == pdu.OpNOPIn && p.TTT() != pdu.NoTag {
			if err := c.Pong(p); err != nil {
				f.lost.Add(1)
				f.fail(err)
				return
			}
			f.pings.Add(1)
		}
	}
}

// fail keeps the first failure's reason.
func (f *fleet) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason == nil {
		f.reason = err
	}
}

func (f *fleet) first() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reason
}

// close drops every connection and waits for the sessions' ends. The fleet can log in again.
func (f *fleet) close() {
	f.mu.Lock()
	conns := f.conns
	f.conns = nil
	f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // it may be gone, which is what is wanted
	}
	f.alive.Wait()
	f.lost.Store(0)
	f.pings.Store(0)
	f.retries.Store(0)
	f.mu.Lock()
	f.reason = nil
	f.mu.Unlock()
}
