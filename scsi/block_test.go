package scsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// thinStore is a testStore that gives blocks back.
func thinStore(t testing.TB, size int64) *testStore {
	st := newTestStore(t, size)
	st.info.Caps |= backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapAllocation
	st.info.DiscardZeroes, st.info.DiscardGranularity = true, pageSize
	return st
}

func fill(blocks, size int, value byte) []byte { return bytes.Repeat([]byte{value}, blocks*size) }

// unmapList builds a parameter list of {LBA, blocks} pairs.
func unmapList(pairs ...uint64) []byte {
	list := make([]byte, 8)
	for i := 0; i < len(pairs); i += 2 {
		list = binary.BigEndian.AppendUint64(list, pairs[i])
		list = binary.BigEndian.AppendUint32(list, uint32(pairs[i+1]))
		list = append(list, 0, 0, 0, 0)
	}
	binary.BigEndian.PutUint16(list, uint16(len(list)-2))
	binary.BigEndian.PutUint16(list[2:], uint16(len(list)-8))
	return list
}

func unmapCDB(n int) []byte {
	b := make([]byte, 10)
	b[0] = cdb.Unmap
	binary.BigEndian.PutUint16(b[7:], uint16(n))
	return b
}

// TestBlockCommands is the table of commands on a disk of 256 blocks that hold 11h, 8 of them (from 16) AAh: what they end with
// and how many blocks differ afterwards; for blocks of 512 and 4096, larger blocks of the store, and memory that wants aligning.
func TestBlockCommands(t *testing.T) {
	const n = 256
	kinds := []struct{ logical, store, align int }{{512, 1, 1}, {4096, 1, 1}, {512, 4096, 512}, {4096, 4096, 4096}}
	for _, kind := range kinds {
		bs := kind.logical
		a := func(blocks int) []byte { return fill(blocks, bs, 0xaa) }
		differs := func() []byte { b := a(8); b[5*bs+3] = 0; return b }()
		flags := func(op byte, lba uint64, blocks uint32, b1 byte) []byte {
			return transfer(op, lba, blocks, b1)[:cdb.Len(op)]
		}
		for _, k := range []struct {
			b       []byte
			data    []byte
			want    string
			info    uint64
			changed int
		}{
			{b: flags(cdb.Verify10, 16, 8, 0), want: "good"},
			{b: flags(cdb.Verify12, 0, n, 0), want: "good"},
			{b: flags(cdb.Verify16, 16, 8, 0), data: fill(8, bs, 3), want: "good"},
			{b: flags(cdb.Verify10, 16, 8, 2), data: a(8), want: "good"},
			{b: flags(cdb.Verify12, 16, 8, 2), data: differs, want: "0E/1D/00", info: 21},
			{b: flags(cdb.Verify16, 15, 8, 2), data: a(8), want: "0E/1D/00", info: 15},
			{b: flags(cdb.Verify16, 16, 8, 2), data: a(7), want: "05/0E/03"},
			{b: flags(cdb.Verify16, 16, 8, 4), data: a(8), want: "05/24/00"},
			{b: flags(cdb.Verify16, 16, 8, 6), data: a(1), want: "good"},
			{b: flags(cdb.Verify16, 17, 8, 6), data: a(1), want: "0E/1D/00", info: 24},
			{b: flags(cdb.Verify10, 16, 8, 6), data: a(1)[1:], want: "05/0E/03"},
			{b: flags(cdb.Verify10, 16, 0, 2), want: "good"},
			{b: flags(cdb.Verify10, 16, 8, 0x20), want: "05/24/00"},
			{b: flags(cdb.Verify10, 16, 8, 0x08), want: "05/24/00"},
			{b: flags(cdb.Verify10, n, 0, 0), want: "good"},
			{b: flags(cdb.Verify10, n-1, 2, 0), want: "05/21/00", info: n},
			{b: flags(cdb.Verify16, math.MaxUint64, 1, 0), want: "05/21/00"},

			{b: flags(cdb.WriteVerify10, 3, 2, 2), data: a(2), want: "good", changed: 2},
			{b: flags(cdb.WriteVerify12, 3, 2, 0x10), data: a(2), want: "good", changed: 2},
			{b: flags(cdb.WriteVerify16, 15, 2, 2), data: a(2), want: "good", changed: 1},
			{b: flags(cdb.WriteVerify16, 3, 2, 4), data: a(2), want: "05/24/00"},
			{b: flags(cdb.WriteVerify16, 3, 2, 6), data: a(2), want: "05/24/00"},
			{b: flags(cdb.WriteVerify16, 3, 2, cdb.FUA), data: a(2), want: "05/24/00"},
			{b: flags(cdb.WriteVerify10, n, 1, 0), data: a(1), want: "05/21/00", info: n},

			{b: flags(cdb.OrWrite16, 17, 3, 0), data: fill(3, bs, 0x55), want: "good", changed: 3},
			{b: flags(cdb.OrWrite16, 17, 3, cdb.FUA), data: fill(3, bs, 0x22), want: "good"},
			{b: flags(cdb.OrWrite16, 17, 3, 0x20), data: fill(3, bs, 0), want: "05/24/00"},
			{b: flags(cdb.OrWrite16, n, 0, 0), want: "good"},
			{b: flags(cdb.OrWrite16, n+1, 0, 0), want: "05/21/00", info: n + 1},

			{b: flags(cdb.CompareAndWrite, 17, 2, 0), data: append(a(2), fill(2, bs, 1)...), want: "good", changed: 2},
			{b: flags(cdb.CompareAndWrite, 16, 8, cdb.FUA|cdb.DPO), data: append(a(8), fill(8, bs, 1)...), want: "good", changed: 8},
			{b: flags(cdb.CompareAndWrite, 16, 8, 0), data: append(slices.Clone(differs), fill(8, bs, 1)...), want: "0E/1D/00", info: uint64(5*bs + 3)},
			{b: flags(cdb.CompareAndWrite, 23, 2, 0), data: append(a(2), fill(2, bs, 1)...), want: "0E/1D/00", info: uint64(bs)},
			{b: flags(cdb.CompareAndWrite, 16, 2, 0), data: a(3), want: "05/0E/03"},
			{b: flags(cdb.CompareAndWrite, 16, 2, 0), data: a(5), want: "05/0E/03"},
			{b: flags(cdb.CompareAndWrite, 16, 0, 0), want: "good"},
			{b: flags(cdb.CompareAndWrite, 16, 0, 0), data: a(2), want: "05/24/00"},
			{b: flags(cdb.CompareAndWrite, 0, 256, 0), data: a(512), want: "05/24/00"},
			{b: flags(cdb.CompareAndWrite, 0, 1<<24, 0), data: a(2), want: "05/21/00", info: n},

			{b: flags(cdb.WriteSame10, 17, 9, 0), data: fill(1, bs, 0x11), want: "good", changed: 7},
			{b: flags(cdb.WriteSame16, 17, 3, 0), data: fill(1, bs, 0), want: "good", changed: 3},
			{b: flags(cdb.WriteSame16, 17, 3, sameNDOB), want: "good", changed: 3},
			{b: flags(cdb.WriteSame16, 17, 3, sameNDOB|sameUnmap), want: "good", changed: 3},
			{b: flags(cdb.WriteSame10, 17, 3, sameUnmap), data: fill(1, bs, 0), want: "good", changed: 3},
			{b: flags(cdb.WriteSame10, 17, 3, sameUnmap), data: fill(1, bs, 9), want: "good", changed: 3},
			{b: flags(cdb.WriteSame10, 200, 0, 0), data: fill(1, bs, 9), want: "good", changed: 56},
			{b: flags(cdb.WriteSame16, 0, 0, sameNDOB), want: "good", changed: n},
			{b: flags(cdb.WriteSame16, n, 0, sameNDOB), want: "good"},
			{b: flags(cdb.WriteSame10, 17, 3, sameNDOB), data: a(1), want: "05/24/00"},
			{b: flags(cdb.WriteSame16, 17, 3, sameAnchor), data: a(1), want: "05/24/00"},
			{b: flags(cdb.WriteSame16, 17, 3, sameAnchor|sameUnmap), data: a(1), want: "05/24/00"},
			{b: flags(cdb.WriteSame10, 17, 3, 2), data: a(1), want: "05/24/00"},
			{b: flags(cdb.WriteSame10, 17, 3, 0x80), data: a(1), want: "05/24/00"},
			{b: flags(cdb.WriteSame16, 17, 3, 0), data: a(2), want: "05/0E/03"},
			{b: flags(cdb.WriteSame16, 17, 3, 0), want: "05/0E/03"},
			{b: flags(cdb.WriteSame16, n-1, 2, 0), data: a(1), want: "05/21/00", info: n},
			{b: flags(cdb.WriteSame16, n+1, 0, 0), data: a(1), want: "05/21/00", info: n + 1},

			{b: unmapCDB(0), want: "good"},
			{b: unmapCDB(7), data: make([]byte, 7), want: "05/1A/00"},
			{b: unmapCDB(8), data: make([]byte, 8), want: "good"},
			{b: unmapCDB(24), data: unmapList(17, 3), want: "good", changed: 3},
			{b: unmapCDB(56), data: unmapList(17, 3, 40, 1, 0, 2), want: "good", changed: 6},
			{b: unmapCDB(56), data: unmapList(17, 3, n, 0, 17, 4), want: "good", changed: 4},
			{b: unmapCDB(40), data: unmapList(17, 3, n-1, 2), want: "05/21/00", info: n},
			{b: unmapCDB(40), data: unmapList(17, 3, n+1, 0), want: "05/21/00", info: n + 1},
			{b: unmapCDB(24), data: unmapList(math.MaxUint64, math.MaxUint32), want: "05/21/00"},
			{b: unmapCDB(24), data: unmapList(17, 3)[:20], want: "05/0E/03"},
			{b: unmapCDB(20), data: unmapList(17, 3), want: "05/1A/00"},
			{b: unmapCDB(mostUnmapList + 1), data: make([]byte, mostUnmapList+1), want: "05/24/00"},
			{b: append([]byte{cdb.Unmap, 1}, unmapCDB(24)[2:]...), data: unmapList(17, 3), want: "05/24/00"},

			{b: flags(cdb.Prefetch10, 0, 0, 0), want: "good"},
			{b: flags(cdb.Prefetch16, n, 0, 2), want: "good"},
			{b: flags(cdb.Prefetch16, n, 1, 0), want: "05/21/00", info: n},
			{b: []byte{cdb.SendDiagnostic, 4, 0, 0, 0, 0}, want: "good"},
			{b: []byte{cdb.SendDiagnostic, 0x24, 0, 0, 0, 0}, want: "05/24/00"},
			{b: []byte{cdb.SendDiagnostic, 0x10, 0, 0, 4, 0}, want: "05/24/00"},
			{b: []byte{cdb.ReceiveDiagnostic, 1, 0x40, 0, 4, 0}, want: "05/24/00"},
			{b: []byte{cdb.StartStopUnit, 0, 0, 0, 0, 0}, want: "good"},
			{b: []byte{cdb.StartStopUnit, 1, 0, 0, 1, 0}, want: "good"},
			{b: []byte{cdb.StartStopUnit, 0, 0, 0, 2, 0}, want: "05/24/00"},
			{b: []byte{cdb.StartStopUnit, 0, 0, 0, 0x30, 0}, want: "05/24/00"},
			{b: []byte{cdb.PreventAllow, 0, 0, 0, 1, 0}, want: "good"},
			{b: []byte{cdb.PreventAllow, 0, 0, 0, 3, 0}, want: "05/24/00"},
		} {
			name := fmt.Sprintf("%+v: %s %x with %d bytes", kind, cdb.Describe(k.b), k.b[1], len(k.data))
			st := thinStore(t, int64(n*bs))
			st.info.BlockSize, st.info.MemAlign = kind.store, kind.align
			st.info.MaxTransfer, st.info.MaxDiscard = 12<<10, 12<<10
			r := newRig(t, st, DiskConfig{LogicalBlock: bs})
			model := fill(n, bs, 0x11)
			copy(model[16*bs:], a(8))
			r.want(r.do(transfer(cdb.Write16, 0, n, 0), model), "good")
			c := r.cmd(k.b, k.data)
			if r.start(c) == Pending {
				r.host.turn() // it let others go on
			}
			if got := result(c); got != k.want {
				t.Errorf("%s: %s, want %s", name, got, k.want)
				continue
			}
			if d, _ := sense.Parse(c.Sense); c.Sense != nil && (d.HasInfo || k.info != 0) && (d.Info != k.info || !d.HasInfo) {
				t.Errorf("%s: information %v %d, want %d", name, d.HasInfo, d.Info, k.info)
			}
			after := r.do(transfer(cdb.Read16, 0, n, 0), nil).Data
			changed := 0
			for i := range n {
				if !bytes.Equal(model[i*bs:][:bs], after[i*bs:][:bs]) {
					changed++
				}
			}
			if changed != k.changed {
				t.Errorf("%s: %d blocks changed, want %d", name, changed, k.changed)
			}
			if len(r.lu.pending) != 0 || r.lu.index.n != 0 {
				t.Fatalf("%s: something is left over", name)
			}
		}
	}
}

