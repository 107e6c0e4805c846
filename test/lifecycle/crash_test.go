package lifecycle

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/history"
)

const (
	crashWorkers = 16   // each with one write under way
	crashPlaces  = 1024 // where they write to, each to any
	crashUnit    = 8    // blocks of a place
	crashBlock   = 512  // bytes, which a killed write leaves old or new
	crashLUN     = 1
	crashTimeout = 30 * time.Second
	maxAttention = 8 // unit attentions that a new session may be told of
)

// A crasher writes to a disk whose daemon is killed meanwhile, and its history knows what must be there afterwards.
type crasher struct {
	h    *history.History
	acks atomic.Int64
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
func (c *crasher) work(ctx context.Context, s *initiator.Session, worker int, rnd *rand.Rand, wake func(int64)) error {
	buf := make([]byte, crashUnit*crashBlock)
	var cdb [16]byte
	for {
		lba := crashUnit * rnd.Uint64N(crashPlaces)
		fua := rnd.IntN(4) == 0
		o := c.h.Write(uint32(worker), lba, crashUnit, fua, "WRITE(10)")
		o.Fill(buf)
		initiator.PutWrite(&cdb, lba, crashUnit)
		if fua {
			cdb[1] |= 1 << 3
		}
		r, err := s.Command(ctx, sam.NewLUN(crashLUN), cdb[:10], buf, 0)
		if err != nil { // killed: what became of this one is not known
			o.Lost()
			return nil
		}
		if err := errors.Join(r.Err(), o.Done(nil)); err != nil {
			return err
		}
		wake(c.acks.Add(1))
	}
}

// check reads every place.
func (c *crasher) check(t *testing.T, s *initiator.Session) {
	t.Helper()
	var cdb [16]byte
	for i := range uint64(crashPlaces) {
		initiator.PutRead(&cdb, i*crashUnit, crashUnit)
		o := c.h.Read(crashWorkers, i*crashUnit, crashUnit, "READ(10)")
		r, err := s.Command(t.Context(), sam.NewLUN(crashLUN), cdb[:10], nil, crashUnit*crashBlock)
		if err == nil {
			err = errors.Join(r.Err(), o.Done(r.Data))
		}
		if err != nil {
			t.Fatalf("reading place %d: %v", i, err)
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
	c := crasher{h: history.New(history.Config{Seed: seed, Blocks: crashPlaces * crashUnit, BlockSize: crashBlock})}
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
			wg.Go(func() {
				if err := c.work(t.Context(), s, w, own, wake); err != nil {
					t.Error(err)
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(crashTimeout):
			t.Fatalf("%d writes within %v, want %d", c.acks.Load(), crashTimeout, target)
		}
		d.Kill(t)
		wg.Wait()
		if err := c.h.SettleAll(); err != nil {
			t.Fatal(err)
		}
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
