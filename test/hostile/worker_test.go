package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A worker is an initiator that does nothing wrong: it writes blocks of its own part of a disk, reads them back, and compares.
type worker struct {
	s       *initiator.Session
	rounds  atomic.Uint64
	retries atomic.Bool   // TASK SET FULL is no error: the command is sent again
	full    atomic.Uint64 // how often that was so
	cancel  context.CancelFunc
	done    chan struct{} // closed when it has stopped
	moved   chan struct{} // gets one when a round has ended and nobody has taken the last
	err     error         // read after done
}

// workerPart is the blocks of one worker.
const workerPart = 4 << 20 / 512

// startWorker logs in as initiator number n and sets to work.
func startWorker(t *testing.T, addr, target string, n uint32) *worker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := initiator.Login(ctx, initiator.Options{Portal: addr, TargetName: target, InitiatorName: fmt.Sprintf("iqn.2026-11.io.lunar:worker-%d", n), Wait: patience})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	w := &worker{s: s, cancel: cancel, done: make(chan struct{}), moved: make(chan struct{}, 1)}
	go func() {
		defer close(w.done)
		defer s.Close()
		w.err = w.work(ctx, n*workerPart)
		if ctx.Err() != nil {
			w.err = nil
		}
	}()
	return w
}

// work goes on until ctx ends or anything is wrong.
func (w *worker) work(ctx context.Context, from uint32) error {
	rnd := rand.New(rand.NewPCG(uint64(from), 11))
	if _, err := w.s.Command(ctx, good, initiator.TestUnitReady(), nil, 0); err != nil {
		return err
	}
	buf := make([]byte, 512<<10)
	for round := uint64(1); ; round++ {
		blocks := 1 + rnd.IntN(128) // what goes along without a buffer
		if round%8 == 0 {
			blocks = 1024 // by R2T, and through the pool
		}
		lba := from + uint32(rnd.IntN(workerPart-blocks))
		data := buf[:blocks*512]
		for i := 0; i < len(data); i += 8 {
			binary.BigEndian.PutUint64(data[i:], round<<32|uint64(i))
		}
		res, err := w.command(ctx, write10(lba, uint16(blocks)), data, 0)
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			return fmt.Errorf("round %d, writing %d blocks at %d: %w", round, blocks, lba, err)
		}
		if res, err = w.command(ctx, read10(lba, uint16(blocks)), nil, len(data)); err == nil {
			err = res.Err()
		}
		if err != nil {
			return fmt.Errorf("round %d, reading %d blocks at %d: %w", round, blocks, lba, err)
		}
		if !bytes.Equal(res.Data, data) {
			return fmt.Errorf("round %d: %d blocks at %d read back are not what was written", round, blocks, lba)
		}
		w.rounds.Add(1)
		select {
		case w.moved <- struct{}{}:
		default:
		}
	}
}

func (w *worker) command(ctx context.Context, b, out []byte, in int) (initiator.Result, error) {
	for {
		res, err := w.s.Command(ctx, good, b, out, in)
		if key, asc, _, _ := initiator.SenseFields(res.Sense); err == nil && key == 6 && asc == 0x3f {
			continue // the target has other LUNs than before: said once, and no error
		}
		if err != nil || res.Status != sam.TaskSetFull || !w.retries.Load() {
			return res, err
		}
		w.full.Add(1)
	}
}

// more waits for n rounds from now on.
func (w *worker) more(n uint64) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for want := w.rounds.Load() + n; w.rounds.Load() < want; {
		select {
		case <-w.moved:
		case <-w.done:
			if w.err != nil {
				return w.err
			}
			return errors.New("it has stopped")
		case <-timer.C:
			return fmt.Errorf("it stands still: %d rounds in all", w.rounds.Load())
		}
	}
	return nil
}

// end stops it and returns what was wrong.
func (w *worker) end() error {
	w.cancel()
	<-w.done
	return w.err
}