// TestProtectedCommands: what changes the medium is refused where it is write protected, and nothing is asked of the store.
func TestProtectedCommands(t *testing.T) {
	st := thinStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{ReadOnly: true})
	for _, b := range [][]byte{transfer(cdb.OrWrite16, 0, 1, 0), transfer(cdb.WriteVerify10, 0, 1, 2), transfer(cdb.WriteSame16, 0, 1, 0),
		transfer(cdb.WriteSame10, 0, 1, sameUnmap), transfer(cdb.CompareAndWrite, 0, 1, 0), unmapCDB(24)} {
		r.want(r.do(b, make([]byte, 512)), "07/27/00")
	}
	if len(st.ops) != 0 {
		t.Fatal(st.ops)
	}
	r.want(r.do(transfer(cdb.Verify10, 0, 1, 0), nil), "good")

	// Also where the store, open for reading, says that it can discard nothing; a disk without UNMAP has none.
	plain := newTestStore(t, 1<<20)
	r = newRig(t, plain, DiskConfig{ReadOnly: true})
	r.want(r.do(unmapCDB(24), make([]byte, 24)), "07/27/00")
	r = newRig(t, plain, DiskConfig{ReadOnly: true, NoUnmap: true})
	r.want(r.do(unmapCDB(24), make([]byte, 24)), "05/20/00")
}

