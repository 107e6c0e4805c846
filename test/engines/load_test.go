package engines

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/history"
)

const (
	blockSize = 512
	// loadBlocks are the blocks that a load works on: few, so that commands meet each other.
	loadBlocks = 4096
	maxBlocks  = 24 // of one command
	depth      = 8  // commands in flight of one worker
	workers    = 2
	// commandLimit is for one command, whatever happens to the engine: longer than any fault.
	commandLimit = 150 * time.Second
)

var lun1 = sam.NewLUN(1)

// A load is initiators that write and read, and check what they read.
type load struct {
	h     *history.History
	fails bool   // errors are allowed: a command that fails is taken as not done
	fua   bool   // the disk has it
	base  uint64 // where on the disk the first of the blocks is

	ios     atomic.Int64
	failed  atomic.Int64
	longest atomic.Int64 // nanoseconds, of one command
	cancel  context.CancelFunc
	ctx     context.Context
	wg      sync.WaitGroup
	once    sync.Once
	broken  chan struct{} // closed with the first error
	err     error         // set before broken is closed
}

// startLoad begins a load on LUN 1 of a target, whose first blocks are zeroes or what h says.
func startLoad(t *testing.T, d *daemon.Daemon, target string, h *history.History, fails bool) *load {
	t.Helper()
	return startLoadAt(t, d, target, h, 0, fails)
}

// startLoadAt is startLoad on the blocks from base on.
func startLoadAt(t *testing.T, d *daemon.Daemon, target string, h *history.History, base uint64, fails bool) *load {
	t.Helper()
	l := &load{h: h, fails: fails, base: base, broken: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(t.Context())
	for i := range uint32(workers) {
		s, err := login(t.Context(), d, target, i+1)
		if err == nil && i == 0 {
			l.fua, err = hasFUA(t.Context(), s)
		}
		if err != nil {
			t.Fatal(err)
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.work(s, i+1)
			s.Close()
		}()
	}
	t.Cleanup(func() { l.cancel(); l.wg.Wait() })
	return l
}

func newHistory() *history.History {
	return history.New(history.Config{Seed: rand.Uint64(), Blocks: loadBlocks, BlockSize: blockSize})
}

// login opens a session and clears what it is to be told first.
func login(ctx context.Context, d *daemon.Daemon, target string, id uint32) (*initiator.Session, error) {
	s, err := initiator.Login(ctx, initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + target,
		InitiatorName: fmt.Sprintf("iqn.2026-11.io.lunar:load%d", id), ISID: [6]byte{0x80, 0, 0, 0, 0, byte(id)}})
	if err != nil {
		return nil, err
	}
	for range 4 {
		res, err := s.Command(ctx, lun1, initiator.TestUnitReady(), nil, 0)
		if err != nil || res.Status == sam.Good {
			return s, err
		}
	}
	return s, nil
}

// hasFUA asks for the DPOFUA bit of the mode parameter header (SBC-3 §6.5.1).
func hasFUA(ctx context.Context, s *initiator.Session) (bool, error) {
	res, err := s.Command(ctx, lun1, []byte{cdb.ModeSense6, 8, 8, 0, 64, 0}, nil, 64)
	if err == nil {
		err = res.Err()
	}
	if err == nil && len(res.Data) < 4 {
		err = fmt.Errorf("MODE SENSE(6) of the caching page: %x", res.Data)
	}
	return err == nil && res.Data[2]&0x10 != 0, err
}

// keep takes the first error and ends the load.
func (l *load) keep(err error) {
	l.once.Do(func() { l.err = err; close(l.broken) })
	l.cancel()
}

