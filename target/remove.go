package target

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// The errors of calls on sessions and targets that are not there, or in use.
var (
	ErrNoSession    = errors.New("no such session")
	ErrNoConnection = errors.New("no such connection")
	ErrTargetInUse  = errors.New("the target is in use")
	ErrNoTarget     = errors.New("no such target")
)

const byAdmin = "an administrator closed it"

// CloseSession ends a session at once: its connections are closed without a word, its commands aborted. ErrNoSession: there is none
// with that handle. The initiator may log in anew.
func (t *Target) CloseSession(tsih uint16) error {
	l := t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	se := t.sessions[tsih]
	if se == nil {
		return fmt.Errorf("target %s, session %d: %w", t.name, tsih, ErrNoSession)
	}
	l.s.log.Info("session closed by an administrator", "target", t.name, "tsih", tsih, "initiator", se.s.Nexus.Initiator)
	l.dropSession(se, endAdmin, byAdmin)
	l.ev.Wake() // others may go on
	return nil
}

// CloseConnection closes a connection of a session at once. At error recovery level 0 the session ends with its last connection.
func (t *Target) CloseConnection(tsih, cid uint16) error {
	l := t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	se := t.sessions[tsih]
	if se == nil {
		return fmt.Errorf("target %s, session %d: %w", t.name, tsih, ErrNoSession)
	}
	c := se.conn(cid)
	if c == nil {
		return fmt.Errorf("target %s, session %d, connection %d: %w", t.name, tsih, cid, ErrNoConnection)
	}
	l.s.log.Info("connection closed by an administrator", "target", t.name, "tsih", tsih, "cid", cid, "conn", c.name)
	c.lost(endAdmin, byAdmin)
	l.ev.Wake()
	return nil
}

// Drain asks every initiator of the target to log out, and cuts off who has not when ctx ends; the error says how many that were.
// Until it returns, logins are answered that the service is not available, on which initiators try again. A target that is to
// stay empty is taken offline first.
func (t *Target) Drain(ctx context.Context) error {
	l := t.l
	l.ev.Lock()
	t.closing++
	for _, se := range t.sessions {
		l.perform(se.s.AskLogout(l.s.group.Clock(), l.takeActs()))
		se.arm()
	}
	l.ev.Unlock()
	l.ev.Wake()
	err := t.empty(ctx)
	l.ev.Lock()
	defer l.ev.Unlock()
	t.closing--
	n := len(t.sessions)
	if err == nil || n == 0 {
		return nil
	}
	for _, se := range t.sessions {
		l.dropSession(se, endDrained, "it did not log out when asked to")
	}
	l.ev.Wake()
	return fmt.Errorf("target %s: %d sessions did not log out in time: %w", t.name, n, err)
}