// TestJobAbort: a WRITE SAME that is aborted in the middle submits nothing more; what the store has is in doubt.
func TestJobAbort(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxTransfer = 4096
	r := newRig(t, st, DiskConfig{})
	st.hold = true
	c := r.started(r.cmd(transfer(cdb.WriteSame10, 0, 64, 0), fill(1, 512, 7)), atStore)
	st.end(0)
	if got := r.host.turn(); len(got) != 0 || len(st.held) != 1 || st.held[0].Off != 4096 {
		t.Fatalf("%d ended, %d at the store", len(got), len(st.held))
	}
	if st.kicks != 1 {
		t.Fatalf("%d kicks: the host knows nothing of the second step", st.kicks)
	}
	over := r.started(r.read(r.nx, 60, 1), waiting)
	if r.lu.Abort(c) || r.lu.InDoubt() != 1 {
		t.Fatal("the store has it, and it ended")
	}
	beside := r.started(r.read(r.nx, 64, 1), atStore)
	st.end(0)
	got := r.host.turn()
	if len(got) != 1 || got[0] != c || over.state != atStore || beside.state != atStore || c.job != nil {
		t.Fatal("it did not end with its step")
	}
	for len(st.held) > 0 {
		st.end(0)
	}
	r.host.turn()
	st.hold = false
	after := r.do(transfer(cdb.Read10, 0, 64, 0), nil).Data
	if want := append(fill(16, 512, 7), make([]byte, 48*512)...); !bytes.Equal(after, want) {
		t.Fatal("other blocks were written than those of the two steps")
	}
}

