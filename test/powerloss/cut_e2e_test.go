//go:build e2e

package powerloss

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/guest"
	"github.com/lunar-iscsi/lunar/test/nbdkit"
)

const (
	cutRounds  = 3
	slots      = 256     // places of a volume that are written to
	unit       = 4 << 10 // bytes of a place
	block      = 512     // what a write that was cut leaves old or new
	flushEvery = 8       // writes
	// enough is how many promises each volume has to have made in a round before the power may go.
	enough      = 40
	loadTimeout = 5 * time.Minute // for these: each is a flush of an emulated machine's disk
)

// A promise is by what an initiator knows that a write is durable.
type promise int

const (
	byFUA     promise = iota // the write had FUA set and has ended
	byFlush                  // a SYNCHRONIZE CACHE that began after the write's end has ended
	byWriting                // the write has ended: the disk has no volatile cache (WCE is 0)
	never                    // none: the control, of which a cut must lose something
)

// A place is unit bytes of a volume, written with a generation that grows.
type place struct {
	issued, acked, durable uint64
}

// A volume is one LUN, written by one worker; its places are that worker's, and the test's when it has ended.
type volume struct {
	name    string
	options string // of its file's URI
	promise promise
	lun     sam.LUN
	places  [slots]place
	made    int           // promises in this round
	enough  chan struct{} // closed when these are enough
}

func volumes() []*volume {
	vs := []*volume{
		{name: "fua", options: "thin=on", promise: byFUA},
		{name: "flush", options: "thin=on", promise: byFlush},
		{name: "full-fua", options: "thin=off", promise: byFUA},
		{name: "full-flush", options: "thin=off", promise: byFlush},
		{name: "writethrough", options: "thin=on&cache=writethrough", promise: byWriting},
		{name: "direct-fua", options: "thin=on&direct=on", promise: byFUA},
		{name: "direct-flush", options: "thin=on&direct=on", promise: byFlush},
		{name: "control", options: "thin=on", promise: never},
	}
	for i, v := range vs {
		v.lun = sam.NewLUN(uint16(i + 1))
	}
	return vs
}

func (v *volume) uri() string { return "file:///srv/" + v.name + ".img?size=16M&" + v.options }

// fill stamps every block of a place's data with whose it is and which generation.
func fill(buf []byte, index, generation uint64) {
	for off := 0; off < len(buf); off += block {
		for i := 0; i < block; i += 16 {
			binary.BigEndian.PutUint64(buf[off+i:], index<<16|uint64(off/block))
			binary.BigEndian.PutUint64(buf[off+i+8:], generation)
		}
	}
}

// work writes places at random until the power is gone, and notes what was promised.
func (v *volume) work(ctx context.Context, s *initiator.Session, rnd *rand.Rand) {
	buf := make([]byte, unit)
	since := map[int]uint64{} // acknowledged since the last flush, by place
	for {
		i := rnd.IntN(slots)
		p := &v.places[i]
		p.issued++
		fill(buf, uint64(i), p.issued)
		var flags byte
		if v.promise == byFUA {
			flags = cdb.FUA
		}
		c := cdb.Transfer(cdb.Write10, uint64(i)*unit/block, unit/block, flags)
		if r, err := s.Command(ctx, v.lun, c[:10], buf, 0); err != nil || r.Err() != nil {
			return // what became of this one is not known
		}
		p.acked = p.issued
		switch v.promise {
		case byFUA, byWriting:
			p.durable = p.acked
			v.promised(1)
		case byFlush:
			since[i] = p.acked
			if len(since) < flushEvery {
				break
			}
			if r, err := s.Command(ctx, v.lun, initiator.SynchronizeCache10(), nil, 0); err != nil || r.Err() != nil {
				return
			}
			for i, generation := range since {
				v.places[i].durable = generation
			}
			v.promised(len(since))
			clear(since)
		case never:
			v.promised(1)
		}
	}
}

func (v *volume) promised(n int) {
	before := v.made
	v.made += n
	if before < enough && v.made >= enough {
		close(v.enough)
	}
}

// A verdict is what was found on a volume after a cut.
type verdict struct {
	broken int    // blocks that are not what they have to be
	first  string // one of them
	lost   int    // places that are older than what was acknowledged
}

