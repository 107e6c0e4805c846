package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/test/history"
)

// A flight is one command under way.
type flight struct {
	c       *command
	d       *disk
	what    string
	ops     []*history.Op // one for each range
	task    *initiator.Task
	compare []byte // what a VERIFY with data is about
	since   time.Time
	over    bool
}

// Bits of CDBs.
const (
	sameUnmap    = 0x08
	sameNoData   = 0x01
	bytchk       = 0x02
	immed        = 0x02
	unmapHeader  = 8
	unmapEntry   = 16
	unmapEntries = 3
)

// pick is the i-th operation code of a family, counted around.
func pick(i int, codes ...byte) byte { return codes[i%len(codes)] }

// launch tells the history of a command and sends it.
func (w *worker) launch(c *command) *flight {
	d := w.disks[c.disk]
	f := &flight{c: c, d: d, since: time.Now()}
	h, id := d.h, w.id
	var b [cdb.MaxLen]byte
	var data []byte
	in := 0
	flags := byte(0)
	if c.fua {
		flags |= cdb.FUA
	}
	if c.dpo {
		flags |= cdb.DPO
	}
	n := c.n
	transfer := func(op byte, flags byte) {
		if op>>5 == 0 { // (6) has no flags, and 256 blocks at most
			flags, n = 0, min(n, 256)
		}
		b = cdb.Transfer(op, c.lba, uint32(n), flags)
		f.what = cdb.Describe(b[:cdb.Len(op)])
	}
	switch c.kind {
	case read:
		transfer(pick(c.variant, cdb.Read10, cdb.Read16, cdb.Read12, cdb.Read6), flags)
		in = int(n * d.blockSize)
		f.ops = append(f.ops, h.Read(id, c.lba, n, f.what))
	case write:
		transfer(pick(c.variant, cdb.Write10, cdb.Write16, cdb.Write12, cdb.Write6), flags)
		f.ops = append(f.ops, h.Write(id, c.lba, n, c.fua, f.what))
		data = make([]byte, n*d.blockSize)
		f.ops[0].Fill(data)
	case writeVerify:
		transfer(pick(c.variant, cdb.WriteVerify10, cdb.WriteVerify16, cdb.WriteVerify12), flags&cdb.DPO|bytchk*byte(c.variant/3%2))
		f.ops = append(f.ops, h.Write(id, c.lba, n, true, f.what))
		data = make([]byte, n*d.blockSize)
		f.ops[0].Fill(data)
	case writeSame:
		transfer(pick(c.variant, cdb.WriteSame10, cdb.WriteSame16), sameUnmap*byte(c.variant/2%2))
		f.ops = append(f.ops, h.Same(id, c.lba, n, f.what))
		data = make([]byte, d.blockSize)
		f.ops[0].Fill(data)
	case sameZero:
		op := pick(c.variant, cdb.WriteSame10, cdb.WriteSame16)
		data = make([]byte, d.blockSize)
		b1 := sameUnmap * byte(c.variant/2%2)
		if op == cdb.WriteSame16 && c.variant/4%2 == 1 {
			data, b1 = nil, b1|sameNoData
		}
		transfer(op, b1)
		f.ops = append(f.ops, h.Zero(id, c.lba, n, f.what+" of zeroes"))
	case unmap:
		data = f.unmap(h, id)
		b[0] = cdb.Unmap
		binary.BigEndian.PutUint16(b[7:], uint16(len(data)))
	case compareWrite:
		b = cdb.Transfer(cdb.CompareAndWrite, c.lba, 0, flags)
		b[13] = byte(n)
		f.what = fmt.Sprintf("COMPARE AND WRITE lba %d blocks %d", c.lba, n)
		data = make([]byte, 2*n*d.blockSize)
		guess := data[:n*d.blockSize]
		if c.variant%2 == 0 {
			h.Guess(c.lba, guess)
		} else {
			h.Acknowledged(c.lba, guess)
		}
		f.ops = append(f.ops, h.CompareAndWrite(id, c.lba, n, guess, c.fua, f.what))
		f.ops[0].Fill(data[n*d.blockSize:])
	case verify:
		transfer(pick(c.variant, cdb.Verify10, cdb.Verify16, cdb.Verify12), flags&cdb.DPO)
	case compareVerify:
		transfer(pick(c.variant, cdb.Verify10, cdb.Verify16, cdb.Verify12), bytchk)
		f.compare = make([]byte, n*d.blockSize)
		h.Guess(c.lba, f.compare)
		data = f.compare
		f.ops = append(f.ops, h.Read(id, c.lba, n, f.what))
	case flush:
		lba, n := c.lba, c.n
		if c.variant%2 == 0 {
			lba, n = 0, 0
		}
		b = cdb.Transfer(pick(c.variant/2, cdb.SynchronizeCache10, cdb.SynchronizeCache16), lba, uint32(n), immed*byte(c.variant/4%2))
		f.what = "SYNCHRONIZE CACHE"
	case prefetch:
		transfer(pick(c.variant, cdb.Prefetch10, cdb.Prefetch16), 0)
	}
	io := &initiator.IO{LUN: d.lun, CDB: b, Attr: c.attr, Out: data, InLen: uint32(in), In: make([]byte, in)}
	task, err := w.s.StartIO(io)
	if err != nil { // it never left
		w.keep(f.each((*history.Op).Refused))
		f.over = true
	}
	f.task = task
	return f
}