// TestJobYield: a long command on a store that ends everything at once lets the loop go on with others, and can be aborted
// there.
func TestJobYield(t *testing.T) {
	st := thinStore(t, 64<<20)
	r := newRig(t, st, DiskConfig{MaxWriteSame: 64 << 20})
	same := func() *Command { return r.cmd(transfer(cdb.WriteSame16, 0, 0, 0), fill(1, 512, 7)) }
	c := r.started(same(), atStore)
	if n := len(st.ops); n != turnCost/jobChunk || r.lu.InFlight() != 1 {
		t.Fatalf("%d steps in one turn, %d in flight", n, r.lu.InFlight())
	}
	other := r.read(r.nx, 5, 1)
	r.started(other, waiting)
	if got := r.host.turn(); len(got) != 2 || got[0] != c || got[1] != other || other.Data[0] != 7 || r.lu.InFlight() != 0 {
		t.Fatalf("%d ended", len(got))
	}
	st.ops = nil
	c = r.started(same(), atStore)
	if r.lu.Abort(c) {
		t.Fatal("its request is in the loop's queue, and it ended")
	}
	n := len(st.ops)
	if got := r.host.turn(); len(got) != 1 || len(st.ops) != n || r.lu.InDoubt() != 0 || r.lu.InFlight() != 0 {
		t.Fatalf("%d ended, %d more steps", len(got), len(st.ops)-n)
	}
	// Offline, it stops as well.
	c = r.started(same(), atStore)
	r.lu.SetOffline("broken")
	r.host.turn()
	r.want(c, "02/04/03")
	if len(r.lu.pending) != 0 || r.lu.index.n != 0 {
		t.Fatal("something is left over")
	}
}

