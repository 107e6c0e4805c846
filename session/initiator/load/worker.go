package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// shared is what workers and Run share while a run goes on.
type shared struct {
	stop    atomic.Bool // end: wait for what is in flight, then return
	measure atomic.Bool // count from here on
	ios     atomic.Uint64
	bytes   atomic.Uint64
	errors  atomic.Uint64
}

// A request is one command in flight and what the worker knows of it. io.Tag is its index in its lane.
type request struct {
	io     initiator.IO
	offset int64         // on the volume
	start  time.Duration // since the worker's epoch: sent, or in an open loop when it should have been
	read   bool
	flush  bool   // SYNCHRONIZE CACHE, no data
	tries  int    // since it was begun, each ended by a unit attention
	buf    []byte // filled with the pattern of some place; nil until the first write
	check  []byte // where a read that is checked goes; nil until the first
}

// A lane is one session of a worker. Owned by its worker.
type lane struct {
	q        *initiator.Queue
	requests []request
	idle     []int
	next     int64 // sequential: the next command's offset
	unsent   bool  // is in worker.unsent
	free     bool  // is in worker.free
}

// A worker drives some sessions from one thread. Owned by its goroutine until it returned.
type worker struct {
	c      *Config
	sh     *shared
	lanes  []*lane
	byQ    map[*initiator.Queue]*lane
	poller *initiator.Poller
	region region
	rng    *rand.Rand
	active int     // commands in flight
	unsent []*lane // something was submitted since the last flush
	free   []*lane // closed loop: has idle requests
	turn   int     // open loop: the lane that gets the next arrival
	reads  int     // since the last one that was checked
	writes int     // since the last flush

	epoch   time.Time
	due     time.Duration // open loop: the next arrival
	gap     float64       // open loop: mean time between two of this worker's arrivals, ns
	now     time.Duration // when wait last returned
	last    time.Duration // when something last ended
	counted bool          // sh.measure was seen

	read, write Histogram
	verified    uint64
	errors      uint64
	attentions  uint64
	firstError  string
}

// region is the part of the volume that is used, in bytes.
type region struct {
	offset, size int64
	block        int // the volume's
}

func newWorker(c *Config, sh *shared, r region, queues []*initiator.Queue, first int) (*worker, error) {
	w := &worker{
		c: c, sh: sh, region: r, byQ: make(map[*initiator.Queue]*lane, len(queues)),
		rng: rand.New(rand.NewPCG(c.Seed, uint64(first)+1)),
	}
	if c.Rate > 0 {
		w.gap = 1e9 / c.Rate * float64(c.Connections) / float64(len(queues))
	}
	for i, q := range queues {
		blocks := r.size / int64(c.BlockSize)
		l := &lane{q: q, requests: make([]request, c.Depth), next: blocks * int64(first+i) / int64(c.Connections) * int64(c.BlockSize)}
		for k := range l.requests {
			l.requests[k].io.Tag = uint64(k)
			l.requests[k].io.LUN = c.LUN
			l.idle = append(l.idle, c.Depth-1-k)
		}
		w.lanes = append(w.lanes, l)
		w.isFree(l)
		w.byQ[q] = l
	}
	if len(queues) > 1 {
		var err error
		if w.poller, err = initiator.NewPoller(); err != nil {
			return nil, err
		}
		for _, q := range queues {
			if err := w.poller.Add(q); err != nil {
				w.poller.Close()
				return nil, err
			}
		}
	}
	return w, nil
}

// idleWait bounds one wait, so that the end of the run is seen.
const idleWait = 100 * time.Millisecond

// run drives the lanes until told to stop and everything in flight has ended.
func (w *worker) run() error {
	// The default timer slack of 50 µs would be added to every wait of an open loop.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // 0: the thread's default again
	if w.poller != nil {
		defer w.poller.Close()
	}
	w.epoch = time.Now()
	if w.gap > 0 {
		w.due = w.arrival()
	}
	for {
		if w.sh.stop.Load() {
			if w.active == 0 {
				return nil
			}
		} else {
			if !w.counted && w.sh.measure.Load() {
				w.counted = true
				w.read.Reset()
				w.write.Reset()
			}
			w.fill()
		}
		if w.active == 0 {
			w.last = w.now
		} else if w.now-w.last > w.c.Stall {
			return fmt.Errorf("no command has ended for %v with %d in flight", w.c.Stall, w.active)
		}
		if err := w.wait(w.timeout()); err != nil {
			return err
		}
	}
}

