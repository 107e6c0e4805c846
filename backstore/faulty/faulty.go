package faulty

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// errInjected is the cause of every error that a rule makes.
var errInjected = errors.New("injected fault")

// A held request waits for its time, or, with a zero due, for Release.
type held struct {
	r   *backstore.Request
	due time.Time
	err error // what to answer instead of handing it on
}

// A Store is a store with faults.
type Store struct {
	inner backstore.Store
	start time.Time

	mu      sync.Mutex // also keeps inner.Submit to one goroutine at a time
	rules   []*rule
	held    []held
	ready   []held // released, to be handed on
	timer   *time.Timer
	changed chan struct{} // closed at the next change of held; nil while nobody waits
	failed  bool          // after a Flush or FUA write that a rule failed
	closed  bool
	gone    bool   // an orphan's inner store is closed
	wake    int    // eventfd while attached, else -1
	stop    func() // of its watch
	hits    uint64
}

// New wraps inner, which belongs to the Store from then on (also when New fails it is not closed).
func New(inner backstore.Store, rules string) (*Store, error) {
	rs, err := parse(rules)
	if err != nil {
		return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: err}
	}
	return &Store{inner: inner, rules: rs, start: time.Now(), wake: -1}, nil
}

// Driver returns the driver of the scheme "faulty", which opens what it wraps with reg.
func Driver(reg *backstore.Registry) backstore.Driver {
	return backstore.Driver{
		Scheme:  "faulty",
		Help:    "faulty:?inner=URI&rule=RULES — another volume (its URI percent-encoded) with injected faults, for tests",
		Options: []string{"inner", "rule"},
		Key: func(u *backstore.URI) string {
			inner, _ := u.Peek("inner")
			iu, err := backstore.ParseURI(inner)
			if err != nil {
				return ""
			}
			return reg.Key(iu)
		},
		Open: func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
			inner, ok := u.Option("inner")
			if !ok {
				return nil, openError(errors.New("faulty: wants inner=URI, percent-encoded"))
			}
			iu, err := backstore.ParseURI(inner)
			if err != nil {
				return nil, openError(err)
			}
			text, _ := u.Option("rule")
			if _, err := parse(text); err != nil {
				return nil, openError(err)
			}
			st, err := reg.Open(ctx, iu, o)
			if err != nil {
				return nil, err
			}
			return New(st, text)
		},
	}
}

func openError(cause error) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: cause}
}

// Info is the inner store's, without cancellation.
func (s *Store) Info() backstore.Info {
	i := s.inner.Info()
	i.Caps &^= backstore.CapCancel
	return i
}

// Inner is backstore.Wrapper's.
func (s *Store) Inner() backstore.Store { return s.inner }

// Set replaces the rules. What is held stays held.
func (s *Store) Set(rules string) error {
	rs, err := parse(rules)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.rules = rs
	s.mu.Unlock()
	return nil
}

// Submit does to r what the rules say, or hands it on.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	info := s.Info()
	if r.Err = info.Check(r); r.Err != nil {
		return backstore.Done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		r.Err = &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
		return backstore.Done
	}
	if s.failed && r.Op != backstore.Read && r.Op != backstore.Allocation {
		r.Err = s.injected(r, backstore.ClassMedium)
		return backstore.Done
	}
	ru, struck, due := s.match(r)
	if !struck {
		out := s.inner.Submit(r)
		if out == backstore.WouldBlock && ru != nil {
			ru.undo(false)
		}
		return out
	}
	noWait := r.Flags&backstore.NoWait != 0 && (r.Op == backstore.Read || r.Op == backstore.Write)
	switch {
	case ru.act == actError:
		s.hits++
		if r.Op == backstore.Flush || r.Op != backstore.Read && r.Flags&backstore.FUA != 0 {
			s.failed = true
		}
		r.Err = s.injected(r, ru.class)
		return backstore.Done
	case noWait:
		if ru.act != actWouldBlock {
			ru.undo(true)
		}
		return backstore.WouldBlock
	case ru.act == actWouldBlock:
		ru.undo(true)
		return s.inner.Submit(r)
	}
	s.hits++
	s.hold(held{r: r, due: due})
	return backstore.Pending
}

// match finds the first rule that fits r, counts r there, and says whether and until when it strikes
// (a zero time for a hang).
func (s *Store) match(r *backstore.Request) (ru *rule, struck bool, due time.Time) {
	for _, ru := range s.rules {
		if !ru.fits(r) {
			continue
		}
		switch ru.act {
		case actStall:
			now := time.Now()
			in := now.Sub(s.start) % ru.period
			if in >= ru.wait {
				continue
			}
			due = now.Add(ru.wait - in)
		case actDelay:
			due = time.Now().Add(ru.wait)
		}
		return ru, ru.strikes(), due
	}
	return nil, false, time.Time{}
}

func (s *Store) injected(r *backstore.Request, c backstore.Class) error {
	return &backstore.Error{Class: c, Op: r.Op.String(), Off: r.Off, Cause: errInjected}
}

func (s *Store) hold(h held) {
	s.held = append(s.held, h)
	s.arm()
	s.notify()
}

// arm sets the timer to the earliest due.
func (s *Store) arm() {
	var first time.Time
	for _, h := range s.held {
		if !h.due.IsZero() && (first.IsZero() || h.due.Before(first)) {
			first = h.due
		}
	}
	if first.IsZero() {
		return
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(first), s.fire)
	} else {
		s.timer.Reset(time.Until(first))
	}
}