// TestZeroing: which operation of the store carries out what, in steps that it takes.
func TestZeroing(t *testing.T) {
	for _, k := range []struct {
		name   string
		change func(*backstore.Info)
		b      []byte
		want   []backstore.Op
		flags  backstore.Flags
	}{
		{"zeroes stay allocated", nil, transfer(cdb.WriteSame16, 0, 1024, sameNDOB), []backstore.Op{backstore.WriteZeroes}, backstore.KeepAllocated},
		{"UNMAP", nil, transfer(cdb.WriteSame16, 0, 1024, sameNDOB|sameUnmap), []backstore.Op{backstore.Discard}, 0},
		{"steps", func(i *backstore.Info) { i.MaxDiscard = 300 << 10 }, transfer(cdb.WriteSame16, 100, 1024, sameNDOB|sameUnmap),
			[]backstore.Op{backstore.Discard, backstore.Discard, backstore.Discard}, 0},
		{"no help", func(i *backstore.Info) { i.Caps &^= backstore.CapWriteZeroes }, transfer(cdb.WriteSame16, 0, 300, sameNDOB),
			[]backstore.Op{backstore.Write, backstore.Write}, 0},
		{"steps too small", func(i *backstore.Info) { i.MaxDiscard = 511 }, transfer(cdb.WriteSame16, 0, 8, sameNDOB), []backstore.Op{backstore.Write}, 0},
		{"edges", func(i *backstore.Info) { i.BlockSize = 4096 }, transfer(cdb.WriteSame16, 7, 18, sameNDOB|sameUnmap),
			[]backstore.Op{backstore.Read, backstore.Write, backstore.Discard, backstore.Read, backstore.Write}, 0},
	} {
		st := thinStore(t, 1<<20)
		if k.change != nil {
			k.change(&st.info)
		}
		flags := backstore.Flags(0)
		st.fail = func(r *backstore.Request) error { flags |= r.Flags; return nil }
		r := newRig(t, st, DiskConfig{})
		r.want(r.do(k.b, nil), "good")
		if !slices.Equal(st.ops, k.want) || flags != k.flags {
			t.Errorf("%s: %v flags %x, want %v flags %x", k.name, st.ops, flags, k.want, k.flags)
		}
	}
	// Where a deallocated block reads as anything, UNMAP leaves blocks of the store alone that it covers in part.
	st := thinStore(t, 1<<20)
	st.info.DiscardZeroes, st.info.BlockSize = false, 4096
	r := newRig(t, st, DiskConfig{})
	r.want(r.do(transfer(cdb.Write10, 0, 32, 0), fill(32, 512, 1)), "good")
	st.ops = nil
	r.want(r.do(unmapCDB(40), unmapList(1, 16, 25, 3)), "good")
	if !slices.Equal(st.ops, []backstore.Op{backstore.Discard}) {
		t.Fatal(st.ops)
	}
	r.want(r.do(transfer(cdb.WriteSame16, 0, 1, sameNDOB|sameUnmap), nil), "05/24/00") // LBPWS is 0
}

// TestCompareByStore: the store's own operation within its limits, and nothing else where others write the volume.
func TestCompareByStore(t *testing.T) {
	st := thinStore(t, 1<<20)
	st.info.Caps |= backstore.CapCompareAndWrite
	st.info.MaxCompareAndWrite = 1024
	run := func(r *rig, blocks uint32, want string, ops ...backstore.Op) {
		t.Helper()
		st.ops = nil
		clear(st.pages)
		data := append(make([]byte, blocks*512+1)[1:], fill(int(blocks), 512, 1)...)
		r.want(r.do(transfer(cdb.CompareAndWrite, 8, blocks, 0), data), want)
		if !slices.Equal(st.ops, ops) {
			t.Fatalf("%d blocks: %v, want %v", blocks, st.ops, ops)
		}
	}
	r := newRig(t, st, DiskConfig{})
	run(r, 2, "good", backstore.CompareAndWrite)
	run(r, 3, "good", backstore.Read, backstore.Write)
	st.info.Shared, st.info.MemAlign = true, 512
	r = newRig(t, st, DiskConfig{})
	run(r, 2, "good", backstore.CompareAndWrite)
	run(r, 3, "05/24/00")
	r.want(r.do(transfer(cdb.OrWrite16, 0, 1, 0), make([]byte, 512)), "05/20/00")
	st.info.Caps &^= backstore.CapCompareAndWrite
	r = newRig(t, st, DiskConfig{})
	run(r, 1, "05/20/00")
}

