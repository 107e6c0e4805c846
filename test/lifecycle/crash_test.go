package lifecycle

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

const (
	crashWorkers = 16      // each with one write under way
	crashSlots   = 64      // places that a worker writes to, in turn at random
	crashUnit    = 4 << 10 // bytes of a place
	crashBlock   = 512     // what a killed write leaves old or new
	crashLUN     = 1
	crashTimeout = 30 * time.Second
	maxAttention = 8 // unit attentions that a new session may be told of
)

// A place is crashUnit bytes of the disk, written by one worker with a generation that grows.
type place struct {
	issued, acked uint64
}

// A crasher writes to a disk whose daemon is killed meanwhile, and knows what must be there afterwards.
type crasher struct {
	places [crashWorkers][crashSlots]place // each row is its worker's; read when no worker runs
	acks   atomic.Int64
}

// fill stamps every block of a place's data with whose it is and which generation.
func fill(buf []byte, index, generation uint64) {
	for off := 0; off < len(buf); off += crashBlock {
		block := buf[off : off+crashBlock]
		for i := 0; i < crashBlock; i += 16 {
			binary.BigEndian.PutUint64(block[i:], index<<16|uint64(off/crashBlock))
			binary.BigEndian.PutUint64(block[i+8:], generation)
		}
	}
}

func placeLBA(worker, slot int) uint64 {
	return uint64(worker*crashSlots+slot) * (crashUnit / crashBlock)
}

// login opens a session and takes what unit attentions wait for it.
func login(t *testing.T, d *daemon.Daemon) *initiator.Session {
	t.Helper()
	s, err := initiator.Login(t.Context(), initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + disk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for range maxAttention {
		r, err := s.Command(t.Context(), sam.NewLUN(crashLUN), initiator.TestUnitReady(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status == sam.Good {
			return s
		}
	}
	t.Fatalf("the disk is not ready after %d unit attentions", maxAttention)
	return nil
}

// work writes one place after another, some with FUA, until the connection is gone.
func (c *crasher) work(ctx context.Context, s *initiator.Session, worker int, rnd *rand.Rand, wake func(int64)) {
	buf := make([]byte, crashUnit)
	var cdb [16]byte
	for {
		slot := rnd.IntN(crashSlots)
		p := &c.places[worker][slot]
		p.issued++
		fill(buf, uint64(worker*crashSlots+slot), p.issued)
		initiator.PutWrite(&cdb, placeLBA(worker, slot), crashUnit/crashBlock)
		if rnd.IntN(4) == 0 {
			cdb[1] |= 1 << 3 // FUA
		}
		r, err := s.Command(ctx, sam.NewLUN(crashLUN), cdb[:10], buf, 0)
		if err != nil || r.Err() != nil {
			return // killed: what became of this one is not known
		}
		p.acked = p.issued
		wake(c.acks.Add(1))
	}
}

// check reads every place: each block has a generation from the last that was acknowledged to the last that was
// issued, and is its own.
func (c *crasher) check(t *testing.T, s *initiator.Session) {
	t.Helper()
	want := make([]byte, crashUnit)
	var cdb [16]byte
	for worker := range c.places {
		for slot := range c.places[worker] {
			p := &c.places[worker][slot]
			index := uint64(worker*crashSlots + slot)
			initiator.PutRead(&cdb, placeLBA(worker, slot), crashUnit/crashBlock)
			r, err := s.Command(t.Context(), sam.NewLUN(crashLUN), cdb[:10], nil, crashUnit)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Err(); err != nil || len(r.Data) != crashUnit {
				t.Fatalf("reading place %d: %d bytes, %v", index, len(r.Data), err)
			}
			newest := p.acked
			for off := 0; off < crashUnit; off += crashBlock {
				block := r.Data[off : off+crashBlock]
				generation := binary.BigEndian.Uint64(block[8:])
				if generation < p.acked || generation > p.issued {
					t.Fatalf("place %d, byte %d: generation %d; %d was acknowledged and %d issued", index, off, generation, p.acked, p.issued)
				}
				if generation == 0 {
					clear(want)
				} else {
					fill(want, index, generation)
				}
				if !bytes.Equal(block, want[off:off+crashBlock]) {
					t.Fatalf("place %d, byte %d: generation %d, but not its data", index, off, generation)
				}
				newest = max(newest, generation)
			}
			p.acked = newest // it has been seen: from now on it must stay
		}
	}
}

// What was acknowledged is there after the daemon was killed in the midst of writes, and what was not is old or
// new, block by block.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	_, export := file(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	d := daemon.Start(t, export)
	var c crasher
	for round := range killRounds {
		s := login(t, d)
		c.check(t, s)
		target := c.acks.Load() + 200 + rnd.Int64N(2000)
		enough := make(chan struct{})
		var once sync.Once
		wake := func(n int64) {
			if n >= target {
				once.Do(func() { close(enough) })
			}
		}
		var wg sync.WaitGroup
		for w := range crashWorkers {
			own := rand.New(rand.NewPCG(seed, uint64(round*crashWorkers+w+2)))
			wg.Go(func() { c.work(t.Context(), s, w, own, wake) })
		}
		select {
		case <-enough:
		case <-time.After(crashTimeout):
			t.Fatalf("%d writes within %v, want %d", c.acks.Load(), crashTimeout, target)
		}
		d.Kill(t)
		wg.Wait()
		if err := s.Err(); err == nil {
			t.Fatal("the session outlived the daemon")
		}
		d = daemon.StartAt(t, d.Addr, export)
	}
	s := login(t, d)
	c.check(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	d.Stop(t)
	t.Logf("%d acknowledged writes through %d kills", c.acks.Load(), killRounds)
}
