package target

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// The steady path of READ and WRITE allocates nothing, with any digests: what the whole process allocates is counted, over the
// loopback, for less than one allocation in a hundred commands. The initiator's Queue allocates nothing either.
func TestTransfersDoNotAllocate(t *testing.T) {
	for _, pair := range digestPairs {
		for _, c := range []struct {
			name     string
			blocks   uint32
			write    bool
			initR2T  bool
			solicits bool
		}{
			{name: "READ in place", blocks: 8},
			{name: "READ into a buffer", blocks: 512},
			{name: "WRITE out of the slab", blocks: 8, write: true},
			{name: "WRITE into its place", blocks: 512, write: true},
			{name: "WRITE through R2T", blocks: 512, write: true, initR2T: true},
		} {
			t.Run(pair.String()+", "+c.name, func(t *testing.T) {
				r := newRig(t, Config{}, "")
				m, err := mem.New(mem.Config{Size: testSize, BlockSize: 512})
				if err != nil {
					t.Fatal(err)
				}
				if err := r.tg.AddDisk(2, m, scsi.DiskConfig{Identity: "plain"}); err != nil {
					t.Fatal(err)
				}
				o := r.options(1)
				p := initiator.DefaultOffer()
				p.HeaderDigest, p.DataDigest, p.InitialR2T, p.ImmediateData = pair.header, pair.data, c.initR2T, !c.initR2T
				o.Offer, o.Depth = &p, 8
				q, err := initiator.OpenQueue(r.ctx(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				lun := sam.NewLUN(2)
				tur := &initiator.IO{LUN: lun}
				for range 4 {
					if err := q.Do(tur, testWait); err != nil {
						t.Fatal(err)
					}
				}
				if !tur.OK() {
					t.Fatal(tur.Failure())
				}
				ios := make([]initiator.IO, 8)
				for i := range ios {
					io := &ios[i]
					io.LUN, io.Attr = lun, sam.Simple
					if c.write {
						initiator.PutWrite(&io.CDB, uint64(i)*1024, c.blocks)
						io.Out = make([]byte, c.blocks*512)
					} else {
						initiator.PutRead(&io.CDB, uint64(i)*1024, c.blocks)
						io.InLen = c.blocks * 512
						io.In = make([]byte, io.InLen)
					}
				}
				hundred := func() {
					for range 100 / len(ios) {
						for i := range ios {
							q.Submit(&ios[i])
						}
						for left := len(ios); left > 0; {
							ended, err := q.Wait(testWait)
							if err != nil || len(ended) == 0 {
								t.Fatal("no answer:", err)
							}
							for _, io := range ended {
								if !io.OK() {
									t.Fatal(io.Failure())
								}
							}
							left -= len(ended)
						}
					}
				}
				hundred() // pools and queues grow
				// On a machine that is busy more commands meet in one turn than ever before, and a queue grows once more.
				least := testing.AllocsPerRun(10, hundred)
				for try := 0; try < 2 && least != 0; try++ {
					least = min(least, testing.AllocsPerRun(10, hundred))
				}
				if least != 0 {
					t.Errorf("%v allocations in a hundred commands", least)
				}
			})
		}
	}
}
