package file

import (
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// idleTime is how long a worker without work stays.
const idleTime = 10 * time.Second

// A pool is a bounded set of goroutines that run requests in the order in which they were put.
// Workers are started as they are needed and leave when they have been idle.
type pool struct {
	run  func(*backstore.Request)
	max  int
	stay time.Duration // how long a worker without work stays

	mu      sync.Mutex
	head    *backstore.Request // linked by Next
	tail    *backstore.Request
	workers int
	idle    int // of them, those that wait and have not been sent for
	wake    chan struct{}
	stopped bool
}

func newPool(workers int, run func(*backstore.Request)) *pool {
	return &pool{run: run, max: workers, stay: idleTime, wake: make(chan struct{}, workers)}
}

// put queues r and sees to it that somebody runs it. From any goroutine.
func (p *pool) put(r *backstore.Request) {
	p.queue(r)
	p.kick()
}

// queue queues r; kick starts work on it.
func (p *pool) queue(r *backstore.Request) {
	r.Next = nil
	p.mu.Lock()
	if p.tail == nil {
		p.head = r
	} else {
		p.tail.Next = r
	}
	p.tail = r
	p.mu.Unlock()
}

// kick wakes or starts one worker, if there is work and one to be had.
func (p *pool) kick() {
	p.mu.Lock()
	switch {
	case p.head == nil:
	case p.idle > 0:
		p.idle--
		p.wake <- struct{}{} // has room: at most one for each worker
	case p.workers < p.max:
		p.workers++
		go p.work()
	}
	p.mu.Unlock()
}

func (p *pool) work() {
	timer := time.NewTimer(p.stay)
	defer timer.Stop()
	for {
		p.mu.Lock()
		for p.head != nil {
			r := p.head
			if p.max == 1 { // alone: takes all there is
				p.head, p.tail = nil, nil
				p.mu.Unlock()
				for r != nil {
					next := r.Next
					r.Next = nil
					p.run(r)
					r = next
				}
			} else {
				if p.head = r.Next; p.head == nil {
					p.tail = nil
				}
				r.Next = nil
				p.mu.Unlock()
				p.run(r)
			}
			p.mu.Lock()
		}
		if p.stopped {
			p.workers--
			p.mu.Unlock()
			return
		}
		p.idle++
		p.mu.Unlock()
		timer.Reset(p.stay)
		select {
		case <-p.wake:
			continue
		case <-timer.C:
		}
		p.mu.Lock()
		if p.idle > 0 { // nobody was sent for: leave
			p.idle--
			p.workers--
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		<-p.wake
	}
}

// stop lets the workers leave once the queue is empty.
func (p *pool) stop() {
	p.mu.Lock()
	p.stopped = true
	for ; p.idle > 0; p.idle-- {
		p.wake <- struct{}{}
	}
	p.mu.Unlock()
}
