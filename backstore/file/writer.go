package file

import (
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Buffered writes on a file system that cannot say "not now" (ext4 and block devices answer RWF_NOWAIT
// with EOPNOTSUPP) may wait for the journal or for dirty-page throttling, up to 200 ms a call and
// longer on a disk that is dying. So they go to the writer, one goroutine a store, which takes all of a
// batch at once; it is woken once a batch, by Kick.
//
// The alternative, writer=off, is inline while the calls are quick, and the writer for a second after one
// of them, inline or not, was slow. Measured with BenchmarkBatch on ext4 (Linux 6.18, two cores, page cache
// warm), 4 KiB, time and CPU a write, and the 99.9th percentile of how long Submit keeps the loop:
//
//	             32 a batch               alone
//	writer=off   2.5 µs, 2.5 µs; 25-36    2.8-4.8 µs, 2.9-4.2 µs
//	writer=on    5-6 µs, 6.3 µs; 1        22-32 µs, 17-24 µs (the loop's own wake-up included)
//
// So the writer costs 4 µs of CPU a write, and it is the default all the same: inline, one call that waits
// for a disk stops every LUN of the target, and there is no bound on that.

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
		s.gate.left.Add(1)
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