// empty waits until the target has no sessions; ctx's error: it has some yet.
func (t *Target) empty(ctx context.Context) error {
	for {
		t.l.ev.Lock()
		if len(t.sessions) == 0 {
			t.l.ev.Unlock()
			return nil
		}
		if t.left == nil {
			t.left = make(chan struct{})
		}
		left := t.left
		t.l.ev.Unlock()
		select {
		case <-left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sessionLeft wakes who waits for a session to end.
func (t *Target) sessionLeft() {
	if t.left != nil {
		close(t.left)
		t.left = nil
	}
}

// ending reports whether nothing more can come of a session: it has logged out, or its initiator has closed every connection.
// Either the loop is about to see.
func (s *sess) ending() bool {
	for _, sc := range s.s.Conns() {
		if !sc.LoggedOut() && !halfClosed(sc.Ref.(*conn).fd) {
			return false
		}
	}
	return true
}

// tcpEstablished is the state of TCP_INFO (tcp(7)) of a connection that both ends keep open.
const tcpEstablished = 1

// halfClosed reports whether the peer has closed its end, which may stand behind data that has not been read yet.
func halfClosed(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State != tcpEstablished
}

// Remove ends the target. With sessions it is ErrTargetInUse, unless force, which closes them. Sessions that are ending already, as
// after a logout, are waited for within ctx and Config.StoreCloseAfter. When it returns nil nothing of the target is left. An error of
// backstore.ClassBusy says that a store has not ended its requests within ctx: the target is gone, and the rest of it with the last request.
func (t *Target) Remove(ctx context.Context, force bool) error {
	if err := t.leave(ctx, force); err != nil {
		return err
	}
	return t.end(ctx)
}

// A PendingRemoval is a target that can be removed: it is no longer found, and nobody logs in to it. Commit or Abort must follow.
type PendingRemoval struct{ t *Target }

// PrepareRemove does all of Remove that can be refused. Sessions are still there with force, and go on until Commit.
func (t *Target) PrepareRemove(ctx context.Context, force bool) (*PendingRemoval, error) {
	if err := t.leave(ctx, force); err != nil {
		return nil, err
	}
	return &PendingRemoval{t}, nil
}

// Commit removes the target. The error is of what could not be closed in order.
func (p *PendingRemoval) Commit(ctx context.Context) error { return p.t.end(ctx) }

// Abort lets the target be found again, as if nothing had been.
func (p *PendingRemoval) Abort() {
	t := p.t
	t.s.mu.Lock()
	delete(t.s.going, t.name)
	if !t.s.closed {
		t.s.table.Store(t.s.table.Load().with(t, nil))
		t.ready.Store(true)
	}
	t.s.mu.Unlock()
	t.l.ev.Lock()
	t.closing--
	t.syncPortsLocked() // portals may have come and gone
	t.l.ev.Unlock()
}

// leave keeps logins out and sees to it that there are no sessions, but with force, and that nobody else is removing the target; then it is no
// longer in the table.
func (t *Target) leave(ctx context.Context, force bool) error {
	s, l := t.s, t.l
	l.ev.Lock()
	t.closing++
	live := 0
	for _, se := range t.sessions {
		if !force && !se.ending() {
			live++
		}
	}
	l.ev.Unlock()
	err := func() error {
		if !force {
			if live != 0 {
				return fmt.Errorf("target %s: %w: %d sessions; force closes them", t.name, ErrTargetInUse, live)
			}
			wait, cancel := context.WithTimeout(ctx, s.cfg.StoreCloseAfter)
			defer cancel()
			if err := t.empty(wait); err != nil {
				return fmt.Errorf("target %s: %w: a session is ending, and has not yet: %w", t.name, ErrTargetInUse, err)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.table.Load().byName[t.name] != t {
			return fmt.Errorf("target %s: %w", t.name, ErrNoTarget)
		}
		s.table.Store(s.table.Load().with(nil, t))
		s.going[t.name] = true // Abort may want it back
		t.ready.Store(false)
		return nil
	}()
	if err != nil {
		l.ev.Lock()
		t.closing--
		l.ev.Unlock()
	}
	return err
}

// end takes down what is left of a target that is no longer in the table.
func (t *Target) end(ctx context.Context) error {
	s, l := t.s, t.l
	s.mu.Lock()
	delete(s.going, t.name)
	s.mu.Unlock()
	l.ev.Lock()
	t.gone = true
	for _, se := range t.sessions {
		l.dropSession(se, endRemoved, "the target was removed")
	}
	units := t.takeUnitsLocked()
	t.lunsChangedLocked()
	l.targets = slices.DeleteFunc(l.targets, func(o *Target) bool { return o == t })
	l.past.Add(&t.past)
	last := len(l.targets) == 0
	l.leaving = l.leaving || last
	l.ev.Unlock()
	var errs []error
	for _, u := range units {
		errs = append(errs, l.closeUnit(ctx, u))
	}
	if last && !s.linger(l) {
		errs = append(errs, s.closeLoop(ctx, l))
	}
	return errors.Join(errs...)
}

// linger lets a loop without targets run on while stores have requests that they have not ended: those end on the loop, and what they hold
// is given back there. It reports whether there are any; then the loop is closed after the last of them.
func (s *Server) linger(l *loop) bool {
	l.ev.Lock()
	if l.quietLocked() {
		l.ev.Unlock()
		return false
	}
	quiet, stores := make(chan struct{}), l.closings+len(l.orphans)
	l.quiet = quiet
	l.ev.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true // Close has the loop
	}
	s.log.Warn("the stores of a target that was removed have not ended their requests; its loop runs on until they have", "loop", l.name, "stores", stores)
	s.lingering.Add(1)
	go func() {
		defer s.lingering.Done()
		select {
		case <-s.closing: // Close has the loop
		case <-quiet:
			ctx, cancel := context.WithTimeout(context.Background(), s.cfg.StoreCloseAfter)
			defer cancel()
			if err := s.closeLoop(ctx, l); err != nil {
				s.log.Warn("a loop was not closed well", "loop", l.name, "error", err)
			}
		}
	}()
	return true
}

// closeLoop closes a loop that has no targets any more.
func (s *Server) closeLoop(ctx context.Context, l *loop) error {
	s.mu.Lock()
	s.loops = slices.DeleteFunc(s.loops, func(o *loop) bool { return o == l })
	s.past.Add(&l.past) // nothing adds to it any more
	s.mu.Unlock()
	return l.close(ctx)
}
