package traced

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A Store traces another.
type Store struct {
	inner backstore.Store
	name  string
	line  func(string)

	mu  sync.Mutex
	out map[*backstore.Request]pending
}

type pending struct {
	c     backstore.Completer
	start time.Time
}

// New returns inner, with every request told to line, under name.
func New(inner backstore.Store, name string, line func(string)) *Store {
	return &Store{inner: inner, name: name, line: line, out: map[*backstore.Request]pending{}}
}

// Info is the inner store's, without cancellation: a Canceler would be told of by its inner name.
func (s *Store) Info() backstore.Info {
	i := s.inner.Info()
	i.Caps &^= backstore.CapCancel
	return i
}

// Inner is backstore.Wrapper's.
func (s *Store) Inner() backstore.Store { return s.inner }

// Submit is backstore.Store's.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	start := time.Now()
	s.mu.Lock()
	s.out[r] = pending{r.C, start}
	s.mu.Unlock()
	c := r.C
	r.C = s
	out := s.inner.Submit(r)
	if out == backstore.Pending {
		return out
	}
	r.C = c
	s.mu.Lock()
	delete(s.out, r)
	s.mu.Unlock()
	if out == backstore.Done {
		s.tell(r, start, "inline")
	}
	return out
}

// Complete is backstore.Completer's, for the inner store.
func (s *Store) Complete(r *backstore.Request) {
	s.mu.Lock()
	p := s.out[r]
	delete(s.out, r)
	s.mu.Unlock()
	s.tell(r, p.start, "later")
	r.C = p.c
	p.c.Complete(r)
}

func (s *Store) tell(r *backstore.Request, start time.Time, how string) {
	result := "ok"
	if r.Err != nil {
		result = r.Err.Error()
	}
	fua := ""
	if r.Flags&backstore.FUA != 0 {
		fua = " fua"
	}
	s.line(fmt.Sprintf("%s %v off=%d len=%d%s %s %v %s", s.name, r.Op, r.Off, r.Len, fua, how, time.Since(start).Round(100*time.Nanosecond), result))
}

// Close is backstore.Store's.
func (s *Store) Close(ctx context.Context) error { return s.inner.Close(ctx) }

// Kick is backstore.Kicker's.
func (s *Store) Kick() {
	if k, ok := s.inner.(backstore.Kicker); ok {
		k.Kick()
	}
}

// Attach is backstore.Attacher's.
func (s *Store) Attach(l backstore.Loop) error {
	if a, ok := s.inner.(backstore.Attacher); ok {
		return a.Attach(l)
	}
	return nil
}

// Detach is backstore.Attacher's.
func (s *Store) Detach() {
	if a, ok := s.inner.(backstore.Attacher); ok {
		a.Detach()
	}
}
