package target

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A loader writes and reads blocks of its own with random attributes and sizes. What another takes away is sent again.
type loader struct {
	r   *rig
	s   *initiator.Session
	rnd *rand.Rand
	lba uint32 // of loaderBlocks blocks

	aborted int
}

const loaderBlocks = 2048

// command runs one until it ends GOOD.
func (l *loader) command(ctx context.Context, cdb, out []byte, in int) ([]byte, error) {
	for {
		io := &initiator.IO{LUN: lun1, Attr: sam.TaskAttribute(l.rnd.IntN(4)), InLen: uint32(in), In: make([]byte, in), Out: out}
		copy(io.CDB[:], cdb)
		task, err := l.s.StartIO(io)
		if err != nil {
			return nil, err
		}
		res, err := task.Wait(ctx)
		switch key, _, _, _ := initiator.SenseFields(res.Sense); {
		case err == nil && res.Status == sam.Good:
			return res.Data, nil
		case errors.Is(err, initiator.ErrAborted), err == nil && res.Status == sam.TaskAborted:
			l.aborted++
		case err != nil:
			return nil, err
		case key != 6:
			return nil, res.Err()
		}
	}
}

// run writes and reads back for a number of rounds.
func (l *loader) run(ctx context.Context, rounds int) error {
	for round := range rounds {
		blocks := 1 + l.rnd.IntN(64)
		if l.rnd.IntN(4) == 0 {
			blocks = 600 + l.rnd.IntN(loaderBlocks-600) // beyond FirstBurstLength: there are R2Ts
		}
		at := l.rnd.IntN(loaderBlocks - blocks + 1)
		data := pattern(int(l.lba)+round, blocks)
		lba := l.lba + uint32(at)
		if _, err := l.command(ctx, write10(lba, uint16(blocks)), data, 0); err != nil {
			return err
		}
		got, err := l.command(ctx, read10(lba, uint16(blocks)), nil, len(data))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data) {
			return errors.New("other data was read than was written last")
		}
	}
	return nil
}

// TestFunctionsUnderLoad: CLEAR TASK SET, aborts and queries one after the other, while sessions with and without FastAbort write and
// read with all task attributes. TAS is 1, so that every command ends; what was taken away never shows over what was sent again.
func TestFunctionsUnderLoad(t *testing.T) {
	r := newRig(t, Config{}, "write delay=1ms every=3")
	admin := r.level2(9, nil)
	r.setTAS(admin, true)
	ctx := r.ctx()
	var clients sync.WaitGroup
	loaders := make([]*loader, 3)
	for i := range loaders {
		l := &loader{r: r, rnd: rand.New(rand.NewPCG(uint64(i), 1)), lba: uint32(i * loaderBlocks)}
		if i == 0 {
			l.s = r.level2(1, nil)
		} else {
			l.s = r.login(byte(i + 1))
		}
		loaders[i] = l
		clients.Add(1)
		go func() {
			defer clients.Done()
			if err := l.run(ctx, 120); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
		}()
	}
	over := make(chan struct{})
	go func() { clients.Wait(); close(over) }()
	rnd := rand.New(rand.NewPCG(7, 7))
	count := map[sam.TMF]int{}
	for done := false; !done; {
		select {
		case <-over:
			done = true
		default:
		}
		s := admin
		f := []sam.TMF{sam.ClearTaskSet, sam.QueryTaskSet, sam.ClearACA, sam.QueryAsyncEvent, sam.AbortTaskSet, sam.ITNexusReset}[rnd.IntN(6)]
		if f == sam.AbortTaskSet || f == sam.ITNexusReset {
			if s = loaders[rnd.IntN(len(loaders))].s; s.Params().ProtocolLevel < 2 {
				f = sam.AbortTaskSet
			}
		}
		if _, err := s.TaskManagement(ctx, f, lun1, nil); err != nil {
			t.Fatal(f, err)
		}
		count[f]++
		if _, err := admin.Command(ctx, lun1, read10(uint32(rnd.IntN(3*loaderBlocks)), 1), nil, 512); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range loaders {
		if l.aborted == 0 {
			t.Errorf("session %d lost no command", i)
		}
	}
	if r.s.Panics() != 0 {
		t.Error("a fault")
	}
	t.Log(count)
}
