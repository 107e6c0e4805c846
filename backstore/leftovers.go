package backstore

import (
	"fmt"
	"sync"
)

// Leftovers are the closed stores of a driver that have changes of their volumes under way: Close has given up on them, or still waits. What such
// a store was given it carries out when its engine answers again, and nobody who opens the volume anew can know of that: a write of before could
// overtake one of after. So a driver whose engine shuts out no second opener asks here before it opens a volume. The zero value is ready; the
// methods may be called from any goroutine, and of a nil value.
type Leftovers struct {
	mu  sync.Mutex
	all map[string]map[*leftover]bool // by Driver.Key
}

type leftover struct{ changes func() int }

// Enter notes a store of the volume of that key, which is being closed, until leave is called: when its last request has ended. changes tells how many
// requests that change the volume it has; it takes the store's own lock, so neither Enter nor leave is called with that held.
func (l *Leftovers) Enter(key string, changes func() int) (leave func()) {
	if l == nil || key == "" {
		return func() {}
	}
	o := &leftover{changes}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[string]map[*leftover]bool{}
	}
	if l.all[key] == nil {
		l.all[key] = map[*leftover]bool{}
	}
	l.all[key][o] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.all[key], o); len(l.all[key]) == 0 {
			delete(l.all, key)
		}
	}
}

// Check returns an error of ClassBusy for op on the volume of that key while closed stores of it have changes under way.
func (l *Leftovers) Check(key, op string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for o := range l.all[key] {
		n += o.changes()
	}
	if n == 0 {
		return nil
	}
	return &Error{Class: ClassBusy, Op: op, Cause: fmt.Errorf("%d writes from before it was closed here have not ended and may still be carried out; try again when its engine has answered them", n)}
}