// TestLBAStatus: runs of blocks, neighbours joined, cut to what was asked for.
func TestLBAStatus(t *testing.T) {
	st := thinStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	r.want(r.do(transfer(cdb.Write10, 10, 30, 0), fill(30, 512, 1)), "good") // pages 1 to 4
	for _, k := range []struct {
		lba        uint64
		allocation uint32
		want       string
	}{
		{0, 256, "00000034 00000000" + "0000000000000000 00000008 01000000" + "0000000000000008 00000020 00000000" + "0000000000000028 000007d8 01000000"},
		{9, 24, "00000014 00000000" + "0000000000000009 0000001f 00000000"},
		{9, 8, "00000014 00000000"},
		{2047, 100, "00000014 00000000" + "00000000000007ff 00000001 01000000"},
		{2048, 100, "05/21/00"}, {1 << 63, 100, "05/21/00"}, {math.MaxUint64, 100, "05/21/00"},
	} {
		b := make([]byte, 16)
		b[0], b[1] = cdb.ServiceActionIn16, cdb.GetLBAStatus
		binary.BigEndian.PutUint64(b[2:], k.lba)
		binary.BigEndian.PutUint32(b[10:], k.allocation)
		c := r.do(b, nil)
		if got := result(c); got != "good" {
			if got != k.want {
				t.Errorf("lba %d: %s", k.lba, got)
			}
		} else if want := unhex(t, k.want); !bytes.Equal(c.Data, want[:min(len(want), int(k.allocation))]) {
			t.Errorf("lba %d, %d bytes: %x, want %s", k.lba, k.allocation, c.Data, k.want)
		}
	}
	// Without provisioning all is mapped.
	r = newRig(t, newTestStore(t, 4<<40), DiskConfig{})
	c := r.do([]byte{cdb.ServiceActionIn16, cdb.GetLBAStatus, 13: 24, 15: 0}, nil)
	if want := unhex(t, "00000014 00000000 0000000000000000 ffffffff 00000000"); !bytes.Equal(c.Data, want) {
		t.Errorf("%s %x", result(c), c.Data)
	}
}

// TestVerifyIsOfTheMedium: what the cache holds is made durable before it is verified.
func TestVerifyIsOfTheMedium(t *testing.T) {
	for _, k := range []struct {
		caps  backstore.Caps
		b     []byte
		want  []backstore.Op
		flags backstore.Flags
	}{
		{backstore.CapFlush, transfer(cdb.Verify10, 0, 8, 0), []backstore.Op{backstore.Flush, backstore.Read}, 0},
		{backstore.CapFlush, transfer(cdb.WriteVerify10, 0, 8, 0), []backstore.Op{backstore.Write, backstore.Flush, backstore.Read}, 0},
		{backstore.CapFlush | backstore.CapFUA, transfer(cdb.Verify10, 0, 8, 0), []backstore.Op{backstore.Read}, backstore.FUA},
		{backstore.CapFlush | backstore.CapFUA, transfer(cdb.WriteVerify10, 0, 8, 0), []backstore.Op{backstore.Write, backstore.Read}, backstore.FUA},
	} {
		st := newTestStore(t, 1<<20)
		st.info.Caps = k.caps
		flags := backstore.FUA
		st.fail = func(r *backstore.Request) error { flags &= r.Flags; return nil }
		r := newRig(t, st, DiskConfig{})
		r.want(r.do(k.b, make([]byte, 4096)), "good")
		if !slices.Equal(st.ops, k.want) || flags != k.flags {
			t.Errorf("caps %x %s: %v flags %x", k.caps, cdb.Describe(k.b), st.ops, flags)
		}
	}
	st := newTestStore(t, 1<<20)
	st.fail = func(r *backstore.Request) error {
		if r.Op == backstore.Read {
			return &backstore.Error{Class: backstore.ClassMedium, Op: "read", Off: 3 * 512}
		}
		return nil
	}
	c := newRig(t, st, DiskConfig{}).do(transfer(cdb.Verify10, 0, 8, 0), nil)
	if d, _ := sense.Parse(c.Sense); result(c) != "03/11/00" || d.Info != 3 {
		t.Errorf("%s at %d", result(c), d.Info)
	}
}