// work keeps depth commands in flight until the load is stopped, and then waits for them.
func (l *load) work(s *initiator.Session, id uint32) {
	var wg sync.WaitGroup
	for range depth {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), uint64(id)))
			for l.ctx.Err() == nil {
				if err := l.command(s, r, id); err != nil {
					l.keep(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// command does one command and takes it into the history.
func (l *load) command(s *initiator.Session, r *rand.Rand, id uint32) error {
	n := uint64(1 + r.IntN(maxBlocks))
	lba := r.Uint64N(loadBlocks - n)
	var op *history.Op
	var data []byte
	code, flags, in := byte(cdb.Read10), byte(0), int(n*blockSize)
	if r.IntN(2) == 0 {
		fua := l.fua && r.IntN(8) == 0
		if fua {
			flags = 0x08
		}
		op = l.h.Write(id, lba, n, fua, "WRITE(10)")
		code, data, in = cdb.Write10, make([]byte, n*blockSize), 0
		op.Fill(data)
	} else {
		op = l.h.Read(id, lba, n, "READ(10)")
	}
	b := cdb.Transfer(code, l.base+lba, uint32(n), flags)
	begun := time.Now()
	// Not the load's own context: what was sent is waited for.
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	res, err := s.Command(ctx, lun1, b[:10], data, in)
	for took := int64(time.Since(begun)); ; {
		if old := l.longest.Load(); took <= old || l.longest.CompareAndSwap(old, took) {
			break
		}
	}
	switch {
	case err != nil:
		op.Lost()
		return fmt.Errorf("%d blocks at %d after %v: %w", n, lba, time.Since(begun).Round(time.Millisecond), err)
	case res.Response == pdu.CommandCompleted && res.Status == sam.Good:
		l.ios.Add(1)
		return op.Done(res.Data)
	}
	if unitAttention(&res) {
		return op.Refused()
	}
	l.failed.Add(1)
	if err := op.Failed(); err != nil {
		return err
	}
	if !l.fails {
		return fmt.Errorf("%d blocks at %d after %v: %w", n, lba, time.Since(begun).Round(time.Millisecond), res.Err())
	}
	return nil
}

func unitAttention(res *initiator.Result) bool {
	key, _, _, ok := initiator.SenseFields(res.Sense)
	return ok && key == 6
}

// progress waits until so many more commands have ended well.
func (l *load) progress(t *testing.T, n int64, limit time.Duration) {
	t.Helper()
	deadline, tick := time.NewTimer(limit), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for from := l.ios.Load(); l.ios.Load() < from+n; {
		select {
		case <-l.broken:
			t.Fatalf("the load: %v", l.err)
		case <-deadline.C:
			t.Fatalf("%d of %d commands ended within %v", l.ios.Load()-from, n, limit)
		case <-tick.C:
		}
	}
}

// stop ends the load and says what came of it.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.wg.Wait()
	select {
	case <-l.broken:
		t.Fatalf("the load: %v", l.err)
	default:
	}
	c := l.h.Counts()
	t.Logf("%d commands, %d failed, %d blocks checked; longest command %v", l.ios.Load(), l.failed.Load(), c.Blocks,
		time.Duration(l.longest.Load()).Round(time.Millisecond))
}

// verify reads everything that the load may have written, through a session of its own.
func (l *load) verify(t *testing.T, d *daemon.Daemon, target string) {
	t.Helper()
	op := l.h.Read(99, 0, loadBlocks, "READ(10)")
	if err := op.Done(readAll(t, d, target, lun1, l.base)); err != nil {
		t.Fatal(err)
	}
}

// readAll reads the blocks of a load that are at base of a LUN, in a session of its own.
func readAll(t *testing.T, d *daemon.Daemon, target string, lun sam.LUN, base uint64) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	s, err := login(ctx, d, target, 99)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const step = 256
	var all []byte
	for lba := base; lba < base+loadBlocks; lba += step {
		b := cdb.Transfer(cdb.Read10, lba, step, 0)
		data, err := again(ctx, s, lun, b[:10], nil, step*blockSize)
		if err != nil {
			t.Fatalf("reading blocks %d to %d: %v", lba, lba+step, err)
		}
		all = append(all, data...)
	}
	return all
}