// fire lets go what is due.
func (s *Store) fire() {
	now := time.Now()
	s.letGo(func(h *held) bool { return !h.due.IsZero() && !h.due.After(now) })
}

// Release lets all hung requests go: they are handed to the store now. It returns how many there
// were. Delayed ones keep waiting for their time.
func (s *Store) Release() int {
	return s.letGo(func(h *held) bool { return h.due.IsZero() })
}

// Fail ends all hung requests with an error of class c, unapplied. It returns how many there were.
func (s *Store) Fail(c backstore.Class) int {
	return s.letGo(func(h *held) bool {
		if h.due.IsZero() {
			h.err = s.injected(h.r, c)
		}
		return h.due.IsZero()
	})
}

func (s *Store) letGo(which func(*held) bool) int {
	s.mu.Lock()
	n, kept := 0, s.held[:0]
	for _, h := range s.held {
		if which(&h) {
			s.ready = append(s.ready, h)
			n++
		} else {
			kept = append(kept, h)
		}
	}
	clear(s.held[len(kept):])
	s.held = kept
	s.arm()
	attached := s.wake >= 0
	if attached && n > 0 {
		// The inner store lives on the loop, so it is the loop that hands on. The counter of
		// an eventfd has room for 2^64-2 of these: the write does not fail.
		one := [8]byte{1}
		_, _ = unix.Write(s.wake, one[:])
	}
	s.mu.Unlock()
	if !attached && n > 0 {
		s.handOn()
	}
	return n
}

// handOn gives the ready requests to the inner store.
func (s *Store) handOn() {
	s.mu.Lock()
	ready, pending := s.ready, false
	s.ready = nil
	done := ready[:0]
	for _, h := range ready {
		if h.err != nil {
			h.r.Err = h.err
			done = append(done, h)
			continue
		}
		switch s.inner.Submit(h.r) {
		case backstore.Pending:
			pending = true
		default:
			done = append(done, h)
		}
	}
	if k, ok := s.inner.(backstore.Kicker); ok && pending {
		k.Kick()
	}
	s.mu.Unlock()
	for _, h := range done {
		h.r.C.Complete(h.r)
	}
	s.mu.Lock()
	s.notify()
	s.mu.Unlock()
}

// Held returns how many requests are held, hung or delayed.
func (s *Store) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// Hits returns how many requests a rule failed or held.
func (s *Store) Hits() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

// Wait returns when at least n requests are held, or with ctx's error.
func (s *Store) Wait(ctx context.Context, n int) error {
	return s.until(ctx, func() bool { return len(s.held) >= n })
}

func (s *Store) until(ctx context.Context, cond func() bool) error {
	for {
		s.mu.Lock()
		if cond() {
			s.mu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		ch := s.changed
		s.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notify wakes those who wait. Called with mu held.
func (s *Store) notify() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Kick passes the end of a batch on.
func (s *Store) Kick() {
	if k, ok := s.inner.(backstore.Kicker); ok {
		s.mu.Lock()
		k.Kick()
		s.mu.Unlock()
	}
}

// Attach attaches the inner store too; from then on held requests are handed on by the loop.
func (s *Store) Attach(l backstore.Loop) error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return &backstore.Error{Class: backstore.ClassInternal, Op: "attach", Cause: err}
	}
	stop, err := l.Watch(fd, func() {
		var b [8]byte
		_, _ = unix.Read(fd, b[:]) // only resets the count
		s.handOn()
	})
	if err == nil {
		if a, ok := s.inner.(backstore.Attacher); ok {
			if err = a.Attach(l); err != nil {
				stop()
			}
		}
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	s.mu.Lock()
	s.wake, s.stop = fd, stop
	s.mu.Unlock()
	return nil
}

// Detach undoes Attach.
func (s *Store) Detach() {
	s.mu.Lock()
	fd, stop := s.wake, s.stop
	s.wake = -1
	s.mu.Unlock()
	if stop == nil {
		return
	}
	stop()
	unix.Close(fd)
	if a, ok := s.inner.(backstore.Attacher); ok {
		a.Detach()
	}
	s.mu.Lock()
	s.stop = nil
	s.notify()
	s.mu.Unlock()
}

// Close waits for what is held, then closes the inner store. When ctx ends first the inner store is closed
// once the last held request has been let go and the loop, if there is one, has detached.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	idle := func() bool { return len(s.held) == 0 && len(s.ready) == 0 }
	if err := s.until(ctx, idle); err != nil {
		go func() {
			_ = s.until(context.Background(), func() bool { return idle() && s.stop == nil })
			_ = s.inner.Close(context.Background())
			s.mu.Lock()
			s.gone = true
			s.notify()
			s.mu.Unlock()
		}()
		return &backstore.Error{Class: backstore.ClassBusy, Op: "close", Cause: fmt.Errorf("%d requests have not ended: %w", s.Held(), err)}
	}
	return s.inner.Close(ctx)
}

// Gone waits, after a Close that gave up, until the inner store is closed.
func (s *Store) Gone(ctx context.Context) error {
	return s.until(ctx, func() bool { return s.gone })
}

var (
	_ backstore.Store    = (*Store)(nil)
	_ backstore.Kicker   = (*Store)(nil)
	_ backstore.Attacher = (*Store)(nil)
	_ backstore.Wrapper  = (*Store)(nil)
)