// isFree notes that l has idle requests.
func (w *worker) isFree(l *lane) {
	if !l.free {
		l.free = true
		w.free = append(w.free, l)
	}
}

// arrival returns the time to the next arrival of a Poisson process.
func (w *worker) arrival() time.Duration { return time.Duration(w.rng.ExpFloat64() * w.gap) }

// timeout returns how long there is nothing to do but to wait.
func (w *worker) timeout() time.Duration {
	if w.gap == 0 || w.sh.stop.Load() {
		return idleWait
	}
	for _, l := range w.lanes {
		if len(l.idle) > 0 {
			return min(max(w.due-time.Since(w.epoch), 0), idleWait)
		}
	}
	return idleWait
}

// fill starts what is due: every idle request, or in an open loop the arrivals up to now.
func (w *worker) fill() {
	if w.gap == 0 {
		for _, l := range w.free {
			l.free = false
			for len(l.idle) > 0 {
				w.start(l, w.now)
			}
		}
		w.free = w.free[:0]
		return
	}
	for skipped := 0; w.due <= w.now && skipped < len(w.lanes); {
		l := w.lanes[w.turn]
		w.turn = (w.turn + 1) % len(w.lanes)
		if len(l.idle) == 0 {
			skipped++ // with every lane full it waits, and its time goes on
			continue
		}
		skipped = 0
		w.start(l, w.due)
		w.due += w.arrival()
	}
}

// start submits one command on l, timed from at.
func (w *worker) start(l *lane, at time.Duration) {
	i := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	r := &l.requests[i]
	r.start = at
	size := int64(w.c.BlockSize)
	if w.c.Sequential {
		r.offset = l.next
		if l.next += size; l.next+size > w.region.size {
			l.next = 0
		}
	} else {
		r.offset = w.rng.Int64N(w.region.size/size) * size
	}
	r.offset += w.region.offset
	r.read = w.c.ReadPercent == 100 || w.c.ReadPercent > 0 && w.rng.IntN(100) < w.c.ReadPercent
	r.tries = 0
	w.command(r)
	w.submit(l, r)
}

// submit hands a request over, for the first time or again.
func (w *worker) submit(l *lane, r *request) {
	l.q.Submit(&r.io)
	w.active++
	if !l.unsent {
		l.unsent = true
		w.unsent = append(w.unsent, l)
	}
}

// command fills in the command of r, whose place and direction stand.
func (w *worker) command(r *request) {
	lba, blocks := uint64(r.offset)/uint64(w.region.block), uint32(w.c.BlockSize/w.region.block)
	r.flush = false
	if r.read {
		initiator.PutRead(&r.io.CDB, lba, blocks)
		r.io.Out, r.io.In, r.io.InLen = nil, nil, uint32(w.c.BlockSize)
		if w.c.Verify > 0 {
			if w.reads++; w.reads >= w.c.Verify {
				w.reads = 0
				if r.check == nil {
					r.check = make([]byte, w.c.BlockSize)
				}
				r.io.In = r.check
			}
		}
		return
	}
	r.io.Out, r.io.In, r.io.InLen = nil, nil, 0
	if w.c.FlushEvery > 0 && w.writes >= w.c.FlushEvery {
		w.writes = 0
		r.flush = true
		r.io.CDB = [16]byte{cdb.SynchronizeCache10} // no range: all of it
		return
	}
	w.writes++
	initiator.PutWrite(&r.io.CDB, lba, blocks)
	if w.c.FUAPercent > 0 && w.rng.IntN(100) < w.c.FUAPercent {
		r.io.CDB[1] |= cdbFUA
	}
	if r.buf == nil {
		r.buf = make([]byte, w.c.BlockSize)
		Fill(r.buf, 0)
	}
	Stamp(r.buf, r.offset)
	r.io.Out = r.buf
}

// cdbFUA is a bit of byte 1 of WRITE(10) and WRITE(16).
const cdbFUA = 0x08

