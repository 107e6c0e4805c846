package admin

import (
	"context"
	"strconv"
	"sync"
	"time"
)

// A hub hands events to everybody who watches, without waiting for anybody.
type hub struct {
	most, mostWatchers int

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// A watcher is one Watch: events wait in its queue for whoever reads.
type watcher struct {
	wake chan struct{} // of capacity 1: there is something in queue
	// Guarded by hub.mu.
	queue []Event
	lost  int // since the last of queue
}

func (h *hub) init(most, mostWatchers int) {
	h.most, h.mostWatchers, h.watchers = most, mostWatchers, map[*watcher]struct{}{}
}

// publish hands e out. It does not wait.
func (h *hub) publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if len(w.queue) >= h.most {
			w.lost++
			continue
		}
		w.queue = append(append(w.queue, w.loss(e.Time)...), e)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// loss tells of what was lost, and forgets it.
func (w *watcher) loss(at time.Time) []Event {
	if w.lost == 0 {
		return nil
	}
	n := w.lost
	w.lost = 0
	return []Event{{Time: at, Kind: EventsLost, LUN: -1, Detail: strconv.Itoa(n)}}
}

// take returns what waits, what was lost since included.
func (h *hub) take(w *watcher) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := append(w.queue, w.loss(time.Now())...)
	w.queue = nil
	return q
}

// watch hands out events until ctx ends or done is closed, then closes the channel.
func (h *hub) watch(ctx context.Context, done <-chan struct{}) <-chan Event {
	out := make(chan Event)
	w := &watcher{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	full := len(h.watchers) >= h.mostWatchers
	if !full {
		h.watchers[w] = struct{}{}
	}
	h.mu.Unlock()
	if full {
		close(out)
		return out
	}
	go func() {
		defer close(out)
		defer func() {
			h.mu.Lock()
			delete(h.watchers, w)
			h.mu.Unlock()
		}()
		for {
			select {
			case <-w.wake:
			case <-ctx.Done():
				return
			case <-done:
				return
			}
			for _, e := range h.take(w) {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				case <-done:
					return
				}
			}
		}
	}()
	return out
}
