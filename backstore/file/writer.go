package file

import (
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	// slowWrite is what a buffered write may take before the writer gets the next ones.
	slowWrite = time.Millisecond
	// calm is how long no write may have been slow before writes are done inline again.
	calm = time.Second
)

// A pace knows when a buffered write was slow last.
type pace struct {
	start time.Time
	slow  atomic.Int64 // since start
}

// writeBuffered writes where the call may wait without being able to say so.
func (s *Store) writeBuffered(r *backstore.Request) backstore.Outcome {
	begin := time.Since(s.pace.start)
	if !s.cfg.writer && begin-time.Duration(s.pace.slow.Load()) > calm {
		r.Err = s.writeAll(r, 0, sysPwrite)
		if end := time.Since(s.pace.start); end-begin > slowWrite {
			s.pace.slow.Store(int64(end))
			bump(&s.counters.slowWrites)
		}
		bump(&s.counters.writesInline)
		return backstore.Done
	}
	if r.Flags&backstore.NoWait != 0 {
		return backstore.WouldBlock
	}
	bump(&s.counters.writesHanded)
	s.inFlight.Add(1)
	s.writer.queue(r)
	s.kickRun = true
	return backstore.Pending
}

// runWriter is what the writer does with each request.
func (s *Store) runWriter(r *backstore.Request) {
	begin := time.Since(s.pace.start)
	err := s.writeAll(r, 0, sysPwrite)
	if end := time.Since(s.pace.start); end-begin > slowWrite {
		s.pace.slow.Store(int64(end))
	}
	s.finish(r, err)
}