// wait sends what was submitted and waits until something ended, at most for timeout. What ended is taken by ended.
func (w *worker) wait(timeout time.Duration) error {
	if w.poller == nil {
		l := w.lanes[0]
		l.unsent, w.unsent = false, w.unsent[:0]
		done, err := l.q.Wait(timeout)
		w.now = time.Since(w.epoch)
		w.ended(l, done)
		return err
	}
	for _, l := range w.unsent {
		l.unsent = false
		if err := l.q.Flush(); err != nil {
			return err
		}
	}
	w.unsent = w.unsent[:0]
	ready, err := w.poller.Wait(timeout)
	w.now = time.Since(w.epoch)
	if err != nil {
		return err
	}
	for _, q := range ready {
		l := w.byQ[q]
		done, err := q.Poll()
		w.now = time.Since(w.epoch)
		w.ended(l, done)
		if err != nil {
			return err
		}
	}
	return nil
}

// ended counts what ended on l.
func (w *worker) ended(l *lane, done []*initiator.IO) {
	if len(done) == 0 {
		return
	}
	w.last = w.now
	stopped := w.sh.stop.Load() // what ends then is not counted
	w.active -= len(done)
	w.isFree(l)
	good, bytes := uint64(0), uint64(0)
	for _, io := range done {
		r := &l.requests[io.Tag]
		if r.tries < maxAttentions && attention(io) {
			r.tries++
			w.attentions++
			w.submit(l, r)
			continue
		}
		l.idle = append(l.idle, int(io.Tag))
		if err := w.verdict(r); err != nil {
			w.failed(err)
			continue
		}
		good++
		if !r.flush {
			bytes += uint64(w.c.BlockSize)
		}
		if stopped {
			continue
		}
		if r.read {
			w.read.Add(w.now - r.start)
		} else {
			w.write.Add(w.now - r.start)
		}
	}
	w.sh.ios.Add(good)
	w.sh.bytes.Add(bytes)
}

// attention reports whether a command was not carried out since there was something to tell first: then every initiator sends it again.
func attention(io *initiator.IO) bool {
	if io.Status != sam.CheckCondition {
		return false
	}
	d, err := sense.Parse(io.Sense)
	return err == nil && d.Key == sense.UnitAttention
}

// verdict returns what was wrong with a command that ended.
func (w *worker) verdict(r *request) error {
	if !r.io.OK() {
		return r.io.Failure()
	}
	if r.io.Underflow != 0 || r.io.Overflow != 0 {
		return fmt.Errorf("GOOD with a residual: underflow %d, overflow %d", r.io.Underflow, r.io.Overflow)
	}
	if r.io.In != nil {
		w.verified++
		return Check(r.io.In, r.offset)
	}
	return nil
}

func (w *worker) failed(err error) {
	w.errors++
	w.sh.errors.Add(1)
	if w.firstError == "" && !errors.Is(err, initiator.ErrClosed) {
		w.firstError = err.Error()
	}
}

// capacity brings a fresh session's LU to where it takes commands (a new nexus starts with a unit attention) and returns
// how many blocks it has and their length.
func capacity(q *initiator.Queue, c *Config) (blocks uint64, block int, err error) {
	io := &initiator.IO{LUN: c.LUN}
	for try := 1; ; try++ {
		copy(io.CDB[:], initiator.TestUnitReady())
		if err := q.Do(io, c.Stall); err != nil {
			return 0, 0, err
		}
		err := io.Failure()
		if err == nil {
			break
		}
		if d, serr := sense.Parse(io.Sense); serr != nil || d.Key != sense.UnitAttention || try == maxAttentions {
			return 0, 0, fmt.Errorf("TEST UNIT READY of LUN %v: %w", c.LUN, err)
		}
	}
	var data [32]byte
	io.In, io.InLen = data[:], uint32(len(data))
	copy(io.CDB[:], initiator.ReadCapacity16(uint32(len(data))))
	if err := q.Do(io, c.Stall); err != nil {
		return 0, 0, err
	}
	if err := io.Failure(); err != nil {
		return 0, 0, fmt.Errorf("READ CAPACITY(16) of LUN %v: %w", c.LUN, err)
	}
	if io.Got < 12 {
		return 0, 0, fmt.Errorf("READ CAPACITY(16) of LUN %v returned %d bytes", c.LUN, io.Got)
	}
	blocks = binary.BigEndian.Uint64(data[:]) + 1
	length := binary.BigEndian.Uint32(data[8:])
	if length == 0 || length%blockSize != 0 || length > MaxBlockSize || blocks == 0 || blocks > 1<<63/uint64(length) {
		return 0, 0, fmt.Errorf("LUN %v has %d blocks of %d bytes", c.LUN, blocks, length)
	}
	return blocks, int(length), nil
}

// maxAttentions bounds the unit attentions that we clear on a fresh nexus.
const maxAttentions = 16