// check reads every place after a cut: each block has a generation from the last that was promised to the last that
// was issued, and is its own.
func (v *volume) check(t *testing.T, s *initiator.Session) (found verdict) {
	t.Helper()
	want := make([]byte, unit)
	for i := range v.places {
		p := &v.places[i]
		c := cdb.Transfer(cdb.Read10, uint64(i)*unit/block, unit/block, 0)
		r, err := s.Command(t.Context(), v.lun, c[:10], nil, unit)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Err(); err != nil || len(r.Data) != unit {
			t.Fatalf("%s: reading place %d: %d bytes, %v", v.name, i, len(r.Data), err)
		}
		newest, oldest := p.durable, p.acked
		for off := 0; off < unit; off += block {
			got := r.Data[off : off+block]
			generation := binary.BigEndian.Uint64(got[8:])
			if generation == 0 {
				clear(want)
			} else {
				fill(want, uint64(i), generation)
			}
			if whole := bytes.Equal(got, want[off:off+block]); generation < p.durable || generation > p.issued || !whole {
				if found.broken++; found.broken == 1 {
					found.first = fmt.Sprintf("place %d, byte %d: generation %d (its own data: %v); %d was promised, %d issued",
						i, off, generation, whole, p.durable, p.issued)
				}
			}
			newest, oldest = max(newest, generation), min(oldest, generation)
		}
		if oldest < p.acked {
			found.lost++
		}
		p.acked, p.durable = newest, newest // it came from the disk: from now on it must stay
	}
	return found
}

// lives boots a machine on one disk so many times: each time judge hears what there is on each volume, and each time
// but the last there is a load, and a cut.
func lives(t *testing.T, lunard string, rounds int, judge func(round int, v *volume, found verdict)) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	file, vs := newDisk(t), volumes()
	var uris []string
	for _, v := range vs {
		uris = append(uris, v.uri())
	}
	prepare := "mkfs.ext4 -q /dev/vdb && sync && "
	for round := range rounds + 1 {
		disk := nbdkit.StartFile(t, file, []string{"cache"}, "cache=writeback")
		g := boot(t, lunard, "driver=nbd,server.type=unix,server.path="+disk.Socket)
		g.Run(t, prepare+"mkdir -p /srv && mount /dev/vdb /srv")
		prepare = ""
		serve(t, g, uris...)
		s := login(t, g)
		for _, v := range vs {
			ready(t, s, v.lun)
			judge(round, v, v.check(t, s))
		}
		if round == rounds || t.Failed() {
			if err := s.Logout(t.Context()); err != nil {
				t.Error(err)
			}
			g.Shutdown(t)
			return
		}
		cut(t, g, disk, s, vs, rand.New(rand.NewPCG(seed, uint64(round))))
	}
}

// What lunard has promised to be durable is there after its machine has lost its power, again and again; what it has
// not may be lost, and some of it is, or this test would show nothing.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	lives(t, daemon.Binary(t), cutRounds, func(round int, v *volume, found verdict) {
		switch {
		case found.broken > 0:
			t.Errorf("round %d: %s: %d blocks are not what was promised: %s", round, v.name, found.broken, found.first)
		case round == 0 || v.promise == byFlush: // of which what came after the last flush may be lost
		case v.promise == never && found.lost == 0:
			t.Errorf("round %d: the cut lost nothing of what was not flushed: it is none", round)
		case v.promise != never && found.lost > 0:
			t.Errorf("round %d: %s: %d places lost", round, v.name, found.lost)
		}
	})
}

// cut has all volumes written to and, at some moment after each has made its promises, takes the power away.
func cut(t *testing.T, g *guest.Guest, disk *nbdkit.Server, s *initiator.Session, vs []*volume, rnd *rand.Rand) {
	t.Helper()
	var wg sync.WaitGroup
	for _, v := range vs {
		v.made, v.enough = 0, make(chan struct{})
		own := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() { v.work(t.Context(), s, own) })
	}
	deadline := time.After(loadTimeout)
	for _, v := range vs {
		select {
		case <-v.enough:
		case <-deadline:
			t.Errorf("%s: no %d promises within %v", v.name, enough, loadTimeout)
		}
	}
	g.Kill(t)
	disk.Kill()
	wg.Wait()
	if s.Err() == nil {
		t.Error("the session outlived the machine")
	}
	said := ""
	for _, v := range vs {
		said += fmt.Sprintf(" %s %d", v.name, v.made)
	}
	t.Logf("promises:%s", said)
}
