package scsi

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// told returns what the next TEST UNIT READY of a nexus is told: a unit attention code, or 0.
func (r *rig) told(nx *NexusLU) sense.Code {
	r.Helper()
	c := r.cmd(make([]byte, 6), nil)
	c.Nexus = nx
	r.start(c)
	if c.Status == sam.Good {
		return 0
	}
	d, err := sense.Parse(c.Sense)
	if err != nil || d.Key != sense.UnitAttention {
		r.Fatalf("TEST UNIT READY: %s", result(c))
	}
	return d.Code
}

// hears fails the test unless a nexus is told these unit attentions, and no more.
func (r *rig) hears(nx *NexusLU, want ...sense.Code) {
	r.Helper()
	for _, w := range append(want, 0) {
		if got := r.told(nx); got != w {
			r.Fatalf("told %v, want %v", got, w)
		}
	}
}

// TestResize: whatever tells of the size, or depends on it, has the new one; each nexus is told once, in the order of precedence.
func TestResize(t *testing.T) {
	st := thinStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	r.lu.Raise(sense.DeviceReset, nil)
	for _, size := range []int64{2 << 20, 4 << 40, 8 << 10, 8 << 10} {
		was := r.lu.info.Size
		st.info.Size = size
		if err := r.lu.Resize(size); err != nil {
			t.Fatal(err)
		}
		for _, nx := range []*NexusLU{r.nx, b} {
			switch {
			case was == 1<<20:
				r.hears(nx, sense.DeviceReset, sense.CapacityChanged)
			case was != size:
				r.hears(nx, sense.CapacityChanged)
			default:
				r.hears(nx)
			}
		}
		blocks := uint64(size / 512)
		if got := binary.BigEndian.Uint64(r.do([]byte{cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32, 15: 0}, nil).Data); got != blocks-1 {
			t.Errorf("%d: READ CAPACITY(16) %d", size, got)
		}
		if got := binary.BigEndian.Uint32(r.do(transfer(cdb.ReadCapacity10, 0, 0, 0), nil).Data); uint64(got) != min(blocks-1, 1<<32-1) {
			t.Errorf("%d: READ CAPACITY(10) %d", size, got)
		}
		if got := binary.BigEndian.Uint64(r.do([]byte{cdb.ModeSense10, 0x10, 0x3f, 0, 0, 0, 0, 1, 0, 0}, nil).Data[8:]); got != blocks {
			t.Errorf("%d: block descriptor %d", size, got)
		}
		r.want(r.do(transfer(cdb.Write16, blocks-1, 1, 0), fill(1, 512, 1)), "good")
		r.want(r.do(transfer(cdb.Write16, blocks-1, 2, 0), fill(2, 512, 1)), "05/21/00")
		r.want(r.do(transfer(cdb.Read16, blocks, 1, 0), nil), "05/21/00")
		r.want(r.do(transfer(cdb.SynchronizeCache16, blocks, 1, 0), nil), "05/21/00")
		r.want(r.do(unmapCDB(24), unmapList(blocks-1, 2)), "05/21/00")
		lba := append([]byte{cdb.ServiceActionIn16, cdb.GetLBAStatus}, make([]byte, 14)...)
		binary.BigEndian.PutUint64(lba[2:], blocks-1)
		lba[13] = 24
		if c := r.do(lba, nil); result(c) != "good" || binary.BigEndian.Uint32(c.Data[16:]) != 1 {
			t.Errorf("%d: GET LBA STATUS of the last block: %s, %x", size, result(c), c.Data)
		}
		binary.BigEndian.PutUint64(lba[2:], blocks)
		r.want(r.do(lba, nil), "05/21/00")
	}
	for _, bad := range []int64{0, -512, 513, 1<<20 + 1} {
		if err := r.lu.Resize(bad); err == nil || !strings.Contains(err.Error(), "multiple of 512") {
			t.Errorf("%d bytes: %v", bad, err)
		}
	}
	r.hears(r.nx)
}

// TestGrowUnderWriteSame: WRITE SAME to the end of the medium means the end that there was when it was checked: what a disk has gained
// until its data is there is not kept from others for it.
func TestGrowUnderWriteSame(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	data := fill(1, 512, 7)
	c := r.cmd(transfer(cdb.WriteSame16, 0, 0, 0), data)
	if !r.lu.Prepare(c) {
		t.Fatal(result(c))
	}
	r.lu.Await(c)
	st.info.Size = 2 << 20
	if err := r.lu.Resize(2 << 20); err != nil {
		t.Fatal(err)
	}
	c.Buf = data
	if r.lu.Execute(c) == Pending {
		r.host.turn()
	}
	r.want(c, "good")
	r.hears(r.nx, sense.CapacityChanged)
	for block, want := range map[uint64][]byte{0: data, 2047: data, 2048: make([]byte, 512), 4095: make([]byte, 512)} {
		if got := r.do(transfer(cdb.Read10, block, 1, 0), nil); !bytes.Equal(got.Data, want) {
			t.Errorf("block %d: %s, %x", block, result(got), got.Data)
		}
	}
}