// unmap makes UNMAP's parameter list: up to three ranges, one behind the other.
func (f *flight) unmap(h *history.History, id uint32) []byte {
	c := f.c
	f.what = fmt.Sprintf("UNMAP lba %d blocks %d", c.lba, c.n)
	k := min(1+uint64(c.variant)%unmapEntries, c.n)
	list := make([]byte, unmapHeader, unmapHeader+unmapEntries*unmapEntry)
	lba := c.lba
	for i := uint64(0); i < k; i++ {
		n := c.n / k
		if i == k-1 {
			n = c.lba + c.n - lba
		}
		list = binary.BigEndian.AppendUint64(list, lba)
		list = binary.BigEndian.AppendUint32(list, uint32(n))
		list = append(list, 0, 0, 0, 0)
		f.ops = append(f.ops, h.Zero(id, lba, n, f.what))
		lba += n
	}
	binary.BigEndian.PutUint16(list, uint16(len(list)-2))
	binary.BigEndian.PutUint16(list[2:], uint16(len(list)-unmapHeader))
	return list
}

func (f *flight) each(end func(*history.Op) error) error {
	for _, o := range f.ops {
		if err := end(o); err != nil {
			return fmt.Errorf("disk %s: %w", f.d.path, err)
		}
	}
	return nil
}

// ended takes the end of a flight, whose task has ended, into the history.
func (f *flight) ended(res initiator.Result, err error) error {
	f.over = true
	switch {
	case errors.Is(err, initiator.ErrAborted):
		return f.each((*history.Op).Failed)
	case err != nil:
		return f.lost()
	case res.Response != pdu.CommandCompleted:
		return f.each((*history.Op).Failed)
	}
	switch res.Status {
	case sam.Good:
		data := res.Data
		if f.c.kind == compareVerify {
			data = f.compare
		}
		return f.each(func(o *history.Op) error { return o.Done(data) })
	case sam.ReservationConflict, sam.TaskSetFull:
		return f.each((*history.Op).Refused)
	case sam.CheckCondition:
		return f.check(res.Sense)
	}
	// BUSY too: a store can be busy in the midst of a command, and initiators do it again.
	return f.each((*history.Op).Failed)
}

func (f *flight) check(b []byte) error {
	d, err := sense.Parse(b)
	if err != nil {
		return fmt.Errorf("%s on %s: sense %x: %w", f.what, f.d.path, b, err)
	}
	switch d.Key {
	case sense.UnitAttention:
		return f.each((*history.Op).Refused)
	case sense.IllegalRequest:
		return fmt.Errorf("%s on %s, which is right, was refused: %v", f.what, f.d.path, d)
	case sense.Miscompare:
		if f.c.kind == compareWrite {
			if !d.HasInfo {
				return fmt.Errorf("%s on %s: miscompare without the place", f.what, f.d.path)
			}
			return f.each(func(o *history.Op) error { return o.Miscompared(int64(d.Info)) })
		}
		if f.c.kind != compareVerify {
			return fmt.Errorf("%s on %s: miscompare", f.what, f.d.path)
		}
	}
	return f.each((*history.Op).Failed)
}

// lost is for a flight whose answer cannot come any more.
func (f *flight) lost() error {
	f.over = true
	for _, o := range f.ops {
		o.Lost()
	}
	return nil
}

// done reports whether the task has ended.
func (f *flight) done() bool {
	if f.over {
		return true
	}
	select {
	case <-f.task.Done():
		return true
	default:
		return false
	}
}