// TestShrinkUnderCommands: a disk shrinks while commands are everywhere on their way; none gets beyond the new end, and those within it
// are not harmed.
func TestShrinkUnderCommands(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxInFlight = 3
	r := newRig(t, st, DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	const end, beyond, across = 1024, 1500, 1020 // blocks of 2048
	st.hold = true
	first := r.started(r.write(r.nx, beyond, 8, 1), atStore)
	in := r.started(r.write(r.nx, 8, 8, 2), atStore)
	blocked := r.started(r.write(b, beyond, 8, 3), waiting)
	full := r.started(r.write(b, 100, 8, 4), atStore)
	later := r.started(r.write(b, across, 8, 5), queued)
	inLater := r.started(r.read(b, 200, 8), queued)
	collecting := r.write(r.nx, beyond, 8, 6) // its data is to come
	r.lu.Prepare(collecting)
	r.lu.Await(collecting)
	inCollecting := r.write(r.nx, 300, 8, 7)
	r.lu.Prepare(inCollecting)
	r.lu.Await(inCollecting)
	held := r.started(r.read(r.nx, beyond, 8), held)
	verify := r.cmd(transfer(cdb.Verify16, 900, 600, 0), nil) // past the end, though it begins before
	r.lu.Prepare(verify)
	r.lu.Await(verify)
	toEnd := r.cmd(transfer(cdb.WriteSame16, 400, 0, sameNDOB), nil) // whatever the end is
	r.lu.Prepare(toEnd)
	r.lu.Await(toEnd)

	if err := r.lu.Resize(end * 512); err != nil {
		t.Fatal(err)
	}
	r.nx.attentions, b.attentions = 0, 0
	if n := r.lu.Beyond(end * 512); n != 1 {
		t.Errorf("%d requests beyond the new end, want 1", n)
	}
	st.end(0)
	r.host.turn()
	if n := r.lu.Beyond(end * 512); n != 0 {
		t.Errorf("%d requests beyond the new end, want none", n)
	}
	st.info.Size = end * 512 // from here on the store itself fails the test
	st.hold = false
	for len(st.held) > 0 {
		st.end(0)
		r.host.turn()
	}
	for _, c := range []*Command{collecting, inCollecting, verify, toEnd} {
		if c.Out > 0 {
			c.Buf = c.Owner.([]byte)[:c.Out]
		}
		if r.lu.Execute(c) == Pending {
			r.host.turn()
		}
	}
	r.host.turn()
	for _, c := range []*Command{first, in, full, inLater, inCollecting, toEnd} {
		r.want(c, "good")
	}
	for _, c := range []*Command{blocked, later, collecting, held, verify} {
		r.want(c, "05/21/00")
	}
	if d, _ := sense.Parse(blocked.Sense); !d.HasInfo || d.Info != beyond {
		t.Errorf("INFORMATION %v %d", d.HasInfo, d.Info)
	}
	if len(r.lu.pending) != 0 || r.lu.index.n != 0 || r.lu.flight != 0 || len(r.nx.early) != 0 {
		t.Errorf("left over: %d pending, %d in the index, %d in flight, %d early", len(r.lu.pending), r.lu.index.n, r.lu.flight, len(r.nx.early))
	}
	r.want(r.do(transfer(cdb.Read10, end-8, 8, 0), nil), "good")
}

// TestShrinkAmidst: a command of many steps stops at an end that it gets on its way.
func TestShrinkAmidst(t *testing.T) {
	for name, b := range map[string][]byte{"VERIFY": transfer(cdb.Verify16, 0, 2048, 0), "WRITE SAME": transfer(cdb.WriteSame16, 0, 2048, 0)} {
		st := newTestStore(t, 1<<20)
		r := newRig(t, st, DiskConfig{})
		st.hold = true
		c := r.started(r.cmd(b, fill(1, 512, 1)), atStore)
		if err := r.lu.Resize(512 << 10); err != nil {
			t.Fatal(err)
		}
		st.info.Size = 512 << 10
		steps := 0
		for ; len(st.held) > 0; steps++ {
			st.end(0)
			r.host.turn()
		}
		if r.want(c, "05/21/00"); steps != 512<<10/jobChunk {
			t.Errorf("%s: %d steps", name, steps)
		}
	}
}
